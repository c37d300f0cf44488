"""Counting tokens as the model in use does, or saying that it is only an estimate."""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, Protocol

from reader.errors import UnknownModel


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


_BATCH = 1 << 18  # characters that a tokenizer gets at once, so that its memory stays small
_INLINE = 1 << 16  # characters counted without leaving the event loop


class _LocalCounter(ABC):
    """Counts in process: small batches at once, large ones in a thread."""

    name: str
    exact: bool
    _inline = _INLINE

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text alone, without a chat template."""
        if sum(map(len, texts)) <= self._inline:
            return self._count(texts)
        from anyio import to_thread

        return await to_thread.run_sync(self._count, texts)

    async def count_messages(self, turns: Sequence[tuple[str, str]]) -> int:
        """Tokens of (role, content) turns as the model sees them: template and answer cue too."""
        counts = await self.count([part for turn in turns for part in turn])
        return sum(counts) + self._template(len(turns))

    @abstractmethod
    def _count(self, texts: Sequence[str]) -> list[int]: ...

    def _template(self, turns: int) -> int:
        """Tokens around the turns of a template that is not known, from above.

        ChatML needs 4 a turn and 3 for the answer cue, Llama 3 and Gemma not more than 6; some
        templates put in a system turn of their own, of up to about 30 tokens.
        """
        return 8 * turns + 32

    def tokenizer(self) -> Any | None:
        """What the splitting library could count with; None: there is nothing."""
        return None


_CONTINUATION = bytes(range(0x80, 0xC0))
_LEADS = b"l" * 6 + b"w" * 26 + b"ss" + b"m" + b"c" * 13 + b"e" * 16  # bytes 0xC0 to 0xFF


def _table(**classes: str) -> bytes:
    """Bytes of UTF-8 to classes; ASCII in none of those given is ".", white space apart."""
    table = bytearray(b"." * 128 + b"-" * 64 + _LEADS)
    for name, members in classes.items():
        for byte in members.encode():
            table[byte] = ord(name)
    for byte in b"\t\n\v\f\r":
        table[byte] = ord("\n")
    table[ord(" ")] = ord(" ")
    return bytes(table)


_CLASSES = _table(a=ascii_lowercase, A=ascii_uppercase, d=digits)
_WORDS = _table(a=ascii_lowercase).translate(bytes.maketrans(b" \n", b".."))
# Weights of what is counted, fitted from above (quantile regression over 1,900 pieces of books,
# contracts, meetings, papers, code, markup, tables, numbers and 100 languages) to the largest of
# what the vocabularies o200k, cl100k, Qwen2.5 and (English and code only) SmolLM2 make of them.
_WORD = 0.7  # a run of small letters begins
_ASCII_WEIGHTS = (
    (b"aaaa", 0.75),
    (b"aaaaaaaa", 1.1),
    (b"A", 0.65),
    (b"aA", 1.25),
    (b"da", 0.3),
    (b"dA", 0.3),
    (b"ad", 0.3),
    (b"Ad", 0.3),
    (b"d", 1.25),  # several vocabularies take digits one by one
    (b".", 1.05),
    (b"..", -0.75),
    (b" .", 0.4),
    (b"\n", 0.5),
    (b"  ", 0.12),
)
_OTHER_WEIGHTS = (
    (b"l", 3.1),  # Latin letters with marks break a word up
    (b"w", 2.25),  # other alphabets of two bytes: Greek, Cyrillic, Hebrew, Arabic
    (b"s", 2.5),  # Indic, Thai, Georgian, Khmer
    (b"m", 1.7),  # typographic marks, mathematics
    (b"c", 2.15),  # Chinese, Japanese, Korean
    (b"e", 2.9),  # emoji and rare scripts
)


def estimated(text: str) -> int:
    """Tokens of a text from its characters, from above.

    Less than the truth for under 0.5% of real pieces of 1,500 tokens, by any of the four
    vocabularies. English prose comes out a quarter too high, code and other European languages
    by half, other scripts by up to twice and more.
    """
    if not text:
        return 0
    data = b" " + text.encode("utf-8", "surrogatepass")
    classes = data.translate(_CLASSES, _CONTINUATION)
    guess = _WORD * data.translate(_WORDS).count(b".a")
    guess += sum(classes.count(what) * weight for what, weight in _ASCII_WEIGHTS)
    if not text.isascii():
        guess += sum(classes.count(what) * weight for what, weight in _OTHER_WEIGHTS)
    return min(len(data) - 1, max(math.ceil(guess), 1))


class EstimateCounter(_LocalCounter):
    """Counts nothing, estimates from the characters; for models whose tokenizer cannot be had."""

    name = "estimate/1"
    exact = False
    _inline = 1 << 20

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [estimated(text) for text in texts]


class TiktokenCounter(_LocalCounter):
    """The tokenizer of an OpenAI model.

    tiktoken fetches a vocabulary at its first use and keeps it (``TIKTOKEN_CACHE_DIR``); without
    it and without a network this raises what its transport raises. ``counter_for_openai`` does
    not.

    Args:
        model: Name of the model; one that tiktoken does not know is taken for a new one, which
            have the vocabulary o200k_base.
    """

    exact = True

    def __init__(self, model: str) -> None:
        import tiktoken

        try:
            self._encoding = tiktoken.encoding_for_model(model)
        except KeyError:
            self._encoding = tiktoken.get_encoding("o200k_base")
        self.name = f"tiktoken/{self._encoding.name}"

    def _count(self, texts: Sequence[str]) -> list[int]:
        # Names of special tokens in a document are text like any other.
        return [len(self._encoding.encode_ordinary(text)) for text in texts]

    def _template(self, turns: int) -> int:
        """3 a message and 3 for the answer cue, as OpenAI documents it."""
        return 3 * turns + 3

    def tokenizer(self) -> Any | None:
        """The tiktoken encoding."""
        return self._encoding


class HuggingFaceCounter(_LocalCounter):
    """A ``tokenizers.Tokenizer``, the path of a tokenizer.json, or of a folder that holds one.

    Raises:
        UnknownModel: no tokenizer there, or none that can be read.
    """

    exact = True

    def __init__(self, source: Any) -> None:
        from tokenizers import Tokenizer

        if isinstance(source, Tokenizer):
            # The caller's own may cut or pad; leave it as it is.
            self._tokenizer = Tokenizer.from_str(source.to_str())
        else:
            path = Path(source)
            path = path / "tokenizer.json" if path.is_dir() else path
            try:
                self._tokenizer = Tokenizer.from_file(str(path))
            except Exception as error:  # the library raises nothing narrower
                raise UnknownModel(
                    f"No tokenizer can be read from {path}.",
                    hint="Pass a tokenizer.json, or the folder of a model that holds one.",
                ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        digest = hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()[:12]
        self.name = f"huggingface/{digest}"

    def _count(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = []
        batch: list[str] = []
        size = 0
        for text in texts:
            batch.append(text)
            size += len(text)
            if size >= _BATCH:
                counts += self._count_batch(batch)
                batch, size = [], 0
        return counts + self._count_batch(batch)

    def _count_batch(self, texts: list[str]) -> list[int]:
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding) for encoding in encoded]

    def tokenizer(self) -> Any | None:
        """The tokenizer itself."""
        return self._tokenizer


def counter_for_openai(model: str, *, patience: float = 5.0) -> TokenCounter:
    """tiktoken's counter, where its vocabulary can be had within ``patience`` seconds.

    Else the estimate: a fetch that hangs or fails stops nobody.
    """
    made: list[TokenCounter] = []

    def make() -> None:
        # tiktoken's fetch raises whatever its transport does and has no time-out of its own.
        with contextlib.suppress(Exception):
            made.append(TiktokenCounter(model))

    thread = threading.Thread(target=make, name="tiktoken", daemon=True)
    thread.start()
    thread.join(patience)
    return made[0] if made else EstimateCounter()
