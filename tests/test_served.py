"""Models behind an address: every way a real server can answer, over real connections."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from email.utils import formatdate

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from reader.errors import (
    AuthenticationFailed,
    BadReply,
    ContextOverflow,
    ModelError,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    RequestRefused,
    ServerFailed,
    UnknownModel,
)
from reader.llm.hosted import openai_model
from reader.llm.served import ServedModel
from reader.llm.types import ChatRequest, Message
from servers import (
    NEVER,
    OVERFLOWS,
    LocalServer,
    as_json,
    context_overflow,
    cut_at_cap,
    empty_body,
    failing,
    half_a_reply,
    half_a_stream,
    hung_up,
    not_http,
    not_json,
    ok,
    rate_limited,
    server_error,
    unknown_model,
    wrong_key,
)

SECRET = "The treasure lies under the old oak behind the mill."
KEY = "sk-secret-key-1234"


def request(text: str = SECRET, **fields) -> ChatRequest:
    return ChatRequest(messages=(Message("user", text),), max_tokens=64, **fields)


def ask(server, asked=None, on_token=None, name="m", **options):
    async def main():
        model = ServedModel(server.url, name, **options)
        try:
            return await model.generate(asked or request(), on_token)
        finally:
            await model.aclose()

    return asyncio.run(main())


def describe(server, name=None, **options):
    async def main():
        model = ServedModel(server.url, name, **options)
        info = await model.info()
        counts = await info.counter.count(["one two three", "one"])
        whole = await info.counter.count_messages([("system", "be brief"), ("user", "hello")])
        await model.aclose()
        return info, counts, whole

    return asyncio.run(main())


# Replies ---------------------------------------------------------------------------------


def test_a_reply_and_what_it_took():
    with LocalServer([ok("Under the oak.", usage=(21, 4), cached=16)]) as server:
        reply = ask(server, request(seed=7, stop=("\n",)))
        sent = server.calls[0]
    assert (reply.text, reply.finish_reason) == ("Under the oak.", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (21, 4, 16)
    assert not reply.from_cache
    assert sent == {
        "model": "m",
        "messages": [{"role": "user", "content": SECRET}],
        "max_tokens": 64,
        "temperature": 0.0,
        "seed": 7,
        "stop": ["\n"],
    }


def test_text_cut_at_the_cap_says_so():
    with LocalServer([cut_at_cap("Under the")]) as server:
        assert ask(server).finish_reason == "length"


def test_an_empty_string_is_a_reply():
    with LocalServer([ok("")]) as server:
        assert ask(server).text == ""


def test_a_cap_used_up_by_reasoning_is_an_empty_cut_reply():
    with LocalServer([ok(None, finish="length", reasoning_content="Let me see")]) as server:
        reply = ask(server)
    assert (reply.text, reply.finish_reason) == ("", "length")


def test_reasoning_is_not_part_of_the_text():
    with LocalServer([ok("Oak.", reasoning_content="It says oak.")]) as server:
        assert ask(server).text == "Oak."


def test_missing_usage_is_never_counted_as_zero():
    with LocalServer([ok("Under the oak.", usage=None)] * 2) as server:
        bounded = ask(server, request(prompt_tokens=40))
        guessed = ask(server)
    assert bounded.prompt_tokens == 40
    assert guessed.prompt_tokens >= len(SECRET.split())
    assert guessed.completion_tokens >= 3


def test_json_sent_as_plain_text_is_read():
    reply = ok("Oak.")
    with LocalServer([as_json(json.loads(reply.body), content_type="text/plain")]) as server:
        assert ask(server).text == "Oak."


def test_a_schema_is_sent_where_the_server_enforces_it():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    for dialect, expected in (("vllm", schema), ("llama.cpp", schema), (None, None)):
        with LocalServer(dialect=dialect) as server:
            ask(server, request(json_schema=schema))
            sent = server.calls[0].get("response_format")
        assert (sent and sent["json_schema"]["schema"]) == expected


def test_log_probabilities_of_the_first_token():
    with LocalServer([ok("B", logprobs={"B": -0.1, "A": -2.5})]) as server:
        reply = ask(server, request(top_logprobs=2))
        assert server.calls[0]["logprobs"] is True
        assert server.calls[0]["top_logprobs"] == 2
    assert reply.top_logprobs == {"B": -0.1, "A": -2.5}


# Streams ---------------------------------------------------------------------------------


def test_a_stream_passes_pieces_on_as_they_come():
    pieces: list[str] = []
    with LocalServer([ok("Under the old oak.", usage=(21, 4), finish="length")]) as server:
        reply = ask(server, on_token=pieces.append)
        assert server.calls[0]["stream_options"] == {"include_usage": True}
    assert pieces == ["Under", " the", " old", " oak."]
    assert (reply.text, reply.finish_reason) == ("Under the old oak.", "length")
    assert (reply.prompt_tokens, reply.completion_tokens) == (21, 4)


def test_a_server_that_closes_after_a_stream_is_called_again_without_a_failure():
    async def main():
        model = ServedModel(server.url, "m")
        for _ in range(5):
            await model.generate(request(), lambda piece: None)
            await model.generate(request())
        await model.aclose()

    with LocalServer() as server:
        asyncio.run(main())


def test_a_stream_without_usage_is_still_counted():
    with LocalServer([ok("Under the old oak.", usage=None)]) as server:
        reply = ask(server, on_token=lambda piece: None)
    assert reply.prompt_tokens > 0
    assert reply.completion_tokens > 0


def test_half_a_stream_is_a_bad_reply():
    with LocalServer([half_a_stream()]) as server, pytest.raises(BadReply, match="half way"):
        ask(server, on_token=lambda piece: None)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (rate_limited("3"), RateLimited),
        (server_error(), ServerFailed),
        (hung_up(), BadReply),
        (context_overflow(), ContextOverflow),
    ],
)
def test_faults_before_a_stream_begins(fault, error):
    with LocalServer([fault]) as server, pytest.raises(error):
        ask(server, on_token=lambda piece: None)


# Faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "retryable"),
    [
        (wrong_key(), AuthenticationFailed, False),
        (failing(403, "forbidden"), AuthenticationFailed, False),
        (unknown_model(), UnknownModel, False),
        (as_json({"detail": "Not Found"}, 404), RequestRefused, False),
        (failing(422, "bad temperature"), RequestRefused, False),
        (rate_limited(), RateLimited, True),
        (failing(429, "quota", code="insufficient_quota"), RequestRefused, False),
        (server_error(500), ServerFailed, True),
        (server_error(503), ServerFailed, True),
        (failing(408, "late"), ModelTimeout, True),
        (empty_body(), BadReply, True),
        (not_json(), BadReply, True),
        (not_http(), BadReply, True),
        (half_a_reply(), BadReply, True),
        (hung_up(), BadReply, True),
        (as_json(None), BadReply, True),
        (as_json({"choices": []}), BadReply, True),
        (as_json({"choices": [{"message": {"content": None}}]}), BadReply, True),
        (as_json({"choices": "many"}), BadReply, True),
        (as_json({"error": {"message": "lost", "code": 502}}), ServerFailed, True),
        *((context_overflow(d), ContextOverflow, False) for d in OVERFLOWS),
    ],
)
def test_each_fault_has_its_error(fault, error, retryable):
    with LocalServer([fault]) as server:
        with pytest.raises(ModelError) as caught:
            ask(server)
        assert len(server.calls) == 1, "the transport must not retry"
    assert type(caught.value) is error
    assert caught.value.retryable is retryable


def test_no_server_at_the_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ModelUnavailable, match="No server"):
        asyncio.run(ServedModel(address, "m").generate(request()))


def test_a_server_that_does_not_answer_in_time():
    async def main():
        model = ServedModel(server.url, "m")
        await model.info()
        model._timeout = 0.02
        await model.generate(request())

    with LocalServer([ok(delay=NEVER)]) as server, pytest.raises(ModelTimeout):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "2"}, 2.0, 2.0),
        ({"Retry-After": "1.5"}, 1.5, 1.5),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25, 0.25),
        ({"Retry-After": formatdate(time.time() + 7200, usegmt=True)}, 3600, 7200),
        ({"Retry-After": formatdate(time.time() - 600, usegmt=True)}, 0, 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_how_long_the_server_asks_to_wait(headers, least, most, status):
    fault = failing(status, "busy", headers)
    with LocalServer([fault]) as server, pytest.raises(RateLimited) as caught:
        ask(server)
    assert least <= caught.value.retry_after <= most


def test_a_wait_that_is_not_understood_is_none():
    with LocalServer([rate_limited("soon")]) as server, pytest.raises(RateLimited) as caught:
        ask(server)
    assert caught.value.retry_after is None


def test_the_servers_reason_is_shown_but_never_the_prompt_or_the_key():
    faults = [
        failing(400, "logprobs is not supported by this model."),
        failing(400, f"cannot parse: {SECRET}"),
        failing(500, f"while reading {SECRET}"),
        failing(401, f"Incorrect API key provided: {KEY}"),
    ]
    said = []
    with LocalServer(faults) as server:
        for _ in faults:
            with pytest.raises(ModelError) as caught:
                ask(server, api_key=KEY)
            said.append(str(caught.value))
            assert caught.value.__suppress_context__
    assert "logprobs is not supported" in said[0]
    assert not any("treasure" in s or "oak" in s or KEY in s for s in said)


def test_text_that_is_not_unicode_is_refused_with_a_reason():
    with LocalServer() as server, pytest.raises(RequestRefused, match="Unicode"):
        ask(server, request("half \ud800"))


# Connections -----------------------------------------------------------------------------


def test_calls_share_kept_alive_connections():
    async def main():
        model = ServedModel(server.url, "m")
        for _ in range(5):
            await model.generate(request())
        await model.aclose()

    with LocalServer() as server:
        asyncio.run(main())
        assert len(server.calls) == 5
        assert server.connections == 1


def test_one_object_serves_several_loops_and_leaves_nothing_open():
    with LocalServer() as server:
        model = ServedModel(server.url, "m")
        for _ in range(3):
            assert asyncio.run(model.generate(request())).text == "A fact."
        assert not model._clients


def test_a_closed_model_can_be_used_again():
    async def main():
        model = ServedModel(server.url, "m")
        await model.generate(request())
        await model.aclose()
        reply = await model.generate(request())
        await model.aclose()
        return reply

    with LocalServer() as server:
        assert asyncio.run(main()).text == "A fact."


def test_the_key_is_sent_and_nothing_of_the_openai_account(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-this-server")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-private")
    with LocalServer(key=KEY) as server:
        assert ask(server, api_key=KEY).text == "A fact."
        with pytest.raises(AuthenticationFailed):
            ask(server)
        heads = "".join(r.head for r in server.requests)
    assert "org-private" not in heads
    assert "sk-not-for-this-server" not in heads


# What a server tells ---------------------------------------------------------------------


def test_the_only_model_needs_no_name():
    with LocalServer(models=("qwen",), dialect="vllm") as server:
        info, _, _ = describe(server)
    assert info.name == "qwen"
    assert info.identity == f"{server.url}#qwen"


def test_one_of_several_models_must_be_named():
    server = LocalServer(models=("qwen", "llama"))
    with server, pytest.raises(UnknownModel, match="qwen, llama") as caught:
        describe(server)
    assert f"{server.url}#qwen" in caught.value.hint


def test_the_nearest_model_is_named():
    server = LocalServer(models=("qwen-0.5b", "llama-8b"))
    with server, pytest.raises(UnknownModel) as caught:
        describe(server, "quen-0.5b")
    assert "'qwen-0.5b'" in caught.value.hint


def test_vllm_tells_window_and_counts():
    with LocalServer(dialect="vllm", window=2048) as server:
        info, counts, whole = describe(server)
    assert (info.window, info.json_schema, info.notice) == (2048, True, "")
    assert info.counter.exact
    assert counts == [3, 1]
    assert whole == 3 + 2 * 2 + 1
    assert info.counter.tokenizer() is None


def _bytes_tokenizer(folder):
    """A tokenizer.json that makes a token of every byte, but for one of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))


