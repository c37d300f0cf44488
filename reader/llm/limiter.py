"""How many requests are in flight, and how many start in a minute."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from reader.errors import ModelTimeout, RateLimited
from reader.llm.layer import Layer
from reader.llm.types import ChatModel, ChatReply, ChatRequest, OnToken

LONGEST_PAUSE = 120.0


class Limiter:
    """Slots for requests, shared by all questions of one reader on one event loop.

    When the server asks to slow down, the number of slots is halved and everyone waits until its
    Retry-After has passed; after as many successes as there are slots one is added, up to
    ``max_concurrency`` again. A time-out halves them too: asked again as many at once, a busy
    server would be late again, for nothing. Under a rate limit requests start evenly spaced.

    Args:
        max_concurrency: Requests in flight at most.
        requests_per_minute: Requests started in a minute at most, None for no limit.
        longest_pause: Seconds; the most that a Retry-After is believed.
        clock: Seconds, monotonic.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        max_concurrency: int,
        requests_per_minute: float | None = None,
        *,
        longest_pause: float = LONGEST_PAUSE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.max_concurrency = max_concurrency
        self.slots = max_concurrency
        self.active = 0
        self._spacing = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._longest_pause = longest_pause
        self._clock = clock
        self._sleep = sleep
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._paused_until = self._next_start = clock()
        self._successes = 0
        self._slowdowns = 0

    async def acquire(self) -> int:
        """Wait for a slot, in the order of asking, and for its time.

        Returns:
            What ``release`` wants back.
        """
        await self._take_slot()
        try:
            if self._spacing:
                start = max(self._next_start, self._clock())
                self._next_start = start + self._spacing
                await self._sleep(start - self._clock())
            while (pause := self._paused_until - self._clock()) > 0:
                await self._sleep(pause)
        except BaseException:
            self._free_slot()
            raise
        return self._slowdowns

    def release(self, ticket: int, failure: BaseException | None = None) -> None:
        """Give the slot back and learn from what happened.

        Args:
            ticket: What ``acquire`` gave.
            failure: What the request raised, None for a reply.
        """
        if isinstance(failure, RateLimited):
            self._slow_down(ticket, failure.retry_after)
        elif isinstance(failure, ModelTimeout):
            self._slow_down(ticket, None)
        elif failure is None and self.slots < self.max_concurrency:
            self._successes += 1
            if self._successes >= self.slots:
                self.slots += 1
                self._successes = 0
        self._free_slot()

    def _slow_down(self, ticket: int, retry_after: float | None) -> None:
        pause = min(retry_after or 0.0, self._longest_pause)
        self._paused_until = max(self._paused_until, self._clock() + pause)
        self._successes = 0
        # Requests that were in flight together are refused together: that is one sign, not many.
        if ticket == self._slowdowns:
            self.slots = max(self.slots // 2, 1)
            self._slowdowns += 1

    async def _take_slot(self) -> None:
        if self.active < self.slots and not self._waiting:
            self.active += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._hand_out()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it had been given a slot already
                self._free_slot()
            raise

    def _free_slot(self) -> None:
        self.active -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self.active < self.slots:
            place = self._waiting.popleft()
            if not place.done():  # its caller has not been cancelled
                self.active += 1
                place.set_result(None)


class LimitedModel(Layer):
    """Calls the model in a slot of the limiter."""

    def __init__(self, inner: ChatModel, limiter: Limiter) -> None:
        super().__init__(inner)
        self._limiter = limiter

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """Answer when a slot is free."""
        ticket = await self._limiter.acquire()
        try:
            reply = await self.inner.generate(request, on_token)
        except BaseException as failure:
            self._limiter.release(ticket, failure)
            raise
        self._limiter.release(ticket)
        return reply
