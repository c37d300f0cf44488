"""Texts made comparable: folded characters, words, numbers, negations.

Folding turns runs of white space into one space and typographic quotation marks, dashes, ellipses
and ligatures into plain ones, and drops invisible characters and hyphens between letters (also at
line ends). A fold keeps only the places where lengths change, so a range of folded text leads
back to a range of the original at little cost in memory.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from typing import TypeAlias

Range: TypeAlias = tuple[int, int]

_PLAIN = str.maketrans(
    {
        **dict.fromkeys(
            "\t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", " "
        ),
        **dict.fromkeys(map(chr, range(0x2000, 0x200B)), " "),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\xab\xbb\u2033", '"'),
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032`\xb4", "'"),
        **dict.fromkeys("\u2010\u2011\u2212", "-"),
        **dict.fromkeys("\u2013\u2014\u2015", "\u2014"),
        "\u0130": "I",  # the only letter that gets longer in lower case
    }
)
_LETTER = r"[^\W\d_]"
# Every alternative begins with a fixed character, which lets `re` skip fast.
_CHANGED = re.compile(
    rf"(?P<hyphen>-(?<={_LETTER}-) *(?={_LETTER}))"
    r"|—(?P<span>(?<=\d—)(?=\d))"
    r"|(?P<dash> +(?:--+|—) *|(?:--+|—) *)"
    r"|(?P<spaces>  +)"
    r"|(?P<marks>'')"
    r"|(?P<dots>…)"
    r"|(?P<hidden>[\xad\u200b-\u200d\u2060\ufeff] *)"
    r"|(?P<ligature>[ﬀ-ﬄ])"
)
_REPLACED = {"dash": " - ", "spaces": " ", "marks": '"', "dots": "...", "span": "-"}
_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl"}
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])[^\W_])+(?:'[^\W\d_]+)?")
"""A word; a Chinese, Japanese or Korean character counts as one."""
PART = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])[^\W_])+")
_JOINED = re.compile(rf"(?![{_CJK}])[^\W_](?=(?![{_CJK}])[^\W_])")  # two letters of one word

_STOP_WORDS = (
    "a an and any are as at be been being but by can could did do does for from had has have he"
    " her hers him his i if in into is it its may me might my of on or our shall she should so"
    " that the their them then there these they this those to up us was we were what when where"
    " which who whom whose why how will with would you your"
)
_NEGATIONS = (
    "no not never none nor neither nobody nothing nowhere without cannot"
    " nicht kein keine keinen nie pas jamais"
)
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    " fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth"
_STOPPED = frozenset(_STOP_WORDS.split())
_NEGATING = frozenset(_NEGATIONS.split())
_NUMBERS = {
    # "one" is most often a pronoun.
    **{word: str(n) for n, word in enumerate(_UNITS.split()) if word != "one"},
    **{word: str(10 * n) for n, word in enumerate(_TENS.split(), 2)},
    # "twenty-one" loses its hyphen in the fold.
    **{
        ten + one: str(10 * n + k)
        for n, ten in enumerate(_TENS.split(), 2)
        for k, one in enumerate(_UNITS.split()[:10])
    },
    **{word: f"{n}th" for n, word in enumerate(_ORDINALS.split(), 1)},
    **{word: word for word in ("hundred", "thousand", "million", "billion")},
}
_FIGURES_OR_WORD = re.compile(r"(\d+(?:[.,:]\d+)*)|[^\W\d_]+")


class Folded:
    """A folded text with the way back to the original.

    Attributes:
        text: The folded text.
        low: The same in lower case, character for character.
    """

    __slots__ = ("_here", "_there", "low", "text")

    def __init__(self, original: str, offset: int = 0) -> None:
        plain = original.translate(_PLAIN)
        pieces: list[str] = []
        # Positions after each change of length, in the folded and in the original text.
        self._here, self._there = array("Q", [0]), array("Q", [offset])
        done = length = 0
        for found in _CHANGED.finditer(plain):
            name = found.lastgroup or ""
            old = found.group()
            new = _LIGATURES[old] if name == "ligature" else _REPLACED.get(name, "")
            length += found.start() - done
            pieces += (plain[done : found.start()], new)
            done = found.end()
            if len(new) > 1 or len(new) != len(old):
                # The replaced stretch as a whole points at its original beginning.
                self._here.extend((length, length + len(new)))
                self._there.extend((offset + found.start(), offset + done))
            length += len(new)
        pieces.append(plain[done:])
        self.text = "".join(pieces)
        low = self.text.lower()
        self.low = low if len(low) == len(self.text) else self.text

    def origin(self, start: int, end: int) -> Range:
        """The range of the original text behind a range of the folded one."""
        return self._back(start), self._back(end - 1) + 1

    def _back(self, position: int) -> int:
        i = bisect_right(self._here, position) - 1
        there = self._there[i] + position - self._here[i]
        # Inside a replaced stretch the original may be the shorter one.
        return min(there, self._there[i + 1] - 1) if i + 1 < len(self._there) else there


def content_words(text: str) -> list[str]:
    """The words that carry meaning, in lower case, in order."""
    return [w for w in WORD.findall(text.translate(_PLAIN).lower()) if w not in _STOPPED]


def whole_words(text: str, start: int, end: int) -> bool:
    """Neither end of the range lies inside a word."""
    return not (
        (start > 0 and _JOINED.match(text, start - 1))
        or (0 < end < len(text) and _JOINED.match(text, end - 1))
    )


def same_facts(one: str, other: str) -> bool:
    """Two texts in lower case have the same numbers and the same count of negations."""
    return numbers(one) == numbers(other) and _negations(one) == _negations(other)


def numbers(text: str) -> list[str]:
    """The numbers of a text in order: figures without their commas, small numbers in words."""
    found = _FIGURES_OR_WORD.finditer(text.lower())
    read = (m[1].replace(",", "") if m[1] else _NUMBERS.get(m[0]) for m in found)
    return [number for number in read if number]


def numbers_stand_in(part: str, text: str) -> bool:
    """Every number of the one is in the other."""
    return set(numbers(part)) <= set(numbers(text))


def denies(part: str) -> bool:
    """There is a negation in it."""
    return _negations(part.lower()) > 0


def _negations(text: str) -> int:
    return sum(word in _NEGATING or word.endswith("n't") for word in WORD.findall(text))
