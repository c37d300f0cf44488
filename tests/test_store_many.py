"""The store shared by processes, damaged a byte at a time, shown and pruned."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from graphreader_script import Script as GraphScript
from hypothesis import given
from hypothesis import strategies as st
from slot_script import SlotScript, model, question
from test_memwalker import Script as WalkScript
from typer.testing import CliRunner

from conftest import tale
from reader import Reader, Store
from reader.cli import app
from reader.cli_store import seconds, size
from reader.errors import InvalidOption, StoreUnavailable
from reader.memory.claims import claimed, gate
from reader.memory.pruning import contents, prune
from reader.memory.sealing import sealed, unsealed
from reader.testing import FunctionModel, WordEmbedder

DAY = 86_400.0

# Rows that know whether they are whole -----------------------------------------------------


@given(st.text(max_size=60), st.integers(0), st.integers(0, 7))
def test_a_sealed_row_is_read_back_and_no_changed_bit_goes_unseen(text, at, bit):
    row = sealed(text)
    assert unsealed(row) == text
    data = bytearray(row.encode("utf-8", "surrogatepass"))
    data[at % len(data)] ^= 1 << bit
    assert unsealed(data.decode("utf-8", "replace")) is None


def flip(store: Store, table: str, column: str, which: str = "1") -> int:
    """Change one bit in the middle of each text of a column, behind the store's back."""
    rows = store._db.execute(
        f"SELECT rowid, CAST({column} AS BLOB) FROM {table} WHERE {which}"
        if table in ("artifacts", "runs")
        else f"SELECT key, CAST({column} AS BLOB) FROM {table}"
    ).fetchall()
    for key, data in rows:
        changed = bytearray(data)
        changed[len(changed) * 2 // 3] ^= 4
        name = "rowid" if table in ("artifacts", "runs") else "key"
        store._db.execute(
            f"UPDATE {table} SET {column} = CAST(? AS TEXT) WHERE {name} = ?",
            (bytes(changed), key),
        )
    return len(rows)


def prepared(kind: str) -> tuple[Any, dict[str, Any], str, str]:
    """Model, arguments, answer and the purpose of a preparing call for a kind of artifact."""
    if kind == "tree":
        script: Any = WalkScript()
        return script, {"strategy": "memwalker", "chunk_tokens": 60}, "number 1443", "summary"
    if kind == "graph":
        script = GraphScript()
        return script, {"strategy": "graphreader", "chunk_tokens": 60}, "number 333", "extract"
    script = SlotScript()
    return script, {"strategy": "memagent", "chunk_tokens": 200}, "3 has 333", ""


@pytest.mark.parametrize("kind", ["tree", "graph", "segments"])
def test_damaged_preparations_are_made_anew_and_the_answer_says_so(store, kind):
    script, arguments, text, purpose = prepared(kind)
    doc = tale(16) if kind == "tree" else tale()
    asked = "What is the fact of part 13?" if kind == "tree" else question(3)
    transport = FunctionModel(script, window=4096, identity="same", json_schema=True)
    with Reader(transport, store=store) as r:
        assert r.answer(doc, asked, **arguments).text == text
        kept = {key: store.artifact(key) for (key,) in store._read("SELECT key FROM artifacts")}
        assert flip(store, "artifacts", "payload") == len(kept) > 0
        again = (
            r.answer(doc, f"{asked} Tell.", **arguments)
            if kind != "segments"
            else (r.answer(doc, f"Tell: {asked}", **arguments))
        )
        assert again.text == text
        assert any("damaged" in w and "made anew" in w for w in again.trace.warnings)
        assert {key: store.artifact(key) for key in kept} == kept
        # The replies were kept, so making it anew was no call.
        assert sum(r.purpose == purpose for r in script.asked) == len(
            {r.messages for r in script.asked if r.purpose == purpose}
        )


def test_damaged_vectors_are_made_anew_and_the_answer_says_so(store):
    def ask(asked: str) -> Any:
        with Reader(model(SlotScript()), store=store) as r:
            return r.answer(tale(30), asked, "rag", retriever="dense", embedder=WordEmbedder(), k=3)

    ask("First?")
    for file in (store.folder / "vectors").glob("*.faiss"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    again = ask("Second?")
    assert any("Vectors" in w for w in again.trace.warnings)
    assert flip(store, "artifacts", "payload", "kind = 'vectors'")
    third = ask("Third?")
    assert any("damaged" in w for w in third.trace.warnings)
    assert not ask("Fourth?").trace.warnings


def test_damaged_replies_and_answers_are_asked_for_again(store):
    script = SlotScript()
    with Reader(model(script), store=store) as r:
        first = r.answer(tale(3), question(2), chunk_tokens=200)
        calls = len(script.asked)
        flip(store, "runs", "answer")
        same = r.answer(tale(3), question(2), chunk_tokens=200)
        assert (same.text, same.usage.calls, len(script.asked)) == (first.text, 0, calls)
        assert any("answer" in w for w in same.trace.warnings)
        flip(store, "runs", "answer")
        flip(store, "replies", "record")
        third = r.answer(tale(3), question(2), chunk_tokens=200)
    assert third.text == first.text
    assert len(script.asked) == 2 * calls
    assert any("reply" in w for w in third.trace.warnings)


def test_a_damaged_checkpoint_begins_the_run_anew_with_its_kept_replies(tmp_path):
    script, done = SlotScript(), []

    def respond(request):
        if len(done) == 2:
            raise KeyError("stop")
        done.append(request)
        return script(request)

    def ask(transport: Any) -> Any:
        with Reader(transport, store=tmp_path) as r:
            return r.answer(tale(12), question(11), chunk_tokens=200)

    with pytest.raises(KeyError):
        ask(model(respond))
    db = sqlite3.connect(tmp_path / "checkpoints.sqlite")
    with db:
        assert db.execute("UPDATE checkpoints SET checkpoint = zeroblob(40)").rowcount
    db.close()
    whole = SlotScript()
    answer = ask(model(whole))
    assert answer.text == "11 has 1221"
    assert answer.usage.cached_calls == 2
    assert any("checkpoint" in w for w in answer.trace.warnings)


@pytest.mark.parametrize(
    ("strategy", "change"),
    [
        ("memwalker", {"summary_tokens": 100}),
        ("memwalker", {"chunk_tokens": 90}),
        ("graphreader", {"facts_tokens": 512}),
        ("memagent", {"chunk_tokens": 100}),
        ("memagent", {"align": True}),
    ],
)
@pytest.mark.parametrize("what", ["options", "document"])
def test_preparations_are_those_of_the_document_and_the_options(store, strategy, change, what):
    scripts = {"memwalker": WalkScript, "graphreader": GraphScript, "memagent": SlotScript}
    arguments: dict[str, Any] = {"strategy": strategy, "chunk_tokens": 60}

    def keys(doc: str, **more: Any) -> set[str]:
        with Reader(
            FunctionModel(scripts[strategy](), window=4096, identity="m", json_schema=True),
            store=store,
        ) as r:
            before = {key for (key,) in store._read("SELECT key FROM artifacts")}
            r.answer(doc, question(3), **{**arguments, **more})
            return {key for (key,) in store._read("SELECT key FROM artifacts")} - before

    doc = tale(16)
    assert keys(doc)
    assert keys(doc) == set()
    made = keys(doc, **change) if what == "options" else keys(doc.replace("wind", "rain"))
    assert made


# Several processes -------------------------------------------------------------------------

CHILD = textwrap.dedent(
    """
    import json, sys
    sys.path.insert(0, {tests!r})
    from conftest import tale
    from reader import Reader
    from slot_script import SlotScript, model, question
    script = SlotScript()
    number = int(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    said = []
    with Reader(model(script), store={store!r}) as r:
        for strategy in ("coa", "memagent"):
            said.append(r.answer(tale(24), question(3), strategy, chunk_tokens=200))
            said.append(r.answer(tale(24), question(10 + number), strategy, chunk_tokens=200))
        said += r.answer_many(tale(24), [question(3), question(20)], chunk_tokens=200)
    print(json.dumps({{
        "texts": [a.text for a in said],
        "states": [a.status for a in said],
        "shares": [a.coverage.share for a in said],
        "calls": len(script.asked),
        "different": len({{r.messages for r in script.asked}}),
    }}))
    """
)


def test_four_processes_share_a_store_that_none_of_them_finds_there(tmp_path):
    code = CHILD.format(tests=str(Path(__file__).parent), store=str(tmp_path / "new" / "store"))
    pipes = {"stdin": -1, "stdout": -1, "stderr": -1, "text": True}
    children = [subprocess.Popen([sys.executable, "-c", code, str(n)], **pipes) for n in range(4)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for number, child in enumerate(children):
        out, err = child.communicate()
        assert child.returncode == 0, err
        found = json.loads(out.splitlines()[-1])
        own = f"{10 + number} has {(10 + number) * 111}"
        assert found["texts"] == ["3 has 333", own, "3 has 333", own, "3 has 333", "20 has 2220"]
        assert found["states"] == ["answered"] * 6
        assert found["shares"] == [1.0] * 6
        assert found["calls"] == found["different"]
    store = Store(tmp_path / "new" / "store")
    assert {run.state for run in store.runs()} == {"answered"}
    assert store.take_notices() == []
    store.close()


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_the_same_question_twice_at_once_is_paid_for_once_and_both_read_everything(store, where):
    script = SlotScript()
    store = Store.in_memory() if where == "memory" else store

    async def main():
        async with Reader(model(script, delay=0.001), store=store) as r:
            return await asyncio.gather(
                *(r.aanswer(tale(12), question(11), chunk_tokens=200) for _ in range(3))
            )

    answers = asyncio.run(main())
    assert {a.text for a in answers} == {"11 has 1221"}
    assert {a.coverage.share for a in answers} == {1.0}
    assert len({a.run_id for a in answers}) == 1
    assert len({r.messages for r in script.asked}) == len(script.asked)
    [run] = store.runs()
    assert {row[0] for row in store._read("SELECT DISTINCT run FROM notes")} == {run.id}


def test_a_claim_is_seen_by_others_and_gone_with_its_process(tmp_path):
    store = Store(tmp_path / "s")
    code = "import sys; from reader import Store; s = Store(sys.argv[1]); c = s.claim('run1');"
    code += "print(c.__enter__(), flush=True); sys.stdin.readline(); import os; os._exit(1)"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(store.folder)], stdin=-1, stdout=-1, text=True
    )
    assert child.stdout.readline() == "run1\n"
    with store.claim("run1") as other, store.claim("run2") as mine, store.claim("run2") as third:
        assert other.startswith("run1~")
        assert (mine, third.startswith("run2~")) == ("run2", True)
        with gate(store.folder):
            assert set(claimed(store.folder)) == {"run1", other, mine, third}
    child.communicate("\n")
    with gate(store.folder):
        assert claimed(store.folder) == {}
    with store.claim("run1") as again:
        assert again == "run1"
    assert list((store.folder / "running").iterdir()) == []
    store.close()
    memory = Store.in_memory()
    with memory.claim("run1") as first, memory.claim("run1") as second:
        assert (first, second.startswith("run1~")) == ("run1", True)


# Sizes and pruning -------------------------------------------------------------------------


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    folder = tmp_path / "filled"
    with Reader(model(SlotScript()), store=folder) as r:
        for part in (1, 2, 3):
            r.answer(tale(12), question(part), chunk_tokens=200)
            r.answer(tale(12), question(part), "memagent", chunk_tokens=200)
        r.answer(
            tale(12),
            question(4),
            "rag",
            retriever="dense",
            embedder=WordEmbedder(),
            chunk_tokens=64,
        )
    return folder


def age(folder: Path, days: float) -> None:
    """Make everything that is in the store now so many days older."""
    db = sqlite3.connect(folder / "reader.sqlite")
    with db:
        for table in ("replies", "artifacts", "runs"):
            db.execute(f"UPDATE {table} SET at = at - ?", (days * DAY,))
    db.close()
    for file in (folder / "vectors").glob("*"):
        old = file.stat().st_mtime - days * DAY
        os.utime(file, (old, old))


def shell(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["store", *map(str, arguments)], catch_exceptions=False)


def test_the_shell_shows_sizes_by_kind_and_the_path(filled):
    shown = shell("--store", filled).output
    for kind in ("replies", "notes", "facts", "runs", "artifact: segments", "artifact: vectors"):
        assert kind in shown
    assert "checkpoints.sqlite" in shown
    found = json.loads(shell("--store", filled, "--json").output)
    assert found["kinds"]["runs"]["count"] == 7
    assert found["kinds"]["replies"]["bytes"] > 0
    assert found["files"]["vectors"] > 0
    assert shell("path", "--store", filled).output.strip() == str(filled)


def test_what_is_old_goes_and_the_rest_stays(filled):
    age(filled, 40)
    with Reader(model(SlotScript()), store=filled) as r:
        r.answer(tale(12), question(9), chunk_tokens=200)
    before = contents(filled)
    said = shell("prune", "--store", filled, "--older-than", "30d", "--dry-run").output
    assert "would be removed" in said
    assert contents(filled).kinds == before.kinds
    said = shell("prune", "--store", filled, "--older-than", "30d").output
    assert "removed:" in said
    assert "smaller" in said
    after = contents(filled)
    assert after.kinds["runs"].count == 1
    assert after.bytes < before.bytes
    assert "artifact: segments" not in after.kinds
    assert "vectors" not in after.files
    script = SlotScript()
    with Reader(model(script), store=filled) as r:
        assert r.answer(tale(12), question(9), chunk_tokens=200).usage.calls == 0
        assert r.answer(tale(12), question(1), chunk_tokens=200).text == "1 has 111"


def test_the_newest_runs_can_be_kept(filled):
    age(filled, 40)
    prune(filled, older_than=30 * DAY, keep_runs=2)
    assert contents(filled).kinds["runs"].count == 2


def test_a_store_is_made_no_larger_than_said(filled):
    with Reader(model(SlotScript()), store=filled) as r:
        for part in range(1, 30):
            r.answer(tale(30), question(part), chunk_tokens=64)
    before = contents(filled).bytes
    done = prune(filled, max_bytes=before // 2)
    assert contents(filled).bytes <= before // 2
    assert done.freed == before - contents(filled).bytes


def test_without_limits_only_remains_go(filled):
    store = Store(filled)
    store.keep_notes("nobody", 0, [(0, {"chunk": 0})])
    store.keep_changes("nobody", 0, 0, "{}")
    store.close()
    (filled / "reader.sqlite.damaged-20260101-000000").write_bytes(b"x" * 100)
    stray = filled / "vectors" / ("0" * 64 + ".faiss")
    stray.write_bytes(b"y")
    os.utime(stray, (time.time() - DAY,) * 2)
    before = contents(filled)
    done = prune(filled)
    assert {kind: s.count for kind, s in done.kinds.items()} == {
        "notes": 1,
        "facts": 1,
        "damaged files": 1,
        "vector files": 1,
    }
    after = contents(filled)
    assert after.kinds["replies"] == before.kinds["replies"]
    assert after.kinds["runs"] == before.kinds["runs"]
    assert not stray.exists()
    assert len(list((filled / "vectors").iterdir())) == 1
    assert prune(filled).kinds == {}


def test_pruning_leaves_a_run_in_progress_alone_and_it_ends_well(tmp_path):
    folder, script = tmp_path / "s", WalkScript()
    armed, pruned = [], []

    def respond(request):
        if request.purpose == "leaf" and armed and not pruned:
            pruned.append(prune(folder, older_than=0.0, max_bytes=1))
        return script(request)

    transport = FunctionModel(respond, window=4096, identity="w", json_schema=True)

    def ask(asked: str) -> Any:
        return r.answer(tale(16), asked, "memwalker", chunk_tokens=60)

    with Reader(transport, store=folder) as r:
        ask("What is the fact of part 13?")
        armed.append(True)
        answer = ask("Once more: what is the fact of part 13?")
        assert (answer.text, answer.status) == ("number 1443", "answered")
        assert pruned[0].running == 1
        assert pruned[0].kinds["runs"].count == 1  # the ended one
        assert not any(kind.startswith("artifact") for kind in pruned[0].kinds)
        assert len(answer.trace.steps) > 1
        before = len(script.asked)
        ask("And what is the fact of part 13?")
    assert {r.purpose for r in script.asked[before:]} <= {"triage", "leaf"}


def test_an_interrupted_run_resumes_after_pruning(tmp_path):
    script, done = SlotScript(), []

    def respond(request):
        if len(done) == 2:
            raise KeyError("stop")
        done.append(request)
        return script(request)

    with Reader(model(respond), store=tmp_path) as r, pytest.raises(KeyError):
        r.answer(tale(12), question(11), chunk_tokens=200)
    assert prune(tmp_path).kinds == {}
    with Reader(model(SlotScript()), store=tmp_path) as r:
        answer = r.answer(tale(12), question(11), chunk_tokens=200)
    assert answer.text == "11 has 1221"
    assert answer.coverage.share == 1.0


def test_no_store_is_an_error_and_nothing_is_made(tmp_path):
    for work in (contents, prune):
        with pytest.raises(StoreUnavailable):
            work(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("text", "found"), [("30d", 30 * DAY), ("12h", 43_200), ("2 w", 14 * DAY)])
def test_times(text, found):
    assert seconds(text) == found


@pytest.mark.parametrize(
    ("text", "found"), [("2GB", 2e9), ("500 MB", 5e8), ("1.5G", 1.5e9), ("800", 800), ("3kb", 3000)]
)
def test_sizes(text, found):
    assert size(text) == found


@pytest.mark.parametrize("text", ["", "3x", "d", "-1d", "2 GB GB"])
def test_what_is_neither_time_nor_size_is_a_typed_error(text):
    with pytest.raises(InvalidOption):
        seconds(text)
    with pytest.raises(InvalidOption):
        size(text)
