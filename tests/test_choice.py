import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader.budget import Ledger
from reader.errors import ContextOverflow, InvalidOption, LimitReached, RequestRefused, ServerFailed
from reader.llm.choice import choose, labels, parse_choice, render
from reader.llm.types import ChatReply, ChatRequest, Message
from reader.testing import ScriptedModel

CITIES = ["Paris", "London", "New York", "York"]
REQUEST = ChatRequest(messages=(Message("user", "Which city?"),), max_tokens=50)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("B", 1),
        ("b", 1),
        ("(B)", 1),
        ("B.", 1),
        ("**B**", 1),
        ("[B]", 1),
        ("B) London", 1),
        ("B. London", 1),
        ("(B) London", 1),
        ("B: London", 1),
        ("Answer: B", 1),
        ("answer: (b)", 1),
        ("**Answer:** B", 1),
        ("The answer is B.", 1),
        ("The correct answer is (B) London.", 1),
        ("The correct option is B because he lived there.", 1),
        ("Final answer: **C**", 2),
        ("Answer: A", 0),
        ("Answer: A, because the text says so.", 0),
        ("The answer is A because the text says so.", 0),
        ("Answer: A Paris", 0),
        ("I choose option D.", 3),
        ("I would go with C", 2),
        ("$\\boxed{B}$", 1),
        ("Option B", 1),
        ("It must be option C since he sailed.", 2),
        ("He lived by the Thames, so (B).", 1),
        ("The text says first A, but Answer: A\nNo, wait. Answer: D", 3),
        ("<think>Answer: A? Answer: C?</think>\nAnswer: B", 1),
        ("B\n\nThe text says that he lived in London.", 1),
        ("B. London\n\nExplanation: not Paris.", 1),
        ("London", 1),
        ("london.", 1),
        ("Answer: London", 1),
        ("He lived in London.", 1),
        ("Londn", 1),
        ("He moved to New York.", 2),
        ("He moved from York.", 3),
        ("New York, not York", 2),
        ("It is not Paris but London.", 1),
        ("Option A is wrong. Option B is right.", 1),
        ("The answer is not A. The answer is B.", 1),
        ("The answer\u2019s letter is: D", 3),
    ],
)
def test_choices_are_understood(text, index):
    assert parse_choice(text, CITIES) == index


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A man came from the sea.",
        "The answer is a city by the sea.",
        "Answer: A city by the sea",
        "I think it is somewhere else.",
        "Answer: I cannot say",
        "Answer: E",
        "Z",
        "(F)",
        "A or B",
        "Answer: A or B",
        "Answer: B and C",
        "Either (A) or (C).",
        "(A) Paris\n(B) London\n(C) New York\n(D) York",
        "Paris and London",
        "A. London",  # the letter contradicts the text
        "Answer: A. London",
        "It is not Paris.",
        "The answer is not B.",
        "Berlin",
        "I don't know.",
    ],
)
def test_unclear_replies_are_no_choice(text):
    assert parse_choice(text, CITIES) is None


def test_misspelt_options_count_where_only_one_is_near():
    options = ["Rumpelstiltskin", "Rapunzel", "Snow White"]
    assert parse_choice("Rumpelstilskin", options) == 0
    dates = ["12 March 1945", "12 March 1946"]
    assert parse_choice("12 March 1946", dates) == 1
    assert parse_choice("12 March 1947", dates) is None
    assert parse_choice("He was found not guilty of it", ["he was found guilty of it", "x"]) is None


def test_options_that_are_words_of_the_language():
    assert parse_choice("a dog", ["a cat", "A dog"]) == 1
    assert parse_choice("Answer: A dog", ["a cat", "a dog"]) == 1
    assert parse_choice("Answer: A dog", ["a dog", "a cat"]) == 0
    assert parse_choice("B", ["B", "A"]) == 0  # its own text goes before its letter
    assert parse_choice("2", ["1", "2", "3"]) == 1


@settings(deadline=None)
@given(st.text(), st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=6))
def test_no_reply_breaks_it(text, options):
    index = parse_choice(text, options)
    assert index is None or 0 <= index < len(options)