def _bytes(text):
    return len(text.encode())


def _texts_counted(server):
    return [r.json for r in server.requests if r.path == "/tokenize" and "one" in str(r.json)]


def test_a_tokenizer_that_lies_beside_the_server_counts_texts_in_this_process(tmp_path):
    _bytes_tokenizer(tmp_path)
    with LocalServer(dialect="vllm", source=str(tmp_path), tokens=_bytes) as server:
        info, counts, whole = describe(server)
        assert _texts_counted(server) == []
    assert counts == [13, 3]
    assert info.counter.exact
    assert whole == _bytes("<system> be brief <end> <user> hello <end> <assistant>")


def test_a_tokenizer_in_the_cache_of_the_hub_counts_too(tmp_path, monkeypatch):
    _bytes_tokenizer(tmp_path)
    kept = {("Qwen/Small", "tokenizer.json"): str(tmp_path / "tokenizer.json")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *key: kept.get(key))
    with LocalServer(dialect="vllm", source="Qwen/Small", tokens=_bytes) as server:
        _, counts, _ = describe(server)
        assert _texts_counted(server) == []
    assert counts == [13, 3]


@pytest.mark.parametrize("content", [None, "{}", "another"])
def test_a_tokenizer_that_counts_otherwise_or_is_none_is_not_used(tmp_path, content):
    if content == "another":
        _bytes_tokenizer(tmp_path)
    elif content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with LocalServer(dialect="vllm", source=str(tmp_path)) as server:
        _, counts, _ = describe(server)
        assert len(_texts_counted(server)) == 2
    assert counts == [3, 1]


