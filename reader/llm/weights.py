"""Where the weights of an embedded model come from, and what is known of them before loading."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reader.llm.catalogue import CatalogueEntry
from reader.llm.download import fetch, fetch_from_hub, hub_file, hub_path
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

    @property
    def identity(self) -> str | None:
        """As in ``ModelInfo``; None where the file is needed for it and is not here."""
        ...

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

    @property
    def identity(self) -> str:
        """The pinned hash."""
        return f"sha256:{self.entry.sha256}"

    async def about(self) -> About:
        """What the catalogue says."""
        known = self.entry
        return About(known.title, self.identity, known.window, known.notice)

    async def path(self) -> Path:
        """The checked file, fetched where needed."""
        return await fetch(self.entry, self.folder, self.on_progress)


@dataclass(frozen=True, slots=True)
class FileWeights:
    """Any GGUF file on disk: known by its header and a cheap hash."""

    file: Path

    @property
    def identity(self) -> str | None:
        """Size and hash of both ends."""
        return file_identity(self.file) if self.file.is_file() else None

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
        self._source = hub_file(name)
        self._name = name
        self._folder = folder
        self._on_progress = on_progress

    @property
    def identity(self) -> str | None:
        """Size and hash of both ends, once the file is here."""
        return FileWeights(hub_path(self._source, self._folder)).identity

    async def about(self) -> About:
        """What the file's header says."""
        return await FileWeights(await self.path()).about()

    async def path(self) -> Path:
        """The checked file, fetched where needed."""
        return await fetch_from_hub(self._name, self._folder, self._on_progress)
