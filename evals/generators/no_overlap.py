"""A needle that shares no word with its question: knowledge must lead from one to the other.

In the spirit of NoLiMa (Modarressi et al. 2025); needles and questions are ours (NoLiMa's own may
be used for research only, and are loaded from its hub: ``nolima``). As there, what would lead
astray is kept out: no haystack that names what the question asks for.
"""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

from pydantic import Field

from reader.errors import InvalidOption

from ..item import Item
from .haystack import Hidden, even
from .task import GeneratorOptions, Place, generator

NAME = "Answer with the name alone."

_PEOPLE_LIST = (
    "Adaeze Bjarte Calista Dragan Eluned Fenna Gaspard Hanneke Ismet Jolanta Kalinda Ludovit"
    " Mireia Nadezhda Oisin Petronel Quirijn Radka Sunniva Tindra Ulrika Vasile Wiebke Ximun"
    " Yevgenia Zdenek"
)
PEOPLE = _PEOPLE_LIST.split()


class Link(NamedTuple):
    """What is told, and what is asked for one step and two steps away from it.

    ``told`` and ``asked`` hold "{who}" and "{what}"; ``chains`` are (told, one step, two steps).
    """

    told: str
    asked: str
    chains: tuple[tuple[str, str, str], ...]


LINKS = (
    Link(
        "{who} sells postcards every morning in front of the {what}.",
        "Who works in {what}?",
        (
            ("Rialto Bridge", "Venice", "Italy"),
            ("Brandenburg Gate", "Berlin", "Germany"),
            ("Charles Bridge", "Prague", "Czechia"),
            ("Alhambra", "Granada", "Spain"),
            ("Parthenon", "Athens", "Greece"),
            ("Hagia Sophia", "Istanbul", "Turkey"),
            ("Rijksmuseum", "Amsterdam", "the Netherlands"),
            ("Atomium", "Brussels", "Belgium"),
            ("Hofburg", "Vienna", "Austria"),
            ("Wawel", "Krakow", "Poland"),
        ),
    ),
    Link(
        "At breakfast {who} was telling stories about the summers near {what}.",
        "Which person spent time in {what}?",
        (
            ("Lake Balaton", "Hungary", "Central Europe"),
            ("Mount Kilimanjaro", "Tanzania", "East Africa"),
            ("the Bay of Fundy", "Canada", "North America"),
            ("Lake Titicaca", "the Andes", "South America"),
            ("Mount Fuji", "Japan", "East Asia"),
        ),
    ),
    Link(
        "Before going out {who} always checks {what} twice.",
        "Which person is likely to {what}?",
        (
            ("the rosin and the spare bow strings", "play the violin", "join an orchestra"),
            ("the kiln and the glazes", "make pottery", "exhibit ceramics"),
            ("the hives and the smoker", "keep bees", "harvest honey"),
            ("the crampons and the ice axe", "climb mountains", "reach a summit"),
            ("the regulator and the oxygen tank", "dive", "see coral reefs"),
        ),
    ),
    Link(
        "{who} turned down the {what} once again.",
        "Who cannot eat {what}?",
        (
            ("baguette, the couscous and the noodles", "gluten", "wheat"),
            ("brie, the butter and the yoghurt", "dairy", "food made of milk"),
            ("almonds, the walnuts and the marzipan", "nuts", "pecans"),
            ("prawns, the crab and the lobster", "shellfish", "crayfish"),
        ),
    ),
)


class NoOverlapOptions(GeneratorOptions):
    """Options of the no-overlap needle.

    Attributes:
        hops: 1 asks for what the needle's thing is or where it is; 2 for one step more.
        depths: So many places of the needle, evenly from the beginning to the end.
    """

    lengths: tuple[int, ...] = Field(default=(512, 1_024, 2_048, 4_096, 8_192), min_length=1)
    hops: Literal[1, 2] = 1
    depths: int = Field(default=5, ge=1)


def make(options: NoOverlapOptions, place: Place) -> Item:
    """One item: the needle is the evidence, the answer is the name in it.

    Raises:
        InvalidOption: the haystack names everything that could be asked for.
    """
    text = place.haystack.text.lower()
    link, told, asked = _choose(options, place, text)
    name = place.rng.choice([name for name in PEOPLE if name.lower() not in text])
    needle = link.told.format(who=name, what=told)
    question = link.asked.format(what=asked)
    depth = even(options.depths)[place.index % options.depths]
    filled = place.haystack.fill([Hidden(needle, depth)], place.length, place.rng)
    return place.item(
        filled.text,
        question,
        [name],
        tokens=filled.tokens,
        spans=filled.spans,
        depth=depth,
        real_depth=filled.depths[0],
        hops=options.hops,
    )


def _choose(options: NoOverlapOptions, place: Place, text: str) -> tuple[Link, str, str]:
    """Evenly over the links, whatever the number of their chains."""
    rng = random.Random(f"{place.name}/{place.length}/{place.seed}")  # noqa: S311
    pairs: list[list[tuple[Link, str, str]]] = []
    for link in LINKS:
        fit = [
            (link, chain[0], chain[options.hops])
            for chain in link.chains
            if not any(_bare(part) in text for part in (chain[0], chain[options.hops]))
        ]
        rng.shuffle(fit)
        if fit:
            pairs.append(fit)
    if not pairs:
        raise InvalidOption(
            f"The haystack {place.haystack.name!r} names everything that could be asked for.",
            hint="Pass another text.",
        )
    row = pairs[place.index % len(pairs)]
    return row[place.index // len(pairs) % len(row)]


def _bare(words: str) -> str:
    return words.lower().removeprefix("the ")


NO_OVERLAP = (
    generator(
        "no_overlap",
        "A needle that shares no word with its question",
        NoOverlapOptions,
        make,
        metric="subspan",
        requirement=NAME,
    ),
)
