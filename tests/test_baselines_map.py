"""The baselines that read every chunk side by side: map-reduce, and quote-then-answer."""

from __future__ import annotations

import json
import re

import pytest

from conftest import tale
from reader import Reader, Store
from reader.errors import (
    AuthenticationFailed,
    ContextOverflow,
    InvalidOption,
    ModelUnavailable,
    ServerFailed,
    WindowTooSmall,
)
from reader.events import ChunkRead, Progress
from reader.testing import FunctionModel
from scripts import NASTY, Script, no_waiting, part_of, run

QUESTION = "What is the fact of part 3?"
FACT = "The fact of part 3 is number 333."
NOTHING = "Not found in this part."
BOTH = ("map_reduce", "quotes")
READS = {"map_reduce": "map", "quotes": "quote"}


def mapped(request):
    """A note on the part that the question is about, nothing on the others."""
    return f'Part 3 says 333.\nQuote: "{FACT}"' if part_of(request) == 3 else NOTHING


def everything(request):
    """A note on every part."""
    part = part_of(request)
    return f"Part {part} says {part * 111}, and the wind blew from the sea all day long."


def quoted(request):
    found = [{"paragraph": 1, "quote": FACT}] if part_of(request) == 3 else []
    return json.dumps({"quotes": found})


def script(**replies) -> Script:
    return Script(**{"map": mapped, "quote": quoted, "answer": "It is 333.", **replies})


def ask(strategy, by=None, store=None, doc=None, question=QUESTION, **more):
    more.setdefault("chunk_tokens", 60)
    return run(
        by or script(),
        store or Store.in_memory(),
        doc or tale(),
        question,
        strategy=strategy,
        **more,
    )


def with_model(by, store):
    return Reader(FunctionModel(by, window=2048, identity="script", json_schema=True), store=store)


# Map and reduce --------------------------------------------------------------------------


def test_every_chunk_answers_alone_and_the_answers_are_combined(store):
    by = script()
    answer = ask("map_reduce", by, store)
    prompts = by.prompts("map")
    assert len(prompts) == 5
    assert all(p.index("wind blew") < p.index(QUESTION) for p in prompts)
    assert not any("333" in p for p in prompts if "part 3 is" not in p)
    [last] = by.prompts("answer")
    assert "Part 3 says 333." in last
    assert "wind blew" not in last
    assert NOTHING not in last
    assert (answer.text, answer.status) == ("It is 333.", "answered")
    assert (answer.usage.calls, answer.usage.depth) == (6, 2)
    assert answer.coverage.share == 1.0
    assert [(c.text, c.match) for c in answer.citations] == [(FACT, "exact")]


def test_the_chunks_are_read_side_by_side(store):
    import asyncio

    flying = most = 0

    async def slow(request):
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        for _ in range(20):
            await asyncio.sleep(0)
        flying -= 1
        return everything(request)

    ask("map_reduce", script(map=slow), store, tale(20), concurrency=4)
    assert most == 4


def test_invented_quotes_never_reach_the_reduce(store):
    def invents(request):
        return "It tells of a beast.\nQuote: The dragon slept beneath the mountain for years."

    by = script(map=invents)
    answer = ask("map_reduce", by, store)
    assert "dragon" not in by.prompts("answer")[0]
    assert answer.trace.invented_quotes == 5
    assert not [c for c in answer.citations if "dragon" in c.text]


def test_notes_that_do_not_fit_are_reduced_in_rounds_and_no_prompt_exceeds_the_window(store):
    lengths = []

    def measured(said):
        def reply(request):
            prompt = request.messages[-1].content
            lengths.append(len(re.findall(r"\w+|[^\w\s]", prompt)) + request.max_tokens)
            return said(request) if callable(said) else said

        return reply

    by = script(
        map=measured(everything),
        combine=measured(lambda r: "Of these parts: " + " ".join(_parts(r)) + " are told here."),
        answer=measured("It is 333."),
    )
    answer = ask("map_reduce", by, store, tale(120), model_window=700, note_tokens=40)
    assert len(by.prompts("combine")) >= 2
    assert max(lengths) <= 700
    assert answer.usage.depth >= 3
    assert answer.usage.calls == 121 + len(by.prompts("combine"))
    assert answer.status == "answered"
    # every note went into the first round
    combined = [part for r in by.asked if r.purpose == "combine" for part in _parts(r)]
    assert {f"Part {i}" for i in range(1, 121)} <= set(combined)


def _parts(request):
    return re.findall(r"Part \d+", request.messages[-1].content)


