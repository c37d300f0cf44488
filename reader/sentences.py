"""Whole sentences around a place in a document, and words in a form that compares them."""

from __future__ import annotations

import re

from reader.folding import Range, content_words

LONGEST = 400
"""Characters to which a range is extended to whole sentences."""

_END = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)\]]*\s+|\s*\n\s*\n\s*")
_WORD_ENDING = re.compile(r"(?:'s|ies|es|s|ed|ing|y)$")


def around(text: str, start: int, end: int) -> Range:
    """The whole sentences around a range, where they fit into ``LONGEST`` characters."""
    left, right = max(0, start - LONGEST), min(len(text), end + LONGEST)
    before = [m.end() for m in _END.finditer(text, left, start)]
    first = before[-1] if before else left if left == 0 else start
    # The range may hold the last word but not the mark after it.
    after = _END.search(text, max(end - 1, start), right)
    last = right if after is None and right == len(text) else after.start() if after else end
    last = max(last, end)
    if last - first > LONGEST:
        return (first, end) if end - first <= LONGEST else (start, end)
    while first < start and text[first].isspace():
        first += 1
    return first, max(end, first + len(text[first:last].rstrip()))


def stems(text: str) -> set[str]:
    """The words that carry meaning, without their endings."""
    words = content_words(text)
    return {_WORD_ENDING.sub("", word) if len(word) > 4 else word for word in words}
