"""Which heads of which model retrieve: tables that come with the library, and a user's own.

Heads are a property of the model and, less so, of the kind of question that they were found with
(Llama 3.1 8B has two published sets of 16 that share only 3, in the same layers). So a table says
what it was found with, and a model may have several.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from reader.attention.model import AttentionInfo, Head
from reader.budget import Frozen
from reader.errors import InvalidOption
from reader.memory.store import Store

Position = Annotated[int, Field(ge=0)]


class HeadTable(Frozen):
    """Retrieval heads of a model, the best first.

    Attributes:
        model: For people.
        shape: Of the model, as in ``AttentionInfo``.
        identity: Of the weights, where the table is for these alone.
        probe: What they were found with, in a word; tells a model's tables apart.
        source: Where the table comes from.
        heads: (layer, head), counted from 0.
        scores: How well each did by itself, in the measure that ``measure`` names; may be empty.
        measure: What the scores are.
        calibrate: Whether the attention that "N/A" draws is to be subtracted.
        questions: How many it was found with.
        recall: Share of the gold passages among the first 1, 2 and 5, on questions that the heads
            were not chosen with; empty where nobody measured it.
        held_out: How many questions that was.
    """

    model: str
    shape: str
    identity: str | None = None
    probe: str
    source: str
    heads: tuple[tuple[Position, Position], ...] = Field(min_length=1)
    scores: tuple[float, ...] = ()
    measure: str = ""
    calibrate: bool = True
    questions: int = 0
    recall: dict[Literal["1", "2", "5"], float] = Field(default_factory=dict)
    held_out: int = 0

    @property
    def chosen(self) -> tuple[Head, ...]:
        """The heads as the attention models take them."""
        return tuple(Head(*pair) for pair in self.heads)

    @property
    def last_layer(self) -> int:
        """No layer above it is run."""
        return max(layer for layer, _ in self.heads)


@cache
def shipped() -> tuple[HeadTable, ...]:
    """The tables that come with the library; of one model's, the default one first."""
    folder = files("reader.attention") / "tables"
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return tuple(HeadTable.model_validate_json(file.read_bytes()) for file in found)


def read_table(path: Path) -> HeadTable:
    """A table in a file, as ``reader calibrate`` writes it.

    Raises:
        InvalidOption: no such file, or no such table in it.
    """
    try:
        return HeadTable.model_validate_json(path.expanduser().read_bytes())
    except OSError as error:
        raise InvalidOption(
            f"{path} cannot be read ({error.strerror}).", hint="Pass a file of `reader calibrate`."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidOption(
            f"{path} is no table of heads: {where}: {first['msg']}.",
            hint="Pass a file of `reader calibrate`.",
        ) from None


def find_table(
    info: AttentionInfo, store: Store | None = None, probe: str = ""
) -> HeadTable | None:
    """The table of a model: the user's own, else one that comes with the library.

    Args:
        info: The model.
        store: Where tables of earlier calibrations are kept.
        probe: Only a table that was found with this.
    """
    if store is not None and (kept := kept_table(info, store)) and probe in ("", kept.probe):
        return kept
    for table in shipped():
        if table.shape == info.shape and probe in ("", table.probe):
            return table
    return None


def kept_table(info: AttentionInfo, store: Store) -> HeadTable | None:
    """The table that a calibration on this machine kept for these weights."""
    payload: Any = store.artifact(_key(info))
    try:
        return None if payload is None else HeadTable.model_validate(payload)
    except ValidationError:
        return None


def keep_table(table: HeadTable, info: AttentionInfo, store: Store) -> None:
    """Keep a table for later questions to the same weights.

    Raises:
        StoreError: the store cannot be written.
    """
    store.keep_artifact(_key(info), "head_table", table.model_dump(mode="json"))


def check_table(table: HeadTable, info: AttentionInfo) -> None:
    """Refuse a table of another model.

    Raises:
        InvalidOption: it names heads that the model does not have.
    """
    missing = [
        head
        for head in table.heads
        if head[0] not in info.attending or not 0 <= head[1] < info.heads
    ]
    if missing or table.shape != info.shape:
        raise InvalidOption(
            f"The table of heads is for {table.model} ({table.shape}), and the scorer is "
            f"{info.name} ({info.shape}).",
            hint="Make one with `reader calibrate`.",
        )


def _key(info: AttentionInfo) -> str:
    return f"head_table/1|{info.identity}"


__all__ = [
    "HeadTable",
    "check_table",
    "find_table",
    "keep_table",
    "kept_table",
    "read_table",
    "shipped",
]
