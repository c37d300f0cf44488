"""Counting tokens as the model in use does, or saying that it is only an estimate."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Sequence
from pathlib import Path
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


# Tokens per character class, from above: letters of Latin script come several to a token, digits,
# marks and everything outside ASCII hardly so.
_WORDS = re.compile(r"[A-Za-z]+")
_SPACE = re.compile(r"\s+")


def estimated(text: str) -> int:
    """A conservative guess: meant not to be lower than the count of any common vocabulary."""
    letters = words = 0
    for match in _WORDS.finditer(text):
        size = match.end() - match.start()
        letters += size
        words += 1 + (size - 1) // 6
    spaces = sum(m.end() - m.start() for m in _SPACE.finditer(text))
    ascii_ = len(text) if text.isascii() else sum(c.isascii() for c in text)
    foreign = len(text.encode("utf-8", "surrogatepass")) - ascii_
    rest = ascii_ - letters - spaces
    return int(words * 1.12) + rest + int(foreign * 0.7) + text.count("\n") // 2 + 1


class EstimateCounter:
    """Counts nothing, estimates from the characters; for models whose tokenizer cannot be had."""

    name = "estimate/1"
    exact = False

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Estimated tokens of each text."""
        return [estimated(text) for text in texts]

    async def count_messages(self, turns: Sequence[tuple[str, str]]) -> int:
        """Estimated tokens of a chat: 8 a turn for a template that is not known."""
        return sum(estimated(content) + 8 for _, content in turns) + 8

    def tokenizer(self) -> Any | None:
        """None: there is no tokenizer."""
        return None


class TiktokenCounter:
    """The tokenizer of an OpenAI model; its vocabulary must be at hand."""

    exact = True

    def __init__(self, model: str) -> None:
        import tiktoken

        try:
            self._encoding = tiktoken.encoding_for_model(model)
        except KeyError:
            self._encoding = tiktoken.get_encoding("o200k_base")
        self.name = f"tiktoken/{self._encoding.name}"

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text alone."""
        return [len(self._encoding.encode(text, disallowed_special=())) for text in texts]

    async def count_messages(self, turns: Sequence[tuple[str, str]]) -> int:
        """Tokens of a chat: 4 a turn and 3 for the cue, as OpenAI documents it."""
        return sum(await self.count([content for _, content in turns])) + 4 * len(turns) + 3

    def tokenizer(self) -> Any | None:
        """The tiktoken encoding."""
        return self._encoding


class HuggingFaceCounter:
    """A ``tokenizers.Tokenizer``, a ``tokenizer.json``, or a folder that holds one."""

    exact = True

    def __init__(self, source: Any) -> None:
        from tokenizers import Tokenizer

        if not isinstance(source, Tokenizer):
            path = Path(source)
            source = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
        source.no_truncation()
        self._tokenizer = source
        digest = hashlib.sha256(source.to_str().encode()).hexdigest()[:12]
        self.name = f"huggingface/{digest}"

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text alone."""
        batch = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in batch]

    async def count_messages(self, turns: Sequence[tuple[str, str]]) -> int:
        """Tokens of a chat: 16 a turn for a template that is not known."""
        return sum(await self.count([content for _, content in turns])) + 16 * len(turns) + 16

    def tokenizer(self) -> Any | None:
        """The tokenizer itself."""
        return self._tokenizer


def counter_for_openai(model: str, *, patience: float = 5.0) -> TokenCounter:
    """tiktoken, where its vocabulary can be had within ``patience`` seconds; else the estimate."""
    made: list[TokenCounter] = []

    def make() -> None:
        with contextlib.suppress(Exception):
            made.append(TiktokenCounter(model))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(patience)
    return made[0] if made else EstimateCounter()
