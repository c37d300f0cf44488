"""The layers around a transport, in the one order that keeps all their promises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from reader.budget import Ledger
from reader.errors import ModelError
from reader.events import Emit, ignore
from reader.llm.accounting import AccountedModel
from reader.llm.cache import CachedModel, Flight, ReplyStore
from reader.llm.limiter import LimitedModel, Limiter
from reader.llm.retry import ATTEMPTS, RetryingModel, backoff
from reader.llm.types import ChatModel


def build_stack(
    transport: ChatModel,
    *,
    store: ReplyStore | None,
    ledger: Ledger,
    limiter: Limiter,
    emit: Emit = ignore,
    attempts: int = ATTEMPTS,
    wait: Callable[[int, ModelError], float] = backoff,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    flights: dict[str, Flight] | None = None,
) -> ChatModel:
    """A model for one run: cache, retry, accounting, limiter, transport, from outside inwards.

    A reply from the store costs nothing and is counted as such. Each attempt is a call of its own
    for the ledger. A call that waits to be made again holds no slot.

    Args:
        transport: The model itself; it may be shared by runs.
        store: Keeps replies, None for no cache.
        ledger: Budget, deadline and usage of the run.
        limiter: Slots, shared by all runs on this model.
        emit: Gets the run's events.
        attempts: Calls made at most for one reply.
        wait: Seconds to wait, from the number of the failed attempt and its error.
        sleep: Waits so many seconds.
        flights: Calls under way, where runs on one event loop share them.
    """
    accounted = AccountedModel(LimitedModel(transport, limiter), ledger, emit)
    retrying = RetryingModel(
        accounted,
        attempts=attempts,
        seconds_left=ledger.seconds_left,
        emit=emit,
        wait=wait,
        sleep=sleep,
    )
    if store is None:
        return retrying
    return CachedModel(retrying, store, accounted.count_hit, flights)
