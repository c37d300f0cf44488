"""LangChain: retriever, chain, tool and chat models, with the real libraries."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import httpx2
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document as LangChainDocument
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

import reader
from conftest import tale
from reader import Reader
from reader.errors import (
    AuthenticationFailed,
    BadReply,
    ContextOverflow,
    EmptyDocument,
    InvalidOption,
    ModelError,
    ModelUnavailable,
    RateLimited,
    ServerFailed,
    UnknownModel,
)
from reader.integrations.langchain import (
    PROGRESS,
    ReadingChain,
    ReadingRetriever,
    as_document,
    reading_tool,
)
from reader.llm.langchain_chat import LangChainChat
from reader.llm.types import ChatRequest, Message
from reader.testing import FunctionModel
from servers import (
    NEVER,
    LocalServer,
    context_overflow,
    cut_at_cap,
    empty_body,
    half_a_reply,
    ok,
    rate_limited,
    server_error,
    unknown_model,
    wrong_key,
)

FACT = "The fact of part 3 is number 333."
QUESTION = "What is the fact of part 3?"
REPLY = f"It is 333.\nQuote: {FACT}"


def says(reply: Any = REPLY, **more: Any) -> FunctionModel:
    function = reply if callable(reply) else lambda request: reply
    return FunctionModel(function, window=more.pop("window", 8192), identity="says", **more)


@pytest.fixture
def r(store):
    with Reader(says(), store=store) as opened:
        yield opened


@pytest.fixture
def pages() -> list[LangChainDocument]:
    """Two pages of a file and a note, as loaders give them."""
    parts = tale(4).split("\n\n")
    return [
        LangChainDocument(parts[0] + "\r\n" + parts[1], metadata={"source": "a.pdf", "page": 0}),
        LangChainDocument("  \n", metadata={"source": "a.pdf", "page": 1}),
        LangChainDocument(parts[2], metadata={"source": "a.pdf", "page": 2, "label": "iii"}),
        LangChainDocument(parts[3], metadata={"source": "note.md", "title": "A note"}),
    ]


# Retriever -----------------------------------------------------------------------------------


def test_the_retriever_gives_evidence_with_offsets_of_the_file(r, tmp_path):
    path = tmp_path / "book.md"
    path.write_text("# Facts\n\n" + tale(6))
    retriever = ReadingRetriever(reader=r, document=path, strategy="rag")
    [found] = retriever.invoke(QUESTION)
    where = found.metadata
    assert found.page_content == FACT == path.read_text()[where["start"] : where["end"]]
    assert (where["source"], where["section"], where["match"]) == (str(path), "Facts", "exact")
    assert asyncio.run(retriever.ainvoke(QUESTION)) == [found]


def test_langchain_documents_go_in_as_they_are_and_their_metadata_comes_back(r, pages):
    retriever = ReadingRetriever(reader=r, document=pages, strategy="rag")
    [found] = retriever.invoke(QUESTION)
    where = found.metadata
    assert (where["source"], where["page"], where["label"]) == ("a.pdf", 2, "iii")
    assert pages[2].page_content[where["start"] : where["end"]] == found.page_content == FACT


def test_words_around_the_evidence_stay_within_its_document(r, pages):
    retriever = ReadingRetriever(reader=r, document=pages, strategy="rag", around=40)
    [found] = retriever.invoke(QUESTION)
    where = found.metadata
    assert where["quote"] == FACT
    assert found.page_content.startswith(FACT)  # the part before is another document
    assert len(FACT) < len(found.page_content) <= len(FACT) + 40
    assert found.page_content == pages[2].page_content[where["start"] : where["end"]]
    assert not found.page_content[-1].isspace() or found.page_content.endswith(" ")


def test_k_limits_and_nothing_found_is_empty(store):
    both = f"333.\nQuote: {FACT}\nQuote: The fact of part 1 is number 111."
    with Reader(says(both), store=store) as r:
        settings: dict[str, Any] = {"reader": r, "document": tale(6), "strategy": "rag"}
        assert len(ReadingRetriever(**settings).invoke(QUESTION)) == 2
        assert len(ReadingRetriever(**settings, k=1).invoke(QUESTION)) == 1
    with Reader(says("Not found in the document."), store=False) as r:
        assert ReadingRetriever(reader=r, document=tale(6), strategy="rag").invoke("Who?") == []


def test_documents_without_text_are_refused(r):
    with pytest.raises(EmptyDocument):
        as_document([LangChainDocument(" ")])


def test_traces_show_the_document_by_name_only(r, pages):
    for made in (
        ReadingRetriever(reader=r, document=pages),
        ReadingChain(reader=r, document=pages),
    ):
        assert "number 333" not in repr(made)


# Chain ---------------------------------------------------------------------------------------


def test_the_chain_answers_in_every_way_of_calling_it(r, pages):
    chain = ReadingChain(reader=r, document=pages, strategy="rag")
    out = chain.invoke(QUESTION)
    assert (out["question"], out["answer"]) == (QUESTION, "It is 333.")
    assert out["context"][0].page_content == FACT
    assert out["reading"].status == "answered"
    assert asyncio.run(chain.ainvoke({"question": QUESTION}))["answer"] == out["answer"]


def test_the_answer_streams_in_pieces_that_add_up(pages, store):
    long = (
        "The fact of the third part is the number 333, as the part itself says in its first words."
    )
    with Reader(says(f"{long}\nQuote: {FACT}"), store=store) as r:
        chain = ReadingChain(reader=r, document=pages, strategy="rag")
        pieces = list(chain.stream(QUESTION))
        assert sum("answer" in piece for piece in pieces) > 1
        whole = pieces[0]
        for piece in pieces[1:]:
            whole = whole + piece
        assert set(whole) == {"question", "answer", "context", "reading"}
        assert whole["answer"] == whole["reading"].text == long

        async def streamed(question: str) -> str:
            said = [piece.get("answer", "") async for piece in chain.astream(question)]
            return "".join(said)

        assert asyncio.run(streamed("Other: " + QUESTION)) == long
        assert asyncio.run(streamed(QUESTION)) == long  # known: it comes at once, and whole


def test_the_chain_stands_in_a_chain_of_langchain(r, pages):
    chain = ReadingChain(reader=r, strategy="rag").pick("answer") | StrOutputParser()
    assert chain.invoke({"question": QUESTION, "document": pages}) == "It is 333."


def test_a_batch_reads_once_for_all_questions_about_one_document(store):
    model = says("Facts noted so far.", window=2048)
    with Reader(model, store=store) as r:
        chain = ReadingChain(reader=r, document=tale(20))
        asked = ["One?", "Two?", "Three?"]
        outs = chain.batch(asked)
        assert [out["question"] for out in outs] == asked
        calls = len(model.requests)
        together = r.answer_many(tale(20), asked)  # the same reading: nothing is asked again
        assert [a.run_id for a in together] == [out["reading"].run_id for out in outs]
        assert len(model.requests) == calls
        other = asyncio.run(chain.abatch(["One?", {"question": "Two?", "document": tale(3)}]))
        assert [out["reading"].status for out in other] == ["answered", "answered"]


def test_a_batch_gives_errors_in_their_places(r):
    chain = ReadingChain(reader=r, document=tale(3), strategy="rag")
    outs = chain.batch([QUESTION, " ", {"document": "x"}], return_exceptions=True)
    assert outs[0]["answer"] == "It is 333."
    assert [type(o) for o in outs[1:]] == [InvalidOption, InvalidOption]
    with pytest.raises(InvalidOption):
        chain.batch([QUESTION, " "])


def test_progress_comes_as_custom_events(store):
    heard: list[Any] = []

    class Listener(BaseCallbackHandler):
        def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
            heard.append((name, data["done"], data["total"]))

    with Reader(says("Facts."), store=store) as r:
        chain = ReadingChain(reader=r, document=tale(60), options={"window": 1024})
        chain.invoke(QUESTION, {"callbacks": [Listener()]})
        assert len(heard) > 3
        assert heard[-1] == (PROGRESS, heard[-1][2], heard[-1][2])

        async def events() -> list[Any]:
            return [
                event["data"]["done"]
                async for event in chain.astream_events("Other?", version="v2")
                if event["event"] == "on_custom_event"
            ]

        assert len(asyncio.run(events())) > 3


def test_a_chain_without_document_or_question_says_so(r):
    with pytest.raises(InvalidOption, match="no document"):
        ReadingChain(reader=r).invoke(QUESTION)
    with pytest.raises(InvalidOption, match="no question"):
        ReadingChain(reader=r, document=tale(3)).invoke({"input": QUESTION})


# Tool ----------------------------------------------------------------------------------------


def call(name: str = "read_document") -> dict[str, Any]:
    return {"name": name, "args": {"question": QUESTION}, "id": "1", "type": "tool_call"}


def test_the_tool_tells_an_agent_answer_and_places_and_keeps_the_answer(r, pages):
    tool = reading_tool(r, pages, strategy="rag")
    message = tool.invoke(call())
    assert message.content.startswith("It is 333.")
    assert f"“{FACT}”" in message.content
    assert message.artifact.citations[0].text == FACT
    assert asyncio.run(tool.ainvoke(call())).content == message.content
    assert "characters" in tool.description


def test_the_tool_works_inside_a_graph_that_has_a_checkpointer(pages, store):
    from langgraph.checkpoint.memory import InMemorySaver

    with Reader(says(), store=store) as r:
        builder = StateGraph(MessagesState)
        builder.add_node("tools", ToolNode([reading_tool(r, pages)]))
        builder.add_edge(START, "tools")
        graph = builder.compile(checkpointer=InMemorySaver())
        asks = {"messages": [AIMessage("", tool_calls=[call()])]}
        config: Any = {"configurable": {"thread_id": "1"}}
        out = asyncio.run(graph.ainvoke(asks, config))
        assert "It is 333." in out["messages"][-1].content
        assert graph.get_state(config).next == ()


def test_an_error_is_the_tools_reply():
    with LocalServer([wrong_key()]) as server, Reader(server.url, store=False) as r:
        message = reading_tool(r, tale(3)).invoke(call())
    assert message.status == "error"
    assert "does not accept the API key" in message.content


# Chat models ---------------------------------------------------------------------------------


@pytest.fixture
def client():
    with httpx2.Client() as opened:
        yield opened


def openai(server: LocalServer, client: Any, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="m",
        base_url=server.url,
        api_key="sk-secret",
        max_retries=0,
        http_client=client,
        **more,
    )


def ask(model: LangChainChat, *, hear: Any = None, **more: Any) -> Any:
    request = ChatRequest(messages=(Message("user", "hello there"),), max_tokens=7, **more)
    return asyncio.run(model.generate(request, hear))


def test_a_langchain_chat_model_is_a_model_as_it_is(client, store):
    with LocalServer(default=ok(REPLY, usage=(40, 9))) as server:
        llm = openai(server, client, max_tokens=None)
        for number in range(2):  # each call has an event loop of its own
            answer = reader.answer(tale(5 + number), QUESTION, "rag", model=llm, store=store)
            assert (answer.text, answer.citations[0].text) == ("It is 333.", FACT)
            used = answer.usage
            assert (used.calls, used.prompt_tokens, used.completion_tokens) == (1, 40, 9)
        sent = server.calls[-1]
        calls = len(server.calls)
        # Equal settings mean equal replies: another object, as after a restart, finds them.
        again = openai(server, client, max_tokens=None)
        assert reader.answer(tale(6), QUESTION, "rag", model=again, store=store).usage.calls == 0
        assert len(server.calls) == calls
    assert sent["temperature"] == 0
    assert sent["max_completion_tokens"] > 0
    assert llm.max_tokens is None  # the caller's object is as it was


def test_the_key_is_not_part_of_the_identity(client):
    with LocalServer() as server:
        info = asyncio.run(LangChainChat(openai(server, client)).info())
    assert "secret" not in repr(info)


def test_window_and_notice_come_from_the_profile(client):
    with LocalServer() as server:
        unknown = asyncio.run(LangChainChat(openai(server, client)).info())
        known = asyncio.run(
            LangChainChat(openai(server, client, profile={"max_input_tokens": 99_000})).info()
        )
        told = asyncio.run(LangChainChat(openai(server, client), window=32_000).info())
    assert "8192 tokens are assumed" in unknown.notice
    assert (known.window, known.notice) == (99_000, "")
    assert (told.window, told.notice) == (32_000, "")


def test_finish_reason_seed_and_stop_are_carried(client):
    with LocalServer([cut_at_cap("half"), ok("whole", cached=4)]) as server:
        model = LangChainChat(openai(server, client))
        assert ask(model, seed=5, temperature=0.3, stop=("END",)).finish_reason == "length"
        whole = ask(model)
        assert (whole.finish_reason, whole.cached_tokens) == ("stop", 4)
        [sent, _] = server.calls
    assert (sent["seed"], sent["temperature"], sent["stop"]) == (5, 0.3, ["END"])
    assert sent["max_completion_tokens"] == 7


def test_pieces_are_passed_on_as_they_come(client):
    with LocalServer(default=ok("one two three", usage=(11, 3))) as server:
        heard: list[str] = []
        model = LangChainChat(openai(server, client, stream_usage=True))
        reply = ask(model, hear=heard.append)
    assert heard == ["one", " two", " three"]
    assert (reply.text, reply.finish_reason) == ("one two three", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 3)


@pytest.mark.parametrize(
    ("reply", "kind", "retryable"),
    [
        (rate_limited("2"), RateLimited, True),
        (server_error(), ServerFailed, True),
        (context_overflow(), ContextOverflow, False),
        (wrong_key(), AuthenticationFailed, False),
        (unknown_model(), UnknownModel, False),
        (empty_body(), BadReply, True),
        (half_a_reply(), BadReply, True),
    ],
)
def test_errors_are_translated_and_nothing_is_retried(client, reply, kind, retryable):
    with LocalServer([reply]) as server:
        with pytest.raises(kind) as caught:
            ask(LangChainChat(openai(server, client)))
        assert len([e for e in server.requests if "chat" in e.path]) == 1
    assert caught.value.retryable is retryable
    assert "hello there" not in str(caught.value)
    assert "sk-" not in str(caught.value)
    assert caught.value.__cause__ is None
    if isinstance(caught.value, RateLimited):
        assert caught.value.retry_after == 2


def test_no_server_is_told_as_such(client):
    with LocalServer() as server:
        llm = openai(server, client)
    with pytest.raises(ModelUnavailable):
        ask(LangChainChat(llm))


class Refused(Exception):
    """As providers without LangChain's own errors raise them."""

    def __init__(self, status_code: int) -> None:
        super().__init__("no")
        self.status_code = status_code


