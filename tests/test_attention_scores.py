"""Scores of the transformers scorer against the full attention that transformers computes."""

from __future__ import annotations

import asyncio
import ctypes
import random
import resource
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny_models
from reader.attention import heap
from reader.attention.model import AttentionRequest, Head, Tail
from reader.attention.resolve import LocalFiles, open_attention
from reader.attention.transformers_model import TransformersAttention
from reader.attention.waiting import Wanted
from reader.errors import (
    InvalidOption,
    MissingExtra,
    OutOfMemory,
    UnknownModel,
    UnsupportedModel,
    WindowTooSmall,
)

torch = pytest.importorskip("torch")
NAMES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt_oss")
ALL = tuple(Head(layer, head) for layer in range(4) for head in range(4))

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scorer(config, **settings) -> TransformersAttention:
    """A scorer around a random model, without files."""
    from reader.attention import capture, loading
    from reader.attention.tokenizer import FastTokenizer

    capture.register()
    model = tiny_models.random_model(config, capture.NAME)
    loaded = loading.wrap(
        model, FastTokenizer(tiny_models.tokenizer()), name="tiny", identity="tiny"
    )
    made = TransformersAttention(LocalFiles(Path("nowhere")), **settings)

    async def ready():
        return loaded

    made._loaded = ready
    return made


def requests(heads=ALL) -> list[AttentionRequest]:
    """Three windows of different lengths, with two questions each; one with weighted rows."""
    draw = random.Random(7)

    def ids(count):
        return tuple(draw.randrange(300) for _ in range(count))

    return [
        AttentionRequest(
            prefix=ids(length),
            tails=(
                Tail(ids(9), (4, 6, 8), (1.0, 2.0, 3.0)),
                Tail(ids(6), (2, 3, 4, 5)),
            ),
            columns=(2, length + 4),
            heads=heads,
        )
        for length in (40, 37, 44)
    ]


def eager(model, request, tail):
    """``[heads, rows, columns]`` from transformers' own attention."""
    with torch.no_grad():
        layers = model(torch.tensor([request.prefix + tail.ids]), output_attentions=True).attentions
    every = torch.stack([layers[head.layer][0, head.head] for head in request.heads])
    rows = [len(request.prefix) + row for row in tail.rows]
    return every[:, rows, request.columns[0] : request.columns[1]].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_full_attention(name):
    """Rotary variants, shared key heads, q/k norms, sliding windows, soft caps, sinks; batches."""
    config = tiny_models.configurations()[name]
    reference = tiny_models.random_model(config, "eager")
    asked = requests()
    model = scorer(config)
    by_head = asyncio.run(model.score(asked))
    by_row = asyncio.run(model.score([replace(request, per_row=True) for request in asked]))
    for request, heads, rows in zip(asked, by_head, by_row, strict=True):
        for at, tail in enumerate(request.tails):
            full = eager(reference, request, tail)
            weights = np.array(tail.weights or [1.0] * len(tail.rows))
            mean = np.einsum("hrc,r->hc", full, weights / weights.sum())
            np.testing.assert_allclose(heads.tails[at], mean, atol=1e-4)
            np.testing.assert_allclose(rows.tails[at], full.mean(0), atol=1e-4)
            assert heads.tails[at].dtype == np.float32
            # The comparison would say nothing if attention were even.
            assert full.max() > 5 * np.median(full[full > 0])


def test_products_before_the_softmax_rank_as_shares_do():
    """Within a row and a head the softmax is monotonous."""
    model = scorer(tiny_models.configurations()["llama"])
    one = replace(
        requests()[0], heads=(Head(1, 2),), tails=(Tail((5, 6, 7), (2,)),), columns=(0, 40)
    )
    (shares,) = asyncio.run(model.score([one]))
    (products,) = asyncio.run(model.score([replace(one, kind="logits")]))
    assert list(np.argsort(shares.tails[0][0])) == list(np.argsort(products.tails[0][0]))
    assert products.tails[0].min() < 0 < shares.tails[0].min()


