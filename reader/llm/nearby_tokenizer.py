"""The tokenizer of a served model, where its file lies on this machine too.

A server counts one text a request; a book has thousands of pieces. vLLM tells where it has its
model from: a folder, which a server on this machine shares with us, or a repository of the model
hub, whose files may be in the hub's cache. No network is used.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from reader.errors import UnknownModel
from reader.tokens import HuggingFaceCounter, TokenCounter

PROBE = (
    "The Mill Bridge, built 1758-62 for £1,234.50, isn't open.\n\n\tdef f(x): return x**2  # ≥ 3\n"
    "Größe, naïve, cœur; Ελληνικά, Русский, עברית, العربية, हिन्दी, ไทย, 日本語, 한국어 🙂👩‍🚀\n"
    "<|im_start|>user<|im_end|> <s> </s> [INST] aaaaaaaaaaaaaaaa      0123456789 ﬁ\u200b\u00a0."
)
"""Many scripts, figures, marks and special tokens: tokenizers that differ count it differently."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


async def tokenizer_like(counter: TokenCounter, source: object) -> HuggingFaceCounter | None:
    """A tokenizer in this process that counts as ``counter`` does, None where there is none.

    Args:
        counter: The server's.
        source: Where the server says that its model comes from.

    Raises:
        ModelError: the server does not answer.
    """
    found = await asyncio.to_thread(_found, source) if isinstance(source, str) else None
    if found is None:
        return None
    lines = [PROBE, *PROBE.splitlines()]
    return found if await found.count(lines) == await counter.count(lines) else None


def _found(source: str) -> HuggingFaceCounter | None:
    path = Path(source) / "tokenizer.json"
    if not path.is_file():
        if not _REPOSITORY.fullmatch(source):
            return None
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source, "tokenizer.json")
        if not isinstance(cached, str):
            return None
        path = Path(cached)
    try:
        return HuggingFaceCounter(path)
    except UnknownModel:
        return None
