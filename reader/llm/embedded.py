"""A model that runs inside this process: llama.cpp's own server, spoken to like any other.

The server listens on this machine only, on a free port, and wants a key that nobody else has.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from reader.budget import Price
from reader.errors import MissingExtra, ModelError
from reader.llm.types import ChatReply, ChatRequest, ModelInfo, OnToken
from reader.llm.weights import CatalogueWeights, FileWeights, HubWeights, Weights
from reader.tokens import TokenCounter

if TYPE_CHECKING:
    from reader.llm.served import ServedModel
    from reader.llm.transfer import OnProgress

CONTEXT_TOKENS = 16_384
SLOTS = 2
SECONDS_FOR_A_CALL = 3600.0  # a full window on a slow machine, behind others in the queue
PROMPT_CACHE_MIB = 1024
BATCH_TOKENS = 256
READ_AHEAD_BLOCK = 4 << 20  # bytes


class EmbeddedModel:
    """A GGUF model that llama.cpp runs in this process, as a ``ChatModel``.

    Nothing is fetched or loaded before the first reply or the first count of tokens; ``aclose``
    frees the memory, and the object can be used again. It may be used from several event loops.

    At temperature 0 equal requests get equal replies, also when the prompt comes from the prompt
    cache in part. With several requests at once, near-ties between tokens can fall differently.

    Args:
        weights: Where they come from.
        context_tokens: Tokens of prompt and reply together that each slot has; never more than
            the model was trained for.
        slots: Requests answered at once; each needs memory for its context.
        threads: Of llama.cpp, which chooses by itself when not given.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        context_tokens: int = CONTEXT_TOKENS,
        slots: int = SLOTS,
        threads: int | None = None,
    ) -> None:
        self._weights = weights
        self._context = context_tokens
        self._slots = slots
        self._threads = threads
        self._lock = Lock()  # of the two below; taken in worker threads only
        self._engine: Any = None
        self._served: ServedModel | None = None
        self._info: ModelInfo | None = None

    @classmethod
    def from_catalogue(
        cls,
        name: str = "embedded",
        *,
        folder: str | Path | None = None,
        on_progress: OnProgress | None = None,
        **settings: Any,
    ) -> Self:
        """A model of the catalogue, fetched on first use.

        Args:
            name: "embedded", "embedded:large" or "embedded:tiny".
            folder: Where weights are kept; see ``reader.llm.download.models_folder``.
            on_progress: Called with (title, bytes done, bytes in total) from a worker thread.
            **settings: ``context_tokens``, ``slots``, ``threads``.

        Raises:
            UnknownModel: the catalogue has no such model.
        """
        from reader.llm.catalogue import entry

        return cls(CatalogueWeights(entry(name), folder, on_progress), **settings)

    @classmethod
    def from_path(cls, path: str | Path, **settings: Any) -> Self:
        """A GGUF file on disk."""
        return cls(FileWeights(Path(path).expanduser()), **settings)

    @classmethod
    def from_hub(
        cls,
        name: str,
        *,
        folder: str | Path | None = None,
        on_progress: OnProgress | None = None,
        **settings: Any,
    ) -> Self:
        """A GGUF file of the model hub, "OWNER/NAME/FILE.gguf", fetched on first use.

        Raises:
            UnknownModel: the name is not of that form.
        """
        return cls(HubWeights(name, folder, on_progress), **settings)

    @property
    def identity(self) -> str | None:
        """``ModelInfo.identity``; None for a file that is not here yet."""
        return self._weights.identity

    async def info(self) -> ModelInfo:
        """Describe the model; loads nothing (a file of the hub is fetched).

        Raises:
            UnknownModel: the file is missing or is not a GGUF model.
            DownloadFailed: a file of the hub could not be fetched.
        """
        if self._info is None:
            about = await self._weights.about()
            self._info = ModelInfo(
                name=about.name,
                identity=about.identity,
                window=min(self._context, about.window),
                counter=EngineCounter(self, about.identity),
                json_schema=True,
                price=Price(prompt=0, completion=0),
                notice=about.notice,
                concurrency=self._slots,
            )
        return self._info

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """Answer one request; a cancelled call stops the engine's work on it.

        Raises:
            MissingExtra: xllamacpp is not installed.
            ModelError: one of its kinds; DownloadFailed where the weights could not be fetched.
        """
        return await (await self.served()).generate(request, on_token)

    async def aclose(self) -> None:
        """Stop the engine and free its memory."""
        if self._served is not None:
            await self._served.aclose()
        await asyncio.to_thread(self._stop)

    async def served(self) -> ServedModel:
        """The running engine, started where it is not.

        Raises:
            MissingExtra: xllamacpp is not installed.
            ModelError: the weights cannot be fetched or loaded.
        """
        if (running := self._served) is not None:
            return running
        window = (await self.info()).window
        path = await self._weights.path()
        return await asyncio.to_thread(self._start, path, window)

    def _start(self, path: Path, window: int) -> ServedModel:
        from reader.llm.served import ServedModel

        with self._lock:
            if self._served is None:
                key = secrets.token_hex(32)
                self._engine = start_engine(
                    path, key, window=window, slots=self._slots, threads=self._threads
                )
                self._served = ServedModel(
                    f"{self._engine.listening_address}/v1",
                    api_key=key,
                    timeout=SECONDS_FOR_A_CALL,
                    window=window,
                )
            return self._served

    def _stop(self) -> None:
        with self._lock:
            self._engine = self._served = None


