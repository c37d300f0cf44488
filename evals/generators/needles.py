"""Needles in a haystack: one, several keys, several values, several questions at once.

After RULER (Hsieh et al. 2024, section 3.1), which made them of G. Kamradt's test: a needle says
that a key has a value, the question asks for the values of some keys. The sentences are ours, so
single numbers do not compare with RULER's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..item import Item
from ..set_info import VALUE
from .haystack import Haystack, Hidden, even
from .task import GeneratorOptions, Place, generator
from .words import Kind, draw, fresh

LIST = "Answer with the values alone, all of them, separated by commas."
NOISE = (
    "The road is dry. The sky is grey. The river is wide. On we walk. Around the bend and back.\n"
)
_NOUN = {"numbers": "number", "words": "word", "uuids": "code"}


class NeedleOptions(GeneratorOptions):
    """Options of the needle sets.

    Attributes:
        depths: So many places of the needle asked for, evenly from the beginning to the end, each
            item of a length taking the next; for a map of depth by length take ``items`` of this
            or a multiple. Only where one needle is asked for; others stand at random.
        background: What the needles stand in: the haystack's "text", "noise" (five short
            sentences again and again), or other "needles".
        keys: Needles with different keys.
        values: Of each key.
        queries: Keys that are asked for.
        key_kind: "words", "numbers" or "uuids".
        value_kind: Likewise.
    """

    depths: int = Field(default=5, ge=1)
    background: Literal["text", "noise", "needles"] = "text"
    keys: int = Field(default=1, ge=1)
    values: int = Field(default=1, ge=1)
    queries: int = Field(default=1, ge=1)
    key_kind: Kind = "words"
    value_kind: Kind = "numbers"


def make(options: NeedleOptions, place: Place) -> Item:
    """One item: all its needles are evidence if they are asked for."""
    rng = place.rng
    text = place.haystack.text if options.background == "text" else ""
    taken: set[str] = set()

    def new(kind: Kind) -> str:
        word = fresh(lambda: draw(kind, rng), taken, text)
        taken.add(word)
        return word

    number = max(options.keys, options.queries)
    table = {
        new(options.key_kind): [new(options.value_kind) for _ in range(options.values)]
        for _ in range(number)
    }
    asked = list(table)[: options.queries]
    single = options.queries * options.values == 1
    depth = even(options.depths)[place.index % options.depths] if single else None
    noun = _NOUN[options.value_kind]
    hidden = [
        Hidden(
            _needle(noun, key, value),
            depth if depth is not None and key == asked[0] else rng.random(),
        )
        for key, values in table.items()
        for value in values
    ]
    filled = _background(options, place, noun, taken).fill(hidden, place.length, rng)
    wanted = len(asked) * options.values  # those asked for come first
    return place.item(
        filled.text,
        _question(noun, asked, options.values),
        [value for key in asked for value in table[key]],
        tokens=filled.tokens,
        spans=filled.spans[:wanted],
        requirement=VALUE if single else LIST,
        **({} if depth is None else {"depth": depth, "real_depth": filled.depths[0]}),
    )


def _needle(noun: str, key: str, value: str) -> str:
    return f"The secret {noun} of {key} is {value}."


def _question(noun: str, asked: list[str], values: int) -> str:
    names = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])} and {asked[-1]}"
    if len(asked) == 1 and values == 1:
        return f"What is the secret {noun} of {names}?"
    each = "all secret" if values > 1 else "the secret"
    return f"What are {each} {noun}s of {names}?"


def _background(options: NeedleOptions, place: Place, noun: str, taken: set[str]) -> Haystack:
    if options.background == "text":
        return place.haystack
    if options.background == "noise":
        return Haystack(NOISE, place.count, name="noise")
    others: list[str] = []
    weight = 0
    while weight < 1.2 * place.length:
        batch = []
        for _ in range(64):
            key, value = (
                fresh(lambda: draw(kind, place.rng, crowd=True), taken)  # noqa: B023
                for kind in (options.key_kind, options.value_kind)
            )
            taken |= {key, value}
            batch.append(_needle(noun, key, value) + "\n")
        others += batch
        weight += sum(place.count(batch))
    return Haystack("".join(others), place.count, name="needles")


class MultiKeyOptions(NeedleOptions):
    """Of the set with several keys."""

    keys: int = Field(default=4, ge=1)


class MultiValueOptions(NeedleOptions):
    """Of the set with several values of one key."""

    values: int = Field(default=4, ge=1)


class MultiQueryOptions(NeedleOptions):
    """Of the set that asks for several keys."""

    queries: int = Field(default=4, ge=1)


NEEDLES = tuple(
    generator(name, about, options, make, metric="recall_all", requirement=requirement)
    for name, about, options, requirement in (
        ("needle", "One needle in a haystack", NeedleOptions, VALUE),
        ("needle_multikey", "One needle among others of its kind", MultiKeyOptions, VALUE),
        ("needle_multivalue", "Several values of one key", MultiValueOptions, LIST),
        ("needle_multiquery", "The values of several keys", MultiQueryOptions, LIST),
    )
)
