"""`reader eval`: what it asks, what it keeps, what it counts, and what a second run repeats."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.log import read_eval_log
from typer.testing import CliRunner

from conftest import tale
from reader.budget import Budget, Estimate
from reader.cli import app
from reader.errors import InvalidOption, UnknownStrategy
from reader.evals.forecast import Forecast
from reader.evals.plan import entrants
from reader.evals.results import finished, read_rows
from scripts import no_waiting
from servers import NEVER, LocalServer, Reply, empty_body, failing, ok, server_error, wrong_key

MAIN = "from reader.cli import main; main()"


def question(number: int, **more: Any) -> dict[str, Any]:
    """A question about part 3 of a tale of its own."""
    text = tale(4, marker=f"fact{number}")
    return {
        "id": f"q/{number}",
        "dataset": "tales",
        "documents": None,
        "context": text,
        "question": f"What is the fact{number} of part 3?",
        "answers": ["333"],
        "evidence": [f"The fact{number} of part 3 is number 333."],
        "choices": None,
        "meta": {},
    } | more


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "tales.jsonl"
    path.write_text("".join(json.dumps(question(n)) + "\n" for n in (1, 2, 3)))
    return path


class Evaluation:
    """`reader eval` in this process, always into the same folders."""

    def __init__(self, folder: Path, questions: Path) -> None:
        self.questions, self.logs, self.store = questions, folder / "logs", folder / "store"

    def arguments(self, server: LocalServer, *more: str) -> list[str]:
        where = ["--log-dir", str(self.logs), "--store", str(self.store)]
        return ["eval", str(self.questions), "--model", server.url, *where, *more]

    def __call__(self, server: LocalServer, *more: str, yes: bool = True) -> Any:
        arguments = self.arguments(server, *more, *(["--yes"] if yes else []))
        return CliRunner().invoke(app, arguments)

    def kinds(self) -> Counter[tuple[str, str]]:
        return Counter((row.label, row.kind) for row in read_rows(self.logs))


@pytest.fixture
def evaluate(tmp_path: Path, questions: Path) -> Evaluation:
    return Evaluation(tmp_path, questions)


def test_every_strategy_and_the_baselines_answer_and_a_second_run_asks_nothing(evaluate):
    with LocalServer(default=ok("It says that the number is 333.")) as server:
        first = evaluate(server, "-s", "coa", "--chunk-tokens", "120")
        assert first.exit_code == 0, first.output
        asked = len(server.calls)
        second = evaluate(server, "-s", "coa", "--chunk-tokens", "120")
    assert second.exit_code == 0, second.output
    assert asked > 12
    assert len(server.calls) == asked
    assert "12 questions are finished already" in second.output
    rows = read_rows(evaluate.logs)
    assert Counter(r.label for r in rows) == {"coa": 3, "closed_book": 3, "full": 3, "rag": 3}
    assert all(0 < r.quality < 1 for r in rows)
    assert sum(r.usage.calls for r in rows if r.usage) == asked


def test_the_progress_of_a_resumed_run_counts_what_was_finished_before(evaluate):
    """One answer is right, one fails; the third, in the second run, is wrong."""
    said = {"fact1": ok("333"), "fact2": failing(400), "fact3": ok("1")}

    def reply(body: dict[str, Any]) -> Reply:
        text = json.dumps(body["messages"])
        return next(r for fact, r in said.items() if fact in text)

    with LocalServer(reply) as server:
        evaluate(server, "-s", "full", "--no-baselines", "--limit", "2")
        asked = len(server.calls)
        again = evaluate(server, "-s", "full", "--no-baselines")
    assert "2 questions are finished already and not asked again." in again.output
    assert len(server.calls) == asked + 1  # nor the one that failed
    mean = statistics.fmean(row.quality for row in read_rows(evaluate.logs))
    assert f"3 done, score {mean:.2f}" in again.output
    assert "1 failed" in again.output


def test_the_estimate_comes_first_and_without_a_terminal_nothing_is_spent(evaluate):
    with LocalServer() as server:
        done = evaluate(server, yes=False)
        assert server.calls == []
        said = subprocess.run(
            [sys.executable, "-c", MAIN, *evaluate.arguments(server)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.exit_code != 0
    assert said.returncode == 2
    assert "closed_book" in said.stdout
    assert "--yes" in said.stderr
    assert "Traceback" not in said.stderr
    assert server.calls == []


def test_after_kill_9_the_same_command_repeats_no_call(evaluate):
    """The server stops answering after some calls; when all slots hang, the process is killed."""
    allowed = 14
    answered: list[str] = []

    def reply(body: dict[str, Any]) -> Reply:
        if len(answered) == allowed:
            return ok(delay=NEVER)
        answered.append(json.dumps(body))
        return ok("It says that the number is 333.")

    arguments = ("-s", "coa,quotes", "--chunk-tokens", "120", "--yes", "--concurrency", "2")
    with LocalServer(reply) as server:
        command = [sys.executable, "-c", MAIN, *evaluate.arguments(server, *arguments)]
        process = subprocess.Popen(command, stdout=-3, stderr=-3)
        while server.in_flight < 2 and process.poll() is None:
            threading.Event().wait(0.02)
        process.kill()
        process.wait()
        while server.in_flight:
            threading.Event().wait(0.02)
        half = finished(evaluate.logs)
        assert len(answered) == allowed
        assert 0 < sum(map(len, half.values())) < 15
        allowed = 10**6
        more_at_once = [*arguments[:-1], "3"]
        again = CliRunner().invoke(app, evaluate.arguments(server, *more_at_once))
        assert again.exit_code == 0, again.output
    assert [body for body, times in Counter(answered).items() if times > 1] == []
    assert len(read_rows(evaluate.logs)) == 15


def test_another_version_of_the_answers_costs_no_call_and_changes_no_cost(evaluate, monkeypatch):
    """A finished run is made again from the replies in the store, and costs what it cost."""
    reply = ok("It says that the number is 333.", usage=(150, 20))
    arguments = ("-s", "coa,quotes", "--chunk-tokens", "120", "--no-baselines")
    with LocalServer(default=reply) as server:
        assert evaluate(server, *arguments).exit_code == 0
        asked = len(server.calls)
        first = read_rows(evaluate.logs)
        monkeypatch.setattr("reader.calls.ANSWER_VERSION", 99)
        evaluate.logs = evaluate.logs.with_name("again")
        assert evaluate(server, *arguments).exit_code == 0
        assert len(server.calls) == asked
    second = read_rows(evaluate.logs)
    for label in ("coa", "quotes"):
        before, after = ([r for r in rows if r.label == label] for rows in (first, second))
        for name in ("calls", "prompt_tokens", "completion_tokens", "depth", "structured"):
            spent = [sum(getattr(r.usage, name) for r in rows) for rows in (before, after)]
            assert spent[0] == spent[1], (label, name)
        assert all(r.timed for r in before)
        assert not all(r.timed for r in after)


def test_another_requirement_of_the_set_is_another_task(monkeypatch, questions):
    from reader.documents import Document
    from reader.evals import plan, sets

    items = tuple(sets.load(str(questions)))
    batch = plan.Batch("tales", 0, items, {i.id: Document.from_text("x") for i in items})
    made = plan.Plan(sets=("tales",), entrants=entrants(["coa"], baselines=False))

    def key(requirement: str) -> str:
        info = sets.SetInfo(name="tales", about="", metric="f1", requirement=requirement)
        monkeypatch.setattr(plan, "set_info", lambda item: info)
        return plan.fingerprint(made, batch, made.entrants[0], "m")

    assert key("In a phrase.") == key("In a phrase.") != key("In a sentence.")


def failing_on(marker: str, bad: Reply) -> Any:
    def reply(body: dict[str, Any]) -> Reply:
        text = json.dumps(body["messages"])
        return bad if marker in text else ok("It says that the number is 333.")

    return reply


@pytest.mark.parametrize(
    ("bad", "kind", "says"),
    [
        (server_error(), "error", "ServerFailed"),
        (ok(" "), "empty", ""),
        (empty_body(), "error", "BadReply"),
    ],
)
def test_failures_count_as_wrong_and_are_called_by_their_name(
    evaluate, monkeypatch, bad, kind, says
):
    no_waiting(monkeypatch)
    with LocalServer(failing_on("fact2", bad)) as server:
        done = evaluate(server, "--no-baselines", "-s", "full")
        assert done.exit_code == 0, done.output
        rows = {row.item: row for row in read_rows(evaluate.logs)}
        assert rows["q/2"].kind == kind
        assert rows["q/2"].quality == 0.0
        assert rows["q/2"].evidence.recall == 0.0
        assert (rows["q/2"].failure.type if rows["q/2"].failure else "") == says
        assert rows["q/1"].kind == rows["q/3"].kind == "answered"
        assert "1 of 3" in done.output
        asked = len(server.calls)
        evaluate(server, "--no-baselines", "-s", "full")
        assert len(server.calls) == asked  # a failure is a result: not asked again by itself
        server.answer = failing_on("no such text", bad)
        again = evaluate(server, "--no-baselines", "-s", "full", "--retry-failed")
    assert again.exit_code == 0, again.output
    rows = {row.item: row for row in read_rows(evaluate.logs)}
    if kind == "error":
        assert rows["q/2"].kind == "answered"
        assert len(server.calls) == asked + 1


def test_a_question_that_takes_too_long_is_a_timeout_and_wrong(evaluate):
    with LocalServer(failing_on("fact2", ok("late", delay=NEVER))) as server:
        done = evaluate(server, "--no-baselines", "-s", "full", "--timeout", "3")
    assert done.exit_code == 0, done.output
    rows = {row.item: row for row in read_rows(evaluate.logs)}
    assert [rows[i].kind for i in ("q/1", "q/2", "q/3")] == ["answered", "timeout", "answered"]
    assert rows["q/2"].quality == 0.0
    assert "3 seconds" in rows["q/2"].failure.message


def logged(folder: Path) -> list[Any]:
    """Samples of inspect's logs."""
    logs = [read_eval_log(str(path)) for path in folder.glob("*.eval")]
    return [sample for log in logs for sample in log.samples or ()]


