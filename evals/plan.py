"""What an evaluation compares: sets, strategies with their options, seeds, limits.

Everything that can be wrong is checked here, before anything is spent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from reader.budget import Budget, Frozen
from reader.documents import Document
from reader.errors import InputError, InvalidOption
from reader.strategy import Strategy, find_strategy, read_options
from reader.tokens import TokenCounter

from .item import Item
from .sets import known_sets, load, set_info

BASELINES = ("closed_book", "full", "rag")
NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."


class EmptySet(InputError):
    """A question set without a question."""


class Entrant(Frozen):
    """A strategy with its options, under the name that tables give it.

    Attributes:
        label: The name in tables; that of the strategy, unless several variants are compared.
        strategy: Name of the strategy.
        options: Its options, as given.
    """

    label: str
    strategy: str
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def method(self) -> type[Strategy[Any]]:
        """The strategy's class.

        Raises:
            UnknownStrategy: there is none of that name.
        """
        return find_strategy(self.strategy)

    def options_for(self, item: Item, seed: int) -> dict[str, Any]:
        """The options of one question: ours, the set's requirement, the seed; ours come first.

        A strategy that takes no ``requirement`` or no ``seed`` gets none.
        """
        known = self.method.Options.model_fields
        given: dict[str, Any] = {}
        requirement = item.meta.get("requirement") or set_info(item).requirement
        if requirement and "requirement" in known:
            given["requirement"] = requirement
        if "seed" in known:
            given["seed"] = seed
        return given | self.options


class Plan(Frozen):
    """What one command evaluates.

    Attributes:
        sets: Names of known sets, or paths of JSONL files.
        entrants: The strategies.
        model: As ``reader.Reader`` takes it.
        limit: So many items of each set, drawn with the seed; None for all.
        seeds: Of the draw, of generators and of strategies that sample.
        budget: Limits of each question, the same for all strategies.
        timeout: Seconds for a question; one that takes longer counts as wrong.
        set_options: Options of ``sets.load``, "NAME" for all sets or "SET:NAME".
    """

    sets: tuple[str, ...] = Field(min_length=1)
    entrants: tuple[Entrant, ...] = Field(min_length=1)
    model: str = "embedded"
    limit: int | None = Field(default=None, gt=0)
    seeds: tuple[int, ...] = (0,)
    budget: Budget | None = None
    timeout: float | None = Field(default=None, gt=0)
    set_options: dict[str, JsonValue] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """The items of one set for one seed, with their documents.

    Attributes:
        name: Of the set, short: the stem of a path.
        seed: With which it was loaded.
        items: In the set's order.
        documents: By item id; rows with the same text share one.
        tokens: Length of each document by item id, in tokens; filled by the estimate.
    """

    name: str
    seed: int
    items: tuple[Item, ...]
    documents: dict[str, Document]
    tokens: dict[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A hash of all items."""
        rows = "\n".join(item.model_dump_json() for item in self.items)
        return hashlib.sha256(rows.encode()).hexdigest()[:16]


def entrants(
    names: Iterable[str],
    options: Iterable[str] = (),
    *,
    shared: dict[str, Any] | None = None,
    baselines: bool = True,
) -> tuple[Entrant, ...]:
    """Entrants from what a user writes.

    Args:
        names: Each one or several, by commas: "coa", or "LABEL=coa" for a variant.
        options: "LABEL:NAME=VALUE" for one entrant, "NAME=VALUE" for all that have the option.
        shared: Options of all strategies (``window``, ``chunk_tokens``, ``concurrency``).
        baselines: Add those that are not named.

    Raises:
        UnknownStrategy: names the nearest one.
        InvalidOption: a label twice, or an option that nobody takes.
    """
    found: dict[str, str] = {}
    for part in (p.strip() for name in names for p in name.split(",")):
        label, _, strategy = part.rpartition("=")
        label = label or strategy
        if not part:
            continue
        if label in found:
            raise InvalidOption(f"Strategy {label!r} is named twice.", hint="Write LABEL=NAME.")
        _check_name(label)
        find_strategy(strategy)
        found[label] = strategy
    if baselines:
        found |= {name: name for name in BASELINES if name not in found}
    if not found:
        raise InvalidOption("No strategy is named.", hint="Like this: --strategy coa,memwalker")
    given: dict[str, dict[str, JsonValue]] = {label: dict(shared or {}) for label in found}
    for text in options:
        _give(text, found, given)
    made = tuple(Entrant(label=k, strategy=v, options=given[k]) for k, v in found.items())
    for entrant in made:
        read_options(entrant.method, dict(entrant.options))
    return made


