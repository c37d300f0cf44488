"""Attention scores from any causal model that transformers loads, in this process.

The model runs with torch's fast attention; ``capture`` keeps the rows that are wanted. A prefix is
read once: its keys are kept while there is room for them, so that later questions about the same
window cost their own tokens only. The idea of keeping the queries of the question and the keys of
the window is that of QRHead (Zhang et al., EMNLP 2025, arXiv 2506.09944).

Needs the extra ``attention``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from reader.attention.kept_keys import Keys
from reader.attention.model import (
    AttentionInfo,
    AttentionRequest,
    AttentionScores,
    AttentionTokenizer,
    Tail,
    check_request,
)
from reader.errors import MissingExtra, OutOfMemory, WindowTooSmall

if TYPE_CHECKING:
    from pathlib import Path

    from reader.attention.capture import Capture
    from reader.attention.loading import Loaded
    from reader.attention.model import FloatArray

EXTRA = ("torch", "transformers", "gguf", "accelerate")
BATCH_TOKENS = {"cpu": 4_096, "cuda": 32_768}
TAIL_TOKENS = {"cpu": 2_048, "cuda": 16_384}
KEPT_BYTES = 1 << 29
PADDING = 0.15  # of a batch, at most, is padding


class ModelFiles(Protocol):
    """Where the files of a model are."""

    @property
    def identity(self) -> str | None:
        """As in ``AttentionInfo``; None where the files are needed for it."""
        ...

    async def path(self) -> Path:
        """A folder or a GGUF file; fetched where needed.

        Raises:
            ModelError: it cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Look:
    """One tail of one request, on its way."""

    request: int
    tail: int
    ids: tuple[int, ...]
    rows: tuple[int, ...]
    weights: tuple[float, ...]


class TransformersAttention:
    """A causal model of transformers that tells where its heads look.

    Args:
        files: Where its files are.
        dtype: "bfloat16", "float32", "float16"; None takes bfloat16 where the processor has it.
        device: "cpu", "cuda", "cuda:1"; None takes a GPU where there is one.
        batch_tokens: Tokens of prefixes that are read at once.
        kept_bytes: Memory for keys of prefixes that were read; the last ones are kept.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        dtype: str | None = None,
        device: str | None = None,
        batch_tokens: int | None = None,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._files = files
        self._dtype = dtype
        self._device = device
        self._batch_tokens = batch_tokens
        self._kept_bytes = kept_bytes

    async def info(self) -> AttentionInfo:
        """Load the model and describe it.

        Raises:
            MissingExtra: torch or transformers is not installed.
            UnsupportedModel: its attention is not causal, or cannot be reached.
            UnknownModel: there is no model at the path.
        """
        return (await self._loaded()).info

    async def tokenizer(self) -> AttentionTokenizer:
        """Its tokenizer; loads the model."""
        return (await self._loaded()).tokenizer

    async def score(self, requests: Sequence[AttentionRequest]) -> list[AttentionScores]:
        """Scores of each request, in order; a batch at a time, in a thread.

        Raises:
            InvalidOption: a request names heads, rows or columns that are not there.
            WindowTooSmall: a request is longer than the model's window.
            OutOfMemory: not even one window fits.
        """
        loaded = await self._loaded()
        for request in requests:
            check_request(request, loaded.info)
        found: dict[int, AttentionScores] = {}
        for batch in self._batches(requests, loaded):
            found |= await asyncio.to_thread(self._score, loaded, requests, batch)
        return [found[at] for at in range(len(requests))]

    async def divergences(
        self, ids: tuple[int, ...], without: tuple[int, ...], last: int
    ) -> FloatArray:
        """How the last tokens' next words change; see ``TellsWords.divergences``."""
        loaded = await self._loaded()
        if len(ids) > loaded.info.window:
            raise WindowTooSmall(
                f"{len(ids)} tokens do not fit the window of {loaded.info.name}:"
                f" {loaded.info.window}.",
                hint="Use smaller windows, or a shorter question.",
            )
        found: FloatArray = await asyncio.to_thread(self._diverged, loaded, ids, without, last)
        return found

    def _diverged(
        self, loaded: Loaded, ids: tuple[int, ...], without: tuple[int, ...], last: int
    ) -> Any:
        import torch

        with loaded.lock, torch.inference_mode():
            told = []
            for text in (ids, without):
                hidden = loaded.body(
                    input_ids=torch.tensor([text], device=loaded.device), use_cache=False
                ).last_hidden_state[0, -last:]
                told.append(loaded.words(hidden).float().log_softmax(-1))
            change = (told[0].exp() * (told[0] - told[1])).sum(-1)
        return change.cpu().numpy()

    async def aclose(self) -> None:
        """The model and its keys stay for the next question of this process."""

    async def _loaded(self) -> Loaded:
        missing = [name for name in EXTRA if find_spec(name) is None]
        if missing:  # said before anything is fetched
            raise MissingExtra(
                f"Attention of a model in this process needs {' and '.join(missing)}.",
                hint="Install longdoc-reader[attention], or name a vLLM server: vllm:URL.",
            )
        path = await self._files.path()
        loaded = await asyncio.to_thread(_load, str(path), self._dtype, self._device)
        if self._files.identity is None:
            return loaded
        return replace(loaded, info=replace(loaded.info, identity=self._files.identity))

    def _batches(self, requests: Sequence[AttentionRequest], loaded: Loaded) -> Iterator[list[int]]:
        """Requests of the same kind and of like length, together at most ``batch_tokens``."""
        most = self._batch_tokens or BATCH_TOKENS[loaded.device_kind]
        order = sorted(
            range(len(requests)),
            key=lambda at: (_kind(requests[at]), -len(requests[at].prefix), at),
        )
        batch: list[int] = []
        for at in order:
            if batch:
                longest = len(requests[batch[0]].prefix)
                fits = (len(batch) + 1) * longest <= most and loaded.shares
                alike = len(requests[at].prefix) >= longest * (1 - PADDING)
                if not (fits and alike and _kind(requests[at]) == _kind(requests[batch[0]])):
                    yield batch
                    batch = []
            batch.append(at)
        if batch:
            yield batch

    # In a thread -------------------------------------------------------------------------

    def _score(
        self, loaded: Loaded, requests: Sequence[AttentionRequest], batch: Sequence[int]
    ) -> dict[int, AttentionScores]:
        """A batch; in halves where memory does not do for it."""
        try:
            with loaded.lock:
                return self._score_batch(loaded, requests, batch)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            loaded.kept.clear()
            if len(batch) == 1:
                raise OutOfMemory(
                    f"Memory does not do for a window of {requests[batch[0]].tokens} tokens.",
                    hint="Use smaller windows, a smaller model, or dtype bfloat16.",
                ) from error
        half = len(batch) // 2
        return self._score(loaded, requests, batch[:half]) | self._score(
            loaded, requests, batch[half:]
        )

    def _score_batch(
        self, loaded: Loaded, requests: Sequence[AttentionRequest], batch: Sequence[int]
    ) -> dict[int, AttentionScores]:
        import torch

        with torch.inference_mode():
            return _Pass(loaded, requests, batch, self._kept_bytes).run()


