"""A Hugging Face tokenizer as the attention models need it: offsets, and the chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from reader.attention.model import Encoding
from reader.errors import UnsupportedModel


class FastTokenizer:
    """A tokenizer of transformers that is backed by ``tokenizers``.

    Raises:
        UnsupportedModel: it has no offsets, so that no token leads back to the text.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UnsupportedModel(
                f"The tokenizer {type(tokenizer).__name__} does not tell where tokens stand.",
                hint="Use a model folder with a tokenizer.json.",
            )
        saved = backend.to_str()
        self._template = Tokenizer.from_str(saved)
        self._plain = Tokenizer.from_str(saved)
        for one in (self._template, self._plain):
            one.no_truncation()
            one.no_padding()
        self._plain.encode_special_tokens = True
        self._chat = tokenizer
        self._start = _added_start(tokenizer)
        self.name = hashlib.sha256(saved.encode()).hexdigest()[:12]

    def encode(self, text: str, *, template: bool = False) -> Encoding:
        """Tokens of a text as it stands; see ``AttentionTokenizer.encode``."""
        used = self._template if template else self._plain
        found = used.encode(text, add_special_tokens=False)
        return Encoding(tuple(found.ids), tuple(found.offsets))

    def chat(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The turns in the model's chat template; see ``AttentionTokenizer.chat``.

        A template that knows no system turn gets its text at the head of the first user turn.
        """
        if not getattr(self._chat, "chat_template", None):
            return self._start + "\n\n".join(turn["content"] for turn in turns)
        try:
            text = self._render(list(turns))
        except Exception:  # noqa: BLE001 - a template raises whatever it likes
            text = self._render(_without_system(turns))
        return text if text.startswith(self._start) else self._start + text

    def backend(self) -> Any:
        """The ``tokenizers.Tokenizer`` that reads no special token in a text, for counting."""
        return self._plain

    def _render(self, turns: list[Mapping[str, str]]) -> str:
        return str(
            self._chat.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        )


def _without_system(turns: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    system = [turn["content"] for turn in turns if turn["role"] == "system"]
    others = [dict(turn) for turn in turns if turn["role"] != "system"]
    if system and others:
        others[0]["content"] = "\n\n".join([*system, others[0]["content"]])
    return list(others)


def _added_start(tokenizer: Any) -> str:
    """The start token, where the tokenizer puts one before every text."""
    start = getattr(tokenizer, "bos_token", None)
    if not start:
        return ""
    first = tokenizer("a")["input_ids"][:1]
    return str(start) if first == [tokenizer.bos_token_id] else ""
