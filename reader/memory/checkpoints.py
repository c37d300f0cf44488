"""LangGraph checkpoints in the store's SQLite file, written inline.

The library's asynchronous saver hands every write to a second thread, which costs more than the
write itself; its synchronous saver has no asynchronous face. This one is the synchronous saver
with that face: a write takes a fraction of a millisecond.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver

from reader.memory.claims import gate
from reader.memory.store import Store, quarantine, store_error

CHECKSUM_BYTES = 8


class SealedSerializer(JsonPlusSerializer):
    """LangGraph's serializer with a checksum before the bytes."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Type and sealed bytes."""
        kind, data = super().dumps_typed(obj)
        return kind, _checksum(data) + data

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value.

        Raises:
            DamagedCheckpoint: the bytes are not those that were written.
        """
        kind, kept = data
        checksum, rest = kept[:CHECKSUM_BYTES], kept[CHECKSUM_BYTES:]
        if checksum != _checksum(rest):
            raise DamagedCheckpoint
        return super().loads_typed((kind, rest))


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was written; never reaches a caller."""


class InPlace(BaseCheckpointSaver[Any]):
    """A saver whose asynchronous methods run its synchronous ones in place."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See ``get_tuple``."""
        return self.get_tuple(config)

    async def alist(
        self, config: RunnableConfig | None, **options: Any
    ) -> AsyncIterator[CheckpointTuple]:
        """See ``list``."""
        for item in self.list(config, **options):
            yield item

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See ``put``."""
        return self.put(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """See ``put_writes``."""
        self.put_writes(config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        """See ``delete_thread``."""
        self.delete_thread(thread_id)


class CheckpointSaver(InPlace, SqliteSaver):
    """``SqliteSaver`` in place, with a checksum in every checkpoint."""

    def __init__(self, connection: sqlite3.Connection, notices: list[str]) -> None:
        super().__init__(connection, serde=SealedSerializer())
        self._notices = notices

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See ``get_tuple``; None where the checkpoint is damaged: the run begins anew."""
        try:
            return self.get_tuple(config)
        except DamagedCheckpoint:
            self._notices.append(
                "A checkpoint in the store was damaged; the run began anew with its kept replies."
            )
            return None


def open_saver(store: Store) -> CheckpointSaver:
    """A saver on the store's checkpoint file; a damaged file is moved aside first."""
    if store.folder is None:
        return _open(store)
    with gate(store.folder):
        try:
            return _open(store)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise store_error(error, store.folder) from None
            aside = quarantine(Path(store.checkpoints))
            store.notices.append(f"The checkpoints were damaged and moved to {aside.name}.")
            return _open(store)


def _open(store: Store) -> CheckpointSaver:
    connection = sqlite3.connect(store.checkpoints, timeout=30.0, check_same_thread=False)
    connection.execute("PRAGMA synchronous = NORMAL")
    saver = CheckpointSaver(connection, store.notices)
    saver.setup()
    return saver


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()