class EngineCounter:
    """Counts with the model's own tokenizer, which starts the engine at the first count."""

    exact = True

    def __init__(self, model: EmbeddedModel, identity: str) -> None:
        self.name = identity
        self._model = model

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text alone.

        Raises:
            ModelError: the engine cannot be started.
        """
        return await (await self._counter()).count(texts)

    async def count_messages(self, turns: Sequence[tuple[str, str]]) -> int:
        """Tokens of the rendered chat template with these turns and the answer cue.

        Raises:
            ModelError: the engine cannot be started.
        """
        return await (await self._counter()).count_messages(turns)

    def tokenizer(self) -> None:
        """None: the tokenizer is in the engine."""
        return

    async def _counter(self) -> TokenCounter:
        return (await (await self._model.served()).info()).counter


def start_engine(path: Path, key: str, *, window: int, slots: int, threads: int | None) -> Any:
    """Load a model and serve it; the engine stops when the object is dropped.

    Args:
        path: The GGUF file.
        key: What callers must show.
        window: Tokens of each slot.
        slots: Requests answered at once.
        threads: Of llama.cpp, None for its own choice.

    Raises:
        MissingExtra: xllamacpp is not installed.
        ModelError: llama.cpp cannot load the file.
    """
    try:
        import xllamacpp  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra(
            "Running a model in this process needs xllamacpp.",
            hint='Install it with "pip install xllamacpp", or name another model.',
        ) from error

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.verbosity = -1
    params.n_parallel = slots
    # A shared KV cache and flash attention both make a token's scores depend on what else lies in
    # the cache, and with it the reply at temperature 0. Each slot gets its own window instead.
    params.kv_unified = False
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_ctx = window * slots
    # A cancelled call is noticed between batches: small ones are noticed soon.
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.warmup = False
    if threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    try:
        read_ahead(path)
        return xllamacpp.Server(params)
    except (RuntimeError, OSError) as error:
        raise ModelError(
            f"llama.cpp cannot load {path.name}.",
            hint="The file may be damaged or too new for the installed xllamacpp, or the memory"
            " too small: a smaller context_tokens= or fewer slots= need less.",
        ) from error


def read_ahead(path: Path) -> None:
    """Bring a file into the system's page cache.

    Loading holds up all other Python threads; waiting for a slow disk is done before, here.
    """
    block = bytearray(READ_AHEAD_BLOCK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass
