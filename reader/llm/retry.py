"""The only place where a failed call is made again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from reader.errors import ModelError, ModelTimeout, ModelUnavailable, RateLimited
from reader.events import CallRetried, Emit, ignore
from reader.llm.layer import Layer
from reader.llm.types import ChatModel, ChatReply, ChatRequest, OnToken

if TYPE_CHECKING:
    from tenacity import RetryCallState

ATTEMPTS = 5
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
LONGEST_RETRY_AFTER = 120.0
NO_SERVER_ATTEMPTS = 2
LATE_ATTEMPTS = 3  # each took the whole time for one call

T = TypeVar("T")


def backoff(attempt: int, error: ModelError) -> float:
    """Seconds to wait after a failed attempt, counted from 1.

    What the server asked for where it did (at most two minutes), else half a second doubling with
    each attempt up to half a minute; a random part keeps callers from coming back all at once.
    """
    if isinstance(error, RateLimited) and error.retry_after is not None:
        return min(error.retry_after, LONGEST_RETRY_AFTER) + random.uniform(0.0, FIRST_WAIT)  # noqa: S311
    wait: float = min(FIRST_WAIT * 2.0 ** (attempt - 1), LONGEST_WAIT)
    return wait * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


async def retried(
    call: Callable[[], Awaitable[T]],
    *,
    attempts: int = ATTEMPTS,
    wait: Callable[[int, ModelError], float] = backoff,
) -> T:
    """Make a call that is not a chat, if need be in several attempts.

    Raises:
        ModelError: the last attempt's error, or one that trying again cannot mend.
    """
    for attempt in range(1, attempts):
        try:
            return await call()
        except ModelError as error:
            gone = isinstance(error, ModelUnavailable) and attempt >= NO_SERVER_ATTEMPTS
            if not error.retryable or gone:
                raise
            await asyncio.sleep(wait(attempt, error))
    return await call()


class RetryingModel(Layer):
    """Makes a call again where its error says that this can help.

    Args:
        inner: The model to ask.
        attempts: Calls made at most. An address where nothing has answered yet is mostly wrong:
            it gets two. Time-outs get three.
        seconds_left: Time until the deadline, None without one; no wait goes beyond it.
        emit: Gets a ``CallRetried`` before each wait.
        wait: Seconds to wait, from the number of the failed attempt and its error.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        inner: ChatModel,
        *,
        attempts: int = ATTEMPTS,
        seconds_left: Callable[[], float | None] = lambda: None,
        emit: Emit = ignore,
        wait: Callable[[int, ModelError], float] = backoff,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(inner)
        self._attempts = attempts
        self._seconds_left = seconds_left
        self._emit = emit
        self._wait = wait
        self._sleep = sleep
        self._reached = False

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """Answer, if need be in several attempts.

        Raises:
            ModelError: the last attempt's error, or one that trying again cannot mend.
        """
        from tenacity import AsyncRetrying

        shown = False

        def show(piece: str) -> None:
            nonlocal shown
            shown = True
            if on_token is not None:
                on_token(piece)

        async def attempt() -> ChatReply:
            # What a broken attempt has shown cannot be taken back, so the next one is silent.
            listener = None if on_token is None or shown else show
            reply = await self.inner.generate(request, listener)
            self._reached = True
            return reply

        retrying = AsyncRetrying(
            retry=self._is_worth_it,
            stop=self._is_enough,
            wait=lambda state: self._wait(state.attempt_number, _error(state)),
            before_sleep=lambda state: self._announce(request, state),
            sleep=self._sleep,
            reraise=True,
        )
        return await retrying(attempt)

    def _is_worth_it(self, state: RetryCallState) -> bool:
        error = None if state.outcome is None else state.outcome.exception()
        if isinstance(error, ModelError) and not isinstance(error, ModelUnavailable):
            self._reached = True
        return isinstance(error, ModelError) and error.retryable

    def _is_enough(self, state: RetryCallState) -> bool:
        error, attempts = _error(state), self._attempts
        if isinstance(error, ModelUnavailable) and not self._reached:
            attempts = min(attempts, NO_SERVER_ATTEMPTS)
        elif isinstance(error, ModelTimeout):
            attempts = min(attempts, LATE_ATTEMPTS)
        left = self._seconds_left()
        return state.attempt_number >= attempts or (
            left is not None and state.upcoming_sleep >= left
        )

    def _announce(self, request: ChatRequest, state: RetryCallState) -> None:
        self._emit(
            CallRetried(
                purpose=request.purpose,
                attempt=state.attempt_number,
                wait=state.upcoming_sleep,
                reason=_error(state).message,
            )
        )


def _error(state: RetryCallState) -> ModelError:
    error = None if state.outcome is None else state.outcome.exception()
    assert isinstance(error, ModelError)
    return error
