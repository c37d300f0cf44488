"""A chat model of LangChain as this library's chat model.

It makes each call once: set ``max_retries=0`` on the LangChain model, since a retry in there is
neither counted nor held to the budget.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from reader.errors import (
    AuthenticationFailed,
    BadReply,
    ContextOverflow,
    ModelError,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    RequestRefused,
    ServerFailed,
    UnknownModel,
)
from reader.llm.failures import from_status, kinds, translate
from reader.llm.types import ChatReply, ChatRequest, FinishReason, ModelInfo, OnToken, as_turns
from reader.tokens import EstimateCounter, TokenCounter, estimated

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk

UNKNOWN_WINDOW = 8192
CONCURRENCY = 8
TURN_TOKENS = 8
# Each provider's package has its own names for these; a setting that it has is set on a copy.
CAPS = ("max_tokens", "max_output_tokens", "num_predict", "max_new_tokens")
FINISHES = ("finish_reason", "stop_reason", "done_reason")
CUT_OFF = frozenset({"length", "max_tokens", "model_length"})
ENDED = frozenset({"stop", "end_turn", "stop_sequence", "eos", ""})


class LangChainChat:
    """Adapts a LangChain chat model; the model itself is not changed.

    The cap of a reply, the temperature and the seed are set where the model has such a setting.
    The window is that of the model's profile, where it has one. A call that a deadline cuts off is
    no longer waited for; it ends by itself, at the latest after the model's own time-out.

    Args:
        model: The chat model. One wrapped by ``bind`` or ``with_retry`` is not taken.
        window: Tokens of prompt and reply; needed where the profile does not say.
        counter: Counts tokens; an estimate from above by default.
        identity: For cache keys. By default it is made of the model's own settings where LangChain
            can write them down; else replies are kept for this object only.
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        window: int | None = None,
        counter: TokenCounter | None = None,
        identity: str | None = None,
    ) -> None:
        from langchain_core.language_models import BaseChatModel

        if not isinstance(model, BaseChatModel):
            raise UnknownModel(
                f"A {type(model).__name__} is not a chat model of LangChain.",
                hint="Pass the model itself, without bind(), with_retry() or a prompt before it.",
            )
        profile: Mapping[str, Any] = model.profile or {}
        known = window or profile.get("max_input_tokens")
        name = next((n for n in ("model_name", "model") if getattr(model, n, None)), None)
        self._model = model
        self._fixed_temperature = profile.get("temperature") is False
        self._name = str(getattr(model, name)) if name else type(model).__name__
        self._info = ModelInfo(
            name=self._name,
            identity=identity or _identity(model),
            window=int(known or UNKNOWN_WINDOW),
            counter=counter or EstimateCounter(),
            notice=""
            if known
            else f"The window of {self._name} is not known: {UNKNOWN_WINDOW} tokens are assumed.",
            concurrency=CONCURRENCY,
        )

    async def info(self) -> ModelInfo:
        """What the model's settings and its profile say; nothing is contacted."""
        return self._info

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """Call the model once.

        Raises:
            ModelError: the provider's error in this library's words. What is none of a provider's
                errors is raised as it is.
        """
        model = self._set(request)
        stop = list(request.stop) or None
        # The pieces of a worker's reply are not for the stream of a graph around this call.
        config: Any = {"run_name": request.purpose or "reader", "tags": ["nostream"]}
        turns: Any = as_turns(request.messages)

        def call(hear: OnToken | None) -> AIMessage | None:
            if hear is None:
                return model.invoke(turns, config, stop=stop)
            whole: AIMessageChunk | None = None
            for piece in model.stream(turns, config, stop=stop):
                whole = piece if whole is None else whole + piece
                if said := str(piece.text):
                    hear(said)
            return whole

        try:
            message = await _in_thread(call, on_token)
        except Exception as error:
            found = self._translated(error, request)
            if found is None:
                raise
            # The cause is left out: it may hold the request, and with it the document.
            raise found from None
        if message is None:
            raise BadReply(f"{self._name} gave no reply.", hint="Make the same call again.")
        return _reply(message, request)

    async def aclose(self) -> None:
        """The model is the user's; nothing is closed."""

    def _set(self, request: ChatRequest) -> BaseChatModel:
        fields = type(self._model).model_fields
        wanted: dict[str, Any] = {}
        cap = next((name for name in CAPS if name in fields), None)
        if cap is not None:
            wanted[cap] = request.max_tokens
        if "temperature" in fields and not self._fixed_temperature:
            wanted["temperature"] = request.temperature
        if "seed" in fields and request.seed is not None:
            wanted["seed"] = request.seed
        return self._model.model_copy(update=wanted)

    def _translated(self, error: Exception, request: ChatRequest) -> ModelError | None:
        """The error in this library's words, None for one that is no provider's."""
        name = self._name
        for kind, ours in _standard():
            if isinstance(error, kind) and ours is ContextOverflow:
                return ContextOverflow(f"The prompt does not fit the window of {name}.")
        if isinstance(error, kinds()):  # of the openai client, and time-outs
            return self._hinted(translate(error, name, request))
        response = getattr(error, "response", None)
        status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
        if isinstance(status, int) and status >= 400:
            headers: Any = getattr(response, "headers", None) or {}
            return self._hinted(from_status(status, str(error), headers, name, request))
        for kind, ours in _standard():
            if isinstance(error, kind):
                return self._hinted(ours(f"{name}: {kind.__name__} from its provider."))
        if isinstance(error, ConnectionError):
            return ModelUnavailable(f"{name} cannot be reached.")
        return None

    def _hinted(self, error: ModelError) -> ModelError:
        if isinstance(error, AuthenticationFailed):
            error.hint = "Give the LangChain model a valid API key."
        elif isinstance(error, (BadReply, ModelTimeout)):
            error.hint = "Check the LangChain model's address and timeout, or call again."
        return error