def batches(plan: Plan, counter: TokenCounter | None = None) -> tuple[Batch, ...]:
    """Load every set for every seed. Blocks; works outside of a running event loop.

    Args:
        plan: Names the sets.
        counter: The model's, so that generated documents have the lengths asked for.

    Raises:
        InputError: no such set, a row that is not of the form, or a set without items.
    """
    made: list[Batch] = []
    taken: dict[str, str] = {}
    for text in plan.sets:
        name = _short(text)
        options = _set_options(text, plan.set_options, counter)
        if taken.setdefault(name, text) != text:
            raise InvalidOption(
                f"{taken[name]!r} and {text!r} would both be called {name!r}.",
                hint="Rename one of the files.",
            )
        for seed in plan.seeds:
            items = tuple(load(text, limit=plan.limit, seed=seed, **options))
            if not items:
                raise EmptySet(f"{text!r} holds no question.", hint="Each line is one question.")
            made.append(Batch(name, seed, items, documents_of(items)))
    return tuple(made)


def documents_of(items: Sequence[Item]) -> dict[str, Document]:
    """The items' documents by item id; equal texts are one object, so they are kept once."""
    seen: dict[str, Document] = {}
    found: dict[str, Document] = {}
    for item in items:
        document = item.document()
        found[item.id] = seen.setdefault(document.sha256, document)
    return found


def fingerprint(plan: Plan, batch: Batch, entrant: Entrant, identity: str) -> str:
    """Of all that decides an outcome but the items: rows of equal keys may be put together."""
    parts = {
        "set": batch.name,
        "seed": batch.seed,
        "label": entrant.label,
        "strategy": entrant.strategy,
        # How many calls are made at once changes no answer.
        "options": {k: v for k, v in entrant.options.items() if k != "concurrency"},
        "prompts": entrant.method.prompt_versions(),
        "requirements": sorted(
            {str(entrant.options_for(i, batch.seed).get("requirement")) for i in batch.items}
        ),
        "model": identity,
        "budget": None if plan.budget is None else plan.budget.model_dump(),
        "timeout": plan.timeout,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _give(text: str, found: dict[str, str], given: dict[str, dict[str, JsonValue]]) -> None:
    """Put one "--option" where it belongs."""
    left, equals, value = text.partition("=")
    label, colon, name = left.rpartition(":")
    name = name.strip().replace("-", "_")
    if not equals or not name:
        raise InvalidOption(f"Option {text!r} is not LABEL:NAME=VALUE or NAME=VALUE.", hint="")
    if colon:
        if label not in found:
            raise InvalidOption(
                f"Option {text!r} is for {label!r}, which does not run.",
                hint=f"There are: {', '.join(found)}.",
            )
        given[label][name] = value
        return
    takers = [k for k, v in found.items() if name in find_strategy(v).Options.model_fields]
    if not takers:
        raise InvalidOption(f"No strategy here has an option {name!r}.", hint="")
    for taker in takers:
        given[taker].setdefault(name, value)


def _set_options(
    text: str, given: dict[str, JsonValue], counter: TokenCounter | None
) -> dict[str, Any]:
    """Options of one set: those for all sets, those marked as its own, the model's counter."""
    info = known_sets().get(text) or known_sets().get(text.partition("/")[0])
    found: dict[str, Any] = {}
    for name, value in given.items():
        owner, colon, bare = name.rpartition(":")
        if (colon and owner in (text, _short(text))) or (not colon):
            found[bare] = value
    if counter is not None and info is not None and "counter" in info.options:
        found.setdefault("counter", counter)
    return found


def _short(text: str) -> str:
    """A set's name in tables: a path's stem, without what tells the format."""
    if text in known_sets() or text.partition("/")[0] in known_sets():
        return text.replace("/", "-")
    name = Path(text).name
    for ending in (".gz", ".jsonl", ".dev"):
        name = name.removesuffix(ending)
    return name


def _check_name(label: str) -> None:
    if not label or set(label) - set(NAME_CHARACTERS):
        raise InvalidOption(
            f"{label!r} cannot be a label.", hint="Letters, digits, '_', '-' and '.' only."
        )
