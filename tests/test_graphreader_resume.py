"""GraphReader killed in the middle: no finished call is made again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from graphreader_script import Script, chunk, facts, neighbor, part_of, run, starts

from conftest import tale
from reader.errors import AuthenticationFailed
from servers import LocalServer, ok

PARTS = 30
AGENTS = [f"part {n}" for n in (3, 9, 15, 21, 27)]
CHILD = textwrap.dedent(
    """
    import sys
    sys.path.insert(0, {tests!r})
    from conftest import tale
    from reader import Reader
    with Reader({address!r}, store={store!r}) as r:
        answer = r.answer(tale({parts}), "What is the fact of part 3?", strategy="graphreader",
            chunk_tokens=60, window=2048, concurrency=5)
    print(answer.text, answer.usage.calls, answer.usage.cached_calls, answer.status)
    """
)


def kind_of(prompt: str) -> str:
    """What a prompt is for, by its words."""
    for kind, words in {
        "extract": "Write down the atomic facts",
        "rational_plan": "Write such a plan",
        "initial_nodes": "Choose the key elements at which",
        "facts": "They are the facts of:",
        "chunk": "The part above is chunk",
        "neighbors": "neighbours of the one just explored",
        "answer": "First analyse the notebooks",
    }.items():
        if words in prompt:
            return kind
    raise AssertionError(prompt)


def reply(body: dict[str, Any]) -> Any:
    """A sensible reply to each call: two chunks and a neighbour for every agent."""
    prompt = body["messages"][0]["content"]
    found = re.search(r"part (\d+) is number", prompt)
    n = int(found[1]) if found else 0
    node = re.search(r"They are the facts of: part (\d+)", prompt)
    said = {
        "extract": f"1. The fact of part {n} is number {n * 111}. | part {n} | part {n + 1}",
        "rational_plan": "Find the fact of part 3.",
        "initial_nodes": starts(*AGENTS),
        "facts": facts("read_chunk", (int(node[1]) if node else n, n), f"Facts of part {n} seen."),
        "chunk": chunk("search_more", f"Part {n} was read, its number is {n * 111}."),
        "neighbors": neighbor("", "termination"),
        "answer": json.dumps({"analysis": "", "final_answer": "number 333"}),
    }
    return ok(said[kind_of(prompt)])


def child(server: LocalServer, store: Path) -> subprocess.Popen:
    code = CHILD.format(
        tests=str(Path(__file__).parent), address=server.url, store=str(store), parts=PARTS
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True)


def kinds(server: LocalServer) -> Counter[str]:
    return Counter(kind_of(call["messages"][0]["content"]) for call in server.calls)


@pytest.mark.parametrize(("kind", "calls"), [("extract", 12), ("chunk", 3)])
def test_killed_in_the_build_or_among_five_agents_no_finished_call_is_repeated(
    tmp_path, kind, calls
):
    seen: Counter[str] = Counter()
    reached = threading.Event()

    def counted(body: dict[str, Any]) -> Any:
        seen[kind_of(body["messages"][0]["content"])] += 1
        if seen[kind] >= calls:
            reached.set()
        return reply(body)

    with LocalServer(counted, delay=0.05) as server:
        first = child(server, tmp_path / "s")
        assert reached.wait(60)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        before = [json.dumps(call) for call in server.calls]
        at_kill = kinds(server)
        second = child(server, tmp_path / "s")
        out, err = second.communicate()
        assert second.returncode == 0, err
        bodies = Counter(json.dumps(call) for call in server.calls)
    assert at_kill["answer"] == 0
    if kind == "extract":
        assert 12 <= at_kill["extract"] < PARTS
    else:
        assert at_kill["extract"] == PARTS
        assert at_kill["facts"] == 5
    # calls in flight at the kill, five at most, may have been answered to nobody
    assert sum(bodies[body] > 1 for body in set(before)) <= 5
    assert kinds_of(bodies) == {
        "extract": PARTS,
        "rational_plan": 1,
        "initial_nodes": 1,
        "facts": 5,
        "chunk": 10,
        "neighbors": 5,
        "answer": 1,
    }
    assert out.startswith("number 333")


def kinds_of(bodies: Counter[str]) -> dict[str, int]:
    """Different calls of each kind."""
    return dict(Counter(kind_of(json.loads(b)["messages"][0]["content"]) for b in bodies))


@pytest.mark.parametrize(
    ("kind", "at"),
    [("extract", 3), ("rational_plan", 1), ("initial_nodes", 1), ("chunk", 2), ("answer", 1)],
)
def test_a_run_that_an_error_ended_goes_on_where_it_was(store, kind, at):
    broken = Script(initial_nodes=starts("part 1", "part 2", "part 4"))
    good = broken.replies[kind]
    refused: list[Any] = []

    def failing(request: Any) -> Any:
        if sum(p == kind for p in broken.purposes()) >= at:
            refused.append(request)
            return AuthenticationFailed("no")
        return good(request) if callable(good) else good

    broken.replies[kind] = failing
    with pytest.raises(AuthenticationFailed) as caught:
        run(broken, store, concurrency=1)
    finished = [request for request in broken.asked if request not in refused]
    script = Script(initial_nodes=starts("part 1", "part 2", "part 4"))
    answer = run(script, store, concurrency=1)
    assert answer.run_id == caught.value.run_id
    assert answer.status == "answered"
    assert not [r for r in script.asked if r in finished]
    total = Script(initial_nodes=starts("part 1", "part 2", "part 4"))
    run(total, type(store).in_memory(), concurrency=1)
    assert len(finished) + len(script.asked) == len(total.asked)


def test_a_resumed_run_keeps_the_notebooks_and_what_was_opened(store):
    broken = Script(
        initial_nodes=starts("part 1", "part 2", "part 4"), answer=AuthenticationFailed("no")
    )
    with pytest.raises(AuthenticationFailed):
        run(broken, store)
    script = Script()
    answer = run(script, store)
    assert script.purposes() == ["answer"]
    for n in (1, 2, 4):
        assert f"number {n * 111}" in script.prompts("answer")[0]
    assert answer.coverage.read == 3
    assert len(answer.trace.paths) == 3


def test_a_resumed_run_with_a_failed_chunk_makes_its_graph_again(store, monkeypatch):
    from graphreader_script import no_waiting

    from reader.errors import ServerFailed

    no_waiting(monkeypatch)
    good = Script().replies["extract"]
    broken = Script(
        extract=lambda r: ServerFailed("500") if part_of(r) == 2 else good(r),
        chunk=AuthenticationFailed("no"),
    )
    with pytest.raises(AuthenticationFailed):
        run(broken, store)
    script = Script()
    answer = run(script, store)
    assert script.purposes() == ["chunk", "answer"]
    assert answer.status == "partial"
    assert answer.coverage.chunks[1].outcome == "failed"


def test_a_long_document_leaves_a_small_checkpoint_file(tmp_path):
    from reader import Store

    store = Store(tmp_path / "s")
    names = [f"part {n}" for n in range(1, 6)]
    script = Script(initial_nodes=starts(*names))
    run(script, store, tale(300), window=4096)
    size = sum(f.stat().st_size for f in (tmp_path / "s").glob("checkpoints.sqlite*"))
    store.close()
    assert 0 < size < 2_000_000
