"""Replies that were paid for once are not paid for again."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from reader.errors import LimitReached
from reader.llm.layer import Layer
from reader.llm.types import ChatModel, ChatReply, ChatRequest, OnToken

KEY_VERSION = 1
ReplyRecord: TypeAlias = str
"""A reply as JSON text."""
OnHit: TypeAlias = Callable[[ChatRequest, ChatReply], None]


class ReplyStore(Protocol):
    """Keeps replies by key. Both methods are quick: they run on the event loop."""

    def get(self, key: str) -> ReplyRecord | None:
        """The record under the key, None where there is none."""
        ...

    def put(self, key: str, record: ReplyRecord) -> None:
        """Keep a record; it survives a crash from here on.

        Raises:
            StoreError: it could not be kept.
        """
        ...


@dataclass(slots=True)
class Flight:
    """A call under way and the number of callers that wait for it."""

    task: asyncio.Task[ChatReply]
    waiting: int = 0


class CachedModel(Layer):
    """Answers from the store where it can, and stores what the model answers.

    Equal requests in flight share one call. It goes on while anybody waits for it, and its reply
    is stored before anybody sees it. Empty replies are not stored.

    Args:
        inner: The model to ask.
        store: Where replies are kept.
        on_hit: Told of each reply that cost nothing: from the store, or shared.
        flights: Calls under way by key, where several runs on one event loop share them.
    """

    def __init__(
        self,
        inner: ChatModel,
        store: ReplyStore,
        on_hit: OnHit | None = None,
        flights: dict[str, Flight] | None = None,
    ) -> None:
        super().__init__(inner)
        self._store = store
        self._on_hit = on_hit
        self._identity: str | None = None
        self._flights = {} if flights is None else flights

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """Answer from the store or by the model.

        Raises:
            ModelError: the model failed; nothing is stored then.
            StoreError: the reply could not be kept.
        """
        if self._identity is None:
            self._identity = (await self.inner.info()).identity
        key = reply_key(self._identity, request)
        while (flight := self._flights.get(key)) is not None:
            try:
                return self._hit(request, await self._wait(key, flight), on_token)
            except LimitReached:
                # It was the limit of the run that makes the call, not of this one.
                continue
        stored = decode(self._store.get(key))
        if stored is not None:
            return self._hit(request, stored, on_token)
        task = asyncio.create_task(self._ask(key, request, on_token))
        flight = self._flights[key] = Flight(task)
        return await self._wait(key, flight)

    async def _ask(self, key: str, request: ChatRequest, on_token: OnToken | None) -> ChatReply:
        try:
            reply = await self.inner.generate(request, on_token)
            if reply.text:
                self._store.put(key, encode(reply))
            return reply
        finally:
            self._land(key, asyncio.current_task())

    def _land(self, key: str, task: asyncio.Task[Any] | None) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]

    async def _wait(self, key: str, flight: Flight) -> ChatReply:
        flight.waiting += 1
        try:
            # The call is nobody's own: a caller that is cancelled leaves it to the others.
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._land(key, flight.task)  # nobody may join it any more
                flight.task.cancel()
                await asyncio.wait([flight.task])

    def _hit(self, request: ChatRequest, reply: ChatReply, on_token: OnToken | None) -> ChatReply:
        reply = replace(reply, from_cache=True)
        if self._on_hit is not None:
            self._on_hit(request, reply)
        if on_token is not None:
            on_token(reply.text)
        return reply


def reply_key(identity: str, request: ChatRequest) -> str:
    """SHA-256 over everything that decides a reply."""
    parts = (
        KEY_VERSION,
        identity,
        request.messages,
        request.max_tokens,
        float(request.temperature),
        request.seed,
        request.stop,
        request.json_schema,
        request.top_logprobs,
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def encode(reply: ChatReply) -> ReplyRecord:
    """A reply as JSON text."""
    record = {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "cached_tokens": reply.cached_tokens,
    }
    if reply.top_logprobs is not None:
        record["top_logprobs"] = dict(reply.top_logprobs)
    return json.dumps(record)


def decode(record: ReplyRecord | None) -> ChatReply | None:
    """The reply of a record, None where there is none or it is damaged."""
    try:
        return None if record is None else ChatReply(**json.loads(record))
    except (ValueError, TypeError):
        return None
