"""Attention scores from any causal model that transformers loads, in this process.

The model runs with torch's fast attention; ``capture`` keeps the rows that are wanted. A prefix is
read once: its keys are kept while there is room for them, so that later questions about the same
window cost their own tokens only. The idea of keeping the queries of the question and the keys of
the window is that of QRHead (Zhang et al., EMNLP 2025, arXiv 2506.09944).

Needs the extra ``attention``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from reader.attention.model import (
    AttentionInfo,
    AttentionRequest,
    AttentionScores,
    AttentionTokenizer,
    check_request,
)
from reader.attention.waiting import Wanted, kind_of
from reader.attention.window_pass import WindowPass
from reader.errors import MissingExtra, OutOfMemory, WindowTooSmall

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    from reader.attention.loading import Loaded
    from reader.attention.model import FloatArray

EXTRA = ("torch", "transformers", "gguf", "accelerate")
BATCH_TOKENS = {"cpu": 1_024, "cuda": 32_768}  # a CPU is slower with more, which takes masks
KEPT_BYTES = 1 << 29
PADDING = 0.15  # of a batch, at most, is padding

T = TypeVar("T")


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
        wanted = [Wanted(request) for request in requests]
        with loaded.waiting.holding(wanted):
            for batch in self._batches(requests, loaded):
                if any(wanted[at].scores is None for at in batch):
                    todo = [wanted[at] for at in batch]
                    await _in_thread(loaded.thread, self._score, loaded, todo)
        return [one.taken() for one in wanted]

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
        found: FloatArray = await _in_thread(
            loaded.thread, self._diverged, loaded, ids, without, last
        )
        return found

    def _diverged(
        self, loaded: Loaded, ids: tuple[int, ...], without: tuple[int, ...], last: int
    ) -> Any:
        import torch

        with torch.inference_mode():
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
            key=lambda at: (kind_of(requests[at]), -len(requests[at].prefix), at),
        )
        batch: list[int] = []
        for at in order:
            if batch:
                longest = len(requests[batch[0]].prefix)
                fits = (len(batch) + 1) * longest <= most and loaded.shares
                alike = len(requests[at].prefix) >= longest * (1 - PADDING)
                if not (fits and alike and kind_of(requests[at]) == kind_of(requests[batch[0]])):
                    yield batch
                    batch = []
            batch.append(at)
        if batch:
            yield batch

    # In a thread -------------------------------------------------------------------------

    def _score(self, loaded: Loaded, batch: Sequence[Wanted]) -> None:
        """A batch, and what others wait for on its windows; alone, then in halves, where memory
        does not do for it.
        """
        todo = [wanted for wanted in batch if wanted.scores is None]
        also = loaded.waiting.like(todo) if loaded.shares else []
        if not (also and self._tried(loaded, [*todo, *also])):
            self._halved(loaded, todo)

    def _halved(self, loaded: Loaded, todo: Sequence[Wanted]) -> None:
        """A part of a batch, in ever smaller parts."""
        if self._tried(loaded, todo):
            return
        half = len(todo) // 2
        for part in (todo[:half], todo[half:]):
            self._halved(loaded, part)

    def _tried(self, loaded: Loaded, todo: Sequence[Wanted]) -> bool:
        """Whether memory did for it.

        Raises:
            OutOfMemory: not even for a single one.
        """
        import torch

        if not todo:
            return True
        try:
            with torch.inference_mode():
                asked = [wanted.request for wanted in todo]
                found = WindowPass(loaded, asked, range(len(asked)), self._kept_bytes).run()
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            loaded.kept.clear()
            if len(todo) > 1:
                return False
            raise OutOfMemory(
                f"Memory does not do for a window of {todo[0].request.tokens} tokens.",
                hint="Use smaller windows, a smaller model, or dtype bfloat16.",
            ) from error
        for at, wanted in enumerate(todo):
            wanted.scores = found[at]
        loaded.heap.after(sum(scores.read_tokens for scores in found.values()))
        return True


async def _in_thread(thread: Executor, call: Callable[..., T], *given: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, call, *given)


def _out_of_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "allocate memory" in said
        or "not enough memory" in said
    )


_LOADING = threading.Lock()


def _load(path: str, dtype: str | None, device: str | None) -> Loaded:
    """The model; questions that begin at the same time wait for one load."""
    with _LOADING:
        return _loaded_last(path, dtype, device)


@lru_cache(maxsize=1)
def _loaded_last(path: str, dtype: str | None, device: str | None) -> Loaded:
    """The last one stays loaded, as loading takes longer than a question."""
    from reader.attention.loading import load

    return load(path, dtype, device)
