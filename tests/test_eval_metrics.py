"""Metrics against published values and those of reference libraries."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader.answers import Answer
from reader.errors import InvalidOption, MissingExtra
from reader.evals import text_metrics as texts
from reader.evals.item import Item
from reader.evals.metrics import METRICS, PLAIN, abstained, score
from reader.evals.sets import load
from reader.evals.statistics import interval


def item(answers=("Anna",), **fields):
    row = {"context": "A text.", "question": "Who?", "dataset": "mine"}
    return Item(id="x", answers=answers, **{**row, **fields})


# The example of the `squad` metric in the documentation of `evaluate`: 66.67 by both.
SQUAD = [
    ("1976", ["1976"], 1, 1),
    ("Beyonce", ["Beyoncé and Bruno Mars"], 0, 0),
    ("climate change", ["climate change"], 1, 1),
]


@pytest.mark.parametrize(("said", "wanted", "exact", "f1"), SQUAD)
def test_squad_example(said, wanted, exact, f1):
    assert texts.exact_match(said, wanted) == exact
    assert texts.f1(said, wanted) == f1


def test_squad_rules_by_hand():
    assert texts.exact_match("The  Eiffel-Tower!", ["eiffeltower"]) == 1
    assert texts.exact_match("a", ["the"]) == 1  # both are nothing once normalised
    # 2 of 4 words said, 2 of 3 wanted: P 1/2, R 2/3.
    assert texts.f1("the cat sat down quietly", ["cat sat there"]) == pytest.approx(4 / 7)
    assert texts.f1("cat cat", ["cat"]) == pytest.approx(2 / 3)  # a bag, not a set
    assert texts.f1("dog", ["cat", "big dog"]) == pytest.approx(2 / 3)  # the best reference
    assert texts.f1("the", ["cat"]) == 0


def test_rouge_is_the_package_with_stemming():
    # The example of the package's README.
    wanted, said = (
        "The quick brown fox jumps over the lazy dog",
        "The quick brown dog jumps on the log.",
    )
    assert texts.rouge("rouge1")(said, [wanted]) == pytest.approx(0.7058823529411765)
    assert texts.rouge("rougeL")(said, [wanted]) == pytest.approx(0.5882352941176471)
    assert texts.rouge("rougeL")(said, ["no", wanted]) == pytest.approx(0.5882352941176471)
    assert texts.rouge("rouge1")("dogs", ["dog"]) == 1
    assert texts.rouge("rouge2")(said, [wanted]) < 0.5


def test_rouge_over_characters_sees_chinese():
    assert texts.rouge("rougeL")("猫在树上", ["猫在树上"]) == 0
    assert texts.rouge_characters("猫在树上", ["猫在树上。"]) == 1
    assert texts.rouge_characters("猫在树上", ["狗在树下"]) == pytest.approx(0.5)
    assert texts.f1_characters("猫 在", ["在猫!"]) == 1


def test_best_subspan_accuracy():
    assert texts.subspan("It was Dr. Anna, I think.", ["dr anna"]) == 1
    assert texts.subspan("Ann", ["Anna"]) == 0
    assert texts.subspan("the size is 10 %", ["%"]) == 1
    assert texts.subspan("anything", ["The"]) == 0  # normalising leaves nothing of it
    assert texts.contains("anna", ["Anna"]) == 0


def test_ruler_recall():
    # string_match_all: the mean over references; string_match_part: the best of them.
    assert texts.recall_all("7 and 9", ["7", "8", "9", "10"]) == 0.5
    assert texts.recall_any("7 and 9", ["8", "9"]) == 1
    assert texts.recall_all("ABC", ["abc"]) == 1
    assert texts.recall_all("x", []) == 0


@pytest.mark.parametrize(
    ("said", "wanted", "right"),
    [
        ("John is in the kitchen.", "kitchen", 1),
        ("kitchenette", "kitchen", 0),
        ("milk and the apple", "apple,milk", 1),
        ("the apple", "apple,milk", 0),
        ("go west, then north", "w,n", 1),
        ("w,n", "w,n", 1),
        ("north, then west", "w,n", 0),
        ("Yes", "yes", 1),
        ("", "yes", 0),
    ],
)
def test_babi(said, wanted, right):
    assert texts.babi(said, [wanted]) == right


PLACES = ["kitchen", "garden", "office"]


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("The kitchen.", 1),
        ("kitchen or garden", 0),
        ("It was in the kitchen. Then in the garden.", 1),
        ("Before the office it was in the kitchen", 1),  # the office is in the question
        ("I do not know. Perhaps the kitchen.", 0),
    ],
)
def test_babilong(said, right):
    asked = "Where was the milk before the office?"
    assert texts.babilong(said, ["kitchen"], PLACES, asked) == right


def test_longbench_metrics():
    assert texts.classification("Location or Person", ["Person"], ["Location", "Person"]) == 0.5
    assert texts.classification("City name", ["City name"], ["City", "City name"]) == 1
    assert texts.classification("City", ["Person"], ["City", "Person"]) == 0
    assert texts.numbers_right("Paragraph 7, not 8", ["Paragraph 7"]) == 0.5
    assert texts.numbers_right("none", ["3"]) == 0
    assert texts.edit_similarity("# a comment\n\nreturn x", ["return x"]) == 1
    assert 0 < texts.edit_similarity("return y", ["return x"]) < 1


def test_infinitebench_metrics():
    assert texts.first_number("It is 71432, not 5", ["71432"]) == 1
    assert texts.first_number("5 or 71432", ["71432"]) == 0
    assert texts.last_number("1 + 2 = -3", ["3"]) == 1
    assert texts.leading_numbers("34, 2, 57", ["34", "2", "58", "37"]) == 0.5


def test_leval_letters():
    assert texts.letters("A", ["A"]) == 1
    assert texts.letters("A, C", ["AC"]) == 1
    assert texts.letters("(B)", ["B"]) == 1
    assert texts.letters("A", ["AC"]) == 0.25
    assert texts.letters("AB", ["AC"]) == 0
    assert texts.letters("None of them", ["A"]) == 0


def test_keyword_f1():
    said, wanted = "The bridge of stone in Venice", ["a stone bridge in Venice"]
    assert texts.keyword_f1(said, wanted, "stone bridge") == texts.f1(said, wanted) > 0
    assert texts.keyword_f1(said, wanted, "marble arch of Rome and of Naples") == 0
    assert texts.keyword_f1(said, wanted, None) == texts.f1(said, wanted)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_every_plain_metric_stays_within_its_bounds(said, wanted):
    for metric in PLAIN.values():
        assert 0 <= metric(said, wanted) <= 1


@settings(deadline=None)
@given(st.lists(st.sampled_from(["anna", "bob", "cid", "the", "deep", "17", "lake"]), max_size=8))
def test_word_f1_does_not_mind_the_order(words):
    said, turned = " ".join(words), " ".join(reversed(words))
    assert texts.f1(said, [turned]) == 1


def test_nothing_is_wrong_by_every_metric():
    asked = item(choices=["Anna", "Ben"], meta={"labels": ["Anna"], "classes": ["Anna"]})
    for metric in METRICS:
        for nothing in (None, "", "  \n"):
            assert score(asked, nothing, metric).value == 0, metric


def answer(text, **fields):
    return Answer(question="Who?", text=text, status=fields.pop("status", "answered"), **fields)


def test_a_choice_is_taken_from_the_answer_or_read_from_its_text():
    asked = item(choices=["Anna", "Ben"])
    assert score(asked, answer("whatever", choice=0)).value == 1
    assert score(asked, answer("Anna", choice=1)).value == 0
    assert score(asked, "A").value == 1
    assert score(asked, "(B) Ben").value == 0
    assert score(asked, "neither").value == 0


def test_abstaining_is_right_only_where_there_is_no_answer():
    none = item(answers=(), meta={"answerable": False})
    there = item()
    assert score(none, answer("Not in the document.", status="not_found")).value == 1
    assert score(none, "Unanswerable").value == 1
    assert score(none, "The text does not say.").value == 1
    assert score(none, "Anna").value == 0
    assert score(none, "").value == 0
    assert score(there, "The text does not say.").value == 0
    assert score(there, "Anna", "abstention").value == 1
    assert score(there, "unanswerable", "abstention").value == 0
    assert score(there, answer("Anna", status="not_found")).abstained
    assert not abstained(answer("x", choice=1))
    assert not abstained(None)


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("rouge_score", lambda: score(item(), "Anna", "rougeL")),
        ("scipy", lambda: interval([1, 0])),
        ("datasets", lambda: load("hotpotqa", source="/nowhere")),
    ],
)
def test_what_is_not_installed_is_named_with_the_extra(monkeypatch, package, call):
    texts._scorer.cache_clear()
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"longdoc-reader\[evals\]"):
        call()


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(InvalidOption, match="no metric 'bleu'"):
        score(item(), "Anna", "bleu")
    with pytest.raises(InvalidOption, match="no choices"):
        score(item(), "Anna", "choice")
    with pytest.raises(InvalidOption, match=r"no meta\.labels"):
        score(item(), "Anna", "babilong")
