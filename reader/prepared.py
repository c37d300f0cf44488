"""A run before it begins: what the runs of a ``Reader`` share, a state machine with its parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reader.budget import Price, Usage
from reader.calls import Call
from reader.chunk_cache import ChunkCache, KeyedLocks
from reader.events import Emit
from reader.llm.cache import Flight
from reader.llm.types import ChatModel, ModelInfo
from reader.memory.store import Store
from reader.strategy import Closing, Reading, Strategy

if TYPE_CHECKING:
    from reader.llm.limiter import Limiter


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all runs of one ``Reader`` share on one event loop."""

    model: ChatModel
    info: ModelInfo
    spec: str | None
    store: Store
    limiter: Limiter
    price: Price | None
    keep_prompts: bool = False
    chunk_cache: ChunkCache = field(default_factory=ChunkCache)
    flights: dict[str, Flight] = field(default_factory=dict)
    alone: KeyedLocks = field(default_factory=KeyedLocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One state machine, prepared: for one call, or for several that are read in one pass.

    Attributes:
        calls: What was asked.
        strategy: The machine's strategy.
        reading: What its nodes get.
        parts: The readings of the single questions; just ``reading`` where there is one.
        closings: What the budget must keep for the end of each part.
        shared: What all runs share.
        emit: Gets the events.
        resumed: An earlier, unfinished attempt goes on.
        earlier: What earlier attempts at each call had used, as far as it was written down.
    """

    calls: tuple[Call, ...]
    strategy: Strategy[Any]
    reading: Reading
    parts: tuple[Reading, ...]
    closings: tuple[Closing, ...]
    shared: Shared
    emit: Emit
    resumed: bool
    earlier: tuple[Usage, ...]
