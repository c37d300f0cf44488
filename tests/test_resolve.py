"""From what a user writes as model= to a chat model."""

from __future__ import annotations

import asyncio

import pytest

from reader.errors import ReaderError, UnknownModel
from reader.llm.resolve import FunctionChat, open_model
from reader.llm.served import ServedModel
from reader.llm.types import ChatReply, ChatRequest, Message, ModelInfo
from servers import LocalServer, ok

REQUEST = ChatRequest(
    messages=(Message("system", "Be brief."), Message("user", "Who?")), max_tokens=9
)


def answer_briefly(messages):
    return f"{messages[-1]['content']} A king."


def ask(spec, on_token=None):
    async def main():
        model = open_model(spec)
        try:
            return await model.generate(REQUEST, on_token), await model.info()
        finally:
            await model.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize("ending", ["/v1", "", "/"])
def test_an_address_with_or_without_its_path_and_name(ending):
    with LocalServer([ok("A king.")], models=("qwen", "other")) as server:
        reply, info = ask(f"{server.root}{ending}#qwen")
        assert server.calls[0]["model"] == "qwen"
    assert reply.text == "A king."
    assert info.identity == f"{server.url}#qwen"


def test_another_path_is_kept():
    model = open_model("https://example.org/api/openai#x")
    assert isinstance(model, ServedModel)
    assert model.identity == "https://example.org/api/openai#x"


def test_openai_by_name(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-mine")
    with LocalServer(key="sk-of-mine") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        reply, info = ask("openai:gpt-4o-mini")
    assert reply.text == "A fact."
    assert info.name == "gpt-4o-mini"


def test_nothing_is_contacted_before_the_first_call():
    assert open_model("http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("gpt-4o", "openai:gpt-4o"),
        ("o3-mini", "openai:o3-mini"),
        ("localhost:8000/v1", "http://localhost:8000/v1"),
        ("models/qwen.gguf", "gguf:models/qwen.gguf"),
        ("embeded", "'embedded'"),
        ("embedded:big", "'embedded'"),
        ("openai:", "openai:NAME"),
        ("gguf:", "gguf:PATH"),
        ("http://", "http://127.0.0.1:8000/v1"),
        ("http://host:port/v1", "http://127.0.0.1:8000/v1"),
    ],
)
def test_an_unknown_form_names_the_nearest(spec, hint):
    with pytest.raises(UnknownModel) as caught:
        open_model(spec)
    assert hint in caught.value.hint


def test_something_else_is_not_a_model():
    with pytest.raises(UnknownModel, match="int"):
        open_model(7)


def test_a_chat_model_is_used_as_it_is():
    model = FunctionChat(answer_briefly)
    assert open_model(model) is model


def test_a_plain_function_is_a_model():
    pieces: list[str] = []
    reply, info = ask(answer_briefly, pieces.append)
    assert reply.text == "Who? A king."
    assert pieces == ["Who? A king."]
    assert reply.prompt_tokens > 0
    assert reply.completion_tokens > 0
    assert (info.name, info.concurrency) == ("answer_briefly", 1)
    assert not info.counter.exact


def test_a_plain_function_does_not_stop_the_loop():
    def slow(messages):
        return str(started.wait(5))

    async def main():
        import threading

        nonlocal started
        started = threading.Event()
        call = asyncio.create_task(open_model(slow).generate(REQUEST))
        await asyncio.sleep(0)
        started.set()
        return (await call).text

    started = None
    assert asyncio.run(main()) == "True"


def test_an_async_function_is_a_model():
    async def answer(messages):
        return f"{len(messages)} turns"

    reply, info = ask(answer)
    assert reply.text == "2 turns"
    assert info.concurrency > 1


def test_an_object_that_only_generates_is_a_model():
    class Mine:
        name = "mine"
        identity = "mine-v1"
        window = 500

        async def generate(self, request):
            return ChatReply(text=f"{request.max_tokens} at most", prompt_tokens=3)

    reply, info = ask(Mine())
    assert (reply.text, reply.prompt_tokens) == ("9 at most", 3)
    assert (info.name, info.identity, info.window) == ("mine", "mine-v1", 500)


def test_functions_that_may_differ_do_not_share_replies():
    def about(who):
        return lambda messages: who

    identities = [FunctionChat(f)._info.identity for f in (about("a"), about("b"), about("a"))]
    assert len(set(identities)) == 3
    assert (
        FunctionChat(answer_briefly)._info.identity == FunctionChat(answer_briefly)._info.identity
    )


def test_the_users_error_comes_through():
    def broken(messages):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        ask(broken)


def test_embedded_specs_reach_the_embedded_engine(tmp_path):
    embedded = pytest.importorskip("reader.llm.embedded")
    for spec in (None, "embedded", "embedded:large", "embedded:tiny", "hf:someone/model/file.gguf"):
        assert isinstance(open_model(spec, models_folder=tmp_path), embedded.EmbeddedModel)
    with pytest.raises(ReaderError):
        asyncio.run(open_model(f"gguf:{tmp_path}/none.gguf").info())


def test_model_info_is_what_strategies_expect():
    _, info = ask(answer_briefly)
    assert isinstance(info, ModelInfo)
