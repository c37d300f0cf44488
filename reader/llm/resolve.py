"""From what a user writes as ``model=`` to a chat model."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast
from urllib.parse import urlsplit

from reader.errors import UnknownModel
from reader.llm.types import ChatModel, ChatReply, ChatRequest, ModelInfo, OnToken, as_turns

EMBEDDED = ("embedded", "embedded:large", "embedded:tiny")
FORMS = (*EMBEDDED, "openai:NAME", "http://HOST:PORT/v1#NAME", "gguf:PATH", "hf:REPO/FILE")
FUNCTION_WINDOW = 8192

Turns: TypeAlias = list[dict[str, str]]
ChatFunction: TypeAlias = Callable[[Turns], str] | Callable[[Turns], Awaitable[str]]
OnProgress: TypeAlias = Callable[[str, int, int], None]


class Generates(Protocol):
    """An object that answers requests and nothing more."""

    async def generate(self, request: ChatRequest) -> ChatReply | str:
        """Answer one request."""
        ...


ModelSpec: TypeAlias = str | ChatModel | Generates | ChatFunction | None


def open_model(
    spec: ModelSpec = None,
    *,
    models_folder: str | Path | None = None,
    on_progress: OnProgress | None = None,
    api_key: str | None = None,
) -> ChatModel:
    """The chat model that a user means; nothing is contacted, loaded or fetched yet.

    Args:
        spec: "openai:NAME"; "http(s)://HOST:PORT/v1", optionally with "#NAME"; "gguf:PATH";
            "hf:REPO/FILE"; "embedded", "embedded:large" or "embedded:tiny"; None for "embedded";
            a ChatModel; a chat model of LangChain; an object with an async ``generate(request)``;
            or a function, plain or async, from a list of {"role", "content"} to the reply's text.
        models_folder: Where weights are kept; the user's cache folder when not given.
        on_progress: Told (label, bytes done, bytes in all) while weights are fetched.
        api_key: For the two kinds that are reached over a network.

    Raises:
        UnknownModel: it is none of these; the hint names the nearest form.
    """
    if spec is None:
        spec = EMBEDDED[0]
    if isinstance(spec, str):
        return _named(spec.strip(), models_folder, on_progress, api_key)
    if isinstance(spec, ChatModel):
        return spec
    if is_langchain(spec):
        from reader.llm.langchain_chat import LangChainChat

        return LangChainChat(cast("Any", spec))
    if hasattr(spec, "generate") or callable(spec):
        return FunctionChat(spec)
    raise UnknownModel(
        f"A {type(spec).__name__} is not a model.",
        hint="Pass a name, an object with async generate(request), or a function of messages.",
    )


def _named(
    spec: str,
    folder: str | Path | None,
    on_progress: OnProgress | None,
    api_key: str | None,
) -> ChatModel:
    kind, _, rest = spec.partition(":")
    if kind in ("http", "https"):
        from reader.llm.served import ServedModel

        address, name = address_and_name(spec)
        return ServedModel(address, name, api_key=api_key)
    if kind == "openai" and rest:
        from reader.llm.hosted import openai_model

        return openai_model(rest, api_key=api_key)
    if spec in EMBEDDED or (kind in ("gguf", "hf") and rest):
        from reader.llm.embedded import EmbeddedModel

        if kind == "gguf":
            return EmbeddedModel.from_path(rest)
        if kind == "hf":
            return EmbeddedModel.from_hub(rest, folder=folder, on_progress=on_progress)
        return EmbeddedModel.from_catalogue(spec, folder=folder, on_progress=on_progress)
    raise UnknownModel(f"There is no model {spec!r}.", hint=_nearest(spec))


def address_and_name(spec: str) -> tuple[str, str | None]:
    """The address with /v1 where it has no path, and the name behind the #."""
    address, _, name = spec.partition("#")
    try:
        parts = urlsplit(address)
        known = parts.hostname is not None and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        raise UnknownModel(
            f"{address!r} is not an address.", hint="Write it like http://127.0.0.1:8000/v1."
        )
    if parts.path in ("", "/"):
        address = f"{address.rstrip('/')}/v1"
    return address, name or None


