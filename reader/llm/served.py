"""A model behind an OpenAI-compatible address: vLLM, llama-server, Ollama, or any other.

The openai client does the transport, with its own retries off. Replies are read as plain JSON: the
client's response models would cost a third of a millisecond a call and give nothing that is used.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reader.budget import Price
from reader.errors import BadReply, ModelError
from reader.llm.failures import from_body, kinds, translate
from reader.llm.types import ChatReply, ChatRequest, FinishReason, ModelInfo, OnToken, as_turns
from reader.tokens import TokenCounter

if TYPE_CHECKING:
    from openai import AsyncOpenAI

NO_KEY = "none"
# Servers close a connection after 5 idle seconds (uvicorn, and with it vLLM). The openai client
# keeps one for as long, so that with many of them some are taken just as they are closed.
IDLE_SECONDS = 2.0
FINISHES: dict[object, FinishReason] = {"stop": "stop", "length": "length"}


class ServedModel:
    """A chat model behind an OpenAI-compatible address.

    One object may be used from several event loops; each has its own connections, which are closed
    by ``aclose`` or when their loop shuts down.

    Args:
        base_url: Address of the endpoint, mostly ending in ``/v1``.
        model: Its name there; not needed where the server has one model only.
        api_key: Sent as bearer token, never shown.
        timeout: Seconds for one call.
        connect_timeout: Seconds for reaching the server.
        window: Tokens of prompt and reply together; asked of the server when not given.
        price: Dollars per million tokens, where known.
        counter: Counts tokens; the server's own tokenizer when not given, else an estimate.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        connect_timeout: float = 5.0,
        window: int | None = None,
        price: Price | None = None,
        counter: TokenCounter | None = None,
    ) -> None:
        self.address = public_address(base_url)
        self._base_url = base_url.rstrip("/")
        self._model = model
        self._api_key = api_key
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._window = window
        self._price = price
        self._counter = counter
        self._info: ModelInfo | None = None
        self._name = model or ""
        self._clients: dict[
            asyncio.AbstractEventLoop, tuple[AsyncOpenAI, AsyncGenerator[AsyncOpenAI, None]]
        ] = {}

    @property
    def identity(self) -> str | None:
        """``ModelInfo.identity`` where it is known without asking the server."""
        return f"{self.address}#{self._model}" if self._model else None

    def __repr__(self) -> str:
        return f"ServedModel({self.address!r}, {self._model!r})"

    async def info(self) -> ModelInfo:
        """Ask the server what it serves; asked once, then remembered.

        Raises:
            UnknownModel: the name is not served, or several are and none was named.
            ModelError: the server cannot be asked.
        """
        if self._info is None:
            self._info = await self._describe()
            self._name = self._info.name
        return self._info

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """Answer one request; streamed where ``on_token`` is given.

        Raises:
            ModelError: one of its kinds.
        """
        info = self._info or await self.info()
        body = self.body(request, info)
        async with self._call(request) as client:
            if on_token is not None:
                return await self._stream(client, body, request, on_token)
            data = await client.post("/chat/completions", body=body, cast_to=object)
            return read_reply(data, request, self.address)

    async def aclose(self) -> None:
        """Close the connections of the running loop; the object can be used again."""
        held = self._clients.get(asyncio.get_running_loop())
        if held is not None:
            await held[1].aclose()

    def body(self, request: ChatRequest, info: ModelInfo) -> dict[str, Any]:
        """The request as the endpoint takes it."""
        body: dict[str, Any] = {
            "model": self._name,
            "messages": as_turns(request.messages),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        if request.seed is not None:
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
        if request.json_schema is not None and info.json_schema:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": request.json_schema, "strict": True},
            }
        if request.top_logprobs:
            body["logprobs"] = True
            body["top_logprobs"] = request.top_logprobs
        return body

    async def ask(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call another endpoint of the same server, over the same connections.

        Args:
            method: "get" or "post".
            url: A path below the address, or a whole address.
            body: What is posted, as JSON.

        Raises:
            ModelError: one of its kinds.
        """
        async with self._call(None) as client:
            if method == "get":
                return await client.get(url, cast_to=object)
            return await client.post(url, body=body, cast_to=object)

    def open(self) -> AsyncOpenAI:
        """A client for the running loop."""
        client = self.connect(self._api_key or NO_KEY)
        # The client reads these from the environment; they are for OpenAI, not for this server.
        client.organization = client.project = None
        return client

    def connect(self, key: str) -> AsyncOpenAI:
        """An openai client with this key, over aiohttp where it is installed.

        Over aiohttp a call costs half of what it costs over httpx, and with many connections less
        still, since httpx looks through all idle ones at each call.
        """
        from openai import (
            DEFAULT_CONNECTION_LIMITS,
            AsyncOpenAI,
            DefaultAioHttpClient,
            DefaultAsyncHttpxClient,
            Timeout,
        )

        timeout = Timeout(self._timeout, connect=self._connect_timeout)
        limits = copy(DEFAULT_CONNECTION_LIMITS)
        limits.keepalive_expiry = IDLE_SECONDS
        try:
            transport = DefaultAioHttpClient(timeout=timeout, limits=limits)
        except RuntimeError:
            transport = DefaultAsyncHttpxClient(timeout=timeout, limits=limits)
        return AsyncOpenAI(
            base_url=self._base_url,
            api_key=key,
            timeout=timeout,
            max_retries=0,
            http_client=transport,
        )

    async def _describe(self) -> ModelInfo:
        from reader.llm.discovery import discover

        found = await discover(self, self._base_url, self._model)
        return ModelInfo(
            name=found.name,
            identity=f"{self.address}#{found.name}",
            window=self._window or found.window,
            counter=self._counter or found.counter,
            json_schema=found.json_schema,
            price=self._price,
            notice="" if self._window else found.notice,
            concurrency=found.concurrency,
        )

    @asynccontextmanager
    async def _call(self, request: ChatRequest | None) -> AsyncIterator[AsyncOpenAI]:
        """The client of this loop, a time limit, and errors in this library's words."""
        client = await self._client()
        try:
            async with asyncio.timeout(self._timeout):
                yield client
        except kinds() as error:
            # The cause is left out: it holds the request, and with it the document.
            raise translate(error, self.address, request) from None

    async def _client(self) -> AsyncOpenAI:
        loop = asyncio.get_running_loop()
        held = self._clients.get(loop)
        if held is None:
            lifetime = self._lifetime(loop)
            held = self._clients[loop] = (await anext(lifetime), lifetime)
        return held[0]

    async def _lifetime(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[AsyncOpenAI, None]:
        # A loop that shuts down closes its async generators: so the connections of a loop never
        # outlive it, also where nobody called aclose().
        client = self.open()
        try:
            yield client
        finally:
            self._clients.pop(loop, None)
            await client.close()

    async def _stream(
        self, client: AsyncOpenAI, body: dict[str, Any], request: ChatRequest, on_token: OnToken
    ) -> ChatReply:
        from openai import AsyncStream

        body |= {"stream": True, "stream_options": {"include_usage": True}}
        stream = await client.post(
            "/chat/completions",
            body=body,
            cast_to=object,
            stream=True,
            stream_cls=AsyncStream[object],
            # llama-server closes the connection after a stream, whatever it says before.
            options={"headers": {"Connection": "close"}},
        )
        pieces: list[str] = []
        finish, usage, logprobs = None, None, None
        async with stream:
            async for chunk in stream:
                if not isinstance(chunk, Mapping):
                    continue
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices") or ():
                    finish = choice.get("finish_reason") or finish
                    logprobs = logprobs or choice.get("logprobs")
                    if piece := (choice.get("delta") or {}).get("content"):
                        pieces.append(piece)
                        on_token(piece)
        if finish is None:
            raise BadReply(f"The reply of {self.address} ended half way.")
        choice = {"message": {"content": "".join(pieces)}, "finish_reason": finish}
        data = {"choices": [choice | {"logprobs": logprobs}], "usage": usage}
        return read_reply(data, request, self.address)


def public_address(base_url: str) -> str:
    """The address in one form, for keys and messages: no credentials, no trailing slash."""
    parts = urlsplit(base_url)
    host = parts.netloc.rpartition("@")[2].lower()
    return f"{parts.scheme.lower()}://{host}{parts.path.rstrip('/')}"


def read_reply(data: object, request: ChatRequest, address: str) -> ChatReply:
    """A chat completion, as JSON, in this library's words.

    Raises:
        BadReply: it is not a chat completion.
        ModelError: it tells of a failure.
    """
    if isinstance(data, str):  # JSON sent as text/plain
        data = json.loads(data)
    if not isinstance(data, Mapping):
        raise BadReply(f"The reply of {address} is not a chat completion.")
    if data.get("error") and not data.get("choices"):
        raise from_body(data["error"], address, request)
    try:
        choice = data["choices"][0]
        text = _text(choice)
        finish = choice.get("finish_reason")
        usage = data.get("usage") or {}
        prompt = usage.get("prompt_tokens")
        completion = usage.get("completion_tokens")
        details = usage.get("prompt_tokens_details") or {}
        return ChatReply(
            text=text,
            finish_reason=FINISHES.get(finish, "other"),
            prompt_tokens=_prompt_bound(request) if prompt is None else int(prompt),
            completion_tokens=_bound(text) if completion is None else int(completion),
            cached_tokens=int(details.get("cached_tokens") or 0),
            top_logprobs=_first_alternatives(choice),
        )
    except ModelError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError):
        raise BadReply(f"The reply of {address} is not a chat completion.") from None


def _text(choice: Mapping[str, Any]) -> str:
    message = choice.get("message") or {}
    text = message.get("content", choice.get("text"))
    if isinstance(text, str):
        return text
    # A cap used up by reasoning, a content filter and a refusal are replies without a text.
    if text is None and (
        choice.get("finish_reason") in ("length", "content_filter") or message.get("refusal")
    ):
        return ""
    raise TypeError("no text")


def _first_alternatives(choice: Mapping[str, Any]) -> dict[str, float] | None:
    tokens = (choice.get("logprobs") or {}).get("content")
    if not tokens:
        return None
    return {a["token"]: float(a["logprob"]) for a in tokens[0].get("top_logprobs") or ()}


def _prompt_bound(request: ChatRequest) -> int:
    """Tokens in, where the server does not say: never zero, rather too many."""
    if request.prompt_tokens is not None:
        return request.prompt_tokens
    return sum(_bound(m.content) + 8 for m in request.messages)


def _bound(text: str) -> int:
    return len(text.encode()) // 3 + 1