def test_only_the_layers_up_to_the_last_wanted_one_are_run():
    model = scorer(tiny_models.configurations()["llama"])
    loaded = asyncio.run(model._loaded())
    ran = []
    for number, layer in enumerate(loaded.body.layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
    asyncio.run(model.score(requests(heads=(Head(2, 1), Head(0, 3)))))
    assert set(ran) == {0, 1}  # of the last one, only the attention's own part


def test_a_window_is_read_once_for_all_questions_now_and_later():
    model = scorer(tiny_models.configurations()["qwen2"])
    request = requests()[0]
    (first,) = asyncio.run(model.score([request]))
    (again,) = asyncio.run(model.score([replace(request, tails=request.tails[1:])]))
    assert first.read_tokens == 40 + 9 + 6
    assert again.read_tokens == 6
    np.testing.assert_allclose(first.tails[1], again.tails[0], atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("per_row", [False, True])
def test_several_tails_without_a_prefix(name, per_row):
    config = tiny_models.configurations()[name]
    request = replace(requests()[0], prefix=(), columns=(0, 6), per_row=per_row)
    (both,) = asyncio.run(scorer(config).score([request]))
    for tail, found in zip(request.tails, both.tails, strict=True):
        (alone,) = asyncio.run(scorer(config).score([replace(request, tails=(tail,))]))
        np.testing.assert_allclose(found, alone.tails[0], atol=1e-6)


def test_questions_of_several_callers_on_a_window_share_a_pass(monkeypatch):
    from reader.attention import window_pass

    request = replace(requests()[0], columns=(2, 40))
    config = tiny_models.configurations()["llama"]
    nothing = Tail((1, 2, 3), (1,))  # all ask it, as they do "N/A"
    asked = [replace(request, tails=(tail, nothing)) for tail in request.tails]
    other = replace(request, prefix=request.prefix[::-1])
    alone = [asyncio.run(scorer(config).score([one]))[0] for one in (*asked, other)]
    model = scorer(config)
    real, passes, begun, go = window_pass.WindowPass.run, [], threading.Event(), threading.Event()

    def run(self):
        passes.append([self.requests[at] for at in self.batch])
        begun.set()
        assert go.wait(60)
        return real(self)

    monkeypatch.setattr(window_pass.WindowPass, "run", run)

    async def together():
        first = asyncio.create_task(model.score([other]))
        await asyncio.to_thread(begun.wait, 60)
        rest = [asyncio.create_task(model.score([one])) for one in asked]
        loaded = await model._loaded()
        while len(loaded.waiting.wanted) < 3:
            await asyncio.sleep(0.001)
        go.set()
        return [(await task)[0] for task in (*rest, first)]

    found = asyncio.run(together())
    assert sorted(map(len, passes)) == [1, 2]
    for one, expected in zip(found, alone, strict=True):
        for a, b in zip(one.tails, expected.tails, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    lengths = [len(tail.ids) for tail in request.tails]
    assert sum(one.read_tokens for one in found[:2]) == len(request.prefix) + sum(lengths) + 3
    assert asyncio.run(model._loaded()).waiting.wanted == []


def test_without_memory_for_others_each_caller_still_gets_its_own(monkeypatch):
    from reader.attention import window_pass

    request = requests()[0]
    model = scorer(tiny_models.configurations()["llama"])
    loaded = asyncio.run(model._loaded())
    others = Wanted(request)
    real = window_pass.WindowPass.run

    def run(self):
        if len(self.batch) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self)

    monkeypatch.setattr(window_pass.WindowPass, "run", run)
    with loaded.waiting.holding([others]):
        (found,) = asyncio.run(model.score([request]))
    assert len(found.tails) == len(request.tails)
    assert others.scores is None


def test_kept_keys_that_end_too_early_are_made_anew():
    model = scorer(tiny_models.configurations()["qwen2"])
    request = requests()[0]
    asyncio.run(model.score([replace(request, heads=(Head(1, 0),))]))
    (found,) = asyncio.run(model.score([replace(request, heads=(Head(3, 0),))]))
    assert found.read_tokens == 40 + 9 + 6


def test_keys_do_not_grow_without_bound():
    model = scorer(tiny_models.configurations()["qwen2"], kept_bytes=60_000)
    asyncio.run(model.score(requests()))
    kept = asyncio.run(model._loaded()).kept.kept
    assert 0 < sum(keys.bytes for keys in kept.values()) <= 60_000
    assert len(kept) < 3


def test_keys_of_a_prefix_are_one_block_of_memory():
    model = scorer(tiny_models.configurations()["qwen2"])
    asyncio.run(model.score(requests()))
    kept = asyncio.run(model._loaded()).kept.kept
    assert len(kept) == 3
    for keys in kept.values():
        parts = [part for pair in keys.layers for part in pair]
        assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
        assert parts[0].untyped_storage().nbytes() == keys.bytes


def passes(model) -> list[tuple[threading.Thread, int]]:
    """Of each pass from now on: the thread, and how many tokens are side by side."""
    seen = []

    def note(body, given, named):
        seen.append((threading.current_thread(), named["input_ids"].shape[1]))

    loaded = asyncio.run(model._loaded())
    loaded.body.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def test_prefixes_of_many_lengths_are_read_in_few_shapes():
    model = scorer(tiny_models.configurations()["qwen2"], batch_tokens=1)
    seen = passes(model)
    (one, *_) = requests()
    for length in range(30, 128, 7):
        asyncio.run(model.score([replace(one, prefix=(5,) * length, columns=(0, length))]))
    tails = sum(len(tail.ids) for tail in one.tails)
    assert {tokens for _, tokens in seen} == {64, 128, tails}


def test_a_round_length_is_never_beyond_the_models_window():
    config = tiny_models.configurations()["qwen2"]
    config.max_position_embeddings = window = 100
    model = scorer(config, batch_tokens=1)
    seen = passes(model)
    assert asyncio.run(model.info()).window == window
    (one, *_) = requests()
    longest = window - max(len(tail.ids) for tail in one.tails)
    asyncio.run(model.score([replace(one, prefix=(5,) * longest, columns=(0, 9))]))
    assert max(tokens for _, tokens in seen) == window


def test_all_passes_run_in_one_thread_whoever_asks():
    model = scorer(tiny_models.configurations()["qwen2"])
    seen = passes(model)

    async def together():
        await asyncio.gather(*(model.score([request]) for request in requests()))

    asyncio.run(together())
    asyncio.run(model.score([replace(requests()[0], prefix=(7,) * 20, columns=(0, 20))]))
    assert len({thread for thread, _ in seen}) == 1
    assert seen[0][0] is not threading.current_thread()


def test_batches_change_nothing():
    config = tiny_models.configurations()["gemma3"]
    together = asyncio.run(scorer(config).score(requests()))
    alone = asyncio.run(scorer(config, batch_tokens=1).score(requests()))
    for one, other in zip(together, alone, strict=True):
        for a, b in zip(one.tails, other.tails, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_batch_that_does_not_fit_memory_is_halved(monkeypatch):
    from reader.attention import window_pass

    model = scorer(tiny_models.configurations()["llama"])
    real, sizes = window_pass.WindowPass.run, []

    def run(self):
        sizes.append(len(self.batch))
        if len(self.batch) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self)

    monkeypatch.setattr(window_pass.WindowPass, "run", run)
    assert len(asyncio.run(model.score(requests()))) == 3
    assert sizes == [2, 1, 1, 1]

    def never(self):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(window_pass.WindowPass, "run", never)
    with pytest.raises(OutOfMemory, match="smaller windows"):
        asyncio.run(model.score(requests()))


def test_other_failures_are_not_taken_for_a_lack_of_memory(monkeypatch):
    from reader.attention import window_pass

    def broken(self):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(window_pass.WindowPass, "run", broken)
    model = scorer(tiny_models.configurations()["llama"])
    with pytest.raises(RuntimeError, match="shapes do not match"):
        asyncio.run(model.score(requests()))


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_holes_in_the_heap_go_back_to_the_system():
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("a C library without malloc_trim")
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(100_000) for _ in range(2_000)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in blocks[::2]:
        libc.free(block)
    before = resident_mb()
    heap.give_back()
    assert before - resident_mb() > 50
    for block in blocks[1::2]:
        libc.free(block)


def test_memory_is_given_back_now_and_then(monkeypatch):
    given: list[bool] = []
    monkeypatch.setattr(heap, "give_back", lambda: given.append(True))
    model = scorer(tiny_models.configurations()["llama"], kept_bytes=0)
    read = sum(one.read_tokens for one in asyncio.run(model.score(requests())))
    monkeypatch.setattr(heap, "TOKENS_BETWEEN", 3 * read)
    asyncio.run(model.score(requests()))
    assert not given
    for _ in range(4):
        asyncio.run(model.score(requests()))
    assert given == [True, True]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"heads": (Head(4, 0),)}, InvalidOption, "layers 0 to 3 with 4 heads"),
        ({"heads": (Head(0, 4),)}, InvalidOption, "layers 0 to 3 with 4 heads"),
        ({"heads": ()}, InvalidOption, "a head at least"),
        ({"tails": ()}, InvalidOption, "a tail"),
        ({"tails": (Tail((1, 2), (2,)),)}, InvalidOption, "rows"),
        ({"tails": (Tail((1, 2), (0,), (0.0,)),)}, InvalidOption, "weight"),
        ({"columns": (3, 3)}, InvalidOption, "Columns"),
        ({"columns": (0, 90)}, InvalidOption, "Columns"),
        ({"prefix": (1,) * 600}, WindowTooSmall, "512"),
    ],
)
def test_requests_that_cannot_be_answered(change, error, says):
    model = scorer(tiny_models.configurations()["llama"])
    with pytest.raises(error, match=says):
        asyncio.run(model.score([replace(requests()[0], **change)]))