def test_rounds_end_even_where_combining_makes_nothing_shorter(store):
    long = "word " * 60
    by = script(map=lambda r: f"Part {part_of(r)}: {long}", combine=long)
    answer = ask("map_reduce", by, store, tale(60), model_window=700, note_tokens=64)
    assert answer.text == "It is 333."
    assert len(by.prompts("combine")) < 60


def test_a_combining_call_that_fails_or_gives_nothing_shortens_the_notes(store, monkeypatch):
    no_waiting(monkeypatch)
    for reply in (ServerFailed("500"), "", ContextOverflow("too long")):
        by = script(map=everything, combine=reply)
        answer = ask(
            "map_reduce", by, Store.in_memory(), tale(60), model_window=700, note_tokens=40
        )
        assert answer.text == "It is 333."
        assert any("shortened instead" in w for w in answer.trace.warnings)


def test_a_summary_of_summaries(store):
    by = script(map="Roads and wind.", answer="A tale of roads.")
    answer = ask("map_reduce", by, store, question=None)
    assert not [p for p in by.prompts("map") + by.prompts("answer") if "Question" in p]
    assert (answer.text, answer.status) == ("A tale of roads.", "answered")


def test_a_last_prompt_that_does_not_fit_after_all_shows_fewer_notes(store):
    def answer(request):
        text = request.messages[-1].content
        return ContextOverflow("too long") if text.count("<note>") > 2 else "It is 333."

    by = script(map=everything, answer=answer)
    result = ask("map_reduce", by, store)
    assert result.text == "It is 333."
    assert "Part 3 says" in by.prompts("answer")[-1]
    assert any("did not fit" in w for w in result.trace.warnings)


def test_a_window_with_no_room_for_two_notes(store):
    with pytest.raises(WindowTooSmall):
        ask("map_reduce", None, store, model_window=420, note_tokens=300, chunk_tokens=None)


# Quote, then answer ----------------------------------------------------------------------


def test_sentences_are_picked_checked_and_answered_from(store):
    by = script()
    answer = ask("quotes", by, store)
    prompts = by.prompts("quote")
    assert len(prompts) == 5
    assert "[1] The fact of part 1" in prompts[0]
    assert all(p.index("wind blew") < p.index(QUESTION) for p in prompts)
    [last] = by.prompts("answer")
    assert FACT in last
    assert "wind blew" not in last
    assert (answer.text, answer.status) == ("It is 333.", "answered")
    assert (answer.usage.calls, answer.usage.depth) == (6, 2)
    assert [(c.text, c.match) for c in answer.citations] == [(FACT, "exact")]


def test_a_document_that_fits_takes_two_calls(store):
    by = script()
    answer = ask("quotes", by, store, chunk_tokens=None)
    assert answer.usage.calls == 2


def test_sentences_that_do_not_stand_there_are_asked_for_again_once(store):
    dragon = json.dumps({"quotes": [{"paragraph": 1, "quote": "The dragon slept for years."}]})

    def invents(request):
        if part_of(request) != 3:
            return json.dumps({"quotes": []})
        return quoted(request) if len(request.messages) > 1 else dragon

    by = script(quote=invents)
    answer = ask("quotes", by, store)
    assert answer.usage.calls == 7
    assert answer.usage.reasked == 1
    assert "dragon" not in by.prompts("answer")[0]
    assert FACT in by.prompts("answer")[0]


def test_sentences_invented_twice_are_dropped_and_counted(store):
    dragon = json.dumps({"quotes": [{"paragraph": 1, "quote": "The dragon slept for years."}]})

    def invents(request):
        return dragon if part_of(request) == 1 else quoted(request)

    by = script(quote=invents)
    answer = ask("quotes", by, store)
    assert "dragon" not in by.prompts("answer")[0]
    assert answer.trace.invented_quotes == 1
    assert answer.coverage.chunks[0].outcome == "read"
    assert answer.usage.forced == 1


def test_the_number_of_the_paragraph_tells_equal_sentences_apart(store):
    filler = "Other things were told of at great length, of which nothing is known today. " * 4
    doc = "\n\n".join(f"{filler}Chapter {i}.\nHe opened the old door." for i in (1, 2, 3))

    def second(request):
        return json.dumps({"quotes": [{"paragraph": 2, "quote": "He opened the old door."}]})

    answer = ask("quotes", script(quote=second), store, doc, chunk_tokens=None)
    places = [m.start() for m in re.finditer("He opened", doc)]
    assert [c.start for c in answer.citations] == [places[1]]