class _Pass:
    """One batch: read the prefixes that are not kept, then look from the tails."""

    def __init__(
        self,
        loaded: Loaded,
        requests: Sequence[AttentionRequest],
        batch: Sequence[int],
        kept_bytes: int,
    ) -> None:
        first = requests[batch[0]]
        self.kept_bytes = kept_bytes
        self.loaded = loaded
        self.requests = requests
        self.batch = batch
        self.heads = sorted(set(first.heads))
        self.last = max(head.layer for head in first.heads)
        self.per_row = first.per_row
        self.kind = first.kind
        self.read = dict.fromkeys(batch, 0)

    def run(self) -> dict[int, AttentionScores]:
        """Scores by the number of the request."""
        keys = self._prefixes()
        arrays: dict[tuple[int, int], Any] = {}
        most = TAIL_TOKENS[self.loaded.device_kind]
        looks = [
            self._look(at, n, tail)
            for at in self.batch
            for n, tail in enumerate(self.requests[at].tails)
        ]
        while looks:
            # Keys are copied once a tail: as many tails at once as the tails' own tokens allow.
            longest, count = 0, 0
            for look in looks:
                longest = max(longest, len(look.ids))
                if count and (count + 1) * longest > most:
                    break
                count += 1
            arrays |= self._tails(looks[:count], keys)
            looks = looks[count:]
        return {
            at: AttentionScores(
                tuple(arrays[at, n] for n in range(len(self.requests[at].tails))), self.read[at]
            )
            for at in self.batch
        }

    def _look(self, at: int, number: int, tail: Tail) -> _Look:
        weights = tail.weights or (1.0,) * len(tail.rows)
        shares = tuple(weight / sum(weights) for weight in weights)
        if self.loaded.shares:
            return _Look(at, number, tail.ids, tail.rows, shares)
        # A model whose state is not keys alone reads prefix and tail in one.
        prefix = self.requests[at].prefix
        rows = tuple(row + len(prefix) for row in tail.rows)
        return _Look(at, number, prefix + tail.ids, rows, shares)

    def _prefixes(self) -> dict[int, Keys]:
        """Keys of every request's prefix."""
        if not self.loaded.shares:
            return {at: Keys((), 0) for at in self.batch}
        found: dict[tuple[int, ...], Keys] = {}
        for at in self.batch:
            prefix = self.requests[at].prefix
            kept = self.loaded.kept.find(prefix, self.last) if prefix else Keys((), 0)
            if kept is not None:
                found[prefix] = kept
        missing: dict[tuple[int, ...], int] = {}
        for at in self.batch:
            if self.requests[at].prefix not in found:
                missing.setdefault(self.requests[at].prefix, at)
        if missing:
            for prefix, keys in zip(missing, self._read(list(missing)), strict=True):
                found[prefix] = keys
                self.read[missing[prefix]] += len(prefix)
                self.loaded.kept.keep(prefix, keys, self.kept_bytes)
        return {at: found[self.requests[at].prefix] for at in self.batch}

    def _read(self, prefixes: Sequence[tuple[int, ...]]) -> list[Keys]:
        """Read prefixes, padded on the left, up to the last wanted layer's keys."""
        from transformers import DynamicCache

        from reader.attention.capture import Capture

        longest = max(map(len, prefixes))
        cache = DynamicCache()
        self._forward(prefixes, [longest - len(p) for p in prefixes], cache, Capture(self.last))
        found = []
        for row, prefix in enumerate(prefixes):
            pad = longest - len(prefix)
            layers = tuple(
                (layer.keys[row, :, pad:], layer.values[row, :, pad:])
                for layer in cache.layers[: self.last + 1]
            )
            if len(prefixes) > 1:  # a view would keep the whole batch alive
                layers = tuple((k.clone(), v.clone()) for k, v in layers)
            found.append(Keys(layers, len(prefix)))
        return found

    def _tails(self, looks: Sequence[_Look], keys: dict[int, Keys]) -> dict[tuple[int, int], Any]:
        """Rows of several tails, each after its own prefix."""
        import torch

        from reader.attention.capture import Capture

        device = self.loaded.device
        longest_row = max(len(look.rows) for look in looks)
        rows = torch.zeros(len(looks), longest_row, dtype=torch.long, device=device)
        weights = torch.zeros(len(looks), longest_row, device=device)
        for at, look in enumerate(looks):
            rows[at, : len(look.rows)] = torch.tensor(look.rows, device=device)
            weights[at, : len(look.rows)] = torch.tensor(look.weights, device=device)
            self.read[look.request] += len(look.ids)
        by_layer: dict[int, list[int]] = {}
        for head in self.heads:
            by_layer.setdefault(head.layer, []).append(head.head)
        capture = Capture(self.last, by_layer, rows, weights, self.per_row, self.kind)
        longest = max(keys[look.request].tokens for look in looks)
        cache, pads = _joined([keys[look.request] for look in looks], longest)
        self._forward([look.ids for look in looks], pads, cache, capture, before=longest)
        return {
            (look.request, look.tail): self._array(look, at, pads[at], capture)
            for at, look in enumerate(looks)
        }

    def _array(self, look: _Look, at: int, pad: int, capture: Capture) -> Any:
        """One tail's scores as a numpy array of its own."""
        import torch

        request = self.requests[look.request]
        first, last = (column + pad for column in request.columns)
        if self.per_row:
            assert capture.by_row is not None
            array = capture.by_row[at, : len(look.rows), first:last] / len(self.heads)
        else:
            array = torch.stack([capture.per_head[head][at, first:last] for head in request.heads])
        return array.float().cpu().numpy()

    def _forward(
        self,
        texts: Sequence[tuple[int, ...]],
        pads: Sequence[int],
        cache: Any,
        capture: Capture,
        *,
        before: int = 0,
    ) -> None:
        """One pass over token ids; prefixes (``before`` is 0) are padded left, tails right."""
        import torch

        from reader.attention.capture import CURRENT, Enough

        width = max(map(len, texts))
        ids = torch.zeros(len(texts), width, dtype=torch.long)
        mask = torch.ones(len(texts), before + width, dtype=torch.long)
        places = torch.zeros(len(texts), width, dtype=torch.long)
        for at, (text, pad) in enumerate(zip(texts, pads, strict=True)):
            start = 0 if before else pad if self.loaded.shares else 0
            ids[at, start : start + len(text)] = torch.tensor(text)
            mask[at, :pad] = 0
            first = before - pad if before else 0
            places[at, start:] = torch.arange(first, first + width - start)
        device = self.loaded.device
        whole = bool(mask.all())
        token = CURRENT.set(capture)
        try:
            self.loaded.body(
                input_ids=ids.to(device),
                attention_mask=None if whole and not before else mask.to(device),
                position_ids=places.to(device),
                **{self.loaded.cache_name: cache},
                use_cache=cache is not None,
            )
        except Enough:
            pass
        finally:
            CURRENT.reset(token)


def _joined(windows: Sequence[Keys], longest: int) -> tuple[Any, list[int]]:
    """Keys of several windows as one cache, padded on the left, and the paddings."""
    import torch
    from transformers import DynamicCache

    pads = [longest - window.tokens for window in windows]
    if not windows[0].layers:
        return None, pads
    cache = DynamicCache()
    for layer in range(min(len(window.layers) for window in windows)):
        parts = []
        for which in (0, 1):
            sides = [
                torch.nn.functional.pad(window.layers[layer][which], (0, 0, pad, 0))
                for window, pad in zip(windows, pads, strict=True)
            ]
            parts.append(torch.stack(sides))
        cache.update(parts[0], parts[1], layer)
    return cache, pads


def _kind(request: AttentionRequest) -> tuple[Any, ...]:
    return request.per_row, request.kind, tuple(sorted(set(request.heads))), not request.prefix


def _out_of_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "allocate memory" in said
        or "not enough memory" in said
    )


@lru_cache(maxsize=1)
def _load(path: str, dtype: str | None, device: str | None) -> Loaded:
    """The model; the last one stays loaded, as loading takes longer than a question."""
    from reader.attention.loading import load

    return load(path, dtype, device)