def test_how_the_context_changes_the_next_words():
    config = tiny_models.configurations()["llama"]
    model = scorer(config)
    draw = random.Random(3)
    text = tuple(draw.randrange(300) for _ in range(30))
    changed = asyncio.run(model.divergences(text, text[20:], 5))
    reference = tiny_models.random_model(config, "eager")
    with torch.no_grad():
        whole = reference(torch.tensor([text])).logits[0, -5:].log_softmax(-1)
        part = reference(torch.tensor([text[20:]])).logits[0, -5:].log_softmax(-1)
    np.testing.assert_allclose(
        changed, (whole.exp() * (whole - part)).sum(-1).numpy(), rtol=1e-3, atol=1e-4
    )
    assert (changed > 0).all()
    same = asyncio.run(model.divergences(text, text, 5))
    np.testing.assert_allclose(same, 0, atol=1e-5)


# Models on disk ------------------------------------------------------------------------------


def test_a_folder_is_loaded_probed_and_described(tmp_path):
    folder = tiny_models.save(tmp_path / "tiny", tiny_models.configurations()["qwen3"])
    model = open_attention(f"transformers:{folder}")
    info = asyncio.run(model.info())
    assert (info.layers, info.heads, info.window) == (4, 4, 512)
    assert info.attending == (0, 1, 2, 3)
    assert info.shape == "qwen3/4x4/32/300"
    tokenizer = asyncio.run(model.tokenizer())
    text = "Größe <|end|> x"
    encoding = tokenizer.encode(text)
    assert encoding.offsets[-1] == (len(text) - 1, len(text))
    # A name of a special token in a document is text; in the template it is the token.
    special = tokenizer.encode("<|end|>", template=True).ids
    assert len(special) == 1
    assert special[0] not in encoding.ids
    assert tokenizer.chat([{"role": "user", "content": "hi"}]).endswith("<|start|>assistant\n")


