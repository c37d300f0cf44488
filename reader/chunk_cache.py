"""Chunks that several questions and runs share: cut once, awaited by the others."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from reader.chunking import Chunk, chunk_document

if TYPE_CHECKING:
    from reader.documents import Document
    from reader.tokens import TokenCounter


class KeyedLocks:
    """A lock for each key: what several runs need is prepared by the first, awaited by the others.

    For one event loop.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __call__(self, key: str) -> asyncio.Lock:
        """The lock of a key, for ``async with``."""
        return self._locks.setdefault(key, asyncio.Lock())


class ChunkCache:
    """Chunks of the documents cut last, so that the questions after the first wait for nothing.

    For one event loop. Questions that come at the same time wait for the same cut.

    Args:
        size: Ways of cutting a document that are kept.
    """

    def __init__(self, size: int = 8) -> None:
        self._size = size
        self._kept: OrderedDict[str, tuple[Chunk, ...]] = OrderedDict()
        self._alone = KeyedLocks()

    async def chunks(
        self,
        document: Document,
        *,
        counter: TokenCounter,
        chunk_tokens: int,
        overlap_tokens: int = 0,
        code: bool = False,
    ) -> tuple[Chunk, ...]:
        """``chunk_document``, done once."""
        way = (document.sha256, counter.name, chunk_tokens, overlap_tokens, code)
        key = "|".join(map(str, way))
        async with self._alone(key):
            if key not in self._kept:
                self._kept[key] = tuple(
                    await chunk_document(
                        document,
                        counter=counter,
                        chunk_tokens=chunk_tokens,
                        overlap_tokens=overlap_tokens,
                        code=code,
                    )
                )
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
            return self._kept[key]
