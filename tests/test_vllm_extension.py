"""What the extension keeps of the steps of a vLLM worker, against attention computed plainly.

The worker here is a stand-in with vLLM's names; tests/test_vllm.py runs the real one.
"""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from reader.attention.model import AttentionRequest, Head, Tail
from reader.attention.vllm_extension import (
    EXTRA_ARG,
    MOST_LOOKS,
    SECONDS_KEPT,
    AttentionRows,
)
from reader.attention.vllm_looks import VLLMScorer, unpacked
from reader.errors import InvalidOption, RateLimited, ServerFailed, WindowTooSmall

HEADS, KEY_HEADS, SIZE, LAYERS = 4, 2, 8, 3
SCALE = SIZE**-0.5


class Attention(torch.nn.Module):
    """vLLM's module as the extension sees it."""

    def __init__(self, number: int, **impl) -> None:
        super().__init__()
        self.layer_name = f"model.layers.{number}.self_attn.attn"
        self.num_heads, self.num_kv_heads, self.head_size = HEADS, KEY_HEADS, SIZE
        self.sliding_window = impl.pop("sliding_window", None)
        self.attn_type = impl.pop("attn_type", "decoder")
        self.impl = SimpleNamespace(**{"scale": SCALE, "logits_soft_cap": None, **impl})

    def forward(self, query, key, value):
        return query


class Block(torch.nn.Module):
    def __init__(self, number: int, **impl) -> None:
        super().__init__()
        self.attn = Attention(number, **impl)


class Model(torch.nn.Module):
    def __init__(self, **impl) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Block(n, **impl) for n in range(LAYERS))


class Worker(AttentionRows):
    """A worker whose queries and keys are a fixed function of the tokens before them."""

    def __init__(self, step_tokens: int = 1000, prefix_cache: int = 0, **impl) -> None:
        self.model = Model(**impl)
        self.model_runner = SimpleNamespace(
            get_model=lambda: self.model, requests={}, input_batch=None, query_start_loc=None
        )
        model = SimpleNamespace(
            hf_text_config=SimpleNamespace(
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                model_type="toy",
                hidden_size=HEADS * SIZE,
                vocab_size=100,
            ),
            served_model_name="toy",
            model="owner/toy",
            revision=None,
            max_model_len=513,
            enforce_eager=True,
        )
        self.vllm_config = SimpleNamespace(
            model_config=model,
            parallel_config=SimpleNamespace(decode_context_parallel_size=1),
            scheduler_config=SimpleNamespace(max_num_batched_tokens=1, max_num_seqs=1),
            speculative_config=None,
        )
        self.model_runner.input_batch = SimpleNamespace(num_computed_tokens_cpu=[], req_ids=[])
        self.step_tokens = step_tokens
        self.block = prefix_cache
        self.cached: set[tuple[str, tuple[int, ...]]] = set()
        self.computed = 0

    def run(self, prompts) -> None:
        """Read all prompts ``(id, tokens, key, salt)`` in steps, mixed in every batch."""
        waiting = []
        for number, (ids, key, salt) in enumerate(prompts):
            extra = {EXTRA_ARG: key} if key else None
            params = SimpleNamespace(extra_args=extra)
            self.model_runner.requests[f"r{number}"] = SimpleNamespace(sampling_params=params)
            waiting.append([f"r{number}", ids, None, salt])
        while waiting:
            room, batch = self.step_tokens, []
            for one in waiting:
                if one[2] is None:
                    one[2] = self._hit(one[1], one[3])
                count = min(len(one[1]) - one[2], room)
                if count > 0:
                    batch.append((one, count))
                    self._cache(one[1][: one[2] + count], one[3])
                    room -= count
            self.step([(o[0], o[1], o[2], count) for o, count in batch])
            for one, count in batch:
                one[2] += count
            waiting = [one for one in waiting if one[2] < len(one[1])]

    def step(self, batch) -> None:
        """One forward pass over ``(request id, tokens, first, count)`` each."""
        runner = self.model_runner
        starts = np.cumsum([0, *(count for *_, count in batch)])
        runner.query_start_loc = SimpleNamespace(np=starts)
        runner.input_batch = SimpleNamespace(
            num_reqs=len(batch),
            req_ids=[name for name, *_ in batch],
            num_computed_tokens_cpu=[first for _, _, first, _ in batch],
        )
        self.computed += int(starts[-1])
        CONTEXT[0] = SimpleNamespace(attn_metadata={"any": None})
        for layer in range(LAYERS):
            made = [vectors(ids, layer) for _, ids, _, _ in batch]
            cut = [slice(first, first + count) for _, _, first, count in batch]
            query = torch.cat([q[c] for (q, _), c in zip(made, cut, strict=True)]).flatten(1)
            key = torch.cat([k[c] for (_, k), c in zip(made, cut, strict=True)]).flatten(1)
            self.model.layers[layer].attn(query, key, key)

    def _hit(self, ids, salt) -> int:
        """Tokens that the prefix cache serves: whole blocks, never the last token."""
        hit = 0
        while self.block and hit + self.block < len(ids):
            if (salt, tuple(ids[: hit + self.block])) not in self.cached:
                break
            hit += self.block
        return hit

    def _cache(self, ids, salt) -> None:
        for end in range(self.block, len(ids) + 1, self.block or 1):
            self.cached.add((salt, tuple(ids[:end])))


