"""Several questions about one document: one pass, slots that never mix, limits of the whole."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from typing import Any

import pytest
from graphreader_script import Script as GraphScript
from hypothesis import given, settings
from hypothesis import strategies as st
from slot_script import LONG, READING, SlotScript, model, question, slots
from test_memwalker import Script as WalkScript

import reader as package
from conftest import tale
from reader import Budget, Document, Price, Reader, Store
from reader.budget import Estimate, Ledger, Usage, divided
from reader.errors import (
    AuthenticationFailed,
    BudgetTooSmall,
    ContextOverflow,
    DocumentNotFound,
    EmptyQuestion,
    InvalidOption,
    LimitReached,
    ModelUnavailable,
    ServerFailed,
)
from reader.events import AnswerToken, ChunkRead, Done, NoteChanged, Progress, RunStarted
from reader.llm.types import ChatReply, ChatRequest
from reader.memory.facts import FactLog
from reader.strategies.slots_reply import sections
from reader.testing import FunctionModel, WordEmbedder
from scripts import NASTY, no_waiting

EIGHT = (3, 40, 77, 150, 233, 301, 390, 9)
BOTH = pytest.mark.parametrize("strategy", ["coa", "memagent"])
FORMS = pytest.mark.parametrize("enforced", [True, False], ids=["schema", "sections"])


def ask(
    script: Any, store: Any, parts: Any = (2, 7, 11), doc: str | None = None, **more: Any
) -> list[Any]:
    options = {k: more.pop(k) for k in ("json_schema", "window", "price") if k in more}
    more.setdefault("chunk_tokens", 200)
    with Reader(model(script, **options), store=store) as r:
        return r.answer_many(doc or tale(12), [question(p) for p in parts], **more)


# One pass for all ------------------------------------------------------------------------


@BOTH
@FORMS
def test_eight_questions_cost_at_most_twice_the_prompt_tokens_of_one(strategy, enforced):
    doc = tale(400)
    with package.open(doc, model=model(SlotScript(), json_schema=enforced), store=False) as book:
        one = book.ask(question(40), strategy)
    script = SlotScript(padding=LONG)
    with package.open(doc, model=model(script, json_schema=enforced), store=False) as book:
        answers = book.ask_many([question(p) for p in EIGHT], strategy)
    spent = sum(a.usage.prompt_tokens for a in answers)
    assert spent <= 2 * one.usage.prompt_tokens
    chunks = len(answers[0].coverage.chunks)
    assert len(script.readings()) == chunks
    assert len(script.asked) == chunks + 8
    for part, answer in zip(EIGHT, answers, strict=True):
        assert f"{part} has {part * 111}" in answer.text
        assert (answer.status, answer.coverage.share) == ("answered", 1.0)


@BOTH
@FORMS
def test_each_answer_is_what_its_own_slot_says_and_nothing_mixes(store, strategy, enforced):
    script = SlotScript()
    answers = ask(script, store, strategy=strategy, json_schema=enforced)
    assert [a.text for a in answers] == ["2 has 222", "7 has 777", "11 has 1221"]
    assert [a.question for a in answers] == [question(p) for p in (2, 7, 11)]
    assert len({a.run_id for a in answers}) == 3
    last = [r.messages[0].content for r in script.asked if r.purpose not in READING]
    for part, prompt in zip((2, 7, 11), sorted(last, key=lambda p: question(11) in p), strict=True):
        facts = set(re.findall(r"Part (\d+) has", prompt))
        assert facts == set(re.findall(r"fact of part (\d+)", prompt))
        assert "wind blew" not in prompt, part
    for part, answer in zip((2, 7, 11), answers, strict=True):
        notes = " ".join(step.text for step in answer.trace.steps)
        assert set(re.findall(r"Part (\d+) has", notes)) == {str(part)}


def test_notes_and_logs_are_kept_for_each_question(store):
    answers = ask(SlotScript(), store, strategy="memagent")
    for part, answer in zip((2, 7, 11), answers, strict=True):
        [memory] = FactLog(store, answer.run_id).at(kind="memory")
        assert memory.text.startswith(f"Part {part} has number {part * 111}.")
        assert len(store.notes(answer.run_id)) == len(answer.coverage.chunks)
        assert store.run(answer.run_id).state == "answered"


@BOTH
def test_the_usages_of_the_answers_add_up_to_what_was_spent(store, strategy):
    price = Price(prompt=1.0, completion=2.0)
    script = SlotScript()
    counted = []

    def counting(request: ChatRequest) -> Any:
        said = script(request)
        counted.append(request)
        return said

    transport = model(counting, price=price)
    with Reader(transport, store=store) as r:
        answers = r.answer_many(
            tale(12), [question(p) for p in (2, 7, 11)], strategy, chunk_tokens=200
        )
        alone = [store.get(key) for (key,) in store._read("SELECT key FROM replies")]
    spent = [json.loads(record) for record in alone]
    total = lambda name: sum(getattr(a.usage, name) for a in answers)  # noqa: E731
    assert total("calls") == len(counted)
    assert total("prompt_tokens") == sum(r["prompt_tokens"] for r in spent)
    assert total("completion_tokens") == sum(r["completion_tokens"] for r in spent)
    cost = price.cost(total("prompt_tokens"), total("completion_tokens"))
    assert sum(a.usage.cost for a in answers) == pytest.approx(cost)
    assert max(a.usage.calls for a in answers) - min(a.usage.calls for a in answers) <= 1


@given(st.integers(1, 9), st.integers(0, 10**6), st.integers(0, 40))
def test_even_shares_add_up(n, tokens, calls):
    whole = Usage(calls=calls, prompt_tokens=tokens, cost=1.5, seconds=3.0, depth=7)
    shares = divided(whole, n)
    assert sum(s.prompt_tokens for s in shares) == tokens
    assert sum(s.calls for s in shares) == calls
    assert sum(s.cost for s in shares) == pytest.approx(1.5)
    assert {(s.seconds, s.depth) for s in shares} == {(3.0, 7)}
    expected = Estimate(calls=calls, prompt_tokens=tokens, completion_tokens=1, depth=2, basis="b")
    parts = divided(expected, n)
    assert sum(p.prompt_tokens for p in parts) == tokens
    assert {(p.basis, p.exact_counts) for p in parts} == {("b", True)}


@BOTH
@FORMS
def test_the_estimate_is_within_15_percent_of_the_prompt_tokens(store, strategy, enforced):
    asked = [question(p) for p in EIGHT]
    with package.open(
        tale(400), model=model(SlotScript(padding=LONG * 3), json_schema=enforced), store=store
    ) as book:
        for fresh in (asked, [q.replace("the fact", "the one fact") for q in asked]):
            expected = book.estimate_many(fresh, strategy)
            answers = book.ask_many(fresh, strategy)
            spent = sum(a.usage.prompt_tokens for a in answers)
            assert abs(expected.prompt_tokens - spent) <= 0.15 * spent
            assert expected.calls == sum(a.usage.calls + a.usage.cached_calls for a in answers)
            assert "8 questions, read together in 1 pass" in expected.basis


@BOTH
def test_before_a_pass_was_seen_the_estimate_says_what_full_slots_cost(store, strategy):
    asked = [question(p) for p in EIGHT]
    with package.open(tale(400), model=model(SlotScript()), store=store) as book:
        expected = book.estimate_many(asked, strategy)
        full = int(
            re.search(r"([\d,]+) tokens in if every slot fills up", expected.basis)[1].replace(
                ",", ""
            )
        )
        assert full > 1.1 * expected.prompt_tokens
        book.ask_many(asked, strategy)
        again = book.estimate_many([q + "?" for q in asked], strategy)
    assert "fills up" not in again.basis


@BOTH
def test_questions_that_do_not_fit_one_pass_are_divided_over_several(store, strategy):
    script = SlotScript()
    parts = tuple(range(1, 9))
    with package.open(tale(40), model=model(script, window=1700), store=store) as book:
        expected = book.estimate_many([question(p) for p in parts], strategy)
        assert script.asked == []
        answers = book.ask_many([question(p) for p in parts], strategy)
    passes = int(re.search(r"together in (\d) passes", expected.basis)[1])
    assert passes > 1
    chunks = {tuple(a.coverage.chunks) for a in answers}
    assert passes <= len(chunks) or len(chunks) == 1
    assert expected.calls == len(script.readings()) + 8
    assert len(script.readings()) >= passes * min(map(len, chunks))
    assert [a.text for a in answers] == [f"{p} has {p * 111}" for p in parts]


def test_slots_before_and_after_fill_half_the_window_at_most(store):
    script = SlotScript()
    ask(script, store, range(1, 9), chunk_tokens=None)
    largest = max(r.max_tokens for r in script.readings())
    assert 2 * largest <= 8192 / 2 + 2 * 8 * 24  # the tags around a slot are not the slot


def test_a_summary_and_a_choice_can_be_asked_beside_questions(store):
    script = SlotScript()
    with Reader(model(script), store=store) as r:
        summary, choice = r.answer_many(
            tale(12), [None, question(7)], choices=[None, ["777", "111"]], chunk_tokens=200
        )
    assert summary.question is None
    assert choice.choice in (0, 1)
    assert "777" in script.readings()[0].messages[0].content


# What is asked ---------------------------------------------------------------------------


def test_no_question_no_answer_and_a_question_twice_is_answered_once(store):
    script = SlotScript()
    assert ask(script, store, ()) == []
    assert script.asked == []
    first, second, third = ask(script, store, (2, 7, 2))
    assert first is third
    assert (first.text, second.text) == ("2 has 222", "7 has 777")
    assert len([r for r in script.asked if r.purpose == "manager"]) == 2
    with Reader(model(script), store=store) as r:
        expected = r.estimate_many(tale(2), [])
    assert expected.calls == 0


@pytest.mark.parametrize(
    ("questions", "choices", "error"),
    [
        (["One?", "  "], None, EmptyQuestion),
        ("One?", None, InvalidOption),
        (["One?"], [["a", "b"], None], InvalidOption),
        (["One?"], [["a"]], InvalidOption),
        ([None], [["a", "b"]], InvalidOption),
    ],
)
def test_wrong_questions_are_typed_errors_before_any_call(store, questions, choices, error):
    script = SlotScript()
    with Reader(model(script), store=store) as r, pytest.raises(error):
        r.answer_many(tale(2), questions, choices=choices)
    assert script.asked == []


def test_one_question_is_a_plain_run_and_known_to_it(store):
    script = SlotScript()
    [many] = ask(script, store, (7,))
    calls = len(script.asked)
    with Reader(model(script), store=store) as r:
        one = r.answer(tale(12), question(7), chunk_tokens=200)
    assert one.run_id == many.run_id
    assert len(script.asked) == calls


@BOTH
def test_what_is_answered_is_not_asked_again(tmp_path, strategy):
    script = SlotScript()
    first = ask(script, tmp_path, strategy=strategy)
    calls = len(script.asked)
    again = ask(script, tmp_path, strategy=strategy)
    assert [a.text for a in again] == [a.text for a in first]
    assert len(script.asked) == calls
    assert sum(a.usage.calls for a in again) == 0
    heard = []
    ask(script, tmp_path, strategy=strategy, on_event=heard.append)
    assert [type(e) for e in heard] == [Done] * 3


def test_questions_read_together_have_other_ids_than_alone_and_than_in_other_company(store):
    script = SlotScript()
    ids = {a.run_id for a in ask(script, store, (2, 7))}
    ids |= {a.run_id for a in ask(script, store, (2, 7, 11))}
    with Reader(model(script), store=store) as r:
        ids.add(r.answer(tale(12), question(2), chunk_tokens=200).run_id)
    assert len(ids) == 6


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("coa", {"quotes": True}),
        ("coa", {"paths": "bidirectional"}),
        ("coa", {"second_pass": True}),
        ("memagent", {"gate": True}),
        ("memagent", {"mode": "revisions"}),
    ],
)
def test_options_that_need_a_reading_of_their_own_get_one_and_the_answer_says_so(
    store, strategy, options
):
    script = SlotScript()
    with Reader(model(lambda r: "No." if r.purpose == "gate" else script(r)), store=store) as r:
        answers = r.answer_many(tale(3), ["One?", "Two?"], strategy, chunk_tokens=200, **options)
    assert all(any("by itself" in w for w in a.trace.warnings) for a in answers)
    assert all("<question_1>" not in r.messages[0].content for r in script.asked)


def test_a_word_leaves_a_slot_as_it_is_where_that_is_allowed(store):
    def unchanged(request, written):
        return {n: t if "Part" in t else "UNCHANGED" for n, t in written.items()}

    script = SlotScript(unchanged)
    answers = ask(script, store, skip_gate=True)
    assert "UNCHANGED" in script.readings()[0].messages[0].content
    assert [a.text for a in answers] == ["2 has 222", "7 has 777", "11 has 1221"]
    assert answers[0].coverage.read == len(answers[0].coverage.chunks)
    assert not any(
        "UNCHANGED" in r.messages[0].content for r in script.asked if r.purpose == "manager"
    )


# A slot that goes wrong ------------------------------------------------------------------


def at_chunk(number: int, change: Any) -> Any:
    """A change of the slots at one reading call only."""
    seen = []

    def changing(request: ChatRequest, written: dict[int, str]) -> Any:
        seen.append(request)
        return change(written) if len(seen) == number else written

    return changing


@BOTH
@FORMS
@pytest.mark.parametrize("bad", [None, "", " ", "I'm sorry, but I can't help with that."])
def test_a_missing_or_empty_slot_keeps_what_was_there_for_that_question_only(
    store, strategy, enforced, bad
):
    def spoil(written):
        return {n: (bad if n == 1 else t) for n, t in written.items() if n != 1 or bad is not None}

    # All three facts stand in the first part of the text, before the reply that is spoilt.
    script = SlotScript(at_chunk(3, spoil))
    answers = ask(script, store, (1, 2, 11), strategy=strategy, json_schema=enforced)
    assert [a.text for a in answers] == ["1 has 111", "2 has 222", "11 has 1221"]
    outcomes = [[c.outcome for c in a.coverage.chunks] for a in answers]
    assert outcomes[0][2] == "unread"
    assert [o.count("unread") for o in outcomes] == [1, 0, 0]
    assert answers[0].coverage.chunks[2].reason
    assert any("Chunk 3 is unread" in w for w in answers[0].trace.warnings)
    assert answers[1].trace.warnings == ()


@BOTH
def test_a_slot_that_lost_its_facts_keeps_both(store, strategy):
    lost = "Something else entirely happened over there."
    script = SlotScript(at_chunk(3, lambda w: {**w, 1: lost}), padding=LONG)
    answers = ask(script, store, (1, 2), strategy=strategy)
    assert "1 has 111" in answers[0].text
    assert any(step.level == "joined" for step in answers[0].trace.steps)


def test_a_slot_that_now_says_nothing_keeps_what_it_had(store):
    nothing = "The text does not mention the fact."
    script = SlotScript(at_chunk(3, lambda w: {**w, 1: nothing}))
    answers = ask(script, store, (1, 2))
    assert answers[0].text == "1 has 111"
    assert answers[0].coverage.unread == 0


@BOTH
def test_a_slot_over_its_cap_is_shortened_to_whole_sentences(store, strategy):
    script = SlotScript(at_chunk(2, lambda w: {**w, 1: f"{w[1]} {LONG * 40}"}))
    answers = (
        ask(script, store, (1, 2), strategy=strategy, cu_tokens=64)
        if strategy == "coa"
        else (ask(script, store, (1, 2), strategy=strategy, memory_tokens=64))
    )
    steps = [s for s in answers[0].trace.steps if s.level == "trimmed"]
    assert steps
    assert answers[0].text == "1 has 111"
    assert all(len(s.text.split()) <= 64 for s in steps)
    assert steps[0].text.endswith(".")


@BOTH
@FORMS
def test_a_reply_cut_off_among_its_slots_takes_nothing_from_those_it_did_not_reach(
    store, strategy, enforced
):
    def cut(request, written):
        if "Part 1 has number 111." not in request.messages[0].content:
            return written
        full = {**written, 2: "It was"}
        text = json.dumps({f"{name(request)}_{n}": t for n, t in full.items()})
        if request.json_schema is None:
            text = "".join(f"<{name(request)}_{n}>\n{t}\n" for n, t in full.items())
        return ChatReply(text=text[: text.index("It was") + 4], finish_reason="length")

    script = SlotScript()

    def respond(request):
        said = script(request)
        if request.purpose in READING:
            changed = cut(request, slots(request))
            return changed if isinstance(changed, ChatReply) else said
        return said

    answers = ask(respond, store, (1, 2, 3), strategy=strategy, json_schema=enforced)
    assert [a.text for a in answers] == ["1 has 111", "2 has 222", "3 has 333"]
    assert answers[2].coverage.unread > 0


def name(request: ChatRequest) -> str:
    return "summary" if request.purpose == "worker" else "memory"


@BOTH
@FORMS
@pytest.mark.parametrize("reply", NASTY)
def test_nothing_that_a_model_writes_breaks_a_pass(store, strategy, enforced, reply):
    script = SlotScript(lambda request, written: reply)
    answers = ask(script, store, strategy=strategy, json_schema=enforced, doc=tale(5))
    assert len(answers) == 3
    for answer in answers:
        assert answer.status in ("answered", "not_found")
        assert "</source_text>" not in answer.text or reply.startswith("</source")


@given(st.text(alphabet=st.sampled_from('<>/_123 {}":,.\nab'), max_size=80))
@settings(deadline=None)
def test_reading_sections_never_fails_and_never_invents_a_slot(text):
    level, found = sections(ChatReply(text=text), 2, "summary", 64)
    assert set(found) <= {0, 1}
    assert all(found.values())
    assert (level == "forced") == (not found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<summary_1>\nA.\n</summary_1>\n<summary_2>\nB.\n</summary_2>", {0: "A.", 1: "B."}),
        ("<summary_1>A.<summary_2>B.", {0: "A.", 1: "B."}),
        ("<SUMMARY 2> B. </SUMMARY 2>", {1: "B."}),
        ("<question_1>Q?</question_1><summary_1>A.</summary_1>", {0: "A."}),
        ("<1>A.</1><2>B.</2>", {0: "A.", 1: "B."}),
        ('{"summary_1": "A.", "summary_2": "B."}', {0: "A.", 1: "B."}),
        ("1. A.\n2. B.", {0: "A.", 1: "B."}),
        ("**Summary 1:** A.\n**Summary 2:** B.", {0: "A.", 1: "B."}),
        ("<summary_7>A.</summary_7>", {}),
        ("Just words.", {}),
    ],
)
def test_sections_are_read_in_whatever_form_they_come(text, found):
    assert sections(ChatReply(text=text), 2, "summary", 64)[1] == found


def test_a_reply_without_sections_is_asked_for_once_more(store):
    replies = iter(["Just words."])
    script = SlotScript(lambda request, written: next(replies, None) or written)
    answers = ask(script, store, json_schema=False)
    assert [a.text for a in answers] == ["2 has 222", "7 has 777", "11 has 1221"]
    assert sum(a.usage.reasked for a in answers) == 1
    assert any(len(r.messages) == 3 for r in script.asked)


@BOTH
def test_a_chunk_that_does_not_fit_is_read_in_halves(store, strategy):
    def too_long(request, written):
        long = len(request.messages[0].content.split("<question_1>")[0]) > 700
        return ContextOverflow("too long") if long else written

    answers = ask(SlotScript(too_long), store, strategy=strategy)
    assert [a.text for a in answers] == ["2 has 222", "7 has 777", "11 has 1221"]
    assert all(a.coverage.share == 1.0 for a in answers)
    assert (
        any("two halves" in w for w in answers[0].trace.warnings)
        or answers[0].trace.steps[0].level == "split"
    )


@BOTH
def test_a_failed_chunk_is_failed_for_all_and_the_answers_are_partial(store, strategy, monkeypatch):
    no_waiting(monkeypatch)

    def fail(request, written):
        return ServerFailed("500") if "part 1 is" in request.messages[0].content else written

    answers = ask(SlotScript(fail), store, strategy=strategy)
    assert [a.status for a in answers] == ["partial"] * 3
    assert [a.coverage.failed for a in answers] == [1] * 3
    assert answers[1].text == "7 has 777"


def test_a_server_that_fails_chunk_after_chunk_ends_the_run(store, monkeypatch):
    no_waiting(monkeypatch)
    script = SlotScript(lambda request, written: ServerFailed("500"))
    with pytest.raises(ModelUnavailable) as caught:
        ask(script, store, doc=tale(60))
    assert caught.value.spent.failed_calls == caught.value.spent.calls > 0


# Limits of the whole ---------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("calls", [4, 5, 6])
def test_a_budget_is_for_all_questions_and_each_gets_its_last_call(store, strategy, calls):
    script = SlotScript()
    doc = tale(24)
    answers = ask(script, store, (1, 2, 23), doc, strategy=strategy, budget=Budget(calls=calls))
    assert len(script.asked) == calls
    assert len(script.readings()) == calls - 3
    assert [a.status for a in answers] == ["partial"] * 3
    assert answers[0].text == "1 has 111"
    assert sum(a.usage.calls for a in answers) == calls
    again = ask(script, store, (1, 2, 23), doc, strategy=strategy)
    assert [a.status for a in again] == ["answered"] * 3
    assert len({r.messages for r in script.asked}) == len(script.asked)


@BOTH
def test_a_budget_of_tokens_holds_for_all_questions(store, strategy):
    for tokens in (3500, 5000, 8000):
        answers = ask(
            SlotScript(),
            Store.in_memory(),
            strategy=strategy,
            budget={"tokens": tokens},
            window=2048,
        )
        used = sum(a.usage.prompt_tokens + a.usage.completion_tokens for a in answers)
        assert used <= tokens


@pytest.mark.parametrize("strategy", ["coa", "memagent", "map_reduce"])
def test_a_budget_that_cannot_pay_every_last_call_is_refused_before_any_call(store, strategy):
    script = SlotScript()
    with pytest.raises(BudgetTooSmall) as caught:
        ask(script, store, (1, 2, 11), strategy=strategy, budget="calls=2")
    assert "at least" in caught.value.hint
    assert script.asked == []


def test_a_last_call_never_takes_what_another_question_keeps():
    whole = Ledger(budget=Budget(calls=4))
    first, second = whole.part(), whole.part()
    for part in (first, second):
        part.keep_for_closing(1, 10, 10)
    first.reserve(10, 10)
    first.reserve(10, 10)
    with pytest.raises(LimitReached):
        first.reserve(10, 10)
    first.reserve(10, 10, closing=True)
    with pytest.raises(LimitReached):
        first.reserve(10, 10, closing=True)
    second.reserve(10, 10, closing=True)
    assert (first.calls, second.calls, whole.calls) == (3, 1, 4)


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 9)), max_size=40),
)
def test_parts_of_a_ledger_never_pass_its_budget(limit, calls):
    whole = Ledger(budget=Budget(calls=limit + 3, tokens=10 * limit + 60))
    parts = [whole.part() for _ in range(3)]
    for part in parts:
        part.keep_for_closing(1, 10, 10)
    for number, closing, tokens in calls:
        try:
            parts[number].reserve(tokens, tokens, closing=closing)
        except LimitReached:
            continue
        parts[number].settle(tokens, tokens, prompt=tokens, completion=tokens)
    assert whole.calls == sum(p.calls for p in parts) <= limit + 3
    assert whole.prompt_tokens == sum(p.prompt_tokens for p in parts)
    assert whole.prompt_tokens + whole.completion_tokens <= 10 * limit + 60


def test_the_deadline_leaves_time_for_the_last_calls_of_all():
    now = [0.0]
    whole = Ledger(deadline=10.0, clock=lambda: now[0])
    whole.keep_for_closing(0, 0, 0, rounds=4)
    part = whole.part()
    part.reserve(1, 1)
    part.settle(1, 1, seconds=1.0)
    now[0] = 4.9
    part.reserve(1, 1)
    now[0] = 5.1  # five calls in series do not fit the time left
    with pytest.raises(LimitReached):
        part.reserve(1, 1)
    part.reserve(1, 1, closing=True)


# After a crash ---------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("at", [1, 3, 5, 6, 7])
def test_a_resumed_batch_repeats_no_finished_call(tmp_path, strategy, at):
    done: list[ChatRequest] = []
    script = SlotScript()
    failing = [True]

    def respond(request):
        if failing[0] and len(done) == at:
            raise AuthenticationFailed("no")
        said = script(request)
        done.append(request)
        return said

    with pytest.raises(AuthenticationFailed) as caught:
        ask(respond, tmp_path, doc=tale(24), strategy=strategy)
    assert caught.value.run_id
    failing[0] = False
    answers = ask(respond, tmp_path, doc=tale(24), strategy=strategy)
    assert [a.text for a in answers] == ["2 has 222", "7 has 777", "11 has 1221"]
    assert [a.coverage.share for a in answers] == [1.0] * 3
    assert len({r.messages for r in done}) == len(done)


def test_a_cancelled_batch_goes_on(store):
    script = SlotScript()

    async def main():
        asked = [question(p) for p in (2, 7, 11)]
        async with Reader(model(script, delay=0.01), store=store) as r:
            task = asyncio.create_task(r.aanswer_many(tale(12), asked, chunk_tokens=200))
            while len(script.asked) < 3:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            states = {run.state for run in store.runs()}
            return states, await r.aanswer_many(tale(12), asked, chunk_tokens=200)

    states, answers = asyncio.run(main())
    assert states == {"interrupted"}
    assert [a.text for a in answers] == ["2 has 222", "7 has 777", "11 has 1221"]


def test_a_question_of_a_batch_is_resumed_by_its_id(tmp_path):
    file = tmp_path / "tale.txt"
    file.write_text(tale(12))
    script = SlotScript()
    with Reader(model(script), store=tmp_path / "s") as r:
        asked = [question(p) for p in (2, 7, 11)]
        partial = r.answer_many(file, asked, chunk_tokens=200, budget="calls=4")
        whole = r.resume(partial[2].run_id)
    assert (whole.question, whole.text, whole.status) == (question(11), "11 has 1221", "answered")


# Side by side ----------------------------------------------------------------------------


def test_memwalker_builds_its_tree_once_for_questions_side_by_side_and_later_ones(store):
    script = WalkScript()
    transport = FunctionModel(script, window=2048, identity="walk", json_schema=True)
    asked = ["What is the fact of part 13?", "What is told of part 13?", "And part 13?"]
    with package.open(tale(16), model=transport, store=store) as book:
        expected = book.estimate_many(asked, "memwalker", chunk_tokens=60)
        answers = book.ask_many(asked, "memwalker", chunk_tokens=60)
        leaves = script.purposes().count("summary")
        prepared = leaves + script.purposes().count("merge")
        assert leaves == 16
        assert expected.preparation_calls == prepared
        assert expected.calls == len(script.asked)
        before = len(script.asked)
        book.ask("Which number has part 13?", "memwalker", chunk_tokens=60)
    assert {a.text for a in answers} == {"number 1443"}
    assert {r.purpose for r in script.asked[before:]} == {"triage", "leaf"}


def test_what_the_end_of_a_question_did_not_need_is_there_for_the_next(store):
    def ask_both(kept: Store, **more: Any) -> list[Any]:
        transport = FunctionModel(
            WalkScript(), window=2048, identity="walk", json_schema=True, concurrency=1
        )
        with Reader(transport, store=kept) as r:
            asked = ["What is the fact of part 13?", "What is told of part 13?"]
            return r.answer_many(tale(16), asked, "memwalker", chunk_tokens=60, **more)

    free = ask_both(Store.in_memory())
    calls = sum(a.usage.calls for a in free)
    tight = ask_both(store, budget=Budget(calls=calls + 1))
    assert [a.status for a in tight] == ["answered"] * 2


def test_graphreader_builds_its_graph_once_for_questions_side_by_side_and_later_ones(store):
    script = GraphScript()
    transport = FunctionModel(script, window=4096, identity="graph", json_schema=True)
    asked = ["What is the fact of part 3?", "What is told of part 3?"]
    with package.open(tale(), model=transport, store=store) as book:
        expected = book.estimate_many(asked, "graphreader", chunk_tokens=60)
        answers = book.ask_many(asked, "graphreader", chunk_tokens=60)
        assert script.purposes().count("extract") == expected.preparation_calls == 5
        before = len(script.asked)
        later = book.ask("And the number of part 3?", "graphreader", chunk_tokens=60)
    assert [a.text for a in (*answers, later)] == ["number 333"] * 3
    assert "extract" not in {r.purpose for r in script.asked[before:]}


def test_vectors_are_made_once_for_questions_side_by_side(store):
    class Served(WordEmbedder):
        async def embed(self, texts):
            await asyncio.sleep(0)  # the other questions go on meanwhile
            return await super().embed(texts)

    embedder = Served()
    with package.open(tale(60), model=model(lambda r: "111"), store=store) as book:
        book.ask_many([question(p) for p in (1, 2, 3)], "rag", retriever="dense", embedder=embedder)
    passages = [t for t in embedder.embedded if not t.startswith("What")]
    assert len(passages) == len(set(passages))


@pytest.mark.parametrize("strategy", ["rag", "full", "closed_book", "map_reduce"])
def test_other_strategies_answer_each_question_by_itself(store, strategy):
    def respond(request):
        asked = re.findall(r"fact of part (\d+)\?", request.messages[0].content)[-1]
        return f"The fact of part {asked} is number {int(asked) * 111}."

    with package.open(tale(12), model=model(respond), store=store) as book:
        together = book.ask_many([question(p) for p in (2, 7)], strategy)
        alone = [book.ask(question(p), strategy) for p in (2, 7)]
    assert [a.run_id for a in together] == [a.run_id for a in alone]
    assert "222" in together[0].text
    assert "777" in together[1].text
    assert [a.usage.calls for a in alone] == [0, 0]


def test_questions_side_by_side_keep_to_the_limit_of_calls_in_flight(store):
    flying, most = 0, 0

    async def respond(request):
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0)
        flying -= 1
        return "Facts."

    with package.open(tale(5), model=model(respond, concurrency=2), store=store) as book:
        answers = book.ask_many([f"Q{i}?" for i in range(9)], "closed_book")
    assert len(answers) == 9
    assert most == 2


def test_the_budget_of_questions_side_by_side_is_that_of_all(store):
    script = SlotScript()
    answers = ask(script, store, (1, 2, 3), strategy="rag", chunk_tokens=None, budget="calls=2")
    assert len(script.asked) == 2
    assert sorted(a.status == "partial" for a in answers) == [False, False, True]


def test_the_first_failure_ends_all_and_is_raised_as_it_is(store):
    def respond(request):
        raise AuthenticationFailed("no")

    with pytest.raises(AuthenticationFailed) as caught:
        ask(respond, store, strategy="closed_book", chunk_tokens=None)
    assert caught.value.spent is not None


# The book --------------------------------------------------------------------------------


def test_a_book_is_loaded_and_cut_once(tmp_path, monkeypatch, store):
    file = tmp_path / "tale.txt"
    file.write_text(tale(12))
    loads, cuts = [], []
    load, cut = Document.from_path, package.chunk_cache.chunk_document

    async def counted(document, **options):
        cuts.append(options)
        return await cut(document, **options)

    monkeypatch.setattr(Document, "from_path", lambda path: loads.append(path) or load(path))
    monkeypatch.setattr("reader.chunk_cache.chunk_document", counted)
    with package.open(str(file), model=model(SlotScript()), store=store) as book:
        for part in (1, 2, 3):
            book.ask(question(part), chunk_tokens=200)
        book.ask_many([question(4), question(5)], chunk_tokens=200)
        book.estimate(question(6), chunk_tokens=200)
    assert len(loads) == len(cuts) == 1


def test_a_book_works_under_a_running_loop_and_by_its_asynchronous_twins(store):
    async def main():
        async with await package.aopen(tale(12), model=model(SlotScript()), store=store) as book:
            sync = book.ask_many([question(2), question(7)], chunk_tokens=200)
            twins = await book.aask_many([question(2), question(7)], chunk_tokens=200)
            one = await book.aask(question(3), chunk_tokens=200)
            expected = await book.aestimate(question(4), chunk_tokens=200)
            many = await book.aestimate_many([question(4), question(5)], chunk_tokens=200)
            events = [e async for e in book.astream(question(6), chunk_tokens=200)]
            return sync, twins, one, expected, many, events

    sync, twins, one, expected, many, events = asyncio.run(main())
    assert [a.text for a in sync] == [a.text for a in twins] == ["2 has 222", "7 has 777"]
    assert one.text == "3 has 333"
    assert many.calls == expected.calls + 1
    assert isinstance(events[-1], Done)


def test_a_book_closes_its_own_reader_and_leaves_that_of_the_caller_open(store):
    with Reader(model(SlotScript()), store=store) as r:
        with r.open(tale(3)) as book:
            assert book.document.text == tale(3)
            assert book.ask(question(2)).status == "answered"
        assert r.answer(tale(3), question(1)).status == "answered"
    closed = []

    class Closing(FunctionModel):
        async def aclose(self):
            closed.append(True)

    with package.open(tale(3), model=Closing(lambda r: "x"), store=False) as book:
        assert [*book.stream(question(1))][-1].answer.text
        assert "Book" in repr(book)
    assert closed == []  # a model object is the caller's


def test_a_missing_document_is_an_error_of_open(store):
    with pytest.raises(DocumentNotFound):
        package.open("no/such.txt", model=model(SlotScript()), store=store)


def test_open_hides_nothing_where_everything_is_imported():
    space: dict[str, Any] = {}
    exec("from reader import *", space)
    assert "open" not in space
    assert "open" in dir(package)


def test_events_of_many_questions_say_whose_they_are(store):
    heard: list[Any] = []
    answers = ask(SlotScript(), store, on_event=heard.append)
    chunks = len(answers[0].coverage.chunks)
    assert [e.path for e in heard if isinstance(e, ChunkRead)] == [0, 1, 2] * chunks
    assert {e.path for e in heard if isinstance(e, NoteChanged)} == {0, 1, 2}
    assert [e.answer.text for e in heard if isinstance(e, Done)] == [a.text for a in answers]
    assert not any(isinstance(e, AnswerToken) for e in heard)
    [started] = [e for e in heard if isinstance(e, RunStarted)]
    progress = [e for e in heard if isinstance(e, Progress)]
    assert (progress[-1].done, progress[-1].total) == (started.estimate.calls,) * 2
    heard.clear()
    ask(SlotScript(), store, strategy="map_reduce", on_event=heard.append)
    assert {e.path for e in heard if isinstance(e, ChunkRead)} == {0, 1, 2}
    progress = [e for e in heard if isinstance(e, Progress)]
    assert progress[-1].done == progress[-1].total


# What questions share comes first ----------------------------------------------------------


def shared(one: str, two: str) -> float:
    same = next((i for i, (a, b) in enumerate(zip(one, two)) if a != b), min(len(one), len(two)))  # noqa: B905
    return same / len(two)


def prompts(strategy: str, asked: str, **options: Any) -> list[str]:
    script = SlotScript()
    with Reader(model(script), store=False) as r:
        r.answer(tale(400), asked, strategy, **options)
    return [r.messages[0].content for r in script.readings()]


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("coa", {}), ("coa", {"quotes": True}), ("memagent", {"section_first": True})],
)
def test_a_second_question_shares_at_least_60_percent_of_each_prompt(strategy, options):
    first = prompts(strategy, question(40), **options)
    second = prompts(strategy, "Who went on over the hill to part 9?", **options)
    assert len(first) == len(second)
    assert min(map(shared, first, second)) >= 0.6


def test_two_batches_share_the_chunk_too(store):
    script = SlotScript()
    with package.open(tale(400), model=model(script), store=store) as book:
        book.ask_many([question(1), question(2)])
        first = [r.messages[0].content for r in script.readings()]
        book.ask_many([question(3), question(4)])
    second = [r.messages[0].content for r in script.readings()][len(first) :]
    assert min(map(shared, first, second)) >= 0.6


def test_a_long_list_of_questions_is_divided_evenly_over_few_passes(store):
    asked = [f"Is there a part {i}?" for i in range(70)]
    with package.open(tale(12), model=model(SlotScript()), store=store) as book:
        expected = book.estimate_many(asked)
        answers = book.ask_many(asked)
    assert "70 questions, read together in 3 passes" in expected.basis
    assert len(answers) == 70


def test_leaving_an_asynchronous_reader_ends_its_thread_too(store):
    async def main():
        async with Reader(model(SlotScript()), store=store) as r:
            r.answer(tale(2), question(1))
            inside = threading.active_count()
        return inside, threading.active_count()

    inside, after = asyncio.run(main())
    assert after < inside or not any("portal" in t.name.lower() for t in threading.enumerate())
