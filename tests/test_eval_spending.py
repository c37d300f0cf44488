"""What a strategy takes does not depend on what the store held."""

from __future__ import annotations

import pytest

from reader.answers import Answer
from reader.budget import CallRecord, Usage
from reader.evals.row import Row
from reader.evals.spending import as_with_an_empty_store
from reader.evals.summary import summarised
from reader.trace import Trace


def call(key: str, *, cached: bool, cost: float | None = 0.5) -> CallRecord:
    return CallRecord(
        purpose="worker",
        began=0,
        seconds=0 if cached else 2,
        prompt_tokens=100,
        completion_tokens=10,
        cached=cached,
        cached_tokens=40,
        cost=cost,
        key=key,
    )


def row(item: int, *calls: CallRecord, key: str = "task", priced: bool = True) -> Row:
    made = [c for c in calls if not c.cached]
    usage = Usage(
        calls=len(made),
        cached_calls=len(calls) - len(made),
        prompt_tokens=100 * len(made),
        completion_tokens=10 * len(made),
        cached_tokens=40 * len(made),
        seconds=2.0 * len(made),
        cost=0.5 * len(made) if priced else None,
    )
    answer = Answer(question="q", text="a", status="answered", trace=Trace(calls=calls))
    return Row(
        set="s",
        label=key,
        strategy="coa",
        seed=0,
        item=str(item),
        key=key,
        model="m",
        group="g",
        kind="answered",
        quality=1.0,
        metric="f1",
        usage=usage,
        answer=answer,
    )


def taken(*rows: Row) -> list[tuple[int, int, int, int, int, float | None, bool]]:
    found = [(r.usage, r.timed) for r in as_with_an_empty_store(rows)]
    return [
        (
            u.calls,
            u.cached_calls,
            u.prompt_tokens,
            u.completion_tokens,
            u.cached_tokens,
            u.cost,
            timed,
        )
        for u, timed in found
        if u is not None
    ]


def test_what_an_earlier_evaluation_paid_for_counts_and_nobody_waited_for_it():
    assert taken(row(1, call("a", cached=True), call("b", cached=False))) == [
        (2, 0, 200, 20, 80, 1.0, False)
    ]


def test_what_questions_share_counts_once_in_whatever_order_they_ended():
    made, had = call("tree", cached=False), call("tree", cached=True)
    once, free = (1, 0, 100, 10, 40, 0.5, True), (0, 1, 0, 0, 0, 0.0, True)
    assert taken(row(1, made), row(2, had)) == [once, free]
    assert taken(row(1, had), row(2, made)) == [free, once]
    first = (1, 0, 100, 10, 40, 0.5, False)
    assert taken(row(1, had), row(2, had), row(3, had, had)) == [
        first,
        free,
        (0, 2, 0, 0, 0, 0.0, True),
    ]


def test_another_strategy_pays_for_itself():
    had = call("tree", cached=True)
    assert [spent[0] for spent in taken(row(1, had), row(1, had, key="other"))] == [1, 1]


def test_a_price_that_nobody_knows_stays_unknown():
    unpriced = row(1, call("a", cached=True, cost=None))
    assert [spent[5] for spent in taken(unpriced)] == [None]
    assert [spent[5] for spent in taken(row(1, call("a", cached=True), priced=False))] == [None]


def test_answers_of_earlier_versions_and_failures_are_left_alone():
    old = row(1, call("", cached=True), call("", cached=True))
    failed = row(2).model_copy(update={"answer": None})
    unknown = row(3, call("a", cached=False)).model_copy(update={"usage": None})
    assert as_with_an_empty_store([old, failed, unknown]) == [old, failed, unknown]


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        ([row(1, call("a", cached=False)), row(2, call("b", cached=True))], 2.0),
        ([row(1, call("a", cached=True))], None),
    ],
)
def test_seconds_are_means_over_what_was_waited_for(rows, seconds):
    [one] = summarised(as_with_an_empty_store(rows))
    assert one.seconds == seconds
