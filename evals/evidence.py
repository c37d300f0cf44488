"""Where the gold evidence stands, and how citations compare with it. Everything is characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from reader.budget import Frozen
from reader.evidence import QuoteFinder
from reader.structure import Span

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.documents import Document

    from .item import Item

LOOSE = 80.0
"""Similarity (0 to 100) from which on a gold text counts as found: annotators retype and join."""

_ENOUGH = 0.5
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)\]]*\s+|\s*\n\s*")
_DOTS = re.compile(r"\s*[\[(]?(?:\.{3,}|\u2026)[\])]?\s*")
_SHORT = 12  # characters; less of a torn gold text would be found anywhere


class Located(NamedTuple):
    """Gold evidence in a document.

    ``spans`` is one range for each gold text found, or for each of its sentences where it stands
    there in pieces; ``missing`` are the texts of which nothing was found.
    """

    spans: tuple[Span, ...]
    missing: tuple[str, ...]


class EvidenceScore(Frozen):
    """Citations against gold spans. None: there is nothing to compare with.

    With G the gold spans, C the union of the characters cited, and U the union of the gold spans:

    - A gold span g is *cited* if C holds at least half of its characters, or if at least half of
      the characters of some citation lie in g. The second is for gold evidence of whole sections,
      which nobody should quote in full.
    - recall = gold spans cited / gold spans.
    - coverage = characters in both C and U / characters in U.
    - precision = characters in both C and U / characters in C.

    Attributes:
        recall: None where no gold span is known.
        coverage: Likewise.
        precision: None where no gold span is known, and where nothing was cited.
        citations: How many.
        gold: Gold spans found in the document.
        missing: Gold texts that the document does not hold; not counted against anybody.
        invented: Share of the model's quotes that are not in the document; None without a quote.
    """

    recall: float | None
    coverage: float | None
    precision: float | None
    citations: int
    gold: int
    missing: int
    invented: float | None


def locate(item: Item, document: Document) -> Located:
    """Find the gold evidence of a row in its document, in the order of the document.

    Exact ranges in ``meta["evidence_spans"]`` are taken as they are. Else every text is looked
    for in the gold passages first, where the row names them, then everywhere: word for word, then
    loosely (``LOOSE``; numbers and negations must agree). A text that is not found whole is looked
    for sentence by sentence. Of a short line that stands in the document several times (facts
    of bAbI tasks, of which the latest holds) the last place is taken.
    """
    exact = _exact_spans(item, document)
    if exact is not None:
        return Located(exact, ())
    if not item.evidence:
        return Located((), ())
    finder = QuoteFinder(document.text)
    places = _gold_passages(item)
    found: list[Span] = []
    missing: list[str] = []
    for text in item.evidence:
        spans = _find(text, finder, places, document.text)
        found += spans
        if not spans:
            missing.append(text)
    return Located(tuple(sorted(set(found))), tuple(missing))


def evidence_score(item: Item, answer: Answer, document: Document | None = None) -> EvidenceScore:
    """Compare an answer's citations with the gold evidence of its item.

    Args:
        item: With its evidence.
        answer: With its citations.
        document: What was read, where it is at hand; ``item.document()`` by default.
    """
    located = locate(item, document or item.document())
    cited = [Span(citation.start, citation.end) for citation in answer.citations]
    checked = answer.trace.checked_quotes
    recall, coverage, precision = compare(located.spans, cited)
    return EvidenceScore(
        recall=recall,
        coverage=coverage,
        precision=precision,
        citations=len(cited),
        gold=len(located.spans),
        missing=len(located.missing),
        invented=answer.trace.invented_quotes / checked if checked else None,
    )


def compare(
    gold: Sequence[Span], cited: Sequence[Span]
) -> tuple[float | None, float | None, float | None]:
    """Recall, coverage and precision, as ``EvidenceScore`` defines them."""
    gold = [span for span in gold if span.start < span.end]
    if not gold:
        return None, None, None
    union = merged(cited)
    hit = sum(_is_cited(span, cited, union) for span in gold)
    truth = merged(gold)
    common = sum(overlap(span, union) for span in truth)
    length = sum(end - start for start, end in union)
    return (
        hit / len(gold),
        common / sum(end - start for start, end in truth),
        common / length if length else None,
    )


def merged(spans: Iterable[Span]) -> list[Span]:
    """The union of ranges: sorted, apart from each other, none of them empty."""
    union: list[Span] = []
    for start, end in sorted(spans):
        if start >= end:
            continue
        if union and start <= union[-1].end:
            union[-1] = Span(union[-1].start, max(union[-1].end, end))
        else:
            union.append(Span(start, end))
    return union


def overlap(span: Span, union: Sequence[Span]) -> int:
    """Characters of a range that lie in a union of ranges."""
    return sum(max(min(span.end, end) - max(span.start, start), 0) for start, end in union)


def _is_cited(gold: Span, cited: Sequence[Span], union: Sequence[Span]) -> bool:
    if overlap(gold, union) >= _ENOUGH * (gold.end - gold.start):
        return True
    return any(
        overlap(span, [gold]) >= _ENOUGH * (span.end - span.start)
        for span in cited
        if span.end > span.start
    )


def _exact_spans(item: Item, document: Document) -> tuple[Span, ...] | None:
    given = item.meta.get("evidence_spans")
    if not isinstance(given, list):
        return None
    length = len(document.text)
    spans: list[Span] = []
    for pair in given:
        if not isinstance(pair, list) or len(pair) != 2:
            return None
        start, end = pair
        if not isinstance(start, int) or not isinstance(end, int) or not start < end <= length:
            return None
        spans.append(Span(start, end))
    return tuple(sorted(spans))


def _gold_passages(item: Item) -> list[Span]:
    positions = item.meta.get("gold_positions")
    if not isinstance(positions, list):
        return []
    passages = item.passages
    return [
        Span(passages[p].start, passages[p].end)
        for p in positions
        if isinstance(p, int) and 0 <= p < len(passages)
    ]


def _find(text: str, finder: QuoteFinder, places: Sequence[Span], whole: str) -> list[Span]:
    parts = [text]
    if text.strip() not in whole:  # what stands between pieces joined by dots is no evidence
        parts = [part for part in _DOTS.split(text) if len(part) >= _SHORT] or parts
    found: list[Span | None] = []
    for part in parts:
        found.append(_find_one(part, finder, places, whole))
        if found[-1] is None:
            sentences = [s for s in _SENTENCE_END.split(part) if len(s) >= _SHORT]
            if len(sentences) > 1:
                found += [_find_one(sentence, finder, places, whole) for sentence in sentences]
    return [span for span in found if span is not None]


def _find_one(text: str, finder: QuoteFinder, places: Sequence[Span], whole: str) -> Span | None:
    line = text.strip()
    if not line:
        return None
    for place in places:
        match = finder.find(line, within=place, at_least=LOOSE)
        if match is not None and match.kind != "elsewhere":
            return Span(match.start, match.end)
    if not places and "\n" not in line and whole.count(line) > 1:
        at = whole.rfind(line)
        return Span(at, at + len(line))
    match = finder.find(line, at_least=LOOSE)
    return Span(match.start, match.end) if match is not None else None