def test_a_sentence_cut_off_by_its_cap_is_cited_whole(store):
    requests = []

    def beginning(request):
        requests.append(request)
        found = [FACT[:26]] if part_of(request) == 3 else []
        return json.dumps({"quotes": [{"paragraph": 1, "quote": said} for said in found]})

    by = script(quote=beginning)
    with with_model(by, store) as reader:
        answer = reader.answer(tale(), QUESTION, "quotes", chunk_tokens=60)
    assert [(c.text, c.match) for c in answer.citations] == [(FACT, "exact")]
    assert f"- {FACT}" in by.prompts("answer")[0]
    quotes = requests[0].json_schema["properties"]["quotes"]
    assert quotes["maxItems"] == 4
    longest = quotes["items"]["properties"]["quote"]["maxLength"]
    assert 4 * longest <= 4 * requests[0].max_tokens


def test_no_sentence_at_all_means_one_second_look_at_the_likest_chunk(store):
    def reluctant(request):
        return quoted(request) if "comes nearest" in request.messages[-1].content else "[]"

    by = script(quote=lambda r: reluctant(r).replace("[]", '{"quotes": []}', 1))
    answer = ask("quotes", by, store)
    again = [p for p in by.prompts("quote") if "comes nearest" in p]
    assert len(again) == 1
    assert "part 3 is" in again[0]
    assert (answer.text, answer.usage.depth) == ("It is 333.", 3)


def test_found_nowhere_makes_no_last_call(store):
    by = script(quote=json.dumps({"quotes": []}), map=NOTHING)
    for strategy in BOTH:
        answer = ask(strategy, by, store)
        assert (answer.text, answer.status) == ("Not found in the document.", "not_found")
        assert answer.citations == ()
    assert by.prompts("answer") == []


def test_more_sentences_than_fit_are_told_and_the_likest_are_kept(store):
    def one_each(request):
        said = f"The fact of part {part_of(request)} is number {part_of(request) * 111}."
        return json.dumps({"quotes": [{"paragraph": 1, "quote": said}]})

    by = script(quote=one_each)
    answer = ask("quotes", by, store, tale(60), model_window=700)
    [last] = by.prompts("answer")
    assert FACT in last
    assert any("did not fit" in w for w in answer.trace.warnings)


# Both ------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", BOTH)
@pytest.mark.parametrize("reply", NASTY)
def test_whatever_a_weak_model_writes_the_run_ends_with_an_answer(strategy, reply):
    by = Script(map=reply, quote=reply, combine=reply, answer=reply)
    for more in ({}, {"choices": ["red", "green"]}):
        answer = ask(strategy, by, **more)
        assert answer.status in ("answered", "not_found", "partial")
        assert (answer.choice is not None) == bool(more)


@pytest.mark.parametrize("strategy", BOTH)
def test_an_unusable_reply_marks_the_chunk_unread_and_the_run_goes_on(strategy, store):
    kind = READS[strategy]
    good = {"map": mapped, "quote": quoted}[kind]
    by = script(**{kind: lambda r: "" if part_of(r) == 2 else good(r)})
    answer = ask(strategy, by, store)
    assert answer.coverage.chunks[1].outcome == "unread"
    assert answer.text == "It is 333."
    assert any("Chunk 2 is unread" in w for w in answer.trace.warnings)


@pytest.mark.parametrize("strategy", BOTH)
def test_nothing_usable_at_all_is_no_answer(strategy):
    answer = ask(strategy, Script(map="", quote="", answer="It is 333."))
    assert (answer.text, answer.status) == ("", "partial")
    assert answer.coverage.unread == 5


@pytest.mark.parametrize("strategy", BOTH)
def test_a_failed_chunk_is_recorded_and_the_answer_says_so(strategy, store, monkeypatch):
    no_waiting(monkeypatch)
    kind = READS[strategy]
    good = {"map": mapped, "quote": quoted}[kind]
    by = script(**{kind: lambda r: ServerFailed("500") if part_of(r) == 2 else good(r)})
    answer = ask(strategy, by, store)
    assert (answer.text, answer.status) == ("It is 333.", "partial")
    assert answer.coverage.chunks[1].outcome == "failed"
    assert answer.coverage.failed == 1


@pytest.mark.parametrize("strategy", BOTH)
def test_a_broken_server_ends_the_run_with_an_error(strategy, store, monkeypatch):
    no_waiting(monkeypatch)
    by = script(map=ServerFailed("500"), quote=ServerFailed("500"))
    with pytest.raises(ModelUnavailable):
        ask(strategy, by, store, tale(60))
    assert len(by.asked) < 60 * 5


