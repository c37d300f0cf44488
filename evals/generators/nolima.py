"""NoLiMa's own needles in its own books (Modarressi et al. 2025), fetched from its hub.

Its data may be used for research only (Adobe Research License), so none of it is here; see
``no_overlap`` for needles of ours. Shape, seen in public code that loads amodaresi/NoLiMa: a file
needlesets/NAME.json is a list of {id, needle, questions by kind, character_set, tests}, a test has
input_args; "{CHAR}" and "{1}", "{2}", ... stand in needle and questions; books are
haystack/rand_shuffle/rand_book_1.txt to 5. An answer is right if it contains the character's name.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pydantic import Field

from reader.errors import InvalidRow

from ..hub import whole_file
from ..item import Item
from .haystack import Haystack, Hidden, even
from .no_overlap import NAME
from .task import GeneratorOptions, Place, generator

ROOT = "hf://datasets/amodaresi/NoLiMa"
BOOKS = 5


class NoLiMaOptions(GeneratorOptions):
    """Options of NoLiMa.

    Attributes:
        needles: Name of a file of needles.
        hops: Questions one step from the needle, or two.
        depths: So many places of the needle, evenly from the beginning to the end.
        source: Folder or address in place of the hub's.
    """

    lengths: tuple[int, ...] = Field(
        default=(256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768), min_length=1
    )
    needles: Literal["needle_set", "needle_set_hard"] = "needle_set"
    hops: Literal["onehop", "twohop"] = "onehop"
    depths: int = Field(default=5, ge=1)
    source: str = ROOT


class Variant(NamedTuple):
    """One needle with its question, the character still open."""

    id: str
    needle: str
    question: str
    characters: tuple[str, ...]
    kind: str


def make(options: NoLiMaOptions, place: Place) -> Item:
    """One item; variants take turns over the set, books over the variants.

    Raises:
        SetUnavailable: the hub's files cannot be had.
        InvalidRow: needles of another shape.
    """
    variants = _variants(options.source, options.needles, options.hops)
    number = place.index + place.seed * options.items
    variant = variants[number % len(variants)]
    haystack = place.haystack
    if options.haystack is None:
        book = 1 + number % BOOKS
        address = f"{options.source}/haystack/rand_shuffle/rand_book_{book}.txt"
        haystack = Haystack(_book(address), place.count, name=f"rand_book_{book}")
    character = place.rng.choice(variant.characters)
    needle = variant.needle.replace("{CHAR}", character)
    depth = even(options.depths)[place.index % options.depths]
    filled = haystack.fill([Hidden(needle, depth)], place.length, place.rng)
    return place.item(
        filled.text,
        variant.question.replace("{CHAR}", character),
        [character],
        tokens=filled.tokens,
        spans=filled.spans,
        depth=depth,
        real_depth=filled.depths[0],
        needle=variant.id,
        kind=variant.kind,
        hops=options.hops,
        haystack=haystack.name,
    )


@lru_cache(maxsize=8)
def _variants(source: str, needles: str, hops: str) -> tuple[Variant, ...]:
    path = f"{source}/needlesets/{needles}.json"
    try:
        found = tuple(_expanded(json.loads(whole_file("nolima", path)), hops))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidRow(
            f"{path}: needles are not of the expected shape ({error!r}).", path=path, line=0
        ) from error
    if not found:
        raise InvalidRow(f"{path}: no needle has a question {hops!r}.", path=path, line=0)
    return found


def _expanded(entries: list[dict[str, Any]], hops: str) -> list[Variant]:
    found: list[Variant] = []
    for entry in entries:
        if hops not in entry["questions"]:
            continue
        for test, given in entry["tests"].items():
            needle, question = entry["needle"], entry["questions"][hops]
            for number, argument in enumerate(given["input_args"], 1):
                needle = needle.replace(f"{{{number}}}", argument)
                question = question.replace(f"{{{number}}}", argument)
            found.append(
                Variant(
                    f"{entry['id']}_{test}",
                    needle,
                    question,
                    tuple(entry["character_set"]),
                    entry.get("reasoning_type", ""),
                )
            )
    return found


@lru_cache(maxsize=BOOKS)
def _book(address: str) -> str:
    return whole_file("nolima", address)


NOLIMA = (
    generator(
        "nolima",
        "NoLiMa's needles in its books (for research only)",
        NoLiMaOptions,
        make,
        metric="contains",
        requirement=NAME,
    ),
)
