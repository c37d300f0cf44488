"""Attention rows out of a running vLLM: a class that vLLM mixes into its worker.

Named on a server's command line (``--worker-extension-cls``) or given to
``LLM(worker_extension_cls=...)`` as ``reader.attention.vllm_extension.AttentionRows``. A caller
opens *looks* (which tokens of a prompt look, in which heads), sends each prompt as an ordinary
request of one new token that carries the look's key in ``SamplingParams.extra_args``, and takes the
scores. In between, pre-hooks on the wanted ``Attention`` modules see queries and keys after rotary
embedding and keep what is wanted.

Several looks, and chats of other people, may share a batch: the requests of a step are told apart
by the model runner's batch, and nothing is kept of a request that carries no key. A prompt may come
in several steps (chunked prefill). A prefix that several looks share is kept once, under their
``group``; vLLM's prefix cache may serve it to all but the first, as its keys are then here already.
The hooks are there only while looks are open: otherwise serving costs nothing.

Runs in the server: imports nothing but torch and the standard library before it is used.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reader.attention.vllm_rows import Kept, Layer, Look, attention, packed, padded

if TYPE_CHECKING:
    import torch

VERSION = 1  # of what the methods take and give
EXTRA_ARG = "reader_attention"
SECONDS_KEPT = 3600.0  # of a look that nobody takes: its caller is gone
MOST_LOOKS = 4096


@dataclass(frozen=True, slots=True)
class Scored:
    """A request of this step that carries a look's key.

    Attributes:
        look: What is wanted of it.
        first: Where its tokens begin in the batch.
        count: How many of its tokens the step computes.
        start: Position of the first of them in the prompt.
    """

    look: Look
    first: int
    count: int
    start: int


class AttentionRows:
    """Methods that vLLM's worker gets; reached by ``collective_rpc``. Arguments and results are
    JSON. A worker of a tensor-parallel group answers for its own heads, one of a pipeline for its
    own layers."""

    def reader_attention_describe(self) -> dict[str, Any]:
        """What ``AttentionInfo`` needs, and why this server cannot score, in ``trouble``."""
        return _state(self).describe()

    def reader_attention_tokenizer(self) -> dict[str, Any]:
        """The tokenizer as JSON (zlib, base64) with its start token."""
        tokenizer = _state(self).tokenizer()
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            return {"kind": type(tokenizer).__name__, "json": None}
        added = tokenizer("a")["input_ids"][:1]
        return {
            "kind": type(tokenizer).__name__,
            "json": base64.b64encode(zlib.compress(backend.to_str().encode())).decode(),
            "chat": bool(getattr(tokenizer, "chat_template", None)),
            "start": tokenizer.bos_token or "",
            "adds_start": bool(tokenizer.bos_token) and added == [tokenizer.bos_token_id],
        }

    def reader_attention_chat(self, turns: str) -> dict[str, Any]:
        """The turns (JSON) in the chat template, or what the template says against them."""
        tokenizer = _state(self).tokenizer()
        try:
            text = tokenizer.apply_chat_template(
                json.loads(turns), tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # noqa: BLE001 - a template raises whatever it likes
            return {"text": None, "error": str(error)}
        return {"text": text, "error": None}

    def reader_attention_open(self, looks: str) -> dict[str, Any]:
        """Wait for the requests of these looks (JSON)."""
        return _state(self).open(json.loads(looks))

    def reader_attention_take(self, keys: str) -> dict[str, Any]:
        """Scores of these looks (JSON list of keys), which are forgotten."""
        return _state(self).take(json.loads(keys))


def _state(worker: Any) -> State:
    """The worker's one state, made at the first call."""
    state = worker.__dict__.get("_reader_attention_state")
    if state is None:
        state = worker.__dict__["_reader_attention_state"] = State(worker)
    return state  # type: ignore[no-any-return]


