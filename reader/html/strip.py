"""The whole document as a strip: what was read, missed, cited, and where heads looked.

Places are percentages of the document's length, heights shares of the strip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from reader.answers import Answer
from reader.coverage import ChunkStatus

CELLS = 400
UNREAD = 0.6  # lower than what was read: colours alone do not tell them apart for everybody
LEAST = 0.3  # height of a bar that stands for very little, so that it is seen


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of the document.

    Attributes:
        left: Where it begins, percent.
        width: Percent.
        height: 0 to 1.
        kind: "read", "unread" or "failed"; "look" in a strip of attention.
    """

    left: float
    width: float
    height: float
    kind: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A citation's place: its number from 1, and where it begins, percent."""

    number: int
    left: float


@dataclass(frozen=True, slots=True)
class Strip:
    """What is drawn; where nothing was read there is no bar, only the ground line.

    ``gaps`` says that something was not read, be it too little to be seen.
    """

    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    gaps: bool


def length_of(answer: Answer) -> int:
    """Characters of the document, as far as the answer knows it; 1 at least."""
    ends = [c.end for c in answer.coverage.chunks] + [c.end for c in answer.citations]
    return max(ends, default=1) or 1


def strip_of(answer: Answer) -> Strip:
    """The strip of an answer. A chunk that failed is seen, however short it is."""
    length = length_of(answer)
    chunks = answer.coverage.chunks
    shares = {
        kind: _cells((c for c in chunks if c.outcome == kind), length)
        for kind in ("read", "unread", "failed")
    }

    def cell(at: int) -> tuple[str, float]:
        for kind, height in (("failed", 1.0), ("unread", UNREAD)):
            if shares[kind][at]:
                return kind, height
        share = shares["read"][at]
        return ("read", max(round(share, 1), LEAST)) if share else ("", 0.0)

    marks = tuple(
        Mark(number, round(100 * citation.start / length, 2))
        for number, citation in enumerate(answer.citations, 1)
    )
    return Strip(tuple(_bars(cell)), marks, any(c.outcome == "skipped" for c in chunks))


def looks_of(chunks: Sequence[ChunkStatus], length: int) -> tuple[Bar, ...]:
    """How strongly heads looked along the document: the best passage of each cell is its height,
    the weakest of all passages is 0 and the strongest 1. Nothing where nothing looked.
    """
    known = [(c, c.score) for c in chunks if c.score is not None]
    if not known:
        return ()
    low = min(score for _, score in known)
    span = max(score for _, score in known) - low or 1.0
    best = [0.0] * CELLS
    for chunk, score in known:
        for at in _touched(chunk, length):
            best[at] = max(best[at], (score - low) / span)
    return tuple(_bars(lambda at: ("look", round(best[at], 2)) if best[at] >= 0.01 else ("", 0.0)))


def _cells(chunks: Iterable[ChunkStatus], length: int) -> list[float]:
    """The share of each cell that the chunks hold."""
    shares = [0.0] * CELLS
    size = length / CELLS
    for chunk in chunks:
        for at in _touched(chunk, length):
            held = min(chunk.end, (at + 1) * size) - max(chunk.start, at * size)
            shares[at] = min(shares[at] + max(held, 0.0) / size, 1.0)
    return shares


def _touched(chunk: ChunkStatus, length: int) -> range:
    first = min(chunk.start * CELLS // length, CELLS - 1)
    return range(first, max(min(-(-chunk.end * CELLS // length), CELLS), first + 1))


def _bars(cell: Callable[[int], tuple[str, float]]) -> Iterable[Bar]:
    """Neighbouring cells that are alike, as one bar."""
    for (kind, height), same in groupby(range(CELLS), cell):
        at = list(same)
        if kind:
            yield Bar(100 * at[0] / CELLS, 100 * len(at) / CELLS, height, kind)