CONTEXT = [None]


@pytest.fixture(autouse=True)
def _vllm(monkeypatch):
    context, distributed = ModuleType("vllm.forward_context"), ModuleType("vllm.distributed")
    context.get_forward_context = lambda: CONTEXT[0]
    distributed.get_tensor_model_parallel_rank = lambda: RANK[0]
    RANK[0] = 0
    for module in (ModuleType("vllm"), context, distributed):
        monkeypatch.setitem(sys.modules, module.__name__, module)


RANK = [0]


def vectors(ids, layer):
    """Queries ``[tokens, heads, size]`` and keys; each depends on all tokens up to its own."""
    queries, keys = [], []
    state = 7 + layer
    for token in ids:
        state = (state * 31 + token) % 1_000_003
        made = torch.Generator().manual_seed(state)
        queries.append(torch.randn(HEADS, SIZE, generator=made))
        keys.append(torch.randn(KEY_HEADS, SIZE, generator=made))
    return torch.stack(queries), torch.stack(keys)


def plain(request, softcap=None, sliding=None, sinks=None):
    """The scores of a request by the formula, all tokens by all tokens."""
    found = []
    for tail in request.tails:
        ids = request.prefix + tail.ids
        rows = [row + len(request.prefix) for row in tail.rows]
        weights = torch.tensor(tail.weights or [1.0] * len(rows))
        each = []
        for layer, head in request.heads:
            query, key = vectors(ids, layer)
            products = query[:, head] @ key[:, head // (HEADS // KEY_HEADS)].T * SCALE
            if softcap:
                products = softcap * torch.tanh(products / softcap)
            place = torch.arange(len(ids))
            unseen = place[None] > place[:, None]
            if sliding:
                unseen |= place[None] <= place[:, None] - sliding
            if request.kind == "logits":
                shares = products.masked_fill(unseen, 0)
            else:
                e = products.masked_fill(unseen, -math.inf).exp()
                shares = e / (e.sum(-1, keepdim=True) + (0 if sinks is None else sinks[head].exp()))
            each.append(shares[rows, slice(*request.columns)])
        if request.per_row:
            found.append(torch.stack(each).mean(0).numpy())
        else:
            share = (weights / weights.sum())[:, None]
            found.append(torch.stack([(one * share).sum(0) for one in each]).numpy())
    return found


class Scorer(VLLMScorer):
    """Reads with stand-in workers; ``chats`` are other people's requests in every batch."""

    def __init__(self, *workers, chats=(), broken=None) -> None:
        super().__init__()
        self.workers, self.chats, self.broken = workers, chats, broken
        self.read = 0

    async def tokenizer(self):
        raise NotImplementedError

    async def _call(self, method, *args):
        found = []
        for rank, worker in enumerate(self.workers):
            RANK[0] = rank
            found.append(json.loads(json.dumps(getattr(worker, method)(*args))))
        return found

    async def _read(self, looks):
        self.read += 1
        if self.broken:
            raise self.broken
        for rank, worker in enumerate(self.workers):
            RANK[0] = rank
            prompts = [(look.ids, look.key, look.salt) for look in looks]
            worker.run([*prompts, *((ids, None, "chat") for ids in self.chats)])


def window(number=0, tokens=40, **more):
    made = np.random.default_rng(number)
    prefix = tuple(int(i) for i in made.integers(0, 100, tokens))
    tails = [tuple(int(i) for i in made.integers(0, 100, size)) for size in (9, 6, 12)]
    more.setdefault("heads", (Head(1, 3), Head(0, 0), Head(1, 2)))
    return AttentionRequest(
        prefix=prefix,
        tails=tuple(Tail(ids, (2, 4, len(ids) - 1)) for ids in tails),
        columns=(3, tokens - 2),
        **more,
    )


def scored(worker, *requests, **more):
    return asyncio.run(Scorer(worker, **more).score(requests))


def same(found, request, **formula):
    for ours, by_formula in zip(found.tails, plain(request, **formula), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, by_formula, atol=2e-6)


@pytest.mark.parametrize("step_tokens", [1000, 64, 7])
@pytest.mark.parametrize("more", [{}, {"per_row": True}, {"kind": "logits"}])
def test_scores_are_those_of_the_formula_in_one_step_or_many(step_tokens, more):
    request = window(**more)
    [found] = scored(Worker(step_tokens), request)
    same(found, request)


@pytest.mark.parametrize("step_tokens", [1000, 50])
def test_windows_in_one_batch_and_chats_beside_them_are_told_apart(step_tokens):
    requests = [window(n, 20 + 5 * n) for n in range(6)]
    chats = [tuple(range(n, n + 30)) for n in range(4)]
    worker = Worker(step_tokens)
    for found, request in zip(scored(worker, *requests, chats=chats), requests, strict=True):
        same(found, request)


def test_tails_share_what_the_prefix_cache_kept():
    request = window(tokens=64)
    whole, shared = Worker(), Worker(prefix_cache=16)
    [apart] = scored(whole, request)
    [found] = scored(shared, request)
    same(found, request)
    assert apart.read_tokens == whole.computed == 3 * 64 + 27
    assert found.read_tokens == shared.computed == 64 + 27


def test_a_row_that_the_prefix_cache_served_is_read_once_more_alone():
    twice = window(tokens=30)
    request = AttentionRequest(
        prefix=twice.prefix,
        tails=(Tail(tuple(range(20)), (0, 19)), Tail(tuple(range(20)), (0, 19))),
        columns=(0, 30),
        heads=twice.heads,
    )
    scorer = Scorer(Worker(prefix_cache=8))
    [found] = asyncio.run(scorer.score([request]))
    same(found, request)
    assert scorer.read == 2


def test_weights_sliding_windows_caps_and_sinks():
    request = window()
    tails = tuple(Tail(t.ids, t.rows, (1.0, 2.0, 5.0)) for t in request.tails)
    weighted = AttentionRequest(
        prefix=request.prefix, tails=tails, columns=request.columns, heads=request.heads
    )
    [found] = scored(Worker(), weighted)
    same(found, weighted)
    [found] = scored(Worker(sliding_window=11), request)
    same(found, request, sliding=11)
    [found] = scored(Worker(logits_soft_cap=2.0), request)
    same(found, request, softcap=2.0)
    sinks = torch.tensor([0.5, 1.5, -1.0, 2.0])
    [found] = scored(Worker(sinks=sinks), request)
    same(found, request, sinks=sinks)


def test_columns_may_reach_into_the_tails():
    request = AttentionRequest(
        prefix=(5, 6),
        tails=(Tail(tuple(range(12)), (3, 11)),),
        columns=(0, 14),
        heads=(Head(2, 1),),
    )
    for step_tokens in (100, 5):
        [found] = scored(Worker(step_tokens), request)
        same(found, request)


def test_an_empty_prefix_is_allowed():
    request = AttentionRequest(
        prefix=(), tails=(Tail(tuple(range(20)), (19,)),), columns=(0, 15), heads=(Head(0, 2),)
    )
    [found] = scored(Worker(6), request)
    same(found, request)


def test_a_preempted_request_counts_once():
    request = window()
    look = "a"
    worker = Worker()
    [tail] = request.tails[:1]
    spec = {
        "key": look, "group": "g", "prefix": 40, "tokens": 49, "rows": [42, 44, 48],
        "weights": [1 / 3] * 3, "heads": [[0, 0]], "columns": [3, 38],
        "per_row": False, "logits": False,
    }  # fmt: skip
    worker.reader_attention_open(json.dumps({"looks": [spec]}))
    params = SimpleNamespace(extra_args={EXTRA_ARG: look})
    worker.model_runner.requests["r"] = SimpleNamespace(sampling_params=params)
    ids = request.prefix + tail.ids
    worker.step([("r", ids, 0, 45)])
    worker.step([("r", ids, 0, 49)])  # from the beginning
    taken = worker.reader_attention_take(json.dumps([look]))["taken"][look]
    one = AttentionRequest(
        prefix=request.prefix, tails=(tail,), columns=(3, 38), heads=(Head(0, 0),)
    )
    np.testing.assert_allclose(unpacked(taken["layers"]["0"]), plain(one)[0], atol=2e-6)


def test_workers_of_a_tensor_parallel_group_answer_for_their_own_heads(monkeypatch):
    """Two ranks with two of four heads each, as vLLM splits them."""

    def halved(rank):
        worker = Worker()
        for block in worker.model.layers:
            block.attn.num_heads, block.attn.num_kv_heads = 2, 1
        full = worker.step

        def step(batch):
            attns = [block.attn for block in worker.model.layers]
            forwards = [attn.forward for attn in attns]
            for attn in attns:
                hooks = attn._forward_pre_hooks
                attn.register_forward_pre_hook(
                    lambda m, args, kwargs: (
                        tuple(part(a, rank) for a in args), kwargs
                    ),
                    with_kwargs=True, prepend=True,
                )  # fmt: skip
                assert hooks is attn._forward_pre_hooks
            full(batch)
            assert len(forwards) == LAYERS

        worker.step = step
        return worker

    def part(flat, rank):
        heads = flat.shape[1] // SIZE
        return flat.unflatten(1, (heads, SIZE)).chunk(2, 1)[rank].flatten(1)

    for more in ({}, {"per_row": True}):
        request = window(**more)
        [found] = asyncio.run(Scorer(halved(0), halved(1)).score([request]))
        same(found, request)


def test_no_hook_while_nothing_is_open_and_none_on_other_layers():
    worker = Worker()

    def hooked():
        return [len(block.attn._forward_pre_hooks) for block in worker.model.layers]

    spec = {
        "key": "a", "group": "g", "prefix": 0, "tokens": 4, "rows": [3], "weights": [1.0],
        "heads": [[1, 0]], "columns": [0, 2], "per_row": False, "logits": False,
    }  # fmt: skip
    worker.reader_attention_open(json.dumps({"looks": [spec]}))
    assert hooked() == [0, 1, 0]
    worker.reader_attention_take(json.dumps(["a"]))
    assert hooked() == [0, 0, 0]


def test_nothing_is_kept_of_chats():
    worker = Worker()
    spec = {
        "key": "a", "group": "g", "prefix": 0, "tokens": 4, "rows": [3], "weights": [1.0],
        "heads": [[1, 0]], "columns": [0, 2], "per_row": False, "logits": False,
    }  # fmt: skip
    worker.reader_attention_open(json.dumps({"looks": [spec]}))
    worker.run([((1, 2, 3, 4), None, "s"), ((1, 2, 3, 4), "another", "s")])
    [look] = worker._reader_attention_state._looks.values()
    assert not look.found
    assert not look.tail.keys
    assert worker.reader_attention_take(json.dumps(["a"]))["missing"] == ["a"]


def test_looks_that_nobody_takes_are_forgotten():
    worker = Worker()
    now = [0.0]
    worker.reader_attention_describe()
    state = worker._reader_attention_state
    state._clock = lambda: now[0]

    def spec(key):
        return {
            "key": key, "group": "g", "prefix": 0, "tokens": 4, "rows": [3], "weights": [1.0],
            "heads": [[1, 0]], "columns": [0, 2], "per_row": False, "logits": False,
        }  # fmt: skip

    worker.reader_attention_open(json.dumps({"looks": [spec("old")]}))
    now[0] = SECONDS_KEPT + 1
    worker.reader_attention_open(json.dumps({"looks": [spec("new")]}))
    assert list(state._looks) == ["new"]
    full = {"looks": [spec(str(n)) for n in range(MOST_LOOKS)]}
    assert worker.reader_attention_open(json.dumps(full))["trouble"] == "full"


def test_a_failure_while_reading_leaves_nothing_open():
    worker = Worker()
    with pytest.raises(ServerFailed):
        scored(worker, window(), broken=ServerFailed("no"))
    assert not worker._reader_attention_state._looks


def test_a_restarted_server_is_an_error_that_may_be_tried_again():
    class Forgetful(Scorer):
        async def _read(self, looks):
            for worker in self.workers:
                worker.__dict__.pop("_reader_attention_state")

    with pytest.raises(ServerFailed) as caught:
        asyncio.run(Forgetful(Worker()).score([window()]))
    assert caught.value.retryable


def test_a_full_worker_asks_to_slow_down(monkeypatch):
    monkeypatch.setattr("reader.attention.vllm_extension.MOST_LOOKS", 2)
    with pytest.raises(RateLimited):
        scored(Worker(), window())


def test_requests_are_checked_before_anything_is_sent():
    scorer = Scorer(Worker())
    with pytest.raises(WindowTooSmall):
        asyncio.run(scorer.score([window(tokens=600)]))
    with pytest.raises(InvalidOption):
        asyncio.run(scorer.score([window(heads=(Head(9, 0),))]))
    assert scorer.read == 0


def test_importing_it_is_light():
    code = (
        "import sys, reader.attention.vllm_extension\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'openai', 'langgraph', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
