"""Attention scores from a real vLLM on this machine's CPU: `make test-vllm`.

The reference is transformers on the same model, windows and precision. One server for all tests.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from reader.attention.model import AttentionRequest, Head, Tail
from reader.errors import InvalidOption, ModelError, UnsupportedModel, WindowTooSmall

# What vLLM and torch warn of is not ours.
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

HEADS = (Head(14, 3), Head(17, 3), Head(17, 4), Head(18, 6), Head(18, 7))
QUESTIONS = (
    "What did Sergeant-Major Morris bring back from India?",
    "Who put a spell on the paw?",
    "How many wishes does the paw grant to each man?",
    "What did the first owner of the paw wish for last?",
    "How much money did Mr. White wish for?",
    "Where did Herbert work?",
    "What did the visitor from Maw and Meggins tell them?",
    "What was the second wish?",
    "Who knocked at the door in the night?",
    "What game did father and son play by the fire?",
    "What did Morris do with the paw before Mr. White took it?",
    "Where was Herbert buried?",
)
BEST_TOKENS = 8  # of a passage; their mean is its score


def tale_windows(tokenizer, per_window=600):
    """Token ids of the tale's windows, each with the token ranges of its paragraphs."""
    text = files("reader").joinpath("tales/the_monkeys_paw.txt").read_text()
    windows, ids, passages = [], [], []
    for paragraph in text.split("\n\n"):
        found = tokenizer.encode(paragraph + "\n\n").ids
        if ids and len(ids) + len(found) > per_window:
            windows.append((tuple(ids), tuple(passages)))
            ids, passages = [], []
        passages.append((len(ids), len(ids) + len(found)))
        ids = [*ids, *found]
    windows.append((tuple(ids), tuple(passages)))
    return windows


def requests_of(tokenizer, **more):
    """All questions on every window, three to a request; and the passages of each request."""
    shown = tokenizer.chat([{"role": "user", "content": "Read:\n\n@@T@@\nQuestion: @@Q@@"}])
    head, rest = shown.split("@@T@@")
    middle, end = rest.split("@@Q@@")
    before, between, after = (tokenizer.encode(p, template=True).ids for p in (head, middle, end))
    found = []
    for number, (ids, passages) in enumerate(tale_windows(tokenizer)):
        tails = []
        for question in QUESTIONS[number % 4 :: 4]:
            asked = tokenizer.encode(question).ids
            rows = tuple(range(len(between), len(between) + len(asked)))
            tails.append(Tail(between + asked + after, rows))
        first = len(before)
        found.append(
            (
                AttentionRequest(
                    prefix=before + ids,
                    tails=tuple(tails),
                    columns=(first, first + len(ids)),
                    heads=HEADS,
                    **more,
                ),
                passages,
            )
        )
    return found


def top_passages(scores, passages, count=5):
    values = scores.mean(0)
    ranked = sorted(
        range(len(passages)),
        key=lambda p: -np.sort(values[slice(*passages[p])])[-BEST_TOKENS:].mean(),
    )
    return set(ranked[:count])


def agree(found, wanted, passages):
    """Spearman per token, and the same five best passages, as issue 4 asks."""
    from scipy.stats import spearmanr

    same, total = 0, 0
    for ours, theirs, places in zip(found, wanted, passages, strict=True):
        for a, b in zip(ours.tails, theirs.tails, strict=True):
            assert a.shape == b.shape
            assert a.dtype == np.float32
            assert spearmanr(a.mean(0), b.mean(0)).statistic >= 0.98
            np.testing.assert_allclose(a, b, atol=0.02)
            same += top_passages(a, places) == top_passages(b, places)
            total += 1
    assert same >= 0.95 * total
    assert total >= 12


@pytest.fixture(scope="module")
def folder():
    from vllm_server import model_folder

    return model_folder("smollm2")


@pytest.fixture(scope="module")
def reference(folder):
    """Requests, and what transformers says of them."""
    from reader.attention.resolve import LocalFiles
    from reader.attention.transformers_model import TransformersAttention

    async def run():
        model = TransformersAttention(LocalFiles(folder), dtype="float32")
        tokenizer = await model.tokenizer()
        pairs = requests_of(tokenizer)
        requests, passages = [r for r, _ in pairs], [p for _, p in pairs]
        return await model.info(), tokenizer, requests, passages, await model.score(requests)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    from vllm_server import vllm_server

    # Windows of 600 tokens in steps of 512, and several of them in a step.
    options = ("--max-model-len", "2048", "--max-num-batched-tokens", "512")
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with vllm_server(folder, log, options=options) as server:
        yield server.url


def served(url, work):
    """Run ``await work(scorer)`` and close the scorer."""
    from reader.attention.vllm_served import ServedAttention

    async def run():
        scorer = ServedAttention(url)
        try:
            return await work(scorer)
        finally:
            await scorer.aclose()

    return asyncio.run(run())


def test_a_server_gives_the_scores_of_transformers(url, reference):
    _, _, requests, passages, wanted = reference
    found = served(url, lambda scorer: scorer.score(requests))
    agree(found, wanted, passages)
    for ours, request in zip(found, requests, strict=True):
        apart = sum(len(request.prefix) + len(tail.ids) for tail in request.tails)
        if len(request.tails) > 1:  # the prefix cache served the questions after the first
            assert ours.read_tokens < apart


