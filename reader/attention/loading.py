"""Loading a causal model with our attention function in it, and seeing that it is used.

Needs torch and transformers; imported late.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from reader.attention import capture
from reader.attention.heap import Heap
from reader.attention.kept_keys import KeptKeys
from reader.attention.model import AttentionInfo, model_shape
from reader.attention.tokenizer import FastTokenizer
from reader.attention.waiting import Waiting
from reader.errors import OutOfMemory, UnknownModel, UnsupportedModel
from reader.llm.download import models_folder
from reader.llm.gguf import file_identity
from reader.llm.transfer import file_sha256

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
PROBE = 8  # tokens
UNUSUAL = "Use a plain decoder model, such as those of the Llama, Qwen, Gemma or Mistral families."


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to be looked into.

    Attributes:
        body: Its layers, without the head that makes words.
        tokenizer: Its tokenizer.
        info: What the library knows of it.
        device: Where it is.
        device_kind: "cpu" or "cuda".
        shares: Its state after a prefix is keys and values alone, so that tails can share it.
        packs: Every layer sees the whole text, so that several tails fit one sequence.
        cache_name: What its forward calls these, which changed in transformers 5.2x.
        words: The head that makes words.
        kept: Keys of the prefixes read last, for all that use the model in this process.
        heap: Gives freed memory back.
        waiting: What is wanted by all that use the model.
        thread: Runs the passes, one at a time. The C library gives each thread memory of its own
            and keeps what was freed there, so with threads in turn memory grows.
    """

    body: Any
    tokenizer: FastTokenizer
    info: AttentionInfo
    device: torch.device
    device_kind: str
    shares: bool
    packs: bool
    cache_name: str
    words: Any
    kept: KeptKeys = field(default_factory=KeptKeys)
    heap: Heap = field(default_factory=Heap)
    waiting: Waiting = field(default_factory=Waiting)
    thread: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "attention"))


def load(path: str, dtype: str | None, device: str | None) -> Loaded:
    """Load a folder or a GGUF file; see ``TransformersAttention``.

    Raises:
        UnknownModel: no model there, or none that transformers reads.
        UnsupportedModel: not a causal model, or its attention cannot be reached.
        OutOfMemory: it does not fit.
    """
    from transformers import AutoConfig, AutoTokenizer

    file = Path(path).expanduser()
    where = _where(file)
    identity = _identity(file)
    kept = _kept_folder(file, identity) if "gguf_file" in where else None
    if kept is not None and (kept / "config.json").is_file():
        where = _where(kept)
    with _translated(file):
        config = AutoConfig.from_pretrained(**where)
        refuse_other_kinds(config, file.name)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = _model(where, config, dtype, device)
        if kept is not None and "gguf_file" in where:
            _keep(model, tokenizer, kept)
    return wrap(model, FastTokenizer(tokenizer), name=file.name, identity=identity)


def wrap(model: Any, tokenizer: FastTokenizer, *, name: str, identity: str) -> Loaded:
    """A transformers model whose attention function is ours, probed.

    Raises:
        UnsupportedModel: it is not causal, or its attention does not go through the function.
    """
    config = model.config.get_text_config()
    body = model.get_decoder() or model.base_model
    attending = probe(body, int(config.vocab_size), name)
    layers, heads = int(config.num_hidden_layers), int(config.num_attention_heads)
    device = next(model.parameters()).device
    info = AttentionInfo(
        name=name,
        identity=identity,
        window=int(getattr(config, "max_position_embeddings", None) or 2048),
        layers=layers,
        heads=heads,
        attending=attending,
        shape=model_shape(
            str(config.model_type),
            layers=layers,
            heads=heads,
            hidden=int(config.hidden_size),
            vocabulary=int(config.vocab_size),
        ),
    )
    cache_name = "cache" if "cache" in signature(body.forward).parameters else "past_key_values"
    shares = len(attending) == layers
    words = model.get_output_embeddings()
    packs = shares and sees_all(config)
    return Loaded(body, tokenizer, info, device, device.type, shares, packs, cache_name, words)


def sees_all(config: Any) -> bool:
    """Whether no layer has a sliding window, or chunks, or slopes by distance."""
    kinds = getattr(config, "layer_types", None)
    sliding = getattr(config, "sliding_window", None) if kinds is None else None
    slopes = getattr(config, "alibi", False)
    return not slopes and not sliding and set(kinds or ()) <= {"full_attention"}


def refuse_other_kinds(config: Any, name: str) -> None:
    """Refuse what its configuration already says not to be a causal decoder.

    Raises:
        UnsupportedModel: it is none.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    text = config.get_text_config()
    kinds = {config.model_type, text.model_type}
    named = " ".join(getattr(config, "architectures", None) or ())
    masked = "MaskedLM" in named and not getattr(text, "is_decoder", False)
    if config.is_encoder_decoder or masked or not kinds & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        raise UnsupportedModel(
            f"{name} is no causal language model ({named or config.model_type}).", hint=UNUSUAL
        )


def probe(body: Any, vocabulary: int, name: str) -> tuple[int, ...]:
    """The layers with attention, from two short passes that differ in their last token.

    Raises:
        UnsupportedModel: no layer calls the function; or an early token knows of a later one.
    """
    device = next(body.parameters()).device
    first = [(7 * i + 3) % vocabulary for i in range(PROBE)]
    second = [*first[:-1], (first[-1] + 1) % vocabulary]
    keys = []
    for ids in (first, second):
        seen = capture.Capture(last=1 << 30)
        token = capture.CURRENT.set(seen)
        try:
            with torch.inference_mode():
                body(input_ids=torch.tensor([ids], device=device), use_cache=False)
        finally:
            capture.CURRENT.reset(token)
        if seen.keys is None:
            raise UnsupportedModel(
                f"The attention of {name} cannot be reached: no layer of it uses transformers' "
                "attention interface.",
                hint=UNUSUAL,
            )
        keys.append(seen.keys[:, :, : PROBE - 1].float())
    if not torch.allclose(keys[0], keys[1], atol=1e-3, rtol=1e-2):
        raise UnsupportedModel(
            f"{name} is not causal: its first tokens depend on later ones.", hint=UNUSUAL
        )
    return tuple(sorted(set(seen.calls)))


def _where(file: Path) -> dict[str, Any]:
    """How transformers is told of a folder or a GGUF file.

    Raises:
        UnknownModel: there is neither.
    """
    if file.is_dir() and (file / "config.json").is_file():
        return {"pretrained_model_name_or_path": str(file), "local_files_only": True}
    if file.is_file() and file.suffix == ".gguf":
        where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        return {**where, "local_files_only": True}
    raise UnknownModel(
        f"There is no model at {file}.",
        hint="Pass a .gguf file, or a folder with config.json, tokenizer.json and the weights.",
    )


def _model(where: dict[str, Any], config: Any, dtype: str | None, device: str | None) -> Any:
    """The weights, dequantized where they are not plain."""
    from transformers import AutoModelForCausalLM

    capture.register()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = DTYPES[dtype] if dtype else _best_dtype(device)
    more: dict[str, Any] = {}
    if "gguf_file" in where:
        from transformers import GgufConfig

        more["quantization_config"] = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        **where, **more, config=config, dtype=kind, attn_implementation=capture.NAME
    )
    return model.to(device).eval()


def _kept_folder(file: Path, identity: str) -> Path:
    """Where a GGUF file's plain weights are kept."""
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return models_folder() / "dequantized" / f"{file.stem}-{digest}"


def _keep(model: Any, tokenizer: Any, folder: Path) -> None:
    """Keep dequantized weights: making them takes 10 to 60 seconds, reading them one.

    Another process may do the same at the same time; the folder appears whole. Without room on the
    disk nothing is kept.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        model.save_pretrained(half)
        tokenizer.save_pretrained(half)
        half.rename(folder)
    except OSError:
        shutil.rmtree(half, ignore_errors=True)


def _best_dtype(device: str) -> torch.dtype:
    """bfloat16 where the processor computes with it, which older ones only imitate."""
    if device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def _identity(file: Path) -> str:
    if file.is_file():
        return file_identity(file)
    weights = sorted(file.glob("*.safetensors")) or sorted(file.glob("*.bin"))
    hashes = [file_identity(part) for part in weights]
    return "|".join([file_sha256(file / "config.json")[:16], *hashes])


@contextmanager
def _translated(file: Path) -> Iterator[None]:
    """What transformers raises, as this library's errors; its progress bars stay silent."""
    from functools import partial

    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging as bars

    quiet = logging.getLogger("transformers")
    level, bar = quiet.level, gguf.tqdm
    quiet.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    gguf.tqdm = partial(bar, disable=True)  # this one does not listen to the switch
    try:
        yield
    except (ValueError, KeyError, AttributeError, ImportError) as error:
        raise UnsupportedModel(
            f"transformers cannot load {file.name}: {_first_line(error)}", hint=UNUSUAL
        ) from error
    except OSError as error:
        raise UnknownModel(
            f"{file} cannot be read as a model: {_first_line(error)}",
            hint="Pass a .gguf file, or a folder with config.json, tokenizer.json and the weights.",
        ) from error
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        raise OutOfMemory(
            f"Memory does not do for {file.name}.",
            hint="Use a smaller model, or dtype bfloat16.",
        ) from error
    finally:
        quiet.setLevel(level)
        gguf.tqdm = bar


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