class Failing(GenericFakeChatModel):
    error: Any = None

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error


def test_other_providers_errors_are_known_by_their_status_and_bugs_stay_bugs():
    for status, kind in ((429, RateLimited), (503, ServerFailed), (401, AuthenticationFailed)):
        with pytest.raises(kind):
            ask(LangChainChat(Failing(messages=iter(()), error=Refused(status))))
    with pytest.raises(ZeroDivisionError) as caught:
        ask(LangChainChat(Failing(messages=iter(()), error=ZeroDivisionError())))
    assert not isinstance(caught.value, ModelError)


def test_a_model_that_counts_nothing_is_counted_from_above(store):
    llm = GenericFakeChatModel(messages=iter([AIMessage("It is 333.")]))
    answer = reader.answer(tale(5), QUESTION, "rag", model=llm, store=store)
    assert answer.text == "It is 333."
    assert answer.usage.prompt_tokens > 100
    assert answer.usage.completion_tokens > 0
    assert answer.estimate is not None
    assert not answer.estimate.exact_counts


def test_a_deadline_does_not_wait_for_a_call_that_hangs(client, store):
    with LocalServer(default=ok("x", delay=NEVER)) as server:
        llm = openai(server, client)
        answer = reader.answer(tale(5), QUESTION, "rag", model=llm, store=store, deadline=0.3)
        assert answer.status == "partial"


def test_a_wrapped_model_is_refused_with_what_to_pass():
    wrapped: Any = GenericFakeChatModel(messages=iter(())).with_retry()
    with pytest.raises(UnknownModel, match=r"without bind"):
        LangChainChat(wrapped)


def test_without_langchain_the_module_says_what_to_install():
    code = (
        "import sys, json; sys.modules['langchain_core.tools'] = None\n"
        "from reader.errors import MissingExtra\n"
        "try:\n    import reader.integrations.langchain\n"
        "except MissingExtra as error: print(json.dumps(error.hint))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == "pip install 'longdoc-reader[langchain]'"


def test_the_library_loads_no_framework_that_was_not_asked_for():
    code = (
        "import sys, reader\nfrom reader.cli import app\n"
        "with reader.Reader(lambda turns: 'x', store=False) as r:\n"
        "    r.answer('A text.', 'Q?', 'full')\n"
        "loaded = {'mcp', 'llama_index', 'langchain_openai', 'reader.integrations',"
        " 'reader.llm.langchain_chat'}\n"
        "assert not loaded & set(sys.modules), loaded & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
