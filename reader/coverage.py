"""Which parts of a document a run read."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import computed_field, model_validator

from reader.budget import Frozen, NonNegative

ChunkOutcome: TypeAlias = Literal["read", "skipped", "unread", "failed"]


class ChunkStatus(Frozen):
    """What became of one chunk.

    Attributes:
        index: Position in the document, from 0.
        start: First character.
        end: One past the last character.
        outcome: "read"; "skipped" (not visited); "unread" (visited, nothing usable came back);
            "failed" (the call failed).
        reason: Why, unless it was read.
        score: How strongly the scorer's heads looked at it (``strategy="attention"``), in the
            method's own units; None where nothing looked.
    """

    index: NonNegative
    start: NonNegative
    end: NonNegative
    outcome: ChunkOutcome
    reason: str = ""
    score: float | None = None


class Coverage(Frozen):
    """Which parts of the document were read. The counts and the share are in the JSON too."""

    chunks: tuple[ChunkStatus, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _recompute(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {k: v for k, v in data.items() if k not in cls.model_computed_fields}
        return data

    def count(self, outcome: ChunkOutcome) -> int:
        """Chunks with that outcome."""
        return sum(chunk.outcome == outcome for chunk in self.chunks)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def read(self) -> int:
        """Chunks read."""
        return self.count("read")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def skipped(self) -> int:
        """Chunks not visited."""
        return self.count("skipped")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def unread(self) -> int:
        """Chunks visited without a usable reply."""
        return self.count("unread")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def failed(self) -> int:
        """Chunks whose call failed."""
        return self.count("failed")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def share(self) -> float:
        """Characters read, of all characters: 0 to 1. Overlaps of chunks count once."""
        whole = _covered(self.chunks)
        return _covered([c for c in self.chunks if c.outcome == "read"]) / whole if whole else 0.0


def _covered(chunks: tuple[ChunkStatus, ...] | list[ChunkStatus]) -> int:
    total = reached = 0
    for chunk in sorted(chunks, key=lambda c: c.start):
        total += max(chunk.end - max(chunk.start, reached), 0)
        reached = max(reached, chunk.end)
    return total
