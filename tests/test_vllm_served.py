"""The served scorer against servers that are not what it needs; all on this machine."""

from __future__ import annotations

import asyncio
import base64
import json
import zlib

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from reader.attention.model import AttentionRequest, Head, Tail
from reader.attention.resolve import open_attention
from reader.attention.vllm_engine import EngineAttention
from reader.attention.vllm_served import ServedAttention, root_of
from reader.errors import (
    AuthenticationFailed,
    BadReply,
    MissingExtra,
    ModelUnavailable,
    ServerFailed,
    UnknownModel,
    UnsupportedModel,
)
from servers import LocalServer, as_json, server_error

WELL = {
    "version": 1, "trouble": "", "name": "m", "identity": "i", "window": 2048, "layers": 4,
    "heads": 2, "attending": [0, 2], "kind": "toy", "hidden": 8, "vocabulary": 10,
    "batch_tokens": 512, "batch_requests": 16,
}  # fmt: skip


class VLLM(LocalServer):
    """A server whose development endpoint answers by a function of method and arguments."""

    def __init__(self, rpc=None, healthy=True, **more) -> None:
        super().__init__(dialect="vllm", **more)
        self.rpc, self.healthy = rpc, healthy
        self.asked = []

    def reply(self, request):
        if request.path == "/collective_rpc" and self.rpc is not None:
            body = json.loads(request.body)
            self.asked.append((body["method"], body["args"]))
            return self.rpc(*self.asked[-1])
        if request.path == "/version" and self.healthy:
            return as_json({"version": "0.32.0"})
        if not self.healthy:
            return server_error()
        return super().reply(request)


def ask(server, work=lambda scorer: scorer.info(), **more):
    async def run():
        scorer = ServedAttention(server.url, **more)
        try:
            return await work(scorer)
        finally:
            await scorer.aclose()

    return asyncio.run(run())


def describing(**other):
    return lambda method, args: as_json({"results": [{**WELL, **other}]})


def test_no_server_at_the_address():
    with pytest.raises(ModelUnavailable):
        asyncio.run(ServedAttention("http://127.0.0.1:9").info())


def test_a_server_without_the_development_endpoint_is_told_the_start_line():
    with VLLM() as server, pytest.raises(UnsupportedModel) as caught:
        ask(server)
    assert "development endpoint" in caught.value.message
    assert "VLLM_SERVER_DEV_MODE=1" in caught.value.hint


def test_a_server_without_the_extension_fails_at_our_method_and_is_well_otherwise():
    failing = VLLM(lambda method, args: server_error())
    with failing as server, pytest.raises(UnsupportedModel) as caught:
        ask(server)
    assert "without the attention extension" in caught.value.message
    assert "--worker-extension-cls" in caught.value.hint


def test_a_dead_engine_is_not_taken_for_a_missing_extension():
    dead = VLLM(lambda method, args: server_error(), healthy=False)
    with dead as server, pytest.raises(ServerFailed):
        ask(server)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("eager", "--enforce-eager"),
        ("runner", "VLLM_USE_V2_MODEL_RUNNER=0"),
        ("parallel", "speculative"),
        ("attention", "plain decoder"),
    ],
)
def test_what_the_worker_cannot_do_is_said_in_words(trouble, words):
    with VLLM(describing(trouble=trouble)) as server, pytest.raises(UnsupportedModel) as caught:
        ask(server)
    assert words in str(caught.value)


def test_another_version_of_the_extension_is_refused():
    with VLLM(describing(version=0)) as server, pytest.raises(UnsupportedModel, match="version"):
        ask(server)


@pytest.mark.parametrize("reply", [{}, {"results": []}, {"results": ["text"]}, []])
def test_something_else_at_the_endpoint_is_a_bad_reply(reply):
    with VLLM(lambda method, args: as_json(reply)) as server, pytest.raises(BadReply):
        ask(server)