def test_a_model_with_layers_without_attention_is_read_whole(tmp_path):
    """Qwen3-Next has linear attention in three of four layers: only the fourth has heads."""
    import transformers as t

    config = t.Qwen3NextConfig(
        **tiny_models.BASE,
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=0,
        layer_types=["linear_attention"] * 3 + ["full_attention"],
    )
    reference = tiny_models.random_model(config, "eager")
    model = scorer(config)
    info = asyncio.run(model.info())
    assert info.attending == (3,)
    request = replace(requests()[0], heads=(Head(3, 1),))
    (found,) = asyncio.run(model.score([request]))
    for at, tail in enumerate(request.tails):
        with torch.no_grad():
            (layer,) = [
                part
                for part in reference(
                    torch.tensor([request.prefix + tail.ids]), output_attentions=True
                ).attentions
                if part is not None
            ]
        rows = [len(request.prefix) + row for row in tail.rows]
        full = layer[0, 1, rows, request.columns[0] : request.columns[1]].numpy()
        weights = np.array(tail.weights or [1.0] * len(tail.rows))
        np.testing.assert_allclose(found.tails[at][0], weights / weights.sum() @ full, atol=1e-4)
    with pytest.raises(InvalidOption, match="; with attention: 3"):
        asyncio.run(model.score(requests(heads=(Head(1, 1),))))


