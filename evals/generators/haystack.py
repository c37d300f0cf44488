"""Long texts to hide things in: whole sentences of any text, cut to a length in tokens."""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from reader.errors import InvalidOption
from reader.structure import Span, normalised

Count: TypeAlias = Callable[[Sequence[str]], list[int]]
"""Tokens of each text."""

TOLERANCE = 0.02
"""Share of the length asked for by which a text may differ from it."""

_AIM = 0.002
_ROUNDS = 12
_SENTENCE_END = re.compile(
    r"[.!?][\"'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f][\u201d\u2019\uff09]*\s*|\n\s*\n\s*"
)
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
WORD_END = re.compile(rf"[{_CJK}]\s*|[^\s{_CJK}]+\s*")
"""A word, or a character of a script without spaces, with the white space after it."""
_LONGEST = 800  # characters of a sentence; tables and lists have no end of one
_STRETCH = re.compile(r"[\s\S]{1,400}(?:\s+|\Z)|[\s\S]{1,400}")
_UNSPACED = 200  # the same where there are no spaces


class Hidden(NamedTuple):
    """A text to hide, and where: 0 is the beginning, 1 the end, in tokens of the haystack."""

    text: str
    depth: float


class Filled(NamedTuple):
    """A haystack with what is hidden in it.

    ``spans`` are the ranges of the hidden texts, ``depths`` their real places (tokens of haystack
    before them, as a share of all), both in the order given.
    """

    text: str
    tokens: int
    spans: tuple[Span, ...]
    depths: tuple[float, ...]


class Haystack:
    """A text as a ring of sentences: what is asked for beyond its end goes on at its beginning.

    Args:
        text: Any text of one sentence at least.
        count: Counts tokens.
        name: For the meta data of items.

    Raises:
        InvalidOption: the text has no word.
    """

    def __init__(self, text: str, count: Count, *, name: str = "text") -> None:
        self.text = normalised(text).strip()
        if not self.text:
            raise InvalidOption(f"The haystack {name!r} is empty.", hint="Pass a text with words.")
        self.name = name
        self._count = count

    @cached_property
    def sentences(self) -> list[str]:
        """The sentences, each with the white space after it; joined they are the text."""
        ends = [match.end() for match in _SENTENCE_END.finditer(self.text)]
        starts = [0, *ends]
        pieces = [self.text[a:b] for a, b in zip(starts, [*ends, len(self.text)], strict=True)]
        short = [part for piece in pieces if piece for part in _stretches(piece)]
        short[-1] += "\n\n"
        return short

    @cached_property
    def _weights(self) -> list[int]:
        return self._count(self.sentences)

    def fill(self, hidden: Sequence[Hidden], tokens: int, rng: random.Random) -> Filled:
        """A text of ``tokens`` tokens (within ``TOLERANCE``) that holds every hidden text once.

        Hidden texts stand between sentences, in the order of their depths; of two at one place
        the first given comes first. The text begins at a sentence drawn at random.

        Raises:
            InvalidOption: no room for what is to be hidden.
        """
        begin = rng.randrange(len(self.sentences))
        room = tokens - sum(self._count([h.text + " " for h in hidden]))
        best: Filled | None = None
        for _ in range(_ROUNDS):
            if room < 0:
                break
            made = self._assemble(hidden, *self._take(begin, room))
            if best is None or abs(made.tokens - tokens) < abs(best.tokens - tokens):
                best = made
            if abs(made.tokens - tokens) <= max(1, _AIM * tokens):
                break
            room += tokens - made.tokens
        if best is None or abs(best.tokens - tokens) > TOLERANCE * tokens:
            raise InvalidOption(
                f"{tokens} tokens are too few for what is to be hidden in them.",
                hint="Ask for more tokens, or for less to hide.",
            )
        return best

    def _take(self, begin: int, room: int) -> tuple[list[str], list[int]]:
        """Sentences from ``begin`` on of about ``room`` tokens, the last one cut at a word.

        With the tokens of each.
        """
        taken: list[str] = []
        weights: list[int] = []
        at, left = begin, room
        while left > 0:
            sentence, weight = self.sentences[at], max(self._weights[at], 1)
            if weight > left:
                words = WORD_END.findall(sentence)
                kept = round(len(words) * left / weight)
                if kept:
                    taken.append("".join(words[:kept]))
                    weights.append(left)
                break
            taken.append(sentence)
            weights.append(weight)
            left -= weight
            at = (at + 1) % len(self.sentences)
        return taken, weights

    def _assemble(self, hidden: Sequence[Hidden], pieces: list[str], weights: list[int]) -> Filled:
        before = [0, *accumulate(weights)]
        total = max(before[-1], 1)
        slots: dict[int, list[int]] = {}
        for number in sorted(range(len(hidden)), key=lambda n: hidden[n].depth):
            place = _nearest(before, hidden[number].depth * total)
            slots.setdefault(place, []).append(number)
        spans: list[Span] = [Span(0, 0)] * len(hidden)
        depths = [0.0] * len(hidden)
        parts: list[str] = []
        length = 0
        for index in range(len(pieces) + 1):
            for number in slots.get(index, ()):
                gap = "" if not length or parts[-1][-1].isspace() else " "
                text = hidden[number].text
                spans[number] = Span(length + len(gap), length + len(gap) + len(text))
                depths[number] = before[index] / total
                parts.append(gap + text + " ")
                length += len(gap) + len(text) + 1
            if index < len(pieces):
                parts.append(pieces[index])
                length += len(pieces[index])
        text = "".join(parts).rstrip()
        return Filled(text, self._count([text])[0], tuple(spans), tuple(depths))


def _stretches(sentence: str) -> list[str]:
    """The sentence, in pieces if it is far too long for one."""
    if not any(c.isspace() for c in sentence.rstrip()):
        return [sentence[at : at + _UNSPACED] for at in range(0, len(sentence), _UNSPACED)]
    return _STRETCH.findall(sentence) if len(sentence) > _LONGEST else [sentence]


def _nearest(before: Sequence[int], wanted: float) -> int:
    """Index of the boundary between sentences whose tokens before it are nearest."""
    right = min(bisect_left(before, wanted), len(before) - 1)
    left = max(right - 1, 0)
    return left if wanted - before[left] <= before[right] - wanted else right


def even(number: int) -> list[float]:
    """So many depths from 0 to 1; a single one is the middle."""
    return [0.5] if number == 1 else [index / (number - 1) for index in range(number)]
