"""Small stories of people who walk and carry things, as in the first three bAbI tasks.

After Weston et al. 2015: 1 asks where a person is, 2 where a thing is, 3 where a thing was before
it came to a place. Sentences are made by a simulation, so the facts an answer rests on are known.
"""

from __future__ import annotations

import random
from typing import NamedTuple

PEOPLE = ("Mary", "John", "Sandra", "Daniel")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
_MOVES = ("went to", "moved to", "travelled to", "journeyed to", "went back to")
_TAKES = ("took", "grabbed", "got", "picked up")
_DROPS = ("dropped", "left", "discarded", "put down")
_LENGTH = {1: 10, 2: 20, 3: 40}
_TRIES = 1_000


class Story(NamedTuple):
    """Facts in their order, a question about them, and which of the facts (indices) support it."""

    facts: tuple[str, ...]
    question: str
    answer: str
    supporting: tuple[int, ...]
    labels: tuple[str, ...]


class _Thing:
    """A thing: who carries it since which fact, where it lies, and where it has been.

    ``visits`` are (place, facts that bear out that it was there).
    """

    def __init__(self) -> None:
        self.carrier: str | None = None
        self.taken = -1
        self.place: str | None = None
        self.visits: list[tuple[str, tuple[int, ...]]] = []


class _World:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.facts: list[str] = []
        self.where: dict[str, tuple[str, int]] = {}
        self.things = {thing: _Thing() for thing in THINGS}

    def step(self) -> None:
        """One more fact, true in this world."""
        person = self.rng.choice(PEOPLE)
        carried = [name for name, thing in self.things.items() if thing.carrier == person]
        here = self.where.get(person)
        lying = [
            name
            for name, thing in self.things.items()
            if here and thing.carrier is None and thing.place in (None, here[0])
        ]
        act = self.rng.random()
        if here and lying and act < 0.25:
            self._take(person, self.rng.choice(lying), here)
        elif here and carried and act < 0.4:
            self._drop(person, self.rng.choice(carried))
        else:
            self._move(person, carried)

    def _move(self, person: str, carried: list[str]) -> None:
        here = self.where.get(person)
        place = self.rng.choice([p for p in PLACES if here is None or p != here[0]])
        self._say(f"{person} {self.rng.choice(_MOVES)} the {place}.")
        self.where[person] = (place, len(self.facts) - 1)
        for name in carried:
            thing = self.things[name]
            thing.visits.append((place, (thing.taken, len(self.facts) - 1)))

    def _take(self, person: str, name: str, here: tuple[str, int]) -> None:
        thing = self.things[name]
        known = thing.place is not None
        self._say(f"{person} {self.rng.choice(_TAKES)} the {name}{'' if known else ' there'}.")
        thing.carrier, thing.taken, thing.place = person, len(self.facts) - 1, None
        if not thing.visits or thing.visits[-1][0] != here[0]:
            thing.visits.append((here[0], (here[1], thing.taken)))

    def _drop(self, person: str, name: str) -> None:
        thing = self.things[name]
        self._say(f"{person} {self.rng.choice(_DROPS)} the {name}.")
        thing.carrier, thing.place = None, self.where[person][0]

    def _say(self, fact: str) -> None:
        self.facts.append(fact)


def tell(task: int, rng: random.Random) -> Story:
    """A story with a question of the task, 1 to 3.

    Every fact that the answer rests on is among the supporting ones; all are needed.
    """
    for _ in range(_TRIES):
        world = _World(rng)
        for _ in range(rng.randint(_LENGTH[task] // 2, _LENGTH[task])):
            world.step()
        story = _ask(task, world)
        if story is not None:
            return story
    raise RuntimeError("no story came about")  # pragma: no cover - a story in three does


def _ask(task: int, world: _World) -> Story | None:
    facts, rng = tuple(world.facts), world.rng
    if task == 1:
        person = rng.choice(sorted(world.where))
        place, fact = world.where[person]
        return Story(facts, f"Where is {person}?", place, (fact,), PLACES)
    moved = [name for name, thing in world.things.items() if len(thing.visits) >= task]
    if not moved:
        return None
    name = rng.choice(moved)
    visits = world.things[name].visits
    if task == 2:
        place, support = visits[-1]
        return Story(facts, f"Where is the {name}?", place, tuple(sorted(set(support))), PLACES)
    (before, first), (after, second) = visits[-2:]
    if sum(place == after for place, _ in visits) > 1:
        return None  # "before the garden" would have two answers
    support = tuple(sorted({*first, *second}))
    return Story(facts, f"Where was the {name} before the {after}?", before, support, PLACES)
