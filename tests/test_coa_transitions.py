"""Chain of agents: the ways of its graph that only slices, options or a deadline decide."""

from __future__ import annotations

import itertools

import pytest
from test_coa import Script, run

from reader import Store
from reader.budget import Ledger
from reader.llm.types import ChatRequest

NOTHING = "There is no information about that in the text."


@pytest.mark.parametrize("paths", ["single", "bidirectional"])
def test_a_path_goes_on_where_its_last_superstep_ended(store, monkeypatch, paths):
    whole, cut = Script(), Script()
    expected = run(whole, Store.in_memory(), paths=paths)
    monkeypatch.setattr("reader.strategies.coa.SLICE_SECONDS", 0.0)  # a superstep a chunk
    answer = run(cut, store, paths=paths)
    assert {r.messages for r in cut.asked} == {r.messages for r in whole.asked}
    assert answer.coverage == expected.coverage
    assert (answer.text, answer.status) == (expected.text, "answered")
    assert answer.usage.depth == expected.usage.depth == 6


@pytest.mark.parametrize(("unit", "second_pass"), [(NOTHING, False), ("Anna has a key.", True)])
def test_chunks_are_read_once_unless_it_is_wanted_and_nothing_was_found(store, unit, second_pass):
    script = Script(worker=unit)
    question = "What is the fact of part 4, number 444?"
    answer = run(script, store, question=question, second_pass=second_pass)
    read = [step.chunk for step in answer.trace.steps if step.purpose == "worker"]
    assert read == [0, 1, 2, 3, 4]


def test_a_deadline_that_passes_before_the_judge_leaves_the_longest_notes(store, monkeypatch):
    words = map("".join, itertools.product("abcdefgh", repeat=4))

    def worker(request: ChatRequest) -> str:
        more = " and she is the keeper of the lighthouse" * ("part 5 is" in said(request))
        return f"Note {next(words)}: she has the golden key{more}."

    script = Script(worker=worker)
    late = property(lambda self: 100.0 if len(script.prompts("worker")) == 10 else 0.0)
    monkeypatch.setattr(Ledger, "seconds", late)
    answer = run(script, store, paths="bidirectional", select="judge", deadline=60)
    assert script.prompts("judge") == []
    assert "keeper of the lighthouse" in answer.text
    assert answer.status == "partial"
    assert any("No judge" in warning for warning in answer.trace.warnings)


def said(request: ChatRequest) -> str:
    return request.messages[-1].content
