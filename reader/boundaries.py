"""Where a text may be cut: how good a place is, what stays whole, and the splitting itself.

The splitting is done by ``semantic-text-splitter``. Its time grows with the square of the number
of pieces, so it gets the text in slices.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any, TypeAlias

Range: TypeAlias = tuple[int, int]

_SLICE = 32  # pieces
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
_TABLE = re.compile(r"(?:^[ \t]*\|[^\n]*(?:\n|\Z)){2,}", re.MULTILINE)
_DEFINITION = re.compile(r"\n[ \t\r]*\n(?=[\w@#/])")
_WRAP = re.compile(r"(?<=[\w,;:-])\r?\n(?=[a-z])")
_JOINER = "\u200d"
_FULL_STOPS = "\u3002\uff01\uff1f"  # of Chinese and Japanese: no space follows
_CLOSING = "\"')]*_\u00bb\u2019\u201d\u300d\u300f\uff09"


class Level(IntEnum):
    """How good a place for a cut is."""

    WORD = 0
    LINE = 1
    SENTENCE = 2
    PARAGRAPH = 3
    SECTION = 4


def level(text: str, place: int) -> Level:
    """How good a cut between ``text[place - 1]`` and ``text[place]`` is; knows no sections."""
    before = text[max(place - 16, 0) : place]
    after = text[place : place + 16]
    body = before.rstrip()
    newlines = before.count("\n", len(body)) + after.count(
        "\n", 0, len(after) - len(after.lstrip())
    )
    if newlines > 1:
        return Level.PARAGRAPH
    last = body.rstrip(_CLOSING)[-1:]
    spaced = len(body) < len(before) or after[:1].isspace()
    if last and (last in _FULL_STOPS or (last in ".!?\u2026" and spaced)):
        return Level.SENTENCE
    return Level.LINE if newlines else Level.WORD


def blocks(text: str, longest: int) -> list[Range]:
    """Fenced code and tables of at most ``longest`` characters: what should stay whole."""
    fences: list[Range] = []
    mark, start = "", 0
    for line in _FENCE.finditer(text):
        if not mark:
            if "`" not in line[2]:
                mark, start = line[1], line.start()
        elif line[1].startswith(mark) and not line[2].strip():
            fences.append((start, min(line.end() + 1, len(text))))
            mark = ""
    starts = [first for first, _ in fences]
    tables = (table.span() for table in _TABLE.finditer(text))
    outside = [t for t in tables if not _within(fences, starts, t[0])]
    return sorted(b for b in fences + outside if b[1] - b[0] <= longest)


def definitions(code: str) -> list[int]:
    """Where top-level definitions of source code begin: unindented lines after an empty one."""
    return [match.end() for match in _DEFINITION.finditer(code)]


def slices(text: str, whole: Sequence[Range], size: int) -> Iterator[Range]:
    """Stretches of up to 32 pieces of ``size`` characters that end between paragraphs if they can.

    Blocks in ``whole`` are not cut; where one begins, a slice may become shorter or longer.
    """
    size = max(_SLICE * size, 2_048)
    starts = [first for first, _ in whole]
    start = 0
    while len(text) - start > size:
        end = _last_break(text, start + size // 2, start + size)
        block = _within(whole, starts, end)
        if block:
            end = block[0] if block[0] > start else block[1]
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)


def cut(
    text: str,
    stretch: Range,
    size: int,
    *,
    markdown: bool,
    code: bool,
    whole: Sequence[Range],
    sections: Iterable[int],
) -> list[Range]:
    """Pieces of at most ``size`` characters that tile a stretch of the text.

    Args:
        text: The whole text.
        stretch: The part of it to cut.
        size: Most characters of a piece.
        markdown: Headings, list items and the like are boundaries.
        code: Lines are lines: none is taken for the continuation of a sentence.
        whole: Blocks, sorted, that are one piece each however long they are.
        sections: Places within the stretch where a piece must begin.
    """
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    first, last = stretch
    part = text[first:last]
    if not code:
        # A line break within a sentence is a space; the length stays.
        part = _WRAP.sub(lambda match: " " * len(match[0]), part)
    kind: Any = MarkdownSplitter if markdown else TextSplitter
    places = {first + start for start, _ in kind(size, trim=False).chunk_indices(part)}
    places.update(sections)
    starts = [start for start, _ in whole]
    for start, end in whole[bisect_right(starts, first - 1) : bisect_right(starts, last)]:
        places.update((start, end))
    inside = (p for p in places if not _within(whole, starts, p) and first <= p < last)
    return list(pairwise(sorted({first, *inside, last})))


def halves(text: str, span: Range, *, code: bool) -> list[Range]:
    """Two parts of about equal length, cut at the best boundary near the middle."""
    start, end = span
    size = max((end - start) // 8, 1)
    parts = cut(text, span, size, markdown=False, code=code, whole=(), sections=())
    middle = (start + end) / 2
    places = [b for _, b in parts[:-1]]
    near = [b for b in places if abs(b - middle) <= (end - start) / 4]
    at = max(near or places, key=lambda b: (level(text, b), -abs(b - middle)))
    return [(start, at), (at, end)]


def _within(ranges: Sequence[Range], starts: Sequence[int], place: int) -> Range | None:
    """The range that would be cut by a cut at ``place``."""
    at = bisect_right(starts, place) - 1
    return ranges[at] if at >= 0 and ranges[at][0] < place < ranges[at][1] else None


def _last_break(text: str, low: int, high: int) -> int:
    for mark in ("\n\n", "\n", " "):
        found = text.rfind(mark, low, high)
        if found >= 0:
            return found + len(mark)
    for place in range(high, high - 64, -1):
        if not _joined(text, place):
            return place
    return high


def _joined(text: str, place: int) -> bool:
    """Whether a cut would part a letter and its accents, or a joined emoji."""
    import unicodedata

    after = text[place]
    return (
        text[place - 1] == _JOINER
        or after in (_JOINER, "\n")
        or unicodedata.category(after)[0] in "MC"
        or "\U0001f3fb" <= after <= "\U0001f3ff"
    )
