"""Counting tokens as the model in use does, or saying that it is only an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class TokenCounter(Protocol):
    """Counts tokens.

    Attributes:
        name: Part of the keys of everything that depends on counts.
        exact: False for a conservative estimate (never meant to be lower than the truth).
    """

    name: str
    exact: bool

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text alone, without a chat template."""
        ...

    async def count_messages(self, turns: Sequence[tuple[str, str]]) -> int:
        """Tokens of (role, content) turns as the model sees them: template and answer cue too."""
        ...

    def tokenizer(self) -> Any | None:
        """What the splitting library can count with itself: a ``tokenizers.Tokenizer`` or a
        tiktoken encoding, None where counting goes through a server or is an estimate.
        """
        ...
