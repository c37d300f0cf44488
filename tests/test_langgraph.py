"""Strategies as subgraphs of a graph of one's own: checkpoints, interrupts, streams."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from attention_words import GOOD, SHAPE, WordAttention
from conftest import tale
from reader import Document, Reader, Store
from reader.attention.heads import HeadTable
from reader.errors import DocumentNotFound, InvalidOption, RunNotFound, UnknownStrategy
from reader.integrations.langgraph import ReadingState, full_answer, reading_graph
from reader.strategy import strategies
from reader.testing import FunctionModel
from servers import LocalServer, ok

FACT = "The fact of part 3 is number 333."
REPLY = f"It is 333.\nQuote: {FACT}"
QUESTION = "What is the fact of part 3?"
THREAD: Any = {"configurable": {"thread_id": "t"}}


def says(reply: Any = REPLY, **more: Any) -> FunctionModel:
    function = reply if callable(reply) else lambda request: reply
    return FunctionModel(function, window=1024, identity="says", **more)


def parent(node: Any, saver: Any = None, *, asks: bool = False) -> Any:
    """A graph that reads, asks a person first where it should, and says the answer aloud."""

    class State(ReadingState, total=False):
        aloud: str

    def approve(state: State) -> State:
        assert interrupt({"read": state["document"]}) == "yes"
        return {}

    builder = StateGraph(State)
    builder.add_node("approve", approve if asks else lambda state: {})
    builder.add_node("read", node)
    builder.add_node("tell", lambda state: {"aloud": state["answer"]["text"].upper()})
    builder.add_edge(START, "approve")
    builder.add_edge("approve", "read")
    builder.add_edge("read", "tell")
    builder.add_edge("tell", END)
    return builder.compile(checkpointer=saver)


def start(document: str, question: str | None = QUESTION) -> dict[str, Any]:
    return {"document": document, "question": question}


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(tale(40))
    return path


@pytest.fixture
def saver(tmp_path: Path):
    connection = sqlite3.connect(tmp_path / "parent.sqlite", check_same_thread=False)
    yield SqliteSaver(connection)
    connection.close()


def namespaces(saver: Any) -> set[str]:
    """The graphs that have checkpoints: names of nodes, without the numbers of tasks."""
    found = (kept.config["configurable"]["checkpoint_ns"] for kept in saver.list(THREAD))
    return {"/".join(part.split(":")[0] for part in ns.split("|")) for ns in found}


def test_a_strategy_is_a_node_and_its_steps_are_in_the_parents_checkpointer(book, saver, store):
    with Reader(says(), store=store) as r:
        graph = parent(reading_graph("rag", r), saver)
        out = graph.invoke(start(str(book)), THREAD)
        answer = full_answer(out["answer"], r)
    assert out["aloud"] == "IT IS 333."
    [place] = out["answer"]["citations"]
    text = book.read_text()
    assert text[place["start"] : place["end"]] == FACT
    assert answer.citations[0].text == FACT
    assert (out["answer"]["status"], out["answer"]["usage"]["calls"]) == ("answered", 1)
    assert {"", "read", "read/read"} <= namespaces(saver)
    assert "plan" in str(graph.get_graph(xray=True).nodes) or "retrieve" in str(
        graph.get_graph(xray=True).nodes
    )


def test_the_documents_text_is_in_no_checkpoint(book, saver, store, tmp_path):
    with Reader(says("Nothing of note."), store=store) as r:
        parent(reading_graph("coa", r), saver).invoke(start(str(book)), THREAD)
    raw = (tmp_path / "parent.sqlite").read_bytes()
    wal = tmp_path / "parent.sqlite-wal"
    raw += wal.read_bytes() if wal.exists() else b""
    assert b"Nothing of note." in raw
    assert b"The road went on over the hill" not in raw
    assert b"is number" not in raw


def test_an_interrupt_of_the_parent_waits_and_goes_on(book, saver, store):
    model = says()
    with Reader(model, store=store) as r:
        graph = parent(reading_graph("coa", r), saver, asks=True)
        waiting = graph.invoke(start(str(book)), THREAD)
        assert waiting["__interrupt__"][0].value == {"read": str(book)}
        assert model.requests == []
        out = graph.invoke(Command(resume="yes"), THREAD)
    assert out["aloud"].startswith("IT IS 333.")


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_reading_that_broke_goes_on_at_its_last_step_in_the_parents_thread(
    book, store, monkeypatch, face
):
    monkeypatch.setattr("reader.strategies.coa.SLICE_SECONDS", 0.0)
    asked: list[Any] = []

    def breaks(request: Any) -> str:
        asked.append(request)
        if len(asked) == 3:
            raise RuntimeError("as if killed")
        return "Facts noted so far."

    def run(graph: Any, value: Any) -> Any:
        if face == "sync":
            return graph.invoke(value, THREAD, durability="sync")
        return asyncio.run(graph.ainvoke(value, THREAD, durability="sync"))

    saver = InMemorySaver()
    with Reader(says(breaks), store=store) as r, pytest.raises(RuntimeError, match="as if killed"):
        run(parent(reading_graph("coa", r), saver), start(str(book)))
    assert "read/read/path" in namespaces(saver)
    model = says("Facts noted so far.")
    with Reader(model, store=store) as r:
        out = run(parent(reading_graph("coa", r), saver), None)
        answer = full_answer(out["answer"], r)
    assert answer.status == "answered"
    assert answer.coverage.share == 1.0
    # The two finished calls came neither from the model nor from the reply cache: the parent's
    # checkpoint lies behind them.
    assert answer.usage.calls == len(model.requests)
    assert answer.usage.cached_calls == 0
    chunks = len(answer.coverage.chunks)
    assert len(model.requests) == chunks + 1 - 2


def test_another_threads_notes_are_not_taken_for_this_ones(book, store, monkeypatch):
    monkeypatch.setattr("reader.strategies.coa.SLICE_SECONDS", 0.0)
    saver = InMemorySaver()

    def broken_after(calls: int) -> FunctionModel:
        asked: list[Any] = []

        def breaks(request: Any) -> str:
            asked.append(request)
            if len(asked) > calls:
                raise RuntimeError("as if killed")
            return "Facts noted so far."

        return says(breaks)

    def break_off(thread: str, calls: int) -> None:
        with Reader(broken_after(calls), store=store) as r, pytest.raises(RuntimeError):
            parent(reading_graph("coa", r), saver).invoke(
                start(str(book)), {"configurable": {"thread_id": thread}}, durability="sync"
            )

    break_off("one", 3)
    with monkeypatch.context() as forgetful:
        forgetful.setattr(Store, "get", lambda self, key: None)
        break_off("two", 0)  # before its first chunk: the notes of thread one are gone
    with Reader(says("Facts noted so far."), store=store) as r:
        graph = parent(reading_graph("coa", r), saver)
        out = graph.invoke(None, {"configurable": {"thread_id": "one"}})
        answer = full_answer(out["answer"], r)
    assert answer.coverage.share == 1.0
    assert {step.chunk for step in answer.trace.steps if step.purpose == "worker"} == set(
        range(len(answer.coverage.chunks))
    )


CHILD = """
import sqlite3, sys
sys.path.insert(0, {tests!r})
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from reader import Reader
from reader.integrations.langgraph import ReadingState, full_answer, reading_graph
import reader.strategies.coa as coa
coa.SLICE_SECONDS = 0.0
with Reader({address!r}, store={store!r}) as r:
    builder = StateGraph(ReadingState)
    builder.add_node("read", reading_graph("coa", r, window=1024))
    builder.add_edge(START, "read")
    saver = SqliteSaver(sqlite3.connect({parent!r}, check_same_thread=False))
    graph = builder.compile(checkpointer=saver)
    config = {{"configurable": {{"thread_id": "t"}}}}
    start = {{"document": {book!r}, "question": "Which?"}}
    goes_on = bool(graph.get_state(config).next)
    out = graph.invoke(None if goes_on else start, config, durability="sync")
    answer = full_answer(out["answer"], r)
    print(goes_on, answer.status, answer.coverage.share, answer.usage.cached_calls)
