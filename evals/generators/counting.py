"""Common and frequent words: which words of a long list occur most often?

RULER's stand-ins for summing up a whole text (Hsieh et al. 2024, section 3.3). Nothing less than
the whole text is evidence, so no evidence is given.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from pydantic import Field

from reader.errors import InvalidOption

from ..item import Item
from .haystack import TOLERANCE
from .task import GeneratorOptions, Place, generator
from .words import coded_word, vocabulary

WORDS = "Answer with the words alone, separated by commas."
_ROUNDS = 12


class CommonOptions(GeneratorOptions):
    """Options of common words.

    Attributes:
        common: Words to be found.
        often: Times that each of them occurs.
        seldom: Times that each other word occurs.
    """

    common: int = Field(default=10, ge=1)
    often: int = Field(default=30, ge=2)
    seldom: int = Field(default=3, ge=1)


class FrequentOptions(GeneratorOptions):
    """Options of frequent words.

    Attributes:
        frequent: Words to be found.
        exponent: Of the zeta distribution: the word of rank k occurs in proportion to
            k to the power of minus this.
    """

    frequent: int = Field(default=3, ge=1)
    exponent: float = Field(default=2.0, gt=1)


def make_common(options: CommonOptions, place: Place) -> Item:
    """One item: a numbered list of real words (the haystack's), shuffled.

    Raises:
        InvalidOption: ``seldom`` is not below ``often``, or the length has no room.
    """
    if options.seldom >= options.often:
        raise InvalidOption(
            f"Option seldom ({options.seldom}) must be below often ({options.often}).", hint=""
        )
    words = vocabulary(place.haystack.text)
    place.rng.shuffle(words)

    def build(others: int) -> tuple[str, Counter[str]]:
        rng = random.Random(f"{place.id}/{others}")  # noqa: S311
        chosen = _enough(words, options.common + others, rng)
        listed = chosen[: options.common] * options.often
        listed += chosen[options.common :] * options.seldom
        rng.shuffle(listed)
        text = " ".join(f"{number}. {word}" for number, word in enumerate(listed, 1))
        return text, Counter(listed)

    text, counts, tokens = _fit(place, build)
    best = [word for word, _ in counts.most_common(options.common)]
    return place.item(
        text,
        f"Which {options.common} words occur most often in the numbered list?",
        best,
        tokens=tokens,
        spans=None,
    )


def make_frequent(options: FrequentOptions, place: Place) -> Item:
    """One item: coded words at random places, the most frequent of all being dots."""
    seen: set[str] = set()
    coded: list[str] = []
    while len(coded) < 400:
        word = coded_word(place.rng)
        if word not in seen:
            seen.add(word)
            coded.append(word)

    def build(total: int) -> tuple[str, Counter[str]]:
        rng = random.Random(f"{place.id}/{total}")  # noqa: S311
        weights = [(rank + 1) ** -options.exponent for rank in range(len(coded) + 1)]
        scale = total / sum(weights)
        counts = [round(weight * scale) for weight in weights]
        for rank in range(options.frequent, 0, -1):  # of those asked for, none ties with the next
            counts[rank] = max(counts[rank], counts[rank + 1] + 1)
        listed = ["...."] * max(counts[0], 1)
        for word, count in zip(coded, counts[1:], strict=True):
            listed += [word] * count
        rng.shuffle(listed)
        return " ".join(listed), Counter(word for word in listed if word != "....")

    text, counts, tokens = _fit(place, build)
    best = [word for word, _ in counts.most_common(options.frequent)]
    return place.item(
        text,
        f"Which {options.frequent} coded words occur most often in the text? The dots are none.",
        best,
        tokens=tokens,
        spans=None,
    )


def _fit(
    place: Place, build: Callable[[int], tuple[str, Counter[str]]]
) -> tuple[str, Counter[str], int]:
    """Build with the number of words that gives the length.

    Raises:
        InvalidOption: no number does.
    """
    low = place.count([build(0)[0]])[0]
    probe = max(place.length // 8, 8)
    slope = (place.count([build(probe)[0]])[0] - low) / probe
    number = max(round((place.length - low) / slope), 0) if slope > 0 else 0
    best: tuple[str, Counter[str], int] | None = None
    for _ in range(_ROUNDS):
        text, counts = build(number)
        tokens = place.count([text])[0]
        if best is None or abs(tokens - place.length) < abs(best[2] - place.length):
            best = text, counts, tokens
        step = round((place.length - tokens) / slope)
        if step == 0 or number + step < 0:
            break
        number += step
    if best is None or abs(best[2] - place.length) > TOLERANCE * place.length:
        raise InvalidOption(
            f"{place.length} tokens are too few for the words of {place.name!r}.",
            hint="Ask for longer documents, or for fewer words.",
        )
    return best


def _enough(words: list[str], number: int, rng: random.Random) -> list[str]:
    """So many distinct words; coded ones where the haystack has too few."""
    chosen = words[:number]
    taken = set(chosen)
    while len(chosen) < number:
        word = coded_word(rng)
        if word not in taken:
            taken.add(word)
            chosen.append(word)
    return chosen


COUNTING = (
    generator(
        "common_words",
        "The most common words of a long list",
        CommonOptions,
        make_common,
        metric="recall_all",
        requirement=WORDS,
    ),
    generator(
        "frequent_words",
        "The most frequent coded words",
        FrequentOptions,
        make_frequent,
        metric="recall_all",
        requirement=WORDS,
    ),
)