@pytest.mark.parametrize("source", ["Qwen/Missing", "no folder", "../../etc", ""])
def test_a_model_from_elsewhere_is_counted_by_its_server(source):
    with LocalServer(dialect="vllm", source=source) as server:
        _, counts, _ = describe(server)
    assert counts == [3, 1]


def test_llama_server_tells_the_window_of_a_slot_and_counts():
    with LocalServer(dialect="llama.cpp", window=1024) as server:
        info, counts, whole = describe(server)
    assert (info.window, info.json_schema, info.concurrency) == (1024, True, 3)
    assert info.counter.exact
    assert counts == [3, 1]
    assert whole == 3 + 2 * 2 + 1


@pytest.mark.parametrize("drops", [4, 5])
def test_connections_closed_while_counting_cost_nothing_but_further_questions(drops):
    async def count(server):
        model = ServedModel(server.url)
        counter = (await model.info()).counter
        server.drops = drops
        try:
            return await counter.count(["one two three"])
        finally:
            await model.aclose()

    with LocalServer(dialect="llama.cpp") as server:
        if drops == 5:
            with pytest.raises(BadReply, match="closed the connection"):
                asyncio.run(count(server))
        else:
            assert asyncio.run(count(server)) == [3]


def test_an_idle_connection_is_given_up_before_the_server_closes_it(monkeypatch):
    made = []

    def client(**settings):
        made.append(settings["limits"])
        raise RuntimeError("without aiohttp")

    monkeypatch.setattr("openai.DefaultAioHttpClient", client)
    monkeypatch.setattr("openai.DefaultAsyncHttpxClient", lambda **s: made.append(s["limits"]))
    ServedModel("http://localhost:1/v1").open()
    assert [limits.keepalive_expiry < 5.0 for limits in made] == [True, True]  # uvicorn's, vLLM's
    assert [limits.max_connections for limits in made] == [1000, 1000]


