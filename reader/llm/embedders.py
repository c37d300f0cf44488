"""Embedders: texts in, vectors out; behind an address, or in this process.

An embedder is no part of the chat model's stack: its calls are not counted in a budget (they cost a
small part of a chat call), but they keep to the deadline of the run that makes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from reader.errors import BadReply, ModelError, UnknownModel
from reader.llm.resolve import address_and_name
from reader.llm.retry import ATTEMPTS, backoff, retried
from reader.llm.served import ServedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]

BATCH = 64
CALLS_AT_ONCE = 4
MINILM = "minilm"
LOCAL = "sentence-transformers:"
FORMS = (MINILM, "openai:NAME", "http://HOST:PORT/v1#NAME", f"{LOCAL}PATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderInfo:
    """What the library must know about an embedder.

    Attributes:
        name: For people.
        identity: For keys: equal only where vectors may be compared with each other.
        dimension: Numbers in a vector.
        longest: Characters of a text that it reads; None where nothing is known of a limit. What
            is longer must be cut by the caller, since many embedders drop the rest in silence.
    """

    name: str
    identity: str
    dimension: int
    longest: int | None = None


@runtime_checkable
class Embedder(Protocol):
    """Anything that makes vectors of texts. Own implementations need these three methods only."""

    async def info(self) -> EmbedderInfo:
        """Describe it; may load weights or ask a server.

        Raises:
            ReaderError: it cannot be had.
        """
        ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector a text: an array of floats, ``[len(texts), dimension]``.

        The inner product of two vectors of length one is their likeness; other lengths are
        normalised by the caller.

        Raises:
            ModelError: one of its kinds, each saying whether trying again helps.
        """
        ...

    async def aclose(self) -> None:
        """Free what it holds (connections, memory)."""
        ...


EmbedderSpec: TypeAlias = str | Embedder


def open_embedder(spec: EmbedderSpec, *, api_key: str | None = None) -> Embedder:
    """The embedder that a user means; nothing is contacted, loaded or fetched yet.

    Args:
        spec: "http(s)://HOST:PORT/v1", optionally with "#NAME"; "openai:NAME"; "minilm" (fetched
            once, needs the extra ``embeddings``); "sentence-transformers:PATH" (a folder in that
            library's layout, same extra); or an ``Embedder``.
        api_key: For the two kinds that are reached over a network.

    Raises:
        UnknownModel: it is none of these.
    """
    if not isinstance(spec, str):
        return spec
    kind, _, rest = spec.strip().partition(":")
    if kind in ("http", "https"):
        return ServedEmbedder(ServedModel(*address_and_name(spec.strip()), api_key=api_key))
    if kind == "openai" and rest:
        from reader.llm.hosted import openai_model

        return ServedEmbedder(openai_model(rest, api_key=api_key))
    if spec.strip() == MINILM or (spec.startswith(LOCAL) and rest):
        from reader.llm.local_embedder import LocalEmbedder, MiniLM, folder_weights

        return LocalEmbedder(MiniLM() if spec.strip() == MINILM else folder_weights(rest))
    raise UnknownModel(f"There is no embedder {spec!r}.", hint=f"Write one of: {', '.join(FORMS)}.")


@asynccontextmanager
async def opened(spec: EmbedderSpec) -> AsyncIterator[Embedder]:
    """``open_embedder``, and closed afterwards, unless it is the caller's own object."""
    embedder = open_embedder(spec)
    try:
        yield embedder
    finally:
        if isinstance(spec, str):
            await embedder.aclose()


class ServedEmbedder:
    """The endpoint ``/v1/embeddings`` of an OpenAI-compatible server.

    Texts go out in batches, a few of them at a time; a batch that fails in a way that can succeed
    again is sent again, as chat calls are.

    Args:
        server: The server and the name of the embedder there; not needed where it has one only.
        batch: Texts in a call.
        calls_at_once: Calls in flight.
        longest: See ``EmbedderInfo``.
        attempts: Calls made for a batch at most.
        wait: Seconds to wait, from the number of the failed attempt and its error.
    """

    def __init__(
        self,
        server: ServedModel,
        *,
        batch: int = BATCH,
        calls_at_once: int = CALLS_AT_ONCE,
        longest: int | None = None,
        attempts: int = ATTEMPTS,
        wait: Callable[[int, ModelError], float] = backoff,
    ) -> None:
        self._server = server
        self._batch = batch
        self._calls_at_once = calls_at_once
        self._longest = longest
        self._attempts = attempts
        self._wait = wait
        self._name: str | None = None
        self._dimension: int | None = None

    async def info(self) -> EmbedderInfo:
        """Ask the server for a vector; asked once, then remembered.

        Raises:
            ModelError: the server cannot be asked, or serves no embedder of the name.
        """
        if self._dimension is None:
            self._dimension = (await self.embed(["dimension"])).shape[1]
        name = await self._model_name()
        return EmbedderInfo(
            name=name,
            identity=f"{self._server.address}#{name}",
            dimension=self._dimension,
            longest=self._longest,
        )

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector a text.

        Raises:
            ModelError: one of its kinds; no vector is given then.
        """
        import numpy as np

        name = await self._model_name()
        batches = [texts[i : i + self._batch] for i in range(0, len(texts), self._batch)]
        slots = asyncio.Semaphore(self._calls_at_once)

        async def one(batch: Sequence[str]) -> Vectors:
            async with slots:
                return await self._retried(name, batch)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(batch)) for batch in batches]
        except* ModelError as failures:
            raise _first(failures) from None
        found = [task.result() for task in tasks]
        if len({vectors.shape[1] for vectors in found}) > 1:
            raise BadReply(f"{self._server.address} gave vectors of different lengths.")
        if not found:
            return np.zeros((0, self._dimension or 0), np.float32)
        self._dimension = found[0].shape[1]
        return np.concatenate(found)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        await self._server.aclose()

    async def _model_name(self) -> str:
        if self._name is None:
            identity = self._server.identity
            self._name = (
                identity.partition("#")[2] if identity else (await self._server.info()).name
            )
        return self._name

    async def _retried(self, name: str, batch: Sequence[str]) -> Vectors:
        return await retried(
            lambda: self._call(name, batch), attempts=self._attempts, wait=self._wait
        )

    async def _call(self, name: str, batch: Sequence[str]) -> Vectors:
        body = {"model": name, "input": list(batch), "encoding_format": "float"}
        data = await self._server.ask("post", "/embeddings", body)
        return read_vectors(data, len(batch), self._server.address)


def read_vectors(data: Any, count: int, address: str) -> Vectors:
    """The vectors of a reply, in the order of the texts: ``[count, dimension]``.

    Raises:
        BadReply: it is not so many vectors of one length, all numbers finite.
    """
    import numpy as np

    wrong = BadReply(
        f"The reply of {address} is not {count} embeddings.",
        hint="Check that the address is that of an OpenAI-compatible /v1 endpoint.",
    )
    rows = data.get("data") if isinstance(data, Mapping) else None
    if not isinstance(rows, list) or len(rows) != count:
        raise wrong
    try:
        ordered = sorted(enumerate(rows), key=lambda row: row[1].get("index", row[0]))
        vectors = np.array([row["embedding"] for _, row in ordered], dtype=np.float32)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise wrong from None
    if vectors.ndim != 2 or not vectors.shape[1] or not np.isfinite(vectors).all():
        raise wrong
    return vectors


def _first(group: BaseExceptionGroup[ModelError]) -> ModelError:
    """The first error of a group that may hold groups."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
