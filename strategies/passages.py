"""The passages of a document and their ranking: BM25, vectors, or both fused.

What retrieve-then-answer does before its one chat call. Vectors are made a part at a time, and each
finished part is kept in the store, so that a second question makes none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, PlainSerializer

from reader.bm25 import BM25Index
from reader.chunking import Chunk, ChunkOptions, chunk_key
from reader.errors import BadReply, LimitReached, ModelTimeout, RateLimited, ServerFailed
from reader.fusion import reciprocal_rank_fusion
from reader.llm.embedders import Embedder, EmbedderInfo, EmbedderSpec, opened
from reader.memory.vectors import has_vectors, keep_vectors, load_vectors
from reader.strategy import Reading

if TYPE_CHECKING:
    from reader.llm.embedders import Vectors

Ranker: TypeAlias = Literal["bm25", "dense", "hybrid"]

PART = 256
"""Texts whose vectors are made and kept together."""
SHORTEST_LIMIT = 200  # characters; an embedder that reads less is not believed
DEEP = 100  # passages of the dense ranking that take part in a fusion
TRANSIENT = (ServerFailed, ModelTimeout, RateLimited, BadReply)


def named(model: Any) -> str | None:
    """What stands for an embedder or a scorer in keys and in the trace."""
    if model is None or isinstance(model, str):
        return model
    return str(getattr(model, "identity", type(model).__name__))


def _is_embedder(value: Any) -> Any:
    if value is None or isinstance(value, str | Embedder):
        return value
    raise ValueError("an embedder is a name or an object with info, embed and aclose")


EmbedderOption: TypeAlias = Annotated[Any, AfterValidator(_is_embedder), PlainSerializer(named)]
"""An option that names or is an embedder; None for none."""


@dataclass(slots=True)
class Passages:
    """Passages of one document and a question that ranks them.

    Attributes:
        reading: The run; its chunks are the passages.
        options: How they were cut.
        question: What they are ranked by.
        about: The embedder, once it was met.
        query: The question's vector, once it was made.
    """

    reading: Reading
    options: ChunkOptions
    question: str
    about: EmbedderInfo | None = None
    query: Vectors | None = None

    def text(self, chunk: Chunk) -> str:
        """A passage with its overlap."""
        return self.reading.document.text[chunk.overlap_start : chunk.end]

    def windows(self, info: EmbedderInfo) -> list[tuple[int, str]]:
        """(passage, text) of all that gets a vector.

        A passage longer than the embedder reads is cut into equal windows; its likeness is that of
        its best window.
        """
        longest = max(info.longest or 0, SHORTEST_LIMIT) if info.longest else None
        found = []
        for chunk in self.reading.chunks:
            text = self.text(chunk)
            pieces = -(-len(text) // longest) if longest else 1
            size = -(-len(text) // pieces)
            found += [(chunk.index, text[i : i + size]) for i in range(0, len(text), size)]
        return found

    def keys(self, info: EmbedderInfo) -> list[str]:
        """Keys of the parts of the vectors, in order."""
        reading = self.reading
        cut = chunk_key(reading.document.sha256, self.options, reading.info.counter.name)
        windows = f"{info.longest}/{info.dimension}"
        count = -(-len(self.windows(info)) // PART)
        return [f"{cut}|{info.identity}|{windows}|{PART}/{n}" for n in range(count)]

    async def embed_next(self, spec: EmbedderSpec) -> bool:
        """Make and keep the first part of the vectors that is not kept; False when all are.

        Raises:
            ReaderError: the embedder cannot be had, or failed.
            LimitReached: the deadline is too near.
        """
        async with self._in_time(spec) as embedder:
            info, _ = await self._met(embedder)
            keys = self.keys(info)
            # Questions side by side: one makes a part, the others find it.
            async with self.reading.alone(keys[0]):
                kept = self.reading.store
                missing = [n for n, key in enumerate(keys) if not has_vectors(kept, key)]
                if not missing:
                    return False
                at = missing[0]
                texts = [text for _, text in self.windows(info)[at * PART : (at + 1) * PART]]
                vectors = await embedder.embed(texts)
                if vectors.shape != (len(texts), info.dimension):
                    raise BadReply(
                        f"{info.name} gave vectors of shape {vectors.shape} for {len(texts)} texts."
                    )
                keep_vectors(kept, keys[at], vectors)
            return len(missing) > 1

    async def dense(self, spec: EmbedderSpec) -> list[int]:
        """Passages by the likeness of their vectors to the question's, the best first.

        Raises:
            ReaderError: as ``embed_next``.
        """
        async with self._in_time(spec) as embedder:
            info, query = await self._met(embedder)
            index = load_vectors(self.reading.store, self.keys(info))
            self._tell_damage()
            if index is None or index.dimension != len(query):
                raise BadReply(f"The vectors of {info.name} could not be used.")
            passage_of = [passage for passage, _ in self.windows(info)]
            return list(dict.fromkeys(passage_of[row] for row, _ in index.rank(query)))

    async def lexical(self) -> list[int]:
        """Passages that share words with the question, by BM25, the best first."""
        texts = [self.text(chunk) for chunk in self.reading.chunks]
        return await asyncio.to_thread(_by_words, texts, self.question)

    async def _met(self, embedder: Embedder) -> tuple[EmbedderInfo, Vectors]:
        """The embedder and the question's vector; asked for once a run."""
        if self.query is None:
            [self.query] = await embedder.embed([self.question])
        if self.about is None:
            self.about = await embedder.info()
        return self.about, self.query

    @asynccontextmanager
    async def _in_time(self, spec: EmbedderSpec) -> AsyncIterator[Embedder]:
        """The embedder; at most half of the time left is spent, so that the answer has the rest."""
        left = self.reading.ledger.seconds_left()
        try:
            async with asyncio.timeout(None if left is None else left / 2) as limit:
                async with opened(spec) as embedder:
                    yield embedder
        except TimeoutError:
            if not limit.expired():
                raise
            raise LimitReached("The deadline is too near for vectors.", limit="deadline") from None

    def _tell_damage(self) -> None:
        for text in self.reading.store.take_notices():
            self.reading.warn(text)


def _by_words(texts: Sequence[str], question: str) -> list[int]:
    return [index for index, _ in BM25Index(texts).rank(question)]


def fused(lexical: Sequence[int], dense: Sequence[int]) -> list[int]:
    """Both rankings as one, by reciprocal rank."""
    return [passage for passage, _ in reciprocal_rank_fusion([lexical, dense[:DEEP]])]