@pytest.mark.parametrize("strategy", BOTH)
def test_a_wrong_key_ends_the_run_at_once(strategy, store):
    by = script(map=AuthenticationFailed("no"), quote=AuthenticationFailed("no"))
    with pytest.raises(AuthenticationFailed):
        ask(strategy, by, store, tale(60))
    assert len(by.asked) <= 8


@pytest.mark.parametrize("strategy", BOTH)
def test_a_chunk_that_does_not_fit_is_read_in_halves(strategy, store):
    kind = READS[strategy]
    good = {"map": mapped, "quote": quoted}[kind]

    def reply(request):
        text = request.messages[0].content
        both = "part 3 is" in text and text.count("the hill") > 1
        return ContextOverflow("too long") if both else good(request)

    answer = ask(strategy, script(**{kind: reply}), store)
    assert answer.text == "It is 333."
    assert answer.coverage.chunks[2].outcome == "read"
    assert [c.text for c in answer.citations] == [FACT]
    assert any("halves" in w for w in answer.trace.warnings)


@pytest.mark.parametrize("strategy", BOTH)
def test_a_failing_last_call_leaves_the_notes_as_partial_answer(strategy, store, monkeypatch):
    no_waiting(monkeypatch)
    answer = ask(strategy, script(answer=ServerFailed("500")), store)
    assert answer.status == "partial"
    assert "333" in answer.text


@pytest.mark.parametrize("strategy", BOTH)
def test_a_budget_of_calls_is_kept_and_the_last_call_is_reserved(strategy, store):
    by = script()
    answer = ask(strategy, by, store, budget={"calls": 4}, concurrency=1)
    assert len(by.asked) == 4
    assert by.asked[-1].purpose == "answer"
    assert answer.status == "partial"
    assert answer.coverage.skipped == 2
    by = script()
    whole = ask(strategy, by, store)
    assert whole.status == "answered"
    assert len(by.prompts(READS[strategy])) == 2


@pytest.mark.parametrize("strategy", BOTH)
def test_a_budget_of_tokens_is_never_passed(strategy):
    for tokens in (1600, 2400, 3200):
        by = script(map=everything)
        options = (
            {"budget": {"tokens": tokens}, "note_tokens": 32}
            if strategy == "map_reduce"
            else {"budget": {"tokens": tokens}}
        )
        answer = ask(strategy, by, doc=tale(40), answer_tokens=32, **options)
        used = answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert used <= tokens
        assert answer.status == "partial"
        assert answer.coverage.read > 0
        assert answer.text in ("It is 333.", "Not found in the document.")


@pytest.mark.parametrize("strategy", BOTH)
def test_a_deadline_that_has_passed_is_a_partial_answer(strategy):
    answer = ask(strategy, deadline=1e-6)
    assert (answer.status, answer.usage.calls) == ("partial", 0)
    assert answer.coverage.read == 0


@pytest.mark.parametrize("strategy", BOTH)
def test_choices(strategy, store):
    by = script(answer="(B)")
    answer = ask(strategy, by, store, choices=["111", "333", "555"])
    assert (answer.choice, answer.text) == (1, "333")
    assert "(B) 333" in by.prompts(READS[strategy])[0]


@pytest.mark.parametrize("strategy", BOTH)
def test_choices_are_chosen_from_even_where_nothing_was_found(strategy, store):
    by = script(quote=json.dumps({"quotes": []}), map=NOTHING, answer="(A)")
    assert ask(strategy, by, store, choices=["111", "333"]).choice == 0


@pytest.mark.parametrize("strategy", BOTH)
def test_chunk_tokens_that_do_not_fit_are_refused_with_the_number_that_does(strategy):
    with pytest.raises(InvalidOption, match="At most"):
        ask(strategy, chunk_tokens=5000)


@pytest.mark.parametrize("strategy", BOTH)
def test_a_killed_run_goes_on_and_repeats_no_finished_call(strategy, store):
    kind = READS[strategy]
    good = {"map": everything, "quote": quoted}[kind]
    seen = []

    def dies(request):
        if len(seen) == 21:
            raise AuthenticationFailed("gone")
        seen.append(request.messages)
        return good(request)

    with pytest.raises(AuthenticationFailed):
        ask(strategy, script(**{kind: dies}), store, tale(40), concurrency=2)
    by = script(**{kind: good})
    events = []
    answer = ask(strategy, by, store, tale(40), concurrency=2, on_event=events.append)
    again = [r.messages for r in by.asked if r.purpose == kind]
    assert len(again) == 19
    assert not [m for m in again if m in seen]
    assert answer.status == "answered"
    assert sorted(e.chunk for e in events if isinstance(e, ChunkRead)) == list(range(40))
    assert [e for e in events if isinstance(e, Progress)][-1].done == 41


