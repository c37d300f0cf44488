"""The solver and the scorer in a task of a user's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from inspect_ai import Task, eval  # noqa: A004
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import choice, includes

from conftest import tale
from reader import Reader, Store
from reader.budget import Usage
from reader.documents import Document
from reader.errors import AuthenticationFailed, DocumentNotFound
from reader.evals.outcome import Outcome
from reader.evals.scorer import quality
from reader.evals.solver import Halt, Library, reading
from reader.testing import FunctionModel

TEXT = tale(3)
QUESTION = "What is the fact of part 2?"


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    model = FunctionModel(lambda request: "It is 222.", window=4096, identity="function")
    with Reader(model, store=store) as opened:
        yield opened


def ran(reader: Reader | None, sample: Sample, tmp_path: Any, scorer: Any, **more: Any) -> Any:
    solver = reading(more.pop("strategy", "full"), reader=reader, **more)
    [log] = eval(
        Task(dataset=MemoryDataset([sample]), solver=solver, scorer=scorer),
        model=None,
        display="none",
        log_dir=str(tmp_path / "logs"),
        log_realtime=False,
        ctl_server=False,
    )
    return log


def test_a_strategy_answers_the_samples_of_any_task(reader, tmp_path):
    sample = Sample(QUESTION, target="222", metadata={"document": TEXT})
    log = ran(reader, sample, tmp_path, [includes(), quality("subspan")])
    assert log.status == "success", log.error
    [done] = log.samples
    assert done.output.completion == "It is 222."
    assert done.scores["includes"].value == "C"
    assert done.scores["quality"].value == 1.0
    outcome = Outcome.model_validate(done.metadata["outcome"])
    assert outcome.kind == "answered"
    assert outcome.usage.calls == 1
    assert done.output.usage.input_tokens == outcome.usage.prompt_tokens > 0


def test_choices_of_a_sample_are_marked(store, tmp_path):
    model = FunctionModel(lambda request: "B", window=4096, identity="letters")
    with Reader(model, store=store) as opened:
        sample = Sample(QUESTION, choices=["111", "222"], target="B", metadata={"document": TEXT})
        log = ran(opened, sample, tmp_path, choice())
    assert log.samples[0].scores["choice"].value == "C"


def test_a_document_by_path_and_by_key(reader, tmp_path):
    path = tmp_path / "tale.txt"
    path.write_text(TEXT)
    by_path = Sample(QUESTION, target="222", metadata={"file": str(path)})
    log = ran(reader, by_path, tmp_path, includes(), document="file", files=True)
    assert log.samples[0].scores["includes"].value == "C"
    library = Library({"one": Document.from_text(TEXT)})
    by_key = Sample(QUESTION, target="222", metadata={"document": "one"})
    log = ran(reader, by_key, tmp_path, includes(), library=library)
    assert log.samples[0].scores["includes"].value == "C"
    with pytest.raises(DocumentNotFound, match="two"):
        library.document("two")


def test_a_text_that_looks_like_a_path_is_not_opened(reader, tmp_path):
    sample = Sample(QUESTION, target="222", metadata={"document": "/etc/hostname"})
    log = ran(reader, sample, tmp_path, includes())
    outcome = Outcome.model_validate(log.samples[0].metadata["outcome"])
    assert outcome.answer.coverage.chunks[0].end == len("/etc/hostname")


@pytest.mark.parametrize("on_error", ["raise", "record"])
def test_an_error_is_inspects_or_an_outcome(store, tmp_path, on_error):
    def broken(request: Any) -> str:
        raise KeyError("a defect")

    model = FunctionModel(broken, window=4096, identity="broken")
    with Reader(model, store=store) as opened:
        sample = Sample(QUESTION, target="222", metadata={"document": TEXT})
        log = ran(opened, sample, tmp_path, quality("f1"), on_error=on_error)
    if on_error == "raise":
        assert log.status == "error"
        return
    [done] = log.samples
    outcome = Outcome.model_validate(done.metadata["outcome"])
    assert outcome.kind == "error"
    assert outcome.failure.type == "KeyError"
    assert "defect" in outcome.failure.message
    assert done.scores["quality"].value == 0.0
    assert "KeyError" in done.scores["quality"].explanation


def test_a_sample_without_a_document_says_what_is_missing(reader, tmp_path):
    log = ran(reader, Sample(QUESTION, target="222"), tmp_path, includes())
    assert log.status == "error"
    assert "document" in log.error.message


def test_an_answer_from_the_store_shows_what_it_took_when_it_was_made(reader, tmp_path):
    sample = Sample(QUESTION, target="222", metadata={"document": TEXT})
    first = ran(reader, sample, tmp_path, includes()).samples[0]
    second = ran(reader, sample, tmp_path, includes()).samples[0]
    usages = [Outcome.model_validate(s.metadata["outcome"]).usage for s in (first, second)]
    assert usages[0].calls == 1
    assert usages[1].calls == usages[0].calls
    assert usages[1].prompt_tokens == usages[0].prompt_tokens > 0


def test_an_error_that_every_question_would_meet_halts_without_its_traceback(store, tmp_path):
    def refuse(request: Any) -> str:
        raise AuthenticationFailed("The server does not know the key.")

    halt = Halt()
    sample = Sample(QUESTION, target="222", metadata={"document": TEXT})
    with Reader(FunctionModel(refuse, window=4096), store=store) as opened:
        log = ran(opened, sample, tmp_path, includes(), halt=halt)
    assert log.status == "error"
    assert "does not know the key" in log.error.message
    assert "Halted" in log.error.traceback
    assert "AuthenticationFailed" not in log.error.traceback
    assert isinstance(halt.error, AuthenticationFailed)


def test_spending_is_summed_with_dollars_where_all_prices_are_known():
    halt = Halt()
    halt.spend(Usage(calls=2, prompt_tokens=30, completion_tokens=4, cost=0.5))
    halt.spend(Usage())
    halt.spend(Usage(calls=1, prompt_tokens=10, completion_tokens=1, cost=0.25))
    assert halt.spent == Usage(calls=3, prompt_tokens=40, completion_tokens=5, cost=0.75)
    halt.spend(Usage(calls=1))
    assert halt.spent.calls == 4
    assert halt.spent.cost is None


def test_an_answer_from_the_store_took_what_its_own_attempt_took(reader, tmp_path):
    size = {"chunk_tokens": 40}
    partial = reader.answer(TEXT, QUESTION, "coa", budget="calls=2", **size)
    done = reader.answer(TEXT, QUESTION, "coa", **size)
    assert (partial.status, done.status) == ("partial", "answered")
    sample = Sample(QUESTION, target="222", metadata={"document": TEXT})
    log = ran(reader, sample, tmp_path, includes(), strategy="coa", **size)
    assert Outcome.model_validate(log.samples[0].metadata["outcome"]).usage == done.usage
