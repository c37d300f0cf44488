"""Keys and values that nobody knows beforehand, and words to count."""

from __future__ import annotations

import random
import re
import string
import uuid
from collections.abc import Callable, Container
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["words", "numbers", "uuids"]

_QUALITIES_LIST = (
    "amber ancient bitter bold brittle bronze calm clever copper crooked dusty eager faded"
    " fierce fragile frozen gentle gilded hollow humble icy ivory jagged jolly keen lavish"
    " lonely lucid marble mellow misty nimble ochre pale patient plain polished proud quiet"
    " rapid rusty scarlet shady silent silver slender solemn spare steady striped sturdy"
    " subtle tawny tidy velvet vivid weary wooden yellow zealous"
)
_QUALITIES = _QUALITIES_LIST.split()
_THINGS_LIST = (
    "acorn anchor anvil apron badger barrel beacon bellows blanket bramble bridle bucket"
    " cabinet candle canoe cart chisel cider cloak compass cradle curtain dagger drum easel"
    " falcon fiddle flask gable garland goblet hammer harbor harp hatchet heron hinge kettle"
    " ladder lantern lattice loom magnet mantle meadow mitten needle orchard otter paddle"
    " parcel pebble pitcher plough pocket quilt raft ribbon saddle sickle sparrow spindle"
    " stable teapot thimble turnip valley violin wagon walnut whistle willow window"
)
_THINGS = _THINGS_LIST.split()
_VOWELS = "aeiou"
_CONSONANTS = "bcdfghjklmnprstvwz"
_VOCABULARY = re.compile(r"\b[a-z]{4,11}\b")
_TRIES = 1_000


def draw(kind: Kind, rng: random.Random, *, crowd: bool = False) -> str:
    """Something to ask for or to find: "amber-lantern", 7 digits, or a UUID.

    In a ``crowd`` words have one part more, so that there are 100,000 of them.
    """
    if kind == "numbers":
        return str(rng.randrange(1_000_000, 10_000_000))
    if kind == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    more = f"{rng.choice(_QUALITIES)}-" if crowd else ""
    return f"{more}{rng.choice(_QUALITIES)}-{rng.choice(_THINGS)}"


def variable(rng: random.Random) -> str:
    """A name of five capital letters."""
    return "".join(rng.choices(string.ascii_uppercase, k=5))


def coded_word(rng: random.Random) -> str:
    """A word of six letters that no language has."""
    return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(3))


def fresh(make: Callable[[], str], taken: Container[str], text: str = "") -> str:
    """One that is neither taken nor part of the text.

    Raises:
        RuntimeError: none in 1,000 draws; what is drawn from is too small.
    """
    for _ in range(_TRIES):
        word = make()
        if word not in taken and word not in text:
            return word
    raise RuntimeError("everything that could be drawn is taken")


def vocabulary(text: str) -> list[str]:
    """The distinct words of 4 to 11 small letters of a text, sorted."""
    return sorted(set(_VOCABULARY.findall(text)))
