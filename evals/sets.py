"""Question sets by name or path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue

from reader.budget import Frozen

if TYPE_CHECKING:
    from .item import Item


class SetInfo(Frozen):
    """What a set is and how it is scored.

    Attributes:
        name: Under which ``load`` knows it.
        about: One line for people.
        metric: The one that the table shows.
        requirement: What an answer must look like; goes to the strategies' ``requirement``
            option. None: the strategy's own rule (multiple choice, plain summaries).
        also: Further metrics worth showing.
        kind: Where its rows come from.
        options: Options of ``load`` for this set with their defaults.
    """

    name: str
    about: str = ""
    metric: str = "f1"
    requirement: str | None = None
    also: tuple[str, ...] = ()
    kind: Literal["file", "hub", "generated"] = "file"
    options: dict[str, JsonValue] = Field(default_factory=dict)


def known_sets() -> Mapping[str, SetInfo]:
    """Every set that ``load`` knows by name; touches no network."""
    raise NotImplementedError


def set_info(item: Item) -> SetInfo:
    """How an item is scored: by its own ``meta``, else by its set, else by what it looks like."""
    raise NotImplementedError


def load(
    name_or_path: str | os.PathLike[str],
    *,
    limit: int | None = None,
    seed: int = 0,
    **options: Any,
) -> list[Item]:
    """Rows of a known set or of a JSONL file (``.jsonl``, ``.jsonl.gz``).

    Args:
        name_or_path: A name of ``known_sets()``, else a path.
        limit: So many rows, drawn with the seed over the whole set, in the set's order.
        seed: Of the draw, and of generators.
        **options: Of the set; see ``SetInfo.options``.

    Raises:
        UnknownSet: neither a known name nor a file.
        InvalidRow: a row that is not of the form; names line and field.
        InvalidOption: an option that the set does not have.
        MissingExtra: the set comes from a hub and the extra "evals" is not installed.
    """
    raise NotImplementedError
