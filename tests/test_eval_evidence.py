"""Finding gold evidence, and citations compared with it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader.answers import Answer
from reader.citations import Citation
from reader.evals.evidence import compare, evidence_score, locate, merged, overlap
from reader.evals.item import Item
from reader.structure import Span
from reader.trace import Trace

TEXT = (
    "The lake was deep and cold in winter. Nobody swam in it before May.\n"
    "John went to the office.\nMary sang.\nJohn went to the office.\n"
    "In 1951 the town counted 4,210 people, most of them fishermen. The church burned in 1960."
)


def item(*evidence, **fields):
    row = {"context": TEXT, "question": "Q?", "answers": ["x"], "dataset": "mine"}
    return Item(id="x", evidence=evidence or None, **{**row, **fields})


def found(row):
    text = row.document().text
    located = locate(row, row.document())
    return [text[a:b] for a, b in located.spans], list(located.missing)


def test_evidence_is_found_word_for_word_and_loosely():
    assert found(item("Nobody swam in it before May.")) == (["Nobody swam in it before May."], [])
    # Other white space, quotes and a few letters.
    assert found(item("In 1951 the town  counted 4,210 people, mostly fishermen")) == (
        ["In 1951 the town counted 4,210 people, most of them fishermen"],
        [],
    )
    # Another number is another fact.
    wrong = "In 1952 the town counted 4,210 people, most of them fishermen"
    assert found(item(wrong)) == ([], [wrong])


def test_joined_evidence_is_found_in_pieces():
    joined = "The lake was deep and cold in winter. ... The church burned in 1960."
    assert found(item(joined))[0] == [
        "The lake was deep and cold in winter.",
        "The church burned in 1960.",
    ]


def test_of_a_fact_told_twice_the_later_telling_is_meant():
    row = item("John went to the office.")
    [span] = row.gold_spans()
    assert span.start == TEXT.rfind("John went to the office.")


def test_gold_passages_are_searched_first():
    passages = [
        {"title": str(n), "text": f"Part {n}. The bridge was built of stone."} for n in "123"
    ]
    row = Item(
        id="x",
        dataset="mine",
        documents=passages,
        question="Q?",
        answers=["x"],
        evidence=["The bridge was built of stone."],
        meta={"gold_positions": [1]},
    )
    [span] = row.gold_spans()
    assert row.passages[1].start <= span.start < row.passages[1].end


def test_exact_ranges_are_taken_as_they_are():
    row = item("ignored", meta={"evidence_spans": [[30, 40], [2, 8]]})
    assert row.gold_spans() == (Span(2, 8), Span(30, 40))
    # Ranges that are none of this document are not.
    assert item("Mary sang.", meta={"evidence_spans": [[2, 10_000]]}).gold_spans() == (
        Span(TEXT.index("Mary sang."), TEXT.index("Mary sang.") + 10),
    )


def test_recall_coverage_and_precision_by_hand():
    gold = [Span(0, 100), Span(200, 300)]
    # 50 of the first cited, none of the second; 10 characters beside it.
    assert compare(gold, [Span(50, 110)]) == (0.5, 0.25, pytest.approx(50 / 60))
    # A short quote within a long section counts as citing it.
    assert compare(gold, [Span(10, 20), Span(290, 300)]) == (1.0, 0.1, 1.0)
    # A long quote around a short gold span has it, at the price of precision.
    assert compare([Span(10, 20)], [Span(0, 100)]) == (1.0, 1.0, 0.1)
    # A quote that only touches it has not.
    assert compare(gold, [Span(95, 120)])[0] == 0
    assert compare(gold, []) == (0, 0, None)
    assert compare([], [Span(0, 5)]) == (None, None, None)
    # What is cited twice counts once.
    assert compare([Span(0, 10)], [Span(0, 20), Span(0, 20)])[2] == 0.5


spans = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=8).map(
    lambda pairs: [Span(a, a + n) for a, n in pairs]
)


@settings(deadline=None)
@given(spans, spans)
def test_the_union_is_that_of_sets_of_characters(gold, cited):
    union = merged(cited)
    chars = {c for a, b in cited for c in range(a, b)}
    assert sum(b - a for a, b in union) == len(chars)
    assert all(x.end < y.start for x, y in pairwise(union))
    for span in gold:
        assert overlap(span, union) == len(chars & set(range(span.start, span.end)))
    for value in compare(gold, cited):
        assert value is None or 0 <= value <= 1


def test_the_score_of_an_answer():
    row = item("Nobody swam in it before May.", "Never said.")
    [span] = row.gold_spans()
    cited = Citation(start=span.start, end=span.end, text="...", match="exact")
    answer = Answer(
        question="Q?",
        text="x",
        status="answered",
        citations=(cited,),
        trace=Trace(checked_quotes=4, invented_quotes=1),
    )
    score = evidence_score(row, answer)
    assert (score.recall, score.coverage, score.precision) == (1, 1, 1)
    assert (score.gold, score.missing, score.citations, score.invented) == (1, 1, 1, 0.25)
    silent = evidence_score(row, Answer(question="Q?", text="x", status="answered"))
    assert (silent.recall, silent.precision, silent.invented) == (0, None, None)
    without = evidence_score(item(), answer)
    assert (without.recall, without.precision, without.gold) == (None, None, 0)