@cache
def _standard() -> tuple[tuple[type[Exception], type[ModelError]], ...]:
    """LangChain's own errors; older versions do not have all of them."""
    from langchain_core import exceptions

    pairs = (
        ("ContextOverflowError", ContextOverflow),
        ("ModelAuthenticationError", AuthenticationFailed),
        ("ModelPermissionDeniedError", AuthenticationFailed),
        ("ModelNotFoundError", UnknownModel),
        ("ModelRateLimitError", RateLimited),
        ("ModelConnectionError", ModelUnavailable),
        ("ModelTimeoutError", ModelTimeout),
        ("ModelAPIError", ServerFailed),
        ("ModelInvalidRequestError", RequestRefused),
    )
    found = ((getattr(exceptions, theirs, None), ours) for theirs, ours in pairs)
    return tuple((kind, ours) for kind, ours in found if kind is not None)


async def _in_thread(
    call: Callable[[OnToken | None], AIMessage | None], on_token: OnToken | None
) -> AIMessage | None:
    """Make a synchronous call in a thread of its own; who stops waiting for it is free at once.

    The asynchronous clients of these models keep connections that belong to the event loop of
    their first call, and several models share one such client: a second loop meets closed ones.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[AIMessage | None] = loop.create_future()
    context = contextvars.copy_context()

    def tell(say: Callable[[Any], None], what: Any) -> None:
        def saying() -> None:
            if not ended.done():
                say(what)

        with suppress(RuntimeError):  # the loop is gone: nobody waits any more
            loop.call_soon_threadsafe(saying)

    hear = None if on_token is None else partial(tell, on_token)

    def run() -> None:
        try:
            message = context.run(call, hear)
        except BaseException as error:  # noqa: BLE001 - handed over to who waits
            tell(ended.set_exception, error)
        else:
            tell(ended.set_result, message)

    threading.Thread(target=run, name="langchain-call", daemon=True).start()
    return await ended


def _identity(model: BaseChatModel) -> str:
    if not model.is_lc_serializable():
        return f"langchain:{uuid.uuid4()}"
    from langchain_core.load import dumps

    # Keys are written as the names of their environment variables, not as themselves.
    return f"langchain:{hashlib.sha256(dumps(model).encode()).hexdigest()[:32]}"


def _reply(message: AIMessage, request: ChatRequest) -> ChatReply:
    text = str(message.text)
    usage: Mapping[str, Any] = message.usage_metadata or {}
    prompt, completion = usage.get("input_tokens"), usage.get("output_tokens")
    details: Mapping[str, Any] = usage.get("input_token_details") or {}
    if not prompt:
        known = request.prompt_tokens
        counted = sum(estimated(m.content) + TURN_TOKENS for m in request.messages)
        prompt = counted if known is None else known
    return ChatReply(
        text=text,
        finish_reason=_finish(message.response_metadata),
        prompt_tokens=int(prompt),
        completion_tokens=int(completion or estimated(text)),
        cached_tokens=int(details.get("cache_read") or 0),
    )


def _finish(metadata: Mapping[str, Any]) -> FinishReason:
    said = next((metadata[name] for name in FINISHES if metadata.get(name)), "")
    reason = str(getattr(said, "name", said)).lower()
    if reason in CUT_OFF:
        return "length"
    return "stop" if reason in ENDED else "other"