"""


def test_a_killed_parent_goes_on_in_another_process(book, tmp_path):
    with LocalServer(default=ok("Facts noted so far."), delay=0.05) as server:
        code = CHILD.format(
            tests=str(Path(__file__).parent),
            address=server.url,
            store=str(tmp_path / "s"),
            parent=str(tmp_path / "parent.sqlite"),
            book=str(book),
        )

        def child() -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-c", code], stdout=-1, stderr=subprocess.PIPE, text=True
            )

        first = child()
        while len(server.calls) < 4 and first.poll() is None:
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        finished = {json.dumps(c) for c in server.calls}
        second = child()
        out, err = second.communicate()
        assert second.returncode == 0, err
        bodies = [json.dumps(c) for c in server.calls]
    goes_on, status, share, cached = out.split()
    assert (goes_on, status, float(share)) == ("True", "answered", 1.0)
    assert int(cached) <= 1  # the step in hand at the kill; what came before was not asked for
    assert len(finished) >= 4
    assert len([b for b in finished if bodies.count(b) > 1]) <= 1


def test_progress_and_pieces_of_the_answer_stream_through_the_parent(book, store):
    with Reader(says("It is 333."), store=store) as r:
        graph = parent(reading_graph("coa", r), InMemorySaver())
        seen = list(
            graph.stream(
                start(str(book)), THREAD, stream_mode=["custom", "updates"], subgraphs=True
            )
        )
    told = [value for _, mode, value in seen if mode == "custom"]
    assert "".join(t["text"] for t in told if t["type"] == "answer_token") == "It is 333."
    steps = [(t["done"], t["total"]) for t in told if t["type"] == "reading_progress"]
    assert steps[-1][0] == steps[-1][1]
    assert next(t["start"] for t in told if t["type"] == "chunk_read") == 0
    nodes = {name for _, mode, value in seen if mode == "updates" for name in value}
    assert {"worker", "manager", "read", "tell"} <= nodes


@pytest.mark.parametrize("strategy", sorted(strategies()))
def test_strategies_answer_as_they_do_by_themselves(strategy, book, tmp_path):
    document, options = Document.from_path(book), {}
    if strategy == "attention":
        table = tmp_path / "heads.json"
        made = HeadTable(model="words", shape=SHAPE, probe="test", source="test", heads=(GOOD,))
        table.write_text(made.model_dump_json())
        options = {"scorer": WordAttention(), "heads": str(table), "scorer_window": 400}
    with Reader(FunctionModel(lambda r: REPLY, window=8192), store=tmp_path / "a") as r:
        alone = r.answer(document, QUESTION, strategy, **options)
    with Reader(FunctionModel(lambda r: REPLY, window=8192), store=tmp_path / "b") as r:
        graph = reading_graph(strategy, r, documents={"book": document}, **options)
        out = graph.invoke({"document": "book", "question": QUESTION})
    assert (out["answer"]["text"], out["answer"]["status"]) == (alone.text, alone.status)
    if strategy != "quotes":  # whose calls want lists of quotes
        assert "333" in alone.text


def test_without_a_checkpointer_the_store_keeps_the_steps_and_nothing_is_paid_twice(book, store):
    model = says()
    with Reader(model, store=store) as r:
        graph = reading_graph("coa", r)
        graph.invoke(start(str(book)))
        calls = len(model.requests)
        again = graph.invoke(start(str(book)))
    assert len(model.requests) == calls
    assert again["answer"]["usage"]["calls"] == 0


def test_a_limit_is_a_status_and_not_an_error(book, store):
    with Reader(says("Facts."), store=store) as r:
        out = reading_graph("coa", r, budget="calls=3").invoke(start(str(book)))
    assert out["answer"]["status"] == "partial"
    assert 0 < out["answer"]["share_read"] < 1


def test_what_the_caller_must_mend_is_said_when_it_is_known(book, store, tmp_path):
    with Reader(says(), store=store) as r:
        with pytest.raises(UnknownStrategy, match="coa"):
            reading_graph("coaa", r)
        with pytest.raises(InvalidOption, match="windw"):
            reading_graph("coa", r, windw=4)
        with pytest.raises(DocumentNotFound):
            reading_graph("coa", r).invoke(start(str(tmp_path / "missing.txt")))
        with pytest.raises(DocumentNotFound, match="There are: a"):
            reading_graph("coa", r, documents={"a": book}).invoke(start("b"))
        with pytest.raises(InvalidOption, match="names no document"):
            reading_graph("coa", r).invoke({"question": QUESTION})
        out = reading_graph("coa", r).invoke(start(str(book)))
    with Reader(says(), store=Store.in_memory()) as other, pytest.raises(RunNotFound):
        full_answer(out["answer"], other)
