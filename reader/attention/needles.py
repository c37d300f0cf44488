"""Needles that the library makes itself: invented facts between passages of the shipped tale.

For models without a table of heads. A needle's question shares its subject but not its wording, and
its neighbours are needles of the same form about somebody else: what is found is the head that
tells them apart, not the one that notices what does not belong.
"""

from __future__ import annotations

import random
from importlib.resources import files

from reader.attention.examples import Example, paragraphs

TALE = "the_monkeys_paw.txt"
PASSAGES = 12
PASSAGE = 400  # characters
_NAMES = (
    "Alma",
    "Berit",
    "Corwin",
    "Dalia",
    "Edmund",
    "Farida",
    "Gustav",
    "Helmi",
    "Ivo",
    "Jorun",
    "Kasimir",
    "Leonie",
    "Marek",
    "Nadia",
    "Orrin",
    "Petra",
    "Quentin",
    "Rosa",
    "Silas",
    "Tamsin",
)
_PLACES = (
    "Aldmoor",
    "Brisling",
    "Carrow",
    "Dunmere",
    "Eastvale",
    "Farnholt",
    "Greywick",
    "Hollin",
    "Ister",
    "Jessop",
    "Karst",
)
_THINGS = (
    "a brass compass",
    "a red bicycle",
    "a box of old coins",
    "a painted fan",
    "a sack of barley",
    "a silver whistle",
    "a stuffed owl",
    "a glass lantern",
)
_FORMS = (
    (
        "When {name} moved to {place}, the only thing brought along was {thing}.",
        "What did {name} take to {place}?",
    ),
    (
        "The office of {name} is reached by the stairs behind the market hall of {place}.",
        "Where does {name} work?",
    ),
    (
        "It was {name} who lost {thing} on the ferry to {place}.",
        "Who was without {thing} after the crossing to {place}?",
    ),
    (
        "{name} learned the trade of a clockmaker in {place} and never left it again.",
        "What is the profession of {name}?",
    ),
)


def needle_examples(count: int, *, seed: int = 20) -> list[Example]:
    """So many questions with one gold passage among twelve; the same ones for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    tale = paragraphs((files("reader") / "tales" / TALE).read_text(encoding="utf-8"))
    found = []
    for number in range(count):
        form, question = _FORMS[number % len(_FORMS)]
        names = draw.sample(_NAMES, 4)
        places = draw.sample(_PLACES, 4)
        things = draw.sample(_THINGS, 4)
        first = draw.randrange(len(tale) - PASSAGES)
        passages = [text[:PASSAGE] for text in tale[first : first + PASSAGES]]
        spots = draw.sample(range(PASSAGES), 4)
        for spot, name, place, thing in zip(spots, names, places, things, strict=True):
            passages[spot] += " " + form.format(name=name, place=place, thing=thing)
        asked = question.format(name=names[0], place=places[0], thing=things[0])
        found.append(Example(f"needles/{number}", asked, tuple(passages), frozenset({spots[0]})))
    return found