def test_what_every_question_would_meet_stops_the_run_and_the_same_command_goes_on(evaluate):
    allowed = threading.Semaphore(2)

    def reply(_: dict[str, Any]) -> Reply:
        return ok("333.") if allowed.acquire(blocking=False) else wrong_key()

    arguments = ("--no-baselines", "-s", "full,closed_book", "--concurrency", "1")
    with LocalServer(reply) as server:
        done = evaluate(server, *arguments)
        assert done.exit_code == 1
        assert type(done.exception).__name__ == "AuthenticationFailed"
        assert done.exception.spent.prompt_tokens == 2 * 10  # of the finished questions
        failed = [e for sample in logged(evaluate.logs) if (e := sample.error) is not None]
        assert failed
        assert all("Halted" in error.traceback for error in failed)
        refused = len(server.calls)
        assert refused <= 2 + 3  # the questions in flight, and nothing after them
        server.answer = None
        server.default = ok("333.")
        again = evaluate(server, *arguments)
    assert again.exit_code == 0, again.output
    assert evaluate.kinds() == {("full", "answered"): 3, ("closed_book", "answered"): 3}
    assert len(server.calls) == refused + 4


def test_all_strategies_keep_the_same_budget_of_tokens(evaluate):
    reply = ok("It says that the number is 333.", usage=(150, 20))
    with LocalServer(default=reply) as server:
        done = evaluate(server, "-s", "coa", "--chunk-tokens", "60", "--budget", "tokens=4000")
        assert done.exit_code == 0, done.output
        rows = read_rows(evaluate.logs)
        assert all(r.usage.prompt_tokens + r.usage.completion_tokens <= 4000 for r in rows)
        small = evaluate(server, "-s", "coa", "--no-baselines", "--budget", "tokens=50")
    assert small.exit_code == 0, small.output
    rows = [r for r in read_rows(evaluate.logs) if r.failure]
    assert {r.failure.type for r in rows} == {"BudgetTooSmall"}
    assert len(rows) == 3