def test_the_key_is_sent_and_a_wrong_one_is_said():
    """vLLM guards /v1 with the key, and not the development endpoint."""
    forgotten = []

    def rpc(method, args):
        if method == "reader_attention_describe":
            return as_json({"results": [WELL]})
        if method == "reader_attention_take":
            forgotten.extend(json.loads(args[0]))
        return as_json({"results": [{"opened": 1, "trouble": "", "taken": {}, "missing": []}]})

    request = AttentionRequest(
        prefix=(1, 2), tails=(Tail((3,), (0,)),), columns=(0, 2), heads=(Head(0, 1),)
    )
    with VLLM(rpc, key="secret") as server:
        with pytest.raises(AuthenticationFailed):
            ask(server, lambda scorer: scorer.score([request]), api_key="other")
        assert len(forgotten) == 1  # what was opened is not left behind
        heads = [exchange.head.lower() for exchange in server.requests]
        assert all("bearer other" in head for head in heads)
        assert "other" not in repr(ServedAttention(server.url, api_key="other"))


def test_the_model_is_described():
    with VLLM(describing()) as server:
        info = ask(server)
    assert (info.window, info.layers, info.heads, info.attending) == (2047, 4, 2, (0, 2))
    assert info.shape == "toy/4x2/8/10"


def rendering(turns):
    if turns[0]["role"] == "system":
        return {"text": None, "error": "no system turn here"}
    text = "".join(f"<{turn['role']}>{turn['content']}</>" for turn in turns)
    return {"text": f"{text}<assistant>", "error": None}


def tokenizing(method, args):
    if method == "reader_attention_describe":
        return as_json({"results": [WELL]})
    if method == "reader_attention_chat":
        return as_json({"results": [rendering(json.loads(args[0]))]})
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    packed = base64.b64encode(zlib.compress(words.to_str().encode())).decode()
    found = {"kind": "toy", "json": packed, "chat": True, "start": "", "adds_start": False}
    return as_json({"results": [found]})


def test_the_template_is_asked_once_for_each_sequence_of_roles():
    async def work(scorer):
        tokenizer = await scorer.tokenizer()
        assert tokenizer.encode("a  b").offsets == ((0, 1), (3, 4))
        return [
            tokenizer.chat([{"role": "user", "content": text}]) for text in ("a", "b \u24020\u2403")
        ]

    with VLLM(tokenizing) as server:
        assert ask(server, work) == [
            "<user>a</><assistant>",
            "<user>b \u24020\u2403</><assistant>",
        ]
        assert [method for method, _ in server.asked].count("reader_attention_chat") == 1


def test_a_template_without_system_turns_gets_their_text_in_the_first_turn():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a?"}]

    async def work(scorer):
        return (await scorer.tokenizer()).chat(turns)

    with VLLM(tokenizing) as server:
        assert ask(server, work) == "<user>Be brief.\n\na?</><assistant>"


def test_a_tokenizer_without_offsets_is_refused():
    def slow(method, args):
        if method == "reader_attention_describe":
            return as_json({"results": [WELL]})
        return as_json({"results": [{"kind": "SlowOne", "json": None}]})

    with VLLM(slow) as server, pytest.raises(UnsupportedModel, match="SlowOne"):
        ask(server, lambda scorer: scorer.tokenizer())


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://h:1/v1", "http://h:1"),
        ("http://h:1/", "http://h:1"),
        ("https://h/proxy/v1/", "https://h/proxy"),
    ],
)
def test_the_address_may_end_in_v1_or_not(url, root):
    assert root_of(url) == root


def test_names_lead_to_the_scorers():
    assert isinstance(open_attention("vllm:http://127.0.0.1:8000"), ServedAttention)
    assert isinstance(open_attention("vllm:/models/some"), EngineAttention)


def test_vllm_in_this_process_wants_the_extra_and_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("reader.attention.vllm_engine.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="vllm"):
        asyncio.run(EngineAttention(tmp_path).info())
    monkeypatch.setattr("reader.attention.vllm_engine.find_spec", lambda name: name)
    with pytest.raises(UnknownModel):
        asyncio.run(EngineAttention(tmp_path).info())
