"""Every attempt is allowed by the ledger first and written into it afterwards."""

from __future__ import annotations

import asyncio

from reader.budget import CallRecord, Ledger
from reader.errors import BadReply, LimitReached, MissingKey, ModelError, ModelTimeout
from reader.events import Emit, ModelCalled, UsageChanged, ignore
from reader.llm.cache import reply_key
from reader.llm.layer import Layer
from reader.llm.types import ChatModel, ChatReply, ChatRequest, OnToken

ESTIMATE_SAFETY = 1.05
KEY_DIGITS = 16  # of a call's key in the trace


class AccountedModel(Layer):
    """Reserves a call in the ledger, makes it within the deadline, settles it.

    A call that fails before the model worked (refused, rate limited, no server) is settled with no
    tokens; one that was cut off may have been paid for in full, so it is settled with all that was
    reserved: the budget stays a promise.
    """

    def __init__(self, inner: ChatModel, ledger: Ledger, emit: Emit = ignore) -> None:
        super().__init__(inner)
        self._ledger = ledger
        self._emit = emit

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """Answer within budget and deadline.

        Raises:
            LimitReached: the budget does not allow the call, or the deadline came before its reply.
            ModelError: the model failed.
        """
        ledger = self._ledger
        prompt, completion = await self._prompt_bound(request), request.max_tokens
        ledger.reserve(prompt, completion, closing=request.closing)
        began = ledger.clock()
        used = prompt, completion
        try:
            async with asyncio.timeout(ledger.seconds_left()) as limit:
                reply = await self.inner.generate(request, on_token)
        except BaseException as failure:
            if isinstance(failure, ModelError) and not isinstance(failure, BadReply | ModelTimeout):
                used = 0, 0
            ledger.settle(
                prompt,
                completion,
                prompt=used[0],
                completion=used[1],
                failed=True,
                sent=not isinstance(failure, MissingKey),
            )
            self._emit(UsageChanged(usage=ledger.usage()))
            if isinstance(failure, TimeoutError) and limit.expired():
                raise LimitReached(
                    "The deadline came before the reply.", limit="deadline"
                ) from None
            raise
        seconds = ledger.clock() - began
        ledger.settle(
            prompt,
            completion,
            prompt=reply.prompt_tokens,
            completion=reply.completion_tokens,
            cached=reply.cached_tokens,
            seconds=seconds,
        )
        self._report(request, reply, began, seconds)
        return reply

    def count_hit(self, request: ChatRequest, reply: ChatReply) -> None:
        """Count a reply that came from the store and cost nothing."""
        self._ledger.cached_calls += 1
        self._report(request, reply, self._ledger.clock(), 0.0)

    def _report(self, request: ChatRequest, reply: ChatReply, began: float, seconds: float) -> None:
        ledger = self._ledger
        ledger.made.append(
            CallRecord(
                purpose=request.purpose,
                began=round(began - ledger.started, 3),
                seconds=round(seconds, 3),
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                cached=reply.from_cache,
                cached_tokens=reply.cached_tokens,
                cost=None
                if ledger.price is None
                else ledger.price.cost(
                    reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens
                ),
                key=reply_key("", request)[:KEY_DIGITS],
            )
        )
        if ledger.keep_prompts:
            ledger.prompts.append("\n\n".join(f"[{m.role}]\n{m.content}" for m in request.messages))
        if self._emit is ignore:
            return
        self._emit(
            ModelCalled(
                purpose=request.purpose,
                seconds=seconds,
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                from_cache=reply.from_cache,
            )
        )
        self._emit(UsageChanged(usage=self._ledger.usage()))

    async def _prompt_bound(self, request: ChatRequest) -> int:
        """Tokens in at most; counted only where nobody knows and a limit depends on it."""
        if request.prompt_tokens is not None:
            return request.prompt_tokens
        budget = self._ledger.budget
        if budget is None or (budget.tokens is None and budget.usd is None):
            return 0
        counter = (await self.inner.info()).counter
        count = await counter.count_messages(request.messages)
        return count if counter.exact else int(count * ESTIMATE_SAFETY) + 1