def test_ollama_tells_the_window_it_really_gives():
    with LocalServer(dialect="ollama", window=4000, models=("llama3:latest",)) as server:
        info, _, _ = describe(server, "llama3")
    assert info.window in (4000, 4096)
    assert info.json_schema
    assert not info.counter.exact


def test_a_server_that_tells_nothing_gets_a_default_and_a_notice():
    with LocalServer() as server:
        info, counts, whole = describe(server)
        given, _, _ = describe(server, window=1000)
    assert info.window == 8192
    assert "8192" in info.notice
    assert not info.counter.exact
    assert counts[0] > counts[1] > 0
    assert whole > 0
    assert (given.window, given.notice) == (1000, "")


def test_an_answered_question_is_not_asked_again():
    async def main():
        model = ServedModel(server.url)
        await asyncio.gather(*(model.generate(request()) for _ in range(3)))
        asked = len(server.requests)
        await model.info()
        await model.aclose()
        return asked

    with LocalServer(dialect="vllm") as server:
        asked = asyncio.run(main())
        assert len(server.requests) == asked


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp"])
def test_no_server_is_asked_how_long_nothing_is(dialect):
    async def main():
        model = ServedModel(server.url)
        info = await model.info()
        asked = len(server.requests)
        counts = await info.counter.count(["", ""])
        await model.aclose()
        return counts, len(server.requests) - asked

    with LocalServer(dialect=dialect) as server:
        assert asyncio.run(main()) == ([0, 0], 0)


