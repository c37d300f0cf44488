"""Running a question: resume, interruption, limits, both faces, bad input."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fpdf import FPDF

import reader as package
from conftest import tale
from reader import Budget, Reader, Store
from reader.errors import (
    BudgetTooSmall,
    DocumentNotFound,
    EmptyDocument,
    EmptyQuestion,
    InvalidOption,
    ModelUnavailable,
    ReaderError,
    RunNotFound,
    StoreFull,
    StoreUnavailable,
    UnknownPrice,
    UnknownStrategy,
)
from reader.events import Done, Notice, Progress
from reader.render import cost_line
from reader.testing import FunctionModel
from servers import LocalServer, ok

ARGUMENTS = {"chunk_tokens": 60}


def model(reply: str = "Facts noted so far.", **options):
    return FunctionModel(lambda request: reply, window=2048, identity="model", **options)


# Both faces ------------------------------------------------------------------------------


def test_the_sync_face_works_inside_a_running_loop(store):
    async def main():
        return package.answer(tale(), "Q?", model=model(), store=store, **ARGUMENTS)

    assert asyncio.run(main()).status == "answered"


def test_sync_and_async_give_the_same_answer():
    async def twin():
        return await package.aanswer(tale(), "Q?", model=model(), store=False, **ARGUMENTS)

    one = package.answer(tale(), "Q?", model=model(), store=False, **ARGUMENTS)
    two = asyncio.run(twin())
    assert one.run_id == two.run_id
    assert one.text == two.text
    assert one.coverage == two.coverage


def test_astream_and_aestimate():
    async def main():
        async with Reader(model(), store=False) as r:
            expected = await r.aestimate(tale(), "Q?", **ARGUMENTS)
            events = [e async for e in r.astream(tale(), "Q?", **ARGUMENTS)]
        return expected, events

    expected, events = asyncio.run(main())
    assert isinstance(events[-1], Done)
    assert expected.calls == events[-1].answer.usage.calls


def test_a_reader_can_be_used_from_several_loops_and_threads_of_the_caller(store):
    with Reader(model(), store=store) as r:
        assert asyncio.run(r.aanswer(tale(2), "One?", **ARGUMENTS)).status == "answered"
        assert asyncio.run(r.aanswer(tale(2), "Two?", **ARGUMENTS)).status == "answered"
        assert r.answer(tale(2), "Three?", **ARGUMENTS).status == "answered"


def test_leaving_a_stream_early_stops_the_run(store):
    asked = []

    def reply(request):
        asked.append(request)
        return "Facts."

    with Reader(FunctionModel(reply, window=2048, delay=0.005), store=store) as r:
        for _ in r.stream(tale(40), "Q?", **ARGUMENTS):
            break
    assert len(asked) < 40


# Resume ----------------------------------------------------------------------------------

CHILD = textwrap.dedent(
    """
    import sys
    sys.path.insert(0, {tests!r})
    from conftest import tale
    from reader import Reader, run
    run.SECONDS_BETWEEN_RECORDS = 0.01
    with Reader({address!r}, store={store!r}) as r:
        answer = r.answer(tale(30), "Q?", chunk_tokens=60, window=2048)
    print(answer.usage.calls, answer.earlier.calls)
    """
)


def child(server, store: Path) -> subprocess.Popen:
    code = CHILD.format(tests=str(Path(__file__).parent), address=server.url, store=str(store))
    return subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_and_pays_for_no_finished_call_twice(tmp_path, how):
    with LocalServer(default=ok("Facts noted so far."), delay=0.05) as server:
        first = child(server, tmp_path / "s")
        while len(server.calls) < 8 and first.poll() is None:
            time.sleep(0.01)
        first.send_signal(how)
        first.communicate()
        finished = {json.dumps(c) for c in server.calls}
        second = child(server, tmp_path / "s")
        out, err = second.communicate()
        assert second.returncode == 0, err
        bodies = [json.dumps(c) for c in server.calls]
    assert len(finished) >= 8
    repeated = [b for b in finished if bodies.count(b) > 1]
    # The call in flight at the kill may have been answered to nobody: that one only.
    assert len(repeated) <= 1
    assert len(set(bodies)) == 31
    now, before = map(int, out.split())
    assert before >= 5
    assert len(bodies) - 3 <= now + before <= len(bodies)


def test_a_resumed_run_shows_what_was_done_and_guesses_from_its_own_pace(store, monkeypatch):
    monkeypatch.setattr("reader.strategies.coa.SLICE_SECONDS", 0.0)
    asked = []

    def breaks_at_the_eighth(request):
        asked.append(request)
        if len(asked) == 8:
            raise RuntimeError("as if killed")
        return "Facts noted so far."

    broken = FunctionModel(breaks_at_the_eighth, window=2048, identity="model")
    with Reader(broken, store=store) as reader, pytest.raises(RuntimeError):
        reader.answer(tale(30), "Q?", **ARGUMENTS)
    seen: list[Progress] = []
    with Reader(model(), store=store) as reader:
        reader.answer(
            tale(30),
            "Q?",
            on_event=lambda e: seen.append(e) if isinstance(e, Progress) else None,
            **ARGUMENTS,
        )
    assert (seen[0].done, seen[0].total, seen[0].seconds_left) == (7, 31, None)
    assert seen[1].done == 8
    assert seen[1].seconds_left == pytest.approx(seen[1].seconds * 23)


def test_a_finished_run_is_answered_without_a_server(tmp_path):
    with LocalServer(default=ok("Facts noted so far.")) as server:
        with Reader(server.url, store=tmp_path / "s") as r:
            first = r.answer(tale(), "Q?", **ARGUMENTS)
            calls = len(server.calls)
            second = r.answer(tale(), "Q?", **ARGUMENTS)
        assert len(server.calls) == calls
    assert second.text == first.text
    assert second.usage.calls == 0


def test_resume_by_id_needs_the_file_only(tmp_path, store):
    path = tmp_path / "tale.txt"
    path.write_text(tale())
    with Reader(model(), store=store) as r:
        partial = r.answer(path, "Q?", budget="calls=3", **ARGUMENTS)
        assert partial.status == "partial"
        done = r.resume(partial.run_id)
        again = r.answer(path, "Q?", **ARGUMENTS)
    assert done.status == "answered"
    assert done.run_id == partial.run_id
    assert done.usage.cached_calls >= 2
    assert (partial.earlier.calls, done.earlier.calls) == (0, partial.usage.calls)
    assert cost_line(done).endswith("before it went on 3 calls")
    assert store.run(done.run_id).usage["calls"] == 3 + done.usage.calls
    assert "before" not in cost_line(again)


def test_resume_of_a_text_from_memory_says_what_to_do(store):
    with Reader(model(), store=store) as r:
        partial = r.answer(tale(), "Q?", budget={"calls": 3}, **ARGUMENTS)
        with pytest.raises(RunNotFound, match="memory"):
            r.resume(partial.run_id)
        with pytest.raises(RunNotFound):
            r.resume("nothing-like-it")


def test_a_thousand_chunks_leave_a_small_checkpoint_file(tmp_path):
    long_note = "Facts noted so far, and many of them, so that the note is of some length. " * 12
    with Reader(model(long_note), store=tmp_path / "s") as r:
        answer = r.answer(tale(1000), "Q?", **ARGUMENTS)
    assert answer.coverage.read == 1000
    size = sum(f.stat().st_size for f in (tmp_path / "s").glob("checkpoints.sqlite*"))
    assert 0 < size < 5_000_000


# Limits ----------------------------------------------------------------------------------


def test_a_deadline_gives_the_best_answer_so_far(store):
    with Reader(model(delay=0.05), store=store) as r:
        answer = r.answer(tale(200), "Q?", deadline=1.0, **ARGUMENTS)
    assert answer.status == "partial"
    assert 0 < answer.coverage.read <= 20  # a second of calls in series, 0.05 s each
    assert answer.text


def test_a_deadline_during_the_last_call_gives_the_notes(store):
    async def reply(request):
        await asyncio.sleep(30 if request.purpose == "manager" else 0)
        return "Facts noted so far."

    with Reader(FunctionModel(reply, window=2048), store=store) as r:
        answer = r.answer(tale(3), "Q?", deadline=1.0, **ARGUMENTS)
    assert answer.status == "partial"
    assert answer.text == "Facts noted so far."


def test_budgets_too_small_to_start_say_what_is_needed(store):
    with Reader(model(), store=store) as r:
        with pytest.raises(BudgetTooSmall, match="at least 2"):
            r.answer(tale(), "Q?", budget=Budget(calls=1), **ARGUMENTS)
        with pytest.raises(BudgetTooSmall, match="at least"):
            r.answer(tale(), "Q?", budget=Budget(tokens=50), **ARGUMENTS)
        with pytest.raises(UnknownPrice):
            r.answer(tale(), "Q?", budget=Budget(usd=1), **ARGUMENTS)


def test_money_is_counted_and_limited():
    price = package.Price(prompt=10.0, completion=30.0)
    with Reader(model(), store=False, price=price) as r:
        full = r.answer(tale(20), "Q?", **ARGUMENTS)
        expected = price.cost(full.usage.prompt_tokens, full.usage.completion_tokens)
        assert full.usage.cost == pytest.approx(expected)
    with Reader(model(), store=False, price=price) as r:
        limit = full.usage.cost * 0.9 + 0.06
        part = r.answer(tale(20), "Q?", budget={"usd": limit}, **ARGUMENTS)
        assert part.usage.cost <= limit


# Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"question": "  "}, EmptyQuestion, "empty"),
        ({"doc": "missing/book.txt"}, DocumentNotFound, "book.txt"),
        ({"doc": b"   "}, EmptyDocument, "text"),
        ({"strategy": "cao"}, UnknownStrategy, "'coa'"),
        ({"chunk_token": 60}, InvalidOption, "chunk_tokens"),
        ({"paths": "many"}, InvalidOption, "paths"),
        ({"budget": "calls=few"}, InvalidOption, "calls=20"),
        ({"budget": {"cals": 3}}, InvalidOption, "calls"),
        ({"deadline": -1}, InvalidOption, "deadline"),
        ({"choices": ["one"]}, InvalidOption, "two"),
    ],
)
def test_what_bad_input_gets(change, error, says):
    arguments = {"doc": tale(2), "question": "Q?", "strategy": "coa", **change}
    doc, question = arguments.pop("doc"), arguments.pop("question")
    with Reader(model(), store=False) as r, pytest.raises(error, match=says):
        r.answer(doc, question, **arguments)


def test_no_server_at_the_address():
    with (
        Reader("http://127.0.0.1:9/v1", store=False) as r,
        pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1:9"),
    ):
        r.answer(tale(2), "Q?")


def test_a_whole_store_opens_while_another_process_holds_its_gate(tmp_path, monkeypatch):
    Store(tmp_path).close()

    def held(folder):
        raise AssertionError("it waits for the gate")

    monkeypatch.setattr("reader.memory.store.gate", held)
    Store(tmp_path).close()
    with pytest.raises(AssertionError, match="waits"):
        Store(tmp_path / "new")


def test_a_corrupt_store_is_moved_aside_reported_and_rebuilt(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "reader.sqlite").write_bytes(b"this is no database at all" * 100)
    (folder / "checkpoints.sqlite").write_bytes(b"nor is this" * 300)
    events = []
    with Reader(model(), store=folder) as r:
        answer = r.answer(tale(2), "Q?", on_event=events.append, **ARGUMENTS)
    assert answer.status == "answered"
    assert any("damaged" in e.text for e in events if isinstance(e, Notice))
    assert len(list(folder.glob("*.damaged-*"))) == 2


def test_a_full_disk_is_a_typed_error_and_loses_nothing(tmp_path):
    store = Store(tmp_path / "s")
    asked = []

    def reply(request):
        asked.append(request.messages)
        if len(asked) == 3:
            store._db.execute("PRAGMA max_page_count = 1")
        return "Facts noted so far, " * 300

    with Reader(FunctionModel(reply, window=8192), store=store) as r:
        with pytest.raises(StoreFull) as caught:
            r.answer(tale(), "Q?", **ARGUMENTS)
        assert caught.value.spent.calls >= 3
        store._db.execute("PRAGMA max_page_count = 1073741823")
        before = len(asked)
        assert r.answer(tale(), "Q?", **ARGUMENTS).status == "answered"
        assert asked[0] not in asked[before:]
        assert asked[1] not in asked[before:]


def test_a_store_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable):
        Reader(model(), store=tmp_path / "file" / "s")


def test_every_error_says_what_to_do():
    from reader import errors

    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, ReaderError)]
    assert len(kinds) > 20
    for kind in kinds:
        assert kind.__doc__


# The store -------------------------------------------------------------------------------


def test_the_store_is_safe_for_four_processes(tmp_path):
    code = textwrap.dedent(
        """
        import sys
        from reader import Store
        store = Store(sys.argv[1])
        for i in range(200):
            store.put(f"{sys.argv[2]}-{i}", "x" * 500)
            store.put("shared", sys.argv[2])
        """
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s"), str(n)], stderr=-1)
        for n in range(4)
    ]
    for run in runs:
        _, err = run.communicate()
        assert run.returncode == 0, err
    db = sqlite3.connect(tmp_path / "s" / "reader.sqlite")
    assert db.execute("SELECT count(*) FROM replies").fetchone() == (801,)
    db.close()


def test_past_runs_are_listed_newest_first(store):
    with Reader(model(), store=store) as r:
        for question in ("One?", "Two?"):
            r.answer(tale(2), question, **ARGUMENTS)
    runs = store.runs()
    assert [run.question for run in runs] == ["Two?", "One?"]
    assert runs[0].usage["calls"] == 3
    assert json.loads(runs[0].answer)["version"] == 1
    assert store.run(runs[1].id[:6]) == runs[1]
    assert os.path.exists(store.folder)


@pytest.mark.parametrize(("spec", "heard"), [(None, ["small"]), ("embedded", [])])
def test_only_who_named_no_model_is_told_that_it_is_small(monkeypatch, spec, heard):
    class Small(FunctionModel):
        async def info(self):
            return replace(await super().info(), notice="small")

    monkeypatch.setattr(
        "reader.asynchronous.open_model", lambda *_, **__: Small(lambda _: "Morris.")
    )
    events: list[object] = []
    with Reader(spec, store=False) as small:
        small.answer(tale(2), "Who?", on_event=events.append, window=2048)
    assert [e.text for e in events if isinstance(e, Notice)] == heard


# What the document lacks -----------------------------------------------------------------


@pytest.mark.parametrize(("scanned", "warned"), [(1, False), (2, True)])
def test_pages_that_are_pictures_are_said(store, scanned, warned):
    pdf = FPDF()
    pdf.set_font("Helvetica", size=12)
    for _ in range(5):
        pdf.add_page()
        pdf.multi_cell(0, 6, "Words of a page.")
    for _ in range(scanned):
        pdf.add_page()
    events = []
    answer = package.answer(
        bytes(pdf.output()), "Q?", model=model(), store=store, on_event=events.append
    )
    said = [w for w in answer.trace.warnings if "run text recognition" in w]
    assert said == (["2 of 7 pages hold no text. " + said[0].split(". ")[1]] if warned else [])
    assert [e.text for e in events if isinstance(e, Notice)] == said


def test_a_script_that_closes_nothing_ends():
    script = """
        import reader
        from reader.testing import FunctionModel

        model = FunctionModel(lambda request: "60 euros")
        book = reader.open("The key costs 60 euros.", model=model, store=False)
        print(book.ask("What does the key cost?", "full").text)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,  # it waited for ever for a thread that was gone
    )
    assert (ended.returncode, ended.stdout) == (0, "60 euros\n"), ended.stderr
