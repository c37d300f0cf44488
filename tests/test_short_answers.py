"""An answer of a few words that the model quoted nothing for is cited where it stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tale
from reader import Store
from reader.documents import Document
from reader.evidence import Claim, QuoteFinder, cite
from reader.render import answer_text
from reader.short_answers import holds, standing
from scripts import Script, run

TEXT = """\
Hans lived at Ecton. The ship of the mayor, which weighed 1,200 tons, was built by O’Brien in 1758.

In 1758 it rained. The lease of the mill was signed in Market Street by Hans, who paid 12.5 pounds.
The barber, Hans Maier, owned no ship. He sold C and C++ to Vitamin traders."""
ALL = (0, len(TEXT))


def cited(answer: str, question: str, *read: tuple[int, int]) -> str | None:
    match = standing(TEXT, answer, question, read or (ALL,))
    return None if match is None else TEXT[match.start : match.end]


@pytest.mark.parametrize(
    ("answer", "question", "begins"),
    [
        ("1758", "When was the mayor's ship built?", "The ship"),
        ("1758.", "In which year did it rain?", "In 1758"),
        ("o'brien", "Who built the ship of the mayor?", "The ship"),
        ("Hans", "Who signed the lease of the mill?", "The lease"),
        ("market street", "Where was the lease of the mill signed?", "The lease"),
        ("“Hans Maier”", "What was the barber called?", "The barber"),
        ("12.5 pounds", "What did the mill cost when the lease was signed?", "The lease"),
        ("1,200", "How many tons did the ship of the mayor weigh?", "The ship"),
        ("C++", "What did he sell to vitamin traders?", "He sold"),
    ],
)
def test_the_sentence_with_most_of_the_questions_words_is_it(answer, question, begins):
    assert cited(answer, question).startswith(begins)


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        ("200", "How many tons did the ship of the mayor weigh?"),
        ("12", "What did the lease of the mill cost in pounds?"),
        ("5 pounds", "What did the lease of the mill cost?"),
        ("Mai", "What was the barber called?"),
        ("1759", "When was the mayor's ship built?"),
        ("no", "Did the barber own a ship?"),
        ("the ship", "Is the ship that the mayor built a ship?"),
        ("1758", "Which harvest was the worst of the whole century, and why?"),
        ("", "When?"),
        ("...", "When was the ship built?"),
        ("1758", ""),
        (
            "The ship of the mayor, which weighed 1,200 tons, was built by O'Brien in 1758",
            "When was the mayor's ship built?",
        ),
    ],
)
def test_what_stands_nowhere_or_says_nothing_cites_nothing(answer, question):
    assert cited(answer, question) is None


def test_only_what_was_read_is_searched():
    question = "When was the mayor's ship built?"
    assert cited("1758", question, (TEXT.index("In 1758"), len(TEXT))) is None
    assert cited("1758", question, (0, 20), (20, 120)).startswith("The ship")


@given(st.text(), st.text(), st.text())
def test_no_input_breaks_it_and_what_is_found_holds_the_answer(text, answer, question):
    match = standing(text, answer, question, [(0, len(text))])
    assert match is None or holds(text[match.start : match.end], answer)


def look_up(*claims: Claim, question: str, answer: str):
    document = Document.from_text(TEXT)
    result = cite(document, QuoteFinder(TEXT), claims, question=question, answer=answer, read=[ALL])
    return [(c.text.split(",")[0], c.match) for c in result.citations]


def test_a_quote_that_holds_the_answer_is_enough():
    quote = Claim("was built by O'Brien in 1758")
    found = look_up(quote, question="When was the mayor's ship built?", answer="1758")
    assert [match for _, match in found] == ["exact"]


def test_beside_quotes_that_do_not_hold_the_answer_its_sentence_comes_first():
    quote = Claim("The barber, Hans Maier, owned no ship")
    found = look_up(quote, question="When was the mayor's ship built?", answer="1758")
    assert found[0] == ("The ship of the mayor", "answer")
    assert [match for _, match in found] == ["answer", "exact"]


@pytest.mark.parametrize("strategy", ["full", "rag"])
def test_a_number_alone_has_a_citation(strategy):
    question = "What is the number of the fact of part 3?"
    answer = run(Script(answer="333"), Store.in_memory(), tale(), question, strategy=strategy)
    assert [(c.text, c.match) for c in answer.citations] == [
        ("The fact of part 3 is number 333.", "answer")
    ]
    assert answer.trace.checked_quotes == 0
    assert "holds the answer" in answer_text(answer)


def test_without_reading_choosing_or_finding_there_is_none():
    question = "What is the number of the fact of part 3?"
    store = Store.in_memory()
    unread = run(Script(answer="333"), store, tale(), question, strategy="closed_book")
    chosen = run(
        Script(answer="(B)"), store, tale(), question, strategy="full", choices=["332", "333"]
    )
    assert (unread.text, chosen.choice) == ("333", 1)
    assert unread.citations == chosen.citations == ()
