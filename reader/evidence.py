"""From what a model wrote to citations: which passages it claims, and whether they stand there.

Only the model's own notes are evidence: quotes that it marks as such must be in the document, or
they are dropped and counted as invented; plain sentences may happen to be close to the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from rapidfuzz import fuzz

from reader.citations import Citation
from reader.folding import Range, content_words, denies, numbers_stand_in
from reader.quotes import Match, QuoteFinder
from reader.sentences import around, stems
from reader.short_answers import holds, standing

if TYPE_CHECKING:
    from reader.documents import Document

__all__ = [
    "Candidate",
    "CitationResult",
    "Claim",
    "Match",
    "QuoteFinder",
    "candidates",
    "cite",
    "quoted_strings",
]

_SENTENCE_NEAR = 75.0  # measured: sentences of other texts stay below 63 in 6,000 characters
_SENTENCE_WORDS = 4  # content words from which on a plain sentence may count as near
_AROUND = 160  # characters of the document kept on each side of a citation

# An opening mark follows no letter and a closing one precedes none; inch marks do neither.
_QUOTED = re.compile(
    r"\u201c(?P<curly>[^\u201c\u201d]{3,2000})\u201d"
    r"|\u201e(?P<low>[^\u201c\u201d\u201e]{3,2000})[\u201c\u201d]"
    r"|\xab(?P<angle>[^\xab\xbb]{3,2000})\xbb"
    r'|(?<![\w"])"(?P<straight>(?=\S)(?:(?!\n\s*\n)[^"]){3,2000})(?<!\s)"(?!\w)'
    r"|^[ \t]*(?:[-*\u2022]|\d+[.)])?[ \t]*\**(?:verbatim |direct )?quot(?:e|ation)\**[ \t]*"
    r"(?:\d+[ \t]*)?:\**[ \t]*(?P<line>[^\"\n\u201c\u201e\xab]+)$",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCES_OF_NOTE = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)\]]*\s+|\s*\n\s*")
_YES_OR_NO = re.compile(r"^(?:yes|no)\s*[,.:;]\s*", re.IGNORECASE)
_BULLET = re.compile(r"^\W*(?:\d+[.)]\s+)?")


class Candidate(NamedTuple):
    """Something in a note that may stand in the document.

    ``claimed`` says that the note presents it as a quote.
    """

    text: str
    claimed: bool


class Claim(NamedTuple):
    """Something that is said to stand in the document, ``within`` the range that was read."""

    quote: str
    claimed: bool = True
    within: Range | None = None


class CitationResult(NamedTuple):
    """Citations, best first; how many quotes were invented, and how many were checked."""

    citations: tuple[Citation, ...]
    invented: int
    checked: int


def quoted_strings(text: str) -> list[str]:
    """What a note puts in quotation marks or after "Quote:", of at least 3 words, in order."""
    return [candidate.text for candidate in _quoted(text)[0]]


def candidates(note: str) -> list[Candidate]:
    """What a note in free text quotes, and its plain sentences, in that order.

    A sentence that holds a quote is left out: it talks about it.
    """
    quoted, ranges = _quoted(note)
    plain: dict[str, None] = {}
    start = 0
    for end, following in _breaks(note):
        if not any(start < e and s < end for s, e in ranges):
            sentence = _BULLET.sub("", note[start:end].strip())
            if len(content_words(sentence)) >= _SENTENCE_WORDS:
                plain[sentence] = None
        start = following
    return quoted + [Candidate(sentence, False) for sentence in plain]


def cite(
    document: Document,
    finder: QuoteFinder,
    claims: Iterable[Claim],
    *,
    question: str,
    answer: str,
    read: Iterable[Range] = (),
    limit: int = 5,
) -> CitationResult:
    """Look claims up and make citations of those that stand in the document.

    Quotes that do not are dropped and counted. An answer of a few words that none of them holds
    is looked for in what was read. Overlapping passages become one. Passages that
    share words with the answer come first, then those that share words with the question; others
    are only cited where nothing else is left.

    Args:
        document: Where pages, sections and names come from.
        finder: A finder of ``document.text``.
        claims: What the model says stands there.
        question: The question, "" without one.
        answer: The answer.
        read: Ranges in which the answer itself may be looked for.
        limit: Citations at most.
    """
    found: list[Match] = []
    invented = checked = 0
    for claim in dict.fromkeys(claims):
        match = _look_up(finder, claim)
        checked += claim.claimed
        invented += claim.claimed and match is None
        if match is not None:
            found.append(match)
    text = finder.text
    if not any(holds(text[match.start : match.end], answer) for match in found):
        own = standing(text, answer, question, read)
        found += [own] if own is not None else []
    passages = _ranked(text, _merged(found), question, answer)
    return CitationResult(
        tuple(_citation(document, match) for match in passages[:limit]), invented, checked
    )


def _quoted(text: str) -> tuple[list[Candidate], list[Range]]:
    found: dict[str, None] = {}
    ranges: list[Range] = []
    for match in _QUOTED.finditer(text):
        quote = match[match.lastgroup or 0].strip()
        if len(quote.split()) >= 3:
            found[quote] = None
            ranges.append(match.span())
    return [Candidate(quote, True) for quote in found], ranges


def _breaks(note: str) -> list[Range]:
    """Where each sentence ends and the next one starts."""
    inner = [m.span() for m in _SENTENCES_OF_NOTE.finditer(note)]
    return [*inner, (len(note), len(note))]


def _look_up(finder: QuoteFinder, claim: Claim) -> Match | None:
    if claim.claimed:
        return finder.find(claim.quote, within=claim.within)
    # "The text says that ...": what leads in or closes may be the model's own.
    words = _YES_OR_NO.sub("", claim.quote).split()
    own = len(words) // 3
    last = len(words) - own
    for part, lead, closing in (
        (words, [], []),
        (words[own:], words[:own], []),
        (words[:last], [], words[last:]),
    ):
        said = " ".join(part)
        if len(content_words(said)) < _SENTENCE_WORDS:
            return None
        match = finder.find(said, within=claim.within, at_least=_SENTENCE_NEAR)
        if match is not None:
            start, end = around(finder.text, match.start, match.end)
            if not numbers_stand_in(" ".join(closing), finder.text[start:end]):
                return None  # "The number is 12.", where the text has another one
            if denies(" ".join(lead + closing)):
                return None  # "It is not true that ...", "..., but never a dog."
            return match._replace(start=start, end=end)
    return None


def _merged(matches: list[Match]) -> list[Match]:
    """Overlapping matches as one, of the kind of the longest."""
    merged: list[Match] = []
    longest = 0
    for match in sorted(matches):
        if merged and match.start < merged[-1].end:
            last = merged[-1]
            kind = match.kind if match.end - match.start > longest else last.kind
            longest = max(longest, match.end - match.start)
            merged[-1] = last._replace(end=max(last.end, match.end), kind=kind)
        else:
            longest = match.end - match.start
            merged.append(match)
    return merged


def _ranked(text: str, matches: list[Match], question: str, answer: str) -> list[Match]:
    asked, said = stems(question), stems(answer)
    # What the answer repeats of the question does not tell passages apart.
    new = said - asked or said
    scored = []
    for match in matches:
        passage = text[match.start : match.end]
        has = stems(passage)
        support = len(has & new) / max(len(new), 1)
        topic = len(has & asked) / max(len(asked), 1)
        likeness = fuzz.token_set_ratio(passage.lower(), answer.lower())
        scored.append(((-support, -topic, match.kind != "exact", -likeness), match))
    scored.sort()
    related = [match for key, match in scored if key[0] or key[1]]
    return related or [match for _, match in scored]


def _citation(document: Document, match: Match) -> Citation:
    part = document.part_at(match.start) if len(document.parts) > 1 else None
    page = document.page_at(match.start)
    section = document.section_at(match.start)
    return Citation(
        start=match.start,
        end=match.end,
        text=document.text[match.start : match.end],
        match=match.kind,
        document=part.name if part else None,
        page=page.number if page else None,
        section=section.title if section else None,
        before=_before(document.text, match.start),
        after=_after(document.text, match.end),
    )


def _before(text: str, start: int) -> str:
    """The words in front of a passage."""
    first = max(start - _AROUND, 0)
    words = text[first:start]
    if first and not text[first - 1].isspace():  # a word cut in two
        head, blank, rest = words.partition(" ")
        words = blank + rest if blank else head
    return words.lstrip()


def _after(text: str, end: int) -> str:
    """The words behind a passage."""
    last = min(end + _AROUND, len(text))
    words = text[end:last]
    if last < len(text) and not text[last].isspace():
        head, blank, rest = words.rpartition(" ")
        words = head if blank else rest
    return words.rstrip()