def test_summaries_choices_and_questions_without_an_answer_run_beside_the_others(evaluate):
    rows = [
        question(1, question=None, answers=["a road over the hill"], evidence=None),
        question(2, choices=["111", "333"], answers=["333"]),
        question(3, answers=[], evidence=None, meta={"answerable": False}),
    ]
    evaluate.questions.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def reply(body: dict[str, Any]) -> Reply:
        text = json.dumps(body["messages"])
        if "fact3" in text:
            return ok("Not found in the document.")
        return ok("B" if "fact2" in text else "The road goes over the hill.")

    with LocalServer(reply) as server:
        done = evaluate(server, "-s", "full", "--no-baselines", "-o", "quotes=false")
    assert done.exit_code == 0, done.output
    found = {row.item: row for row in read_rows(evaluate.logs)}
    assert [found[i].metric for i in ("q/1", "q/2")] == ["rougeL", "choice"]
    assert found["q/1"].question == ""
    assert 0 < found["q/1"].quality < 1
    assert found["q/2"].answer.choice == 1
    assert found["q/2"].quality == 1.0
    assert found["q/3"].kind == "not_found"
    assert found["q/3"].quality == 1.0


def test_variants_of_a_strategy_and_seeds_stand_side_by_side(evaluate):
    with LocalServer(default=ok("333.")) as server:
        done = evaluate(
            server,
            *("-s", "full,bare=full", "-o", "bare:quotes=false", "--no-baselines"),
            *("--seeds", "0,1", "--limit", "2"),
        )
    assert done.exit_code == 0, done.output
    rows = read_rows(evaluate.logs)
    assert Counter((r.label, r.seed) for r in rows) == dict.fromkeys(
        [("full", 0), ("full", 1), ("bare", 0), ("bare", 1)], 2
    )
    assert {r.options.get("quotes") for r in rows if r.label == "bare"} == {"false"}
    assert {r.strategy for r in rows} == {"full"}


