"""Variable tracking: which names hold a value, after a chain of assignments spread through a text.

RULER's stand-in for following a coreference (Hsieh et al. 2024, section 3.2).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..item import Item
from .haystack import Haystack, Hidden
from .needles import NOISE
from .task import GeneratorOptions, Place, generator
from .words import fresh, variable

NAMES = "Answer with the names alone, all of them, separated by commas."


class TracingOptions(GeneratorOptions):
    """Options of variable tracking.

    Attributes:
        background: What the assignments stand in: "noise" as in RULER, or the haystack's "text".
        chains: Chains of assignments, of which one is asked for.
        hops: Names after the first one of each chain.
    """

    background: Literal["text", "noise"] = "noise"
    chains: int = Field(default=1, ge=1)
    hops: int = Field(default=4, ge=1)


def make(options: TracingOptions, place: Place) -> Item:
    """One item: the assignments of the chain asked for are the evidence."""
    rng = place.rng
    noise = options.background == "noise"
    haystack = Haystack(NOISE, place.count, name="noise") if noise else place.haystack
    taken: set[str] = set()

    def name() -> str:
        word = fresh(lambda: variable(rng), taken, haystack.text)
        taken.add(word)
        return word

    hidden: list[Hidden] = []
    chains: list[tuple[str, list[str]]] = []
    for _ in range(options.chains):
        names = [name() for _ in range(options.hops + 1)]
        value = fresh(lambda: str(rng.randrange(10_000, 100_000)), taken, haystack.text)
        taken.add(value)
        sources = [value, *names[:-1]]
        depths = sorted(rng.random() for _ in names)  # a name is given before it is used
        hidden += [
            Hidden(f"VAR {to} = {'' if source is value else 'VAR '}{source}.", depth)
            for to, source, depth in zip(names, sources, depths, strict=True)
        ]
        chains.append((value, names))
    filled = haystack.fill(hidden, place.length, rng)
    value, names = chains[0]
    return place.item(
        filled.text,
        f"Which variables hold the value {value} in the end, directly or through others?",
        names,
        tokens=filled.tokens,
        spans=filled.spans[: options.hops + 1],
    )


TRACING = (
    generator(
        "variable_tracking",
        "Chains of assignments spread through a text",
        TracingOptions,
        make,
        metric="recall_all",
        requirement=NAMES,
    ),
)