def test_the_address_has_one_form():
    model = ServedModel("HTTP://Me:pw@Example.ORG:8000/v1/", "m")
    assert model.identity == "http://example.org:8000/v1#m"
    assert "pw" not in repr(model)


# OpenAI's own ----------------------------------------------------------------------------


def hosted(name, server, monkeypatch, asked=None):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    async def main():
        model = openai_model(name)
        reply = await model.generate(asked or request(stop=("\n",), top_logprobs=2))
        await model.aclose()
        return reply

    asyncio.run(main())
    return server.calls[-1]


@pytest.mark.parametrize(
    ("name", "effort"),
    [("gpt-5", "minimal"), ("gpt-5-mini-2025-08-07", "minimal"), ("gpt-5.1", "none"),
     ("o3", "low"), ("o1-mini", None), ("gpt-5-pro", None)],
)  # fmt: skip
def test_reasoning_models_get_what_they_take(name, effort, monkeypatch):
    with LocalServer(key=KEY) as server:
        sent = hosted(name, server, monkeypatch)
    assert sent["max_completion_tokens"] == 64
    assert not {"max_tokens", "temperature", "stop", "logprobs", "top_logprobs"} & set(sent)
    assert sent.get("reasoning_effort") == effort


@pytest.mark.parametrize("name", ["gpt-4o-mini", "gpt-5-chat-latest", "gpt-4.1", "some-new-one"])
def test_plain_models_get_the_request_as_it_is(name, monkeypatch):
    with LocalServer(key=KEY) as server:
        sent = hosted(name, server, monkeypatch)
    assert (sent["max_tokens"], sent["temperature"], sent["stop"]) == (64, 0.0, ["\n"])
    assert "reasoning_effort" not in sent


def test_strict_schemas_only_where_openai_takes_them(monkeypatch):
    closed = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    open_ended = {"type": "object", "properties": {"a": {"type": "string"}}}
    with LocalServer() as server:
        for schema, strict in ((closed, True), (open_ended, False)):
            sent = hosted("gpt-4o-mini", server, monkeypatch, request(json_schema=schema))
            assert sent["response_format"]["json_schema"]["strict"] is strict
        sent = hosted("gpt-4", server, monkeypatch, request(json_schema=closed))
    assert "response_format" not in sent


def test_a_missing_key_is_told_at_the_first_call(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = openai_model("gpt-4o-mini")
    with pytest.raises(AuthenticationFailed, match="OPENAI_API_KEY"):
        asyncio.run(model.generate(request()))


def test_price_and_window_are_known_offline(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    known = asyncio.run(openai_model("gpt-4o-mini").info())
    tuned = asyncio.run(openai_model("ft:gpt-4o-mini-2024-07-18:acme::x").info())
    unheard = asyncio.run(openai_model("gpt-99-vision").info())
    assert known.identity == "https://api.openai.com/v1#gpt-4o-mini"
    assert known.window == 128_000
    assert known.price.prompt < known.price.completion
    assert known.price.cached_prompt < known.price.prompt
    assert (tuned.window, tuned.price) == (128_000, None)
    assert (unheard.window, unheard.price) == (128_000, None)
    assert "gpt-99-vision" in unheard.notice
