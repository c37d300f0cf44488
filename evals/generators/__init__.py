"""Question sets made of any text, at any length, with answers that a program can check."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from anyio.from_thread import start_blocking_portal
from pydantic import ValidationError

from reader.errors import InvalidOption
from reader.tokens import EstimateCounter

from ..item import Item
from .babilong import BABILONG
from .counting import COUNTING
from .distractors import DISTRACTORS
from .needles import NEEDLES
from .no_overlap import NO_OVERLAP
from .nolima import NOLIMA
from .ruler import RULER
from .task import Generator, GeneratorOptions, places
from .tracing import TRACING

GENERATORS: Mapping[str, Generator] = {
    made.info.name: made
    for made in (
        *NEEDLES,
        *TRACING,
        *COUNTING,
        *DISTRACTORS,
        *RULER,
        *BABILONG,
        *NO_OVERLAP,
        *NOLIMA,
    )
}
"""Every generated set by name."""


def generate(name: str, *, seed: int = 0, options: Mapping[str, Any] | None = None) -> list[Item]:
    """Items of a generated set. The same arguments give the same items.

    Works inside a running event loop too: counting has a loop of its own.

    Raises:
        InvalidOption: an option that the set does not have, or a value that it cannot take.
        DocumentError: the haystack cannot be read.
    """
    made = GENERATORS[name]
    chosen = _options(made, options or {})
    counter = chosen.counter or EstimateCounter()
    with start_blocking_portal() as portal:

        def count(texts: Any) -> list[int]:
            return portal.call(counter.count, texts)

        return [made.make(chosen, place) for place in places(name, chosen, count, seed)]


def _options(made: Generator, options: Mapping[str, Any]) -> GeneratorOptions:
    unknown = [name for name in options if name not in made.info.options]
    if unknown:
        near = difflib.get_close_matches(unknown[0], made.info.options, n=1, cutoff=0.5)
        raise InvalidOption(
            f"The set {made.info.name!r} has no option {unknown[0]!r}.",
            hint=f"Did you mean {near[0]!r}?"
            if near
            else f"There are: {', '.join(sorted(made.info.options))}.",
        )
    try:
        return made.options.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise InvalidOption(
            f"Option {where} of {made.info.name!r}: {what}.",
            hint="The options and their defaults are in SetInfo.options.",
        ) from None
