"""MemAgent's second pass: only where it is wanted and nothing has run out."""

from __future__ import annotations

import pytest
from test_memagent import Script, no_waiting, run

from reader.errors import ServerFailed

QUESTION = "Which fact is number 444?"
NOTHING = "There is no information about that in the text."


@pytest.mark.parametrize("memory", [NOTHING, "A note."])
def test_there_is_no_second_pass_that_nobody_asked_for(store, memory):
    script = Script(memory, final="Not found in the document.")
    answer = run(script, store, question=QUESTION)
    assert [step.purpose for step in answer.trace.steps] == ["update"] * 5 + ["final"]
    assert (answer.status, answer.usage.depth) == ("not_found", 6)


@pytest.mark.parametrize("memory", [NOTHING, "A note."])
def test_a_budget_that_is_used_up_leaves_no_second_pass(store, memory):
    script = Script(memory, final="Not found in the document.")
    answer = run(script, store, question=QUESTION, second_pass=True, budget={"calls": 3})
    assert [r.purpose for r in script.asked] == ["update", "update", "final"]
    assert (answer.status, answer.usage.depth, answer.usage.cached_calls) == ("partial", 3, 0)


def test_a_last_call_that_failed_is_no_answer_of_unknown(store, monkeypatch):
    no_waiting(monkeypatch)
    script = Script(NOTHING * 40, final=ServerFailed("500"))
    answer = run(script, store, question=QUESTION, second_pass=True)
    assert [step.purpose for step in answer.trace.steps] == ["update"] * 5
    assert answer.status == "partial"