def test_ctrl_c_says_what_was_spent_and_that_the_same_command_goes_on(evaluate):
    import signal

    first_two = [ok("It says that the number is 333."), ok("333.")]
    with LocalServer(first_two, default=ok("x", delay=NEVER)) as server:
        arguments = evaluate.arguments(server, "--yes", "-s", "full", "--concurrency", "1")
        command = [sys.executable, "-c", MAIN, *arguments, "--no-baselines"]
        process = subprocess.Popen(command, stdout=-3, stderr=subprocess.PIPE, text=True)
        while len(server.calls) < 3 and process.poll() is None:
            threading.Event().wait(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "spent so far: 3 calls, " in said  # the one in flight with what it may cost at most
    assert "goes on" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("", "no row"),
        ('{"id": "a", "dataset": "d"}\n', "line 1"),
        ("not json\n", "line 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(evaluate, lines, says):
    evaluate.questions.write_text(lines)
    with LocalServer() as server:
        done = evaluate(server)
    assert done.exit_code == 1
    assert says in str(done.exception)
    assert server.calls == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-s", "cao"), "'coa'"),
        (("-s", "coa,coa"), "twice"),
        (("-o", "nope=1"), "nope"),
        (("-o", "coa:presett=1"), "presett"),
        (("-o", "other:window=100"), "other"),
        (("--seeds", "a"), "--seeds"),
        (("--limit", "0"), "--limit"),
        (("--budget", "token=3"), "token"),
        (("--set-option", "length=4k"), "length"),
    ],
)
def test_wrong_usage_is_found_before_anything_is_spent(evaluate, arguments, says):
    with LocalServer() as server:
        done = evaluate(server, *arguments)
    assert done.exit_code != 0
    assert says in str(done.exception)
    assert server.calls == []


def test_entrants_come_with_their_options():
    made = entrants(["coa,short=coa"], ["short:paths=bidirectional", "window=900"], baselines=False)
    assert [(e.label, e.strategy) for e in made] == [("coa", "coa"), ("short", "coa")]
    assert made[0].options == {"window": "900"}
    assert made[1].options == {"paths": "bidirectional", "window": "900"}
    assert [e.label for e in entrants(["rag"])] == ["rag", "closed_book", "full"]
    with pytest.raises(UnknownStrategy, match="coa"):
        entrants(["cao"])
    with pytest.raises(InvalidOption, match="label"):
        entrants(["<b>=coa"])


def test_a_forecast_never_promises_more_than_the_budget():
    one = Estimate(
        calls=10, prompt_tokens=900, completion_tokens=100, depth=1, cost=1.0, max_cost=2.0
    )
    whole = Forecast(label="x").plus(one, None)
    assert (whole.calls, whole.prompt_tokens, whole.cost, whole.most) == (10, 900, 1.0, 2.0)
    held = Forecast(label="x").plus(one, Budget(calls=4, tokens=500, usd=0.3))
    assert held.calls == 4
    assert held.prompt_tokens + held.completion_tokens == 500
    assert held.cost == 0.3
    assert held.most == 0.3
    unknown = whole.plus(one.model_copy(update={"cost": None, "max_cost": None}), None)
    assert unknown.cost is None
