"""Where the weights of an embedded model come from, and what is known of them before loading."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reader.llm.catalogue import CatalogueEntry
from reader.llm.download import fetch, fetch_from_hub, hub_file
from reader.llm.gguf import file_identity, trained_window
from reader.llm.transfer import OnProgress


@dataclass(frozen=True, slots=True)
class About:
    """Name and identity as in ``ModelInfo``, the trained window (tokens), what to say first."""

    name: str
    identity: str
    window: int
    notice: str = ""


class Weights(Protocol):
    """Weights of one model."""

    async def about(self) -> About:
        """Describe them, without loading them.

        Raises:
            ModelError: they cannot be had or are not a model.
        """
        ...

    async def path(self) -> Path:
        """The file, fetched where needed.

        Raises:
            ModelError: it cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class CatalogueWeights:
    """A model of the catalogue: known without its file, by the pinned SHA-256."""

    entry: CatalogueEntry
    folder: str | Path | None = None
    on_progress: OnProgress | None = None

    async def about(self) -> About:
        """What the catalogue says."""
        known = self.entry
        return About(known.title, f"sha256:{known.sha256}", known.window, known.notice)

    async def path(self) -> Path:
        """The checked file, fetched where needed."""
        return await fetch(self.entry, self.folder, self.on_progress)


@dataclass(frozen=True, slots=True)
class FileWeights:
    """Any GGUF file on disk: known by its header and a cheap hash."""

    file: Path

    async def about(self) -> About:
        """What the file's header says."""
        return await asyncio.to_thread(self._read)

    async def path(self) -> Path:
        """The file."""
        return self.file

    def _read(self) -> About:
        window = trained_window(self.file)
        return About(self.file.name, file_identity(self.file), window)


class HubWeights:
    """Any GGUF file of the model hub, ``OWNER/NAME/FILE``; it is fetched to be known.

    Raises:
        UnknownModel: the name is not of that form.
    """

    def __init__(
        self,
        name: str,
        folder: str | Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        hub_file(name)
        self._name = name
        self._folder = folder
        self._on_progress = on_progress

    async def about(self) -> About:
        """What the file's header says."""
        return await FileWeights(await self.path()).about()

    async def path(self) -> Path:
        """The checked file, fetched where needed."""
        return await fetch_from_hub(self._name, self._folder, self._on_progress)
