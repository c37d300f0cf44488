"""A call that a run can do without."""

from __future__ import annotations

from reader.errors import (
    ContextOverflow,
    LimitReached,
    ModelError,
    ModelUnavailable,
    RequestRefused,
)
from reader.llm.types import ChatReply, ChatRequest
from reader.strategy import Reading


async def reply_if_possible(reading: Reading, request: ChatRequest) -> ChatReply | None:
    """The reply; None where the call does not fit, is not allowed any more, or fails.

    Raises:
        ModelError: one that no other call would survive either (wrong key, no server).
    """
    try:
        return await reading.model.generate(request)
    except (LimitReached, ContextOverflow, RequestRefused):
        return None
    except ModelError as error:
        if not error.retryable or isinstance(error, ModelUnavailable):
            raise
        return None
