"""The parts of the document that a report shows: text around evidence, and what was visited.

However long the document is, only so many characters of it are shown; what is left out is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from reader.citations import Citation
from reader.coverage import ChunkStatus

if TYPE_CHECKING:
    from reader.documents import Document

SHOWN = 400_000  # characters of a report's text in all
AROUND = 700  # characters on each side of a citation
LEAST = 80  # of a visited chunk; where not even this is left, its text is not shown

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text.

    Attributes:
        text: As it stands in the document.
        cited: Numbers (from 1) of the citations that hold it.
        begins: Of these, those that begin here: their links end here.
        chunk: Index of the chunk that begins here.
        outcome: Of that chunk.
        place: Of that chunk: part, page and section in words.
    """

    text: str
    cited: tuple[int, ...] = ()
    begins: tuple[int, ...] = ()
    chunk: int | None = None
    outcome: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """Text without a gap; ``skipped`` characters before it are not shown."""

    start: int
    end: int
    skipped: int
    place: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """The passages in order, characters left out behind the last one, and chunks shown."""

    passages: tuple[Passage, ...]
    rest: int
    chunks: frozenset[int]


def shown(
    document: Document,
    citations: Sequence[Citation],
    chunks: Sequence[ChunkStatus],
    most: int = SHOWN,
) -> Shown:
    """What is shown of a document: at most about ``most`` characters."""
    text = document.text
    wanted = [
        (max(c.start - AROUND, 0), min(max(c.end, c.start) + AROUND, len(text))) for c in citations
    ]
    visited = [c for c in chunks if c.outcome != "skipped"]
    left = most - sum(end - start for start, end in wanted)
    wanted += _fitting([(c.start, c.end) for c in visited], left)
    ranges = _merged((_at_words(text, start, end) for start, end in wanted if end > start))
    starts = {c.start: c for c in chunks if any(a <= c.start < b for a, b in ranges)}
    passages = []
    before = 0
    for start, end in ranges:
        passages.append(
            Passage(
                start=start,
                end=end,
                skipped=start - before,
                place=place_at(document, start),
                pieces=tuple(_pieces(document, start, end, citations, starts)),
            )
        )
        before = end
    return Shown(tuple(passages), len(text) - before, frozenset(c.index for c in starts.values()))


def place_at(document: Document, position: int) -> str:
    """Part, page and section of a character, in words; "" where the document has none."""
    part = document.part_at(position) if len(document.parts) > 1 else None
    page, section = document.page_at(position), document.section_at(position)
    words = [
        part.name if part else "",
        f"page {page.number}" if page else "",
        " ".join(section.title.split()) if section else "",
    ]
    return " · ".join(filter(None, words))


def _fitting(ranges: Sequence[Range], left: int) -> list[Range]:
    """The ranges as a whole where they fit, else an equal part of the beginning of each."""
    if sum(end - start for start, end in ranges) <= left:
        return list(ranges)
    share = left // len(ranges)
    return [(a, min(b, a + share)) for a, b in ranges] if share >= LEAST else []


def _at_words(text: str, start: int, end: int) -> Range:
    """The range without words that it cuts in two, where a blank is near."""
    if _within_word(text, start):
        blank = text.find(" ", start, min(start + 40, end))
        start = blank + 1 if blank >= 0 else start
    if _within_word(text, end):
        blank = text.rfind(" ", max(end - 40, start), end)
        end = blank if blank > start else end
    return start, end


def _within_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and not (text[at - 1].isspace() or text[at].isspace())


def _merged(ranges: Iterable[Range]) -> list[Range]:
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1] + 2:  # a blank line between chunks is no gap
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _pieces(
    document: Document,
    start: int,
    end: int,
    citations: Sequence[Citation],
    chunks: dict[int, ChunkStatus],
) -> Iterable[Piece]:
    """The text, divided where citations begin and end and where chunks begin."""
    numbered = [
        (number, max(c.start, start), min(c.end, end))
        for number, c in enumerate(citations, 1)
        if c.start < end and c.end > start
    ]
    cuts = {start, end, *(a for _, a, _ in numbered), *(b for _, _, b in numbered)}
    cuts |= {at for at in chunks if start <= at < end}
    ordered = sorted(cuts)
    for a, b in pairwise(ordered):
        chunk = chunks.get(a)
        yield Piece(
            text=document.text[a:b],
            cited=tuple(n for n, first, last in numbered if first <= a and b <= last),
            begins=tuple(n for n, first, _ in numbered if first == a),
            chunk=chunk.index if chunk else None,
            outcome=chunk.outcome if chunk else "",
            place=place_at(document, a) if chunk else "",
        )