def _nearest(spec: str) -> str:
    from reader.llm.discovery import nearest

    lower = spec.lower()
    near = nearest(lower, FORMS, cutoff=60)
    if lower.endswith(".gguf"):
        near = f"gguf:{spec.partition(':')[2] or spec}"
    elif lower.startswith(("gpt-", "chatgpt", "o1", "o3", "o4")):
        near = f"openai:{spec}"
    elif lower.startswith(("localhost", "127.", "0.0.0.0", "//")):  # noqa: S104 - a name to match
        near = f"http://{spec.lstrip('/')}"
    return f"Did you mean {near!r}?" if near else f"Models are named {', '.join(FORMS)}."


def is_langchain(spec: object) -> bool:
    """Whether an object is a chat model of LangChain; imports nothing."""
    core = sys.modules.get("langchain_core.language_models.chat_models")
    return core is not None and isinstance(spec, core.BaseChatModel)


class FunctionChat:
    """A user's function, or an object that only generates, as a chat model.

    The object's own ``name``, ``identity`` and ``window`` (tokens) are used where it has them.
    Plain functions run in a thread, one at a time unless ``concurrency=`` asks for more. A reply
    in the store is found again in another process only where equal identities mean equal answers:
    for objects that say so by ``identity``, and for functions without captured values.
    """

    def __init__(self, target: Generates | ChatFunction) -> None:
        from reader.tokens import EstimateCounter

        self._object = getattr(target, "generate", None)
        self._function = cast("Callable[[Turns], Any]", target)
        self._counter = EstimateCounter()
        called = self._object or target
        waits = inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(
            getattr(called, "__call__", None)  # noqa: B004 - an object's async __call__
        )
        name = getattr(target, "name", None) or getattr(target, "__name__", type(target).__name__)
        self._threaded = not waits
        self._info = ModelInfo(
            name=str(name),
            identity=str(getattr(target, "identity", None) or _identity(target)),
            window=int(getattr(target, "window", None) or FUNCTION_WINDOW),
            counter=self._counter,
            concurrency=8 if waits else 1,
        )

    async def info(self) -> ModelInfo:
        """Name, identity and window of the target, and the estimate as counter."""
        return self._info

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """Call the target; counts of tokens that it does not give are estimated."""
        call: Callable[[], Any]
        if self._object is not None:
            generates = self._object

            def call() -> Any:
                return generates(request)
        else:
            turns = as_turns(request.messages)

            def call() -> Any:
                return self._function(turns)

        said = await asyncio.to_thread(call) if self._threaded else call()
        if inspect.isawaitable(said):
            said = await said
        reply = said if isinstance(said, ChatReply) else ChatReply(text=str(said or ""))
        if not reply.prompt_tokens:
            reply = await self._counted(reply, request)
        if on_token is not None:
            on_token(reply.text)
        return reply

    async def aclose(self) -> None:
        """The target is the user's; nothing is closed."""

    async def _counted(self, reply: ChatReply, request: ChatRequest) -> ChatReply:
        prompt = await self._counter.count_messages(request.messages)
        (completion,) = await self._counter.count([reply.text])
        return replace(reply, prompt_tokens=prompt, completion_tokens=completion)


def _identity(target: object) -> str:
    if (
        not inspect.isfunction(target)
        or target.__closure__
        or target.__defaults__
        or target.__kwdefaults__
    ):
        return f"object:{uuid.uuid4()}"
    code = target.__code__
    source = repr((code.co_code, code.co_names, _constants(code)))
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    return f"function:{target.__module__}.{target.__qualname__}:{digest}"


def _constants(code: Any) -> list[object]:
    """A function's constants; inner functions by their code, as their repr holds an address."""
    return [
        (c.co_code, c.co_names, _constants(c)) if inspect.iscode(c) else c for c in code.co_consts
    ]