def test_rows_and_products_too(url, reference):
    from reader.attention.resolve import LocalFiles
    from reader.attention.transformers_model import TransformersAttention

    info, tokenizer, *_ = reference
    for more in ({"per_row": True}, {"kind": "logits"}):
        requests = [r for r, _ in requests_of(tokenizer, **more)][:2]
        found = served(url, lambda scorer, asked=requests: scorer.score(asked))
        model = TransformersAttention(LocalFiles(_folder_of(info)), dtype="float32")
        for ours, theirs in zip(found, asyncio.run(model.score(requests)), strict=True):
            for a, b in zip(ours.tails, theirs.tails, strict=True):
                np.testing.assert_allclose(a, b, atol=0.05, rtol=0.02)


def _folder_of(info):
    from vllm_server import model_folder

    return model_folder(info.name)


def test_the_server_describes_itself_as_transformers_does(url, reference):
    info, tokenizer, *_ = reference

    async def ask(scorer):
        return await scorer.info(), await scorer.tokenizer()

    found, theirs = served(url, ask)
    assert (found.identity, found.shape) == (info.identity, info.shape)
    assert (found.layers, found.heads, found.attending) == (info.layers, info.heads, info.attending)
    assert found.window == 2047
    assert theirs.name == tokenizer.name
    text = "The paw <|im_end|> twisted in my hand.\u00e9\n"
    assert theirs.encode(text) == tokenizer.encode(text)
    assert theirs.encode(text, template=True) == tokenizer.encode(text, template=True)
    for roles in (("user",), ("system", "user"), ("user", "assistant", "user")):
        turns = [{"role": role, "content": f"{role} says {n}."} for n, role in enumerate(roles)]
        assert theirs.chat(turns) == tokenizer.chat(turns)


def test_chats_and_scores_leave_each_other_alone(url, reference):
    from reader.llm.served import ServedModel
    from reader.llm.types import ChatRequest, Message

    _, _, requests, _, _ = reference
    prompts = [f"Tell me one thing about the number {n}." for n in range(6)]

    async def chat(model, prompt):
        request = ChatRequest(messages=(Message("user", prompt),), max_tokens=24, temperature=0.0)
        return (await model.generate(request)).text

    async def run(scorer):
        model = ServedModel(f"{url}/v1")
        try:
            quiet = [await chat(model, prompt) for prompt in prompts]
            alone = await scorer.score(requests[:3])
            scores, *replies = await asyncio.gather(
                scorer.score(requests[:3]), *(chat(model, prompt) for prompt in prompts)
            )
        finally:
            await model.aclose()
        return quiet, replies, alone, scores

    quiet, replies, alone, scores = served(url, run)
    assert all(quiet)
    assert replies == quiet
    for ours, theirs in zip(scores, alone, strict=True):
        for a, b in zip(ours.tails, theirs.tails, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)


def test_what_the_server_cannot_do_is_said(url, reference):
    _, _, requests, *_ = reference
    request = requests[0]
    long = AttentionRequest(
        prefix=request.prefix * 4, tails=request.tails, columns=(0, 10), heads=HEADS
    )
    with pytest.raises(WindowTooSmall):
        served(url, lambda scorer: scorer.score([long]))
    other = AttentionRequest(
        prefix=request.prefix, tails=request.tails, columns=(0, 10), heads=(Head(30, 0),)
    )
    with pytest.raises(InvalidOption):
        served(url, lambda scorer: scorer.score([other]))


def test_a_server_that_does_not_know_a_method_says_so_as_we_expect(url, monkeypatch):
    """The same reply that a server without the extension gives."""
    from reader.attention import vllm_served

    call = vllm_served.ServedAttention._call

    async def unknown(self, method, *args):
        try:
            reply = {"method": "reader_attention_nothing", "args": []}
            return await self._served.ask("post", f"{self._root}/collective_rpc", reply)
        except ModelError as error:
            raise await self._explained(method, error) from None

    monkeypatch.setattr(vllm_served.ServedAttention, "_call", unknown)
    with pytest.raises(UnsupportedModel, match="without the attention extension"):
        served(url, lambda scorer: scorer.info())
    monkeypatch.setattr(vllm_served.ServedAttention, "_call", call)
    assert served(url, lambda scorer: scorer.info()).layers == 30


def test_vllm_in_this_process_gives_the_same(folder, reference):
    from reader.attention.vllm_engine import EngineAttention
    from vllm_server import SETTINGS

    info, tokenizer, requests, passages, wanted = reference

    async def run():
        engine = EngineAttention(folder, window=2048, dtype="float32", max_num_batched_tokens=512)
        try:
            found = await engine.info()
            assert (found.identity, found.shape) == (info.identity, info.shape)
            assert (await engine.tokenizer()).name == tokenizer.name
            return await engine.score(requests)
        finally:
            await engine.aclose()

    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        found = asyncio.run(run())
    agree(found, wanted, passages)


@pytest.mark.parametrize("started", [False, True])
def test_the_example_answers_about_a_book(url, started, tmp_path):
    """With the server named, and with one that it starts itself and stops again."""
    example = Path(__file__).parent.parent / "examples" / "attention_vllm.py"
    tale = str(files("reader").joinpath("tales/the_monkeys_paw.txt"))
    report = tmp_path / "report.html"
    server = ("--url", f"{url}/v1") if not started else ("--model", "smollm2")
    ended = subprocess.run(
        [sys.executable, str(example), tale, QUESTIONS[0], "--report", str(report), *server],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ("Starting vLLM" in ended.stdout) == started
    assert re.search(r"attention with .* 1 call ", ended.stdout), ended.stdout
    assert int(re.search(r"(\d+) passages looked at", ended.stdout)[1]) > 5
    page = report.read_text()
    assert 'id="attention"' in page
    assert 'id="citations"' in page