class State:
    """Open looks of one worker, and the hooks that serve them."""

    def __init__(self, worker: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._looks: dict[str, Look] = {}
        self._hooks: list[Any] = []
        self._step: tuple[Any, list[Scored]] | None = None
        self._tokenizer: Any = None
        self._modules = dict(attention_modules(worker.model_runner.get_model()))

    # What it is ----------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """See ``AttentionRows.reader_attention_describe``."""
        config = self._worker.vllm_config
        model = config.model_config
        text = model.hf_text_config
        return {
            "version": VERSION,
            "trouble": self._trouble(),
            "name": _served_name(model),
            "identity": _identity(model),
            "window": int(model.max_model_len),
            "layers": int(text.num_hidden_layers),
            "heads": int(text.num_attention_heads),
            "attending": sorted(n for n, m in self._modules.items() if _readable(m)),
            "kind": str(text.model_type),
            "hidden": int(text.hidden_size),
            "vocabulary": int(text.vocab_size),
            "batch_tokens": int(config.scheduler_config.max_num_batched_tokens),
            "batch_requests": int(config.scheduler_config.max_num_seqs),
        }

    def tokenizer(self) -> Any:
        """The tokenizer of the served model, loaded once."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            model = self._worker.vllm_config.model_config
            self._tokenizer = AutoTokenizer.from_pretrained(
                model.tokenizer,
                revision=model.tokenizer_revision,
                trust_remote_code=model.trust_remote_code,
            )
        return self._tokenizer

    def _trouble(self) -> str:
        """ "" where scoring works, else a code: "eager", "runner", "attention", "parallel"."""
        config = self._worker.vllm_config
        if not config.model_config.enforce_eager:
            return "eager"
        batch = getattr(self._worker.model_runner, "input_batch", None)
        if batch is None or not hasattr(batch, "num_computed_tokens_cpu"):
            return "runner"
        if not any(map(_readable, self._modules.values())):
            return "attention"
        parallel = config.parallel_config
        split = ("data_parallel_size", "decode_context_parallel_size")
        if config.speculative_config or any(getattr(parallel, name, 1) > 1 for name in split):
            return "parallel"
        return ""

    # Looks ---------------------------------------------------------------------------------

    def open(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Wait for these looks: ``{"looks": [...]}``, each with the fields of ``Look``."""
        self._forget_old()
        groups: dict[str, Kept] = {}
        looks = wanted["looks"]
        if len(self._looks) + len(looks) > MOST_LOOKS:
            return {"opened": 0, "trouble": "full"}
        for one in looks:
            shared = groups.setdefault(one["group"], Kept(int(one["prefix"])))
            look = Look(
                key=one["key"],
                tokens=int(one["tokens"]),
                rows=[int(row) for row in one["rows"]],
                weights=[float(weight) for weight in one["weights"]],
                heads=self._here(one["heads"]),
                columns=(int(one["columns"][0]), int(one["columns"][1])),
                per_row=bool(one["per_row"]),
                logits=bool(one["logits"]),
                prefix=shared,
                tail=Kept(int(one["tokens"]) - shared.tokens),
                touched=self._clock(),
            )
            self._looks[look.key] = look
        self._hook()
        return {"opened": len(looks), "trouble": ""}

    def take(self, keys: list[str]) -> dict[str, Any]:
        """Scores by key: ``layers`` to an array each; ``missing`` names looks without all rows."""
        taken: dict[str, Any] = {}
        missing: list[str] = []
        for key in keys:
            look = self._looks.pop(key, None)
            if look is None or any(
                len(look.done.get(layer, ())) < len(look.rows) for layer in look.heads
            ):
                missing.append(key)
                continue
            taken[key] = {
                "computed": look.computed,
                "layers": {
                    str(layer): {"heads": look.heads[layer], **packed(found)}
                    for layer, found in look.found.items()
                },
            }
        self._forget_old()
        self._hook()
        return {"taken": taken, "missing": missing}

    def _here(self, heads: list[list[int]]) -> dict[int, list[int]]:
        """Those of the (layer, head) pairs that this worker computes."""
        here: dict[int, list[int]] = {}
        for layer, head in heads:
            module = self._modules.get(layer)
            if module is not None and _readable(module):
                first = _tensor_rank() * module.num_heads
                if first <= head < first + module.num_heads:
                    here.setdefault(int(layer), []).append(int(head))
        return here

    def _forget_old(self) -> None:
        now = self._clock()
        for key in [k for k, look in self._looks.items() if now - look.touched > SECONDS_KEPT]:
            del self._looks[key]

    # Hooks ---------------------------------------------------------------------------------

    def _hook(self) -> None:
        """Hooks on the layers that open looks want, and on no others."""
        for hook in self._hooks:
            hook.remove()
        self._step = None
        self._hooks = [
            self._modules[layer].register_forward_pre_hook(self._hook_of(layer), with_kwargs=True)
            for layer in sorted({layer for look in self._looks.values() for layer in look.heads})
        ]

    def _hook_of(self, layer: int) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], None]:
        def see(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = {**dict(zip(("query", "key"), args, strict=False)), **kwargs}
            self._see(layer, module, given["query"], given["key"])

        return see

    def _see(self, layer: int, module: Any, query: torch.Tensor, key: torch.Tensor) -> None:
        """One layer of one step: ``[tokens of the batch, heads x size]`` each."""
        requests = [one for one in self._requests() if layer in one.look.heads]
        if not requests:
            return
        query = query.view(len(query), module.num_heads, module.head_size)
        key = key.view(len(key), module.num_kv_heads, module.head_size)
        for one in requests:  # all keys first: a request may share a prefix of the same step
            step = key[one.first : one.first + one.count]
            shared = one.look.prefix.tokens
            one.look.prefix.put(layer, one.start, step)
            own = max(shared - one.start, 0)
            one.look.tail.put(layer, one.start + own - shared, step[own:])
        for one in requests:
            self._score(layer, module, one, query)

    def _score(self, layer: int, module: Any, one: Scored, query: torch.Tensor) -> None:
        look, end = one.look, one.start + one.count
        done = look.done.setdefault(layer, set())
        rows = [
            at
            for at, row in enumerate(look.rows)
            if one.start <= row < end and at not in done  # a preempted request comes again
        ]
        if not rows:
            return
        keys = look.keys(layer, max(look.rows[at] for at in rows) + 1)
        if keys is None:
            return
        places = [look.rows[at] for at in rows]
        first = _tensor_rank() * module.num_heads
        heads = [head - first for head in look.heads[layer]]
        shares = attention(
            query[[one.first + place - one.start for place in places]][:, heads],
            keys,
            [head // (module.num_heads // module.num_kv_heads) for head in heads],
            places,
            Layer.of(module, heads),
            logits=look.logits,
        )
        look_at = slice(look.columns[0], look.columns[1])
        width = look.columns[1] - look.columns[0]
        shares = shares[:, :, look_at]
        shares = padded(shares, width)
        if look.per_row:
            found = look.found.get(layer)
            if found is None:
                found = look.found[layer] = shares.new_zeros(len(look.rows), width)
            found[rows] = shares.sum(0)
        else:
            weights = shares.new_tensor([look.weights[at] for at in rows])
            mean = (shares * weights[None, :, None]).sum(1)
            before = look.found.get(layer)
            look.found[layer] = mean if before is None else before + mean
        done.update(rows)

    def _requests(self) -> list[Scored]:
        """The scored requests of the step under way; found once a step."""
        from vllm.forward_context import get_forward_context

        context = get_forward_context()
        if self._step is not None and self._step[0] is context:
            return self._step[1]
        found = []
        if isinstance(context.attn_metadata, dict):  # None in a dummy run
            found = list(self._split())
        for one in found:
            one.look.computed += one.count
            one.look.touched = self._clock()
        self._step = (context, found)
        return found

    def _split(self) -> Iterator[Scored]:
        """The batch of the model runner, request by request."""
        runner = self._worker.model_runner
        batch = runner.input_batch
        starts = runner.query_start_loc.np
        for at, request_id in enumerate(batch.req_ids[: batch.num_reqs]):
            params = runner.requests[request_id].sampling_params
            extra = (params.extra_args if params is not None else None) or {}
            look = self._looks.get(extra.get(EXTRA_ARG, ""))
            first, last = int(starts[at]), int(starts[at + 1])
            start = int(batch.num_computed_tokens_cpu[at])
            if look is not None and start < look.tokens:
                count = min(last - first, look.tokens - start)
                yield Scored(look, first, count, start)


def attention_modules(model: Any) -> Iterator[tuple[int, Any]]:
    """vLLM's attention modules by the number of their layer."""
    for name, module in model.named_modules():
        if type(module).__name__ == "Attention" and hasattr(module, "num_kv_heads"):
            numbers = [int(part) for part in name.split(".") if part.isdigit()]
            if numbers:
                yield numbers[0], module


def _readable(module: Any) -> bool:
    """Whether a layer's attention is causal and all that the formula above says."""
    return (
        str(getattr(module.attn_type, "value", module.attn_type)) == "decoder"
        and getattr(module, "kv_sharing_target_layer_name", None) is None
        and getattr(module.impl, "alibi_slopes", None) is None
        and not getattr(module, "use_mm_prefix", False)
    )


def _tensor_rank() -> int:
    from vllm.distributed import get_tensor_model_parallel_rank

    return int(get_tensor_model_parallel_rank())


def _served_name(model: Any) -> str:
    name = model.served_model_name
    return str(name[0] if isinstance(name, list) else name or model.model)


def _identity(model: Any) -> str:
    """Of the weights: for a folder the same as transformers' scorer gives it."""
    from reader.llm.gguf import file_identity

    folder = Path(model.model)
    if not folder.is_dir():
        return f"hub:{model.model}@{model.revision or 'main'}"
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()[:16]
    return "|".join([config, *map(file_identity, weights)])
