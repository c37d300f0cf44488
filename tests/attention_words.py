"""An attention model for tests: a word looks at the same word, and its heads differ by design."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np

from reader.attention.model import (
    AttentionInfo,
    AttentionRequest,
    AttentionScores,
    Encoding,
    check_request,
)

_TOKEN = re.compile(r"<\|\w+\|>|\w+|[^\w\s]|\s+")
SHAPE = "words/4x2/8/100"
GOOD = (2, 1)
"""The one head that looks at equal words; the others look at the first token."""


class Words:
    """Words, marks and blanks; in the template, names of special tokens are one token each."""

    name = "words"

    def encode(self, text: str, *, template: bool = False) -> Encoding:
        matches = list(_TOKEN.finditer(text))
        ids = [
            -1 - len(m[0]) if m[0].startswith("<|") and template else crc32(m[0].lower().encode())
            for m in matches
        ]
        return Encoding(tuple(ids), tuple(m.span() for m in matches))

    def chat(self, turns: Sequence[Mapping[str, str]]) -> str:
        said = "".join(f"<|user|>{turn['content']}<|end|>" for turn in turns)
        return f"<|start|>{said}<|assistant|>"


class WordAttention:
    """Scores of head (2, 1): the share of a row among the columns with the row's own word."""

    def __init__(
        self, *, window: int = 512, shape: str = SHAPE, error: Exception | None = None
    ) -> None:
        self.window = window
        self.shape = shape
        self.error = error
        self.requests: list[AttentionRequest] = []
        self.read: list[tuple[int, ...]] = []
        self.identity = f"words:{window}:{shape}"

    async def info(self) -> AttentionInfo:
        return AttentionInfo(
            name="words",
            identity=self.identity,
            window=self.window,
            layers=4,
            heads=2,
            attending=(0, 1, 2, 3),
            shape=self.shape,
        )

    async def tokenizer(self) -> Words:
        return Words()

    async def score(self, requests: Sequence[AttentionRequest]) -> list[AttentionScores]:
        found = []
        for request in requests:
            check_request(request, await self.info())
            if self.error is not None:
                raise self.error
            self.requests.append(request)
            found.append(self._one(request))
        return found

    async def aclose(self) -> None:
        pass

    def _one(self, request: AttentionRequest) -> AttentionScores:
        first, last = request.columns
        arrays = []
        read = sum(len(tail.ids) for tail in request.tails)
        if request.prefix not in self.read:
            self.read.append(request.prefix)
            read += len(request.prefix)
        blanks = {crc32(b) for b in (b" ", b"\n", b"\n\n", b".", b"?", b",", b":")}
        for tail in request.tails:
            ids = np.array(request.prefix + tail.ids)
            rows = np.zeros((len(request.heads), len(tail.rows), last - first), np.float32)
            for h, head in enumerate(request.heads):
                for r, row in enumerate(tail.rows):
                    if tuple(head) != GOOD:
                        rows[h, r, 0] = 0.02
                        continue
                    here = len(request.prefix) + row
                    same = ids[:here] == ids[here]
                    if ids[here] in blanks or not same.any():
                        continue
                    rows[h, r] = (same / same.sum())[first:last] if last <= here else 0.0
            weights = np.array(tail.weights or [1.0] * len(tail.rows), np.float32)
            weights /= weights.sum()
            arrays.append(
                rows.mean(0) if request.per_row else np.einsum("hrc,r->hc", rows, weights)
            )
        return AttentionScores(tuple(arrays), read)