def test_a_run_killed_between_rounds_goes_on_from_its_notes(store):
    options = {"model_window": 700, "note_tokens": 40}
    dies = script(map=everything, combine=["One note.", AuthenticationFailed("gone")])
    with pytest.raises(AuthenticationFailed):
        ask("map_reduce", dies, store, tale(60), **options)
    by = script(map=everything, combine="One note of many.")
    answer = ask("map_reduce", by, store, tale(60), **options)
    assert by.prompts("map") == []
    assert answer.text == "It is 333."
    assert not set(by.prompts("combine")) & set(dies.prompts("combine")[:1])


@pytest.mark.parametrize("strategy", BOTH)
def test_the_same_question_again_makes_no_call(strategy, store):
    first = ask(strategy, None, store)
    by = script()
    second = ask(strategy, by, store)
    assert by.asked == []
    assert (second.text, second.citations) == (first.text, first.citations)


@pytest.mark.parametrize("strategy", BOTH)
def test_the_estimate_is_close_to_what_a_run_uses(strategy, store):
    by = script(
        map=everything,
        combine="Many parts are told of here, in one note of some length.",
        quote=lambda r: json.dumps({"quotes": [{"paragraph": 1, "quote": "the wind blew from"}]}),
    )
    window = {"window": 700, "note_tokens": 40} if strategy == "map_reduce" else {}
    options = {"chunk_tokens": 60, **window}
    with with_model(by, store) as reader:
        reader.answer(tale(60), "Another question?", strategy, **options)
        for parts in (8, 100):
            question = f"What is the fact of part {parts}?"
            expected = reader.estimate(tale(parts), question, strategy, **options)
            used = reader.answer(tale(parts), question, strategy, **options).usage
            assert (expected.calls, expected.depth) == (used.calls, used.depth)
            assert expected.prompt_tokens == pytest.approx(used.prompt_tokens, rel=0.2)
            assert expected.completion_tokens == pytest.approx(used.completion_tokens, rel=0.2)
            assert used.completion_tokens <= expected.max_completion_tokens


@pytest.mark.parametrize("strategy", BOTH)
def test_the_budget_keeps_room_for_a_last_call_with_what_fits_it(strategy):
    def long_quotes(request):
        text = request.messages[0].content
        found = [s.strip() + "." for s in re.findall(r"(?:The fact|The road)[^.]*", text)]
        return json.dumps({"quotes": [{"paragraph": 1, "quote": s} for s in dict.fromkeys(found)]})

    by = script(map=lambda r: everything(r) * 4, quote=long_quotes)
    more = {"note_tokens": 128} if strategy == "map_reduce" else {}
    answer = ask(strategy, by, doc=tale(60), budget={"tokens": 8000}, answer_tokens=32, **more)
    assert by.asked[-1].purpose == "answer"
    assert (answer.text, answer.status) == ("It is 333.", "partial")
    assert any("did not fit" in w for w in answer.trace.warnings)


def test_a_budget_spent_between_rounds_answers_from_the_round_before(store):
    by = script(map=everything, combine="One note.")
    options = {"model_window": 700, "note_tokens": 40, "budget": {"calls": 63}, "concurrency": 1}
    answer = ask("map_reduce", by, store, tale(60), **options)
    assert len(by.asked) == 63
    assert len(by.prompts("combine")) == 2
    assert "Part 3 says 333" in by.prompts("answer")[0]
    assert answer.text == "It is 333."
    assert any("did not fit" in w for w in answer.trace.warnings)


def test_a_second_look_that_fails_is_told(store, monkeypatch):
    no_waiting(monkeypatch)

    def reply(request):
        if "comes nearest" in request.messages[-1].content:
            return ServerFailed("500")
        return json.dumps({"quotes": []})

    answer = ask("quotes", script(quote=reply), store)
    assert answer.status == "not_found"
    assert any("second look failed" in w for w in answer.trace.warnings)


def test_a_sentence_of_another_chunk_is_not_one_of_this(store):
    by = script(
        quote=lambda r: json.dumps(
            {"quotes": [{"paragraph": 1, "quote": FACT}] if part_of(r) == 1 else []}
        )
    )
    answer = ask("quotes", by, store)
    assert by.prompts("answer") == []
    assert answer.status == "not_found"
