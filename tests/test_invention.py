"""Notes that a model made up are not handed on."""

from __future__ import annotations

import json
import re

import pytest
from slot_script import SlotScript, model, question

from conftest import tale
from reader import Reader
from reader.strategies.invention import is_invented
from reader.testing import FunctionModel

TEXT = "Mr. Mayer leased the mill in 1921 for 4,650 marks a year. His sister Anna kept the books."
WHO = "Who leased the mill?"


@pytest.mark.parametrize(
    ("said", "question"),
    [
        ("The secret number of Lonely-Flask is 12.", "What is the secret number of Lonely-Flask?"),
        ("The mill was leased by John Smith.", WHO),
        ("Note 1: The founder of the network was Bridgegate Pictures.", "Who founded the network?"),
        ("1. The founder was Bridgegate.", "Who was the founder?"),
        ("In Cambridge.", "Where is Daniel?"),
    ],
)
def test_a_note_is_made_up_where_nothing_that_it_names_stands(said, question):
    assert is_invented(said, question, TEXT)


@pytest.mark.parametrize(
    ("said", "question"),
    [
        ("Mr. Mayer leased it.", WHO),
        ("The rent was 4650 marks.", "What was the rent?"),  # the text's number, without its comma
        ("The Mayers leased the mill.", WHO),  # another ending
        ("From 1921 to 1930, nine years, he paid 41,850 marks.", "What did he pay?"),  # a sum
        ("The mill was leased in 1921.", "Was the mill leased in 1921?"),
        ("The part says nothing about that.", WHO),
        ("", WHO),
        ("There is nothing about Zanzibar.", "What is said of Zanzibar?"),  # the question's name
        ("It must be B.", WHO),  # a letter is no name
        ("He had 2 of them.", "How many did he have, 2 or 3?"),
        ("Mr. Mayer's lease was for £41.", WHO),  # one of two stands
        ("1. Someone else did.", WHO),  # the number of an item
        # Most of it was read: one wrong name is no reason to lose the rest.
        ("His sister kept the books of the mill, and her name was Bertha.", "Who was she?"),
        ("他的妹妹记账。", "谁记账？"),
    ],
)
def test_a_note_of_which_something_stands_is_left_alone(said, question):
    assert not is_invented(said, question, TEXT)


def test_what_stands_in_the_note_before_stands():
    assert not is_invented("The mayor was Otto.", "Who was the mayor?", "No names.", "Otto ruled.")
    before = "The mayor was Otto."
    assert is_invented(f"{before} His wife was Emma.", "His wife?", "No names here.", before)


def test_a_number_in_words_stands():
    assert not is_invented("They signed contracts for 12.", "How many?", "Twelve came.")


def test_a_unit_in_other_words_that_names_what_the_one_before_names_is_a_new_unit(store):
    def worker(request):
        second = "part 2 is" in request.messages[-1].content
        return "Known so far: 111 as fact." if second else "The fact of part 1 is number 111."

    script = {"worker": worker, "manager": lambda request: "111"}
    model = FunctionModel(lambda r: script[r.purpose](r), window=2048, identity="script")
    with Reader(model, store=store) as reader:
        answer = reader.answer(tale(2), "What is it?", strategy="coa", chunk_tokens=60)
    assert [s.level for s in answer.trace.steps if s.purpose == "worker"] == ["ok", "ok"]


QUESTION = "What is the secret number of the lonely-flask?"
TRUE = "The secret number of the lonely-flask is 5205862."


def invents(request):
    """Writes the true number where it is shown, elsewhere one of its own, as a 0.5B model does."""
    shown = request.messages[-1].content
    if request.purpose in ("worker", "update", "map"):
        earlier = re.search(r"lonely-flask is (\d+)", shown)
        return f"The secret number of the lonely-flask is {earlier[1] if earlier else 123}."
    found = re.search(r"lonely-flask is (\d+)", shown)
    return f"The answer is {found[1]}." if found else "Not found in the document."


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("coa", {}), ("coa", {"order": "right_to_left"}), ("map_reduce", {"quotes": False}),
     ("memagent", {})],
)  # fmt: skip
def test_an_invented_number_does_not_shut_out_the_one_that_is_read_later(store, strategy, options):
    doc = tale(3) + f" {TRUE}\n\n" + tale(2, "tale")
    with Reader(FunctionModel(invents, window=2048, identity="script"), store=store) as reader:
        answer = reader.answer(doc, QUESTION, strategy=strategy, chunk_tokens=60, **options)
    assert "5205862" in answer.text
    assert [c.text for c in answer.citations] == [TRUE]
    levels = [step.level for step in answer.trace.steps]
    assert "invented" in levels
    assert not any("123" in step.text for step in answer.trace.steps)


@pytest.mark.parametrize("strategy", ["coa", "map_reduce", "memagent"])
def test_where_everything_was_made_up_nothing_was_found(store, strategy):
    with Reader(FunctionModel(invents, window=2048, identity="script"), store=store) as reader:
        answer = reader.answer(tale(4), QUESTION, strategy=strategy, chunk_tokens=60)
    assert (answer.status, answer.citations) == ("not_found", ())
    assert answer.usage.depth == (1 if strategy == "map_reduce" else answer.usage.calls)
    assert answer.coverage.share == 1.0


def test_quotes_that_stand_outlive_a_summary_that_was_made_up(store):
    quote = "The road went on over the hill and the wind blew from the sea all day long."
    note = json.dumps({"adds": True, "quotes": [quote], "summary": "It was in Cambridge in 1745."})
    script = {"worker": note, "manager": "Not found in the document."}
    model = FunctionModel(
        lambda r: asked.append(r) or script[r.purpose], window=2048, identity="s", json_schema=True
    )
    asked = []
    with Reader(model, store=store) as reader:
        reader.answer(tale(1), "Where was it?", strategy="coa", quotes=True, chunk_tokens=60)
    last = asked[-1].messages[-1].content
    assert quote in last
    assert "Cambridge" not in last


def test_a_quote_that_stands_keeps_a_note_of_map_reduce(store):
    reply = "It must be number 77.\nQuote: The road went on over the hill"
    script = {"map": reply, "answer": "77"}
    model = FunctionModel(lambda r: script[r.purpose], window=2048, identity="script")
    with Reader(model, store=store) as reader:
        answer = reader.answer(tale(2), "Which is it?", strategy="map_reduce", chunk_tokens=60)
    assert [step.level for step in answer.trace.steps if step.purpose == "map"] == ["ok", "ok"]


@pytest.mark.parametrize("strategy", ["coa", "memagent"])
def test_of_several_questions_the_slot_that_was_made_up_stays_as_it_was(store, strategy):
    def fill(slots):
        return {number: "It is 999." if number == 1 else text for number, text in slots.items()}

    script = SlotScript(lambda request, slots: fill(slots))
    with Reader(model(script), store=store) as reader:
        answers = reader.answer_many(
            tale(6), [question(1), question(2)], strategy=strategy, chunk_tokens=200
        )
    assert answers[0].status == "not_found"
    assert answers[1].text == "2 has 222"
    assert "invented" in [step.level for step in answers[0].trace.steps]
