"""LangGraph checkpoints in the store's SQLite file, written inline.

The library's asynchronous saver hands every write to a second thread, which costs more than the
write itself; its synchronous saver has no asynchronous face. This one is the synchronous saver
with that face: a write takes a fraction of a millisecond.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.sqlite import SqliteSaver

from reader.memory.store import Store, quarantine


class CheckpointSaver(SqliteSaver):
    """``SqliteSaver`` whose asynchronous methods run the synchronous ones in place."""

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


def open_saver(store: Store) -> CheckpointSaver:
    """A saver on the store's checkpoint file; a damaged file is moved aside first."""
    try:
        return _open(store.checkpoints)
    except sqlite3.DatabaseError:
        if store.folder is None:
            raise
        aside = quarantine(Path(store.checkpoints))
        store.notices.append(f"The checkpoints were damaged and moved to {aside.name}.")
        return _open(store.checkpoints)


def _open(path: str) -> CheckpointSaver:
    connection = sqlite3.connect(path, timeout=30.0, check_same_thread=False)
    connection.execute("PRAGMA synchronous = NORMAL")
    saver = CheckpointSaver(connection)
    saver.setup()
    return saver