def test_models_that_are_not_causal_decoders_are_refused(tmp_path):
    import transformers as t

    folder = tmp_path / "bert"
    t.BertForMaskedLM(
        t.BertConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    ).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    with pytest.raises(UnsupportedModel, match=r"no causal language model.*BertForMaskedLM"):
        asyncio.run(open_attention(f"transformers:{folder}").info())


def test_a_decoder_that_looks_ahead_is_refused():
    from reader.attention import capture, loading

    capture.register()
    model = tiny_models.random_model(tiny_models.configurations()["llama"], capture.NAME)

    class Ahead(torch.nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, input_ids, **others):
            return self.body(input_ids=input_ids.flip(1), **others)

    with pytest.raises(UnsupportedModel, match="not causal"):
        loading.probe(Ahead(model.model), 300, "ahead")


def test_a_model_whose_attention_is_out_of_reach_is_refused():
    from reader.attention import loading

    model = tiny_models.random_model(tiny_models.configurations()["llama"], "eager")
    with pytest.raises(UnsupportedModel, match="cannot be reached"):
        loading.probe(model.model, 300, "other")


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_no_model_at_the_path(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownModel, match=r"There is no model at .*\.gguf file"):
        asyncio.run(open_attention(f"transformers:{tmp_path / name}").info())


def test_questions_that_begin_at_the_same_time_load_one_model(tmp_path, monkeypatch):
    from reader.attention import loading

    folder = tiny_models.save(tmp_path / "tiny", tiny_models.configurations()["llama"])
    real, loads = loading.load, []

    def load(*where):
        loads.append(where)
        return real(*where)

    monkeypatch.setattr(loading, "load", load)

    async def several():
        return await asyncio.gather(
            *(open_attention(f"transformers:{folder}")._loaded() for _ in range(4))
        )

    models = asyncio.run(several())
    assert len(loads) == 1
    assert all(one.waiting is models[0].waiting for one in models)


def test_a_damaged_folder(tmp_path):
    folder = tiny_models.save(tmp_path / "tiny", tiny_models.configurations()["llama"])
    (folder / "config.json").write_text("{")
    with pytest.raises((UnknownModel, UnsupportedModel), match="tiny"):
        asyncio.run(open_attention(f"transformers:{folder}").info())


def test_missing_extra_is_said_before_anything_is_fetched(monkeypatch):
    from reader.attention import transformers_model

    monkeypatch.setattr(transformers_model, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"longdoc-reader\[attention\]"):
        asyncio.run(open_attention("embedded").info())


@pytest.mark.parametrize("spec", ["nonsense", "transformers:", "openai:gpt", 7])
def test_what_is_no_scorer(spec):
    with pytest.raises(UnknownModel, match="transformers:PATH"):
        open_attention(spec)