@settings(deadline=None)
@given(st.integers(2, 26), st.data())
def test_a_label_always_comes_back(count, data):
    options = [f"option text {i}" for i in range(count)]
    index = data.draw(st.integers(0, count - 1))
    label = labels(options)[index]
    for form in ("{}", "({})", "{}.", "Answer: {}", "The answer is ({}).", "{}) " + options[index]):
        assert parse_choice(form.format(label), options) == index


def test_rendering():
    assert render(["Paris", "New\nYork"]) == "(A) Paris\n(B) New York"
    for wrong in (["one"], ["x"] * 27, ["x", " "]):
        with pytest.raises(InvalidOption):
            render(wrong)


def ask(*replies, choices=CITIES, **options):
    """The choice, the ledger and the model after one question."""
    model, counts = ScriptedModel(replies), Ledger()
    chosen = asyncio.run(choose(model, REQUEST, choices, counts=counts, **options))
    return chosen, (counts.structured, counts.repaired, counts.reasked, counts.forced), model


def logprobs(tokens):
    return ChatReply(text="The", top_logprobs={k: math.log(v) for k, v in tokens.items()})


class TestChoose:
    def test_a_letter_is_strict(self):
        chosen, tally, _ = ask("(B)")
        assert (chosen.index, chosen.level, chosen.calls) == (1, "strict", 1)
        assert tally == (1, 0, 0, 0)

    def test_the_options_own_words_are_a_repair(self):
        chosen, tally, _ = ask("He lived in London.")
        assert (chosen.index, chosen.level) == (1, "repaired")
        assert tally == (1, 1, 0, 0)

    def test_an_unclear_reply_is_shown_and_asked_again(self):
        chosen, tally, model = ask("Somewhere.", "B")
        assert (chosen.index, chosen.level, chosen.calls) == (1, "reasked", 2)
        assert tally == (1, 0, 1, 0)
        assert model.requests[1].messages[:2] == (
            *REQUEST.messages,
            Message("assistant", "Somewhere."),
        )
        assert "A, B, C, D" in model.requests[1].messages[2].content

    def test_then_the_likeliest_letter_over_all_its_spellings(self):
        said = logprobs({" A": 0.3, "B": 0.2, " b": 0.1, "(B": 0.1, "The": 0.2, "E": 0.1})
        chosen, tally, model = ask("Somewhere.", "Nowhere.", said)
        assert (chosen.index, chosen.level, chosen.calls) == (1, "logprob", 3)
        assert tally == (1, 0, 1, 0)
        assert (model.requests[2].max_tokens, model.requests[2].top_logprobs) == (1, 20)

    def test_an_endpoint_without_logprobs_may_still_say_the_letter(self):
        chosen, _, _ = ask("Somewhere.", "Nowhere.", "D")
        assert (chosen.index, chosen.level) == (3, "reasked")

    def test_the_nearest_option_is_forced_at_last(self):
        chosen, tally, _ = ask("Yorkshire, or Newyork perhaps", "", logprobs({"The": 0.9}))
        assert (chosen.index, chosen.level, chosen.calls) == (2, "forced", 3)
        assert tally == (1, 0, 1, 1)

    def test_an_endpoint_that_refuses_logprobs_is_no_failure(self):
        chosen, _, _ = ask("?", "?", RequestRefused("no logprobs"))
        assert (chosen.level, chosen.calls) == ("forced", 2)

    def test_a_used_up_budget_still_gives_a_choice(self):
        full = LimitReached("x", limit="budget of calls")
        chosen, tally, _ = ask("Londinium", full, ContextOverflow("x"))
        assert (chosen.index, chosen.level, chosen.calls) == (1, "forced", 1)
        assert tally == (1, 0, 0, 1)

    def test_logprobs_can_be_left_out(self):
        chosen, _, model = ask("?", "?", use_logprobs=False)
        assert (chosen.level, len(model.requests)) == ("forced", 2)

    def test_failures_of_the_server_are_the_callers(self):
        with pytest.raises(ServerFailed):
            ask(ServerFailed("x"))
