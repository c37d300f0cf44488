"""Counting with the tokenizer of the server that runs the model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from reader.errors import BadReply
from reader.tokens import TokenCounter

Dialect: TypeAlias = Literal["vllm", "llama.cpp"]
IN_FLIGHT = 16
ATTEMPTS = 5


class Asks(Protocol):
    """What can call an endpoint of the server (``ServedModel.ask``)."""

    def __call__(
        self, method: str, url: str, body: Mapping[str, Any] | None = None
    ) -> Awaitable[Any]:
        """The decoded JSON of the reply."""
        ...


class ServerTokenCounter:
    """Counts through the server's ``/tokenize``; exact, one request a text.

    Attributes:
        nearby: Counts texts in its place, where the same tokenizer is on this machine.

    Args:
        ask: Calls an endpoint of the server over kept-alive connections.
        root: The server's address without ``/v1``.
        model: The model's name there.
        dialect: Whose ``/tokenize`` it is.
    """

    exact = True

    def __init__(self, ask: Asks, root: str, model: str, dialect: Dialect) -> None:
        self.name = f"server:{model}"
        self._ask = ask
        self._root = root
        self._model = model
        self._dialect = dialect
        self.nearby: TokenCounter | None = None

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text alone, at most 16 requests at once.

        Raises:
            ModelError: the server does not answer.
        """
        if self.nearby is not None:
            return await self.nearby.count(texts)
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def one(text: str) -> int:
            if not text:
                return 0
            async with slots:
                return await self._count(text, special=False)

        return list(await asyncio.gather(*map(one, texts)))

    async def count_messages(self, turns: Sequence[tuple[str, str]]) -> int:
        """Tokens of the rendered chat template with these turns and the answer cue.

        Raises:
            ModelError: the server does not answer.
        """
        messages = [{"role": role, "content": content} for role, content in turns]
        if self._dialect == "vllm":
            return await self._post({"model": self._model, "messages": messages})
        reply = await self._put("/apply-template", {"messages": messages})
        if not isinstance(reply, Mapping) or not isinstance(reply.get("prompt"), str):
            raise BadReply("The server's /apply-template does not answer as llama-server's does.")
        return await self._count(reply["prompt"], special=True)

    def tokenizer(self) -> None:
        """None: the tokenizer is on the server."""
        return

    async def _count(self, text: str, *, special: bool) -> int:
        if self._dialect == "vllm":
            return await self._post(
                {"model": self._model, "prompt": text, "add_special_tokens": special}
            )
        return await self._post({"content": text, "add_special": special, "parse_special": True})

    async def _put(self, endpoint: str, body: Mapping[str, Any]) -> Any:
        """Ask, at most five times: counting changes nothing and costs nothing, so a connection
        that the server closed just then is no reason to fail. Model calls are made again in
        ``reader.llm.retry`` only."""
        from tenacity import (
            AsyncRetrying,
            retry_if_exception_type,
            stop_after_attempt,
            wait_random_exponential,
        )

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(BadReply),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        )
        return await retrying(self._ask, "post", f"{self._root}{endpoint}", body)

    async def _post(self, body: Mapping[str, Any]) -> int:
        reply = await self._put("/tokenize", body)
        if isinstance(reply, Mapping):
            if isinstance(reply.get("count"), int):
                return int(reply["count"])
            if isinstance(reply.get("tokens"), list):
                return len(reply["tokens"])
        raise BadReply("The server's /tokenize does not give tokens.")
