"""Intervals, differences, effective length."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reader.errors import InvalidOption
from reader.evals.statistics import effective_length, interval, paired_difference


def test_the_interval_of_a_mean_is_scipys():
    rng = random.Random(1)
    values = [rng.random() ** 2 for _ in range(40)]
    ours = interval(values, resamples=2_000, seed=3)
    theirs = stats.bootstrap(
        (np.array(values),), np.mean, n_resamples=2_000, rng=np.random.default_rng(3)
    ).confidence_interval
    assert ours.mean == pytest.approx(sum(values) / 40)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours == interval(values, resamples=2_000, seed=3)
    assert ours.method == "bca"


def test_all_right_is_not_taken_for_certain():
    # Wilson's interval of 10 in 10 begins at 0.722.
    assert interval([1.0] * 10).low == pytest.approx(0.7225, abs=1e-4)
    assert interval([0.0] * 10).high == pytest.approx(0.2775, abs=1e-4)
    # Ten answers about two documents are two observations.
    shared = interval([1.0] * 10, groups=["a"] * 5 + ["b"] * 5)
    assert shared.low == pytest.approx(0.3424, abs=1e-4)
    assert interval([0.5] * 3).method == "none"
    assert interval([1.0]).method == "none"


def test_questions_of_one_document_make_the_interval_wider():
    assert interval([1, 0] * 6, groups=list("abcdef") * 2).method == "bca"
    # Groups of different sizes with the same mean tell nothing about the spread of means.
    assert interval([1, 0, 1, 0, 1, 0], groups=list("aabbbb")).method == "none"
    values = [1.0] * 20 + [0.0] * 20
    alone = interval(values)
    together = interval(values, groups=[i // 10 for i in range(40)])
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert together.mean == alone.mean


def test_questions_about_one_document_only_have_an_interval_of_their_own():
    values = [1.0, 0.0, 1.0, 1.0, 0.5]
    assert interval(values, groups=["book"] * 5) == interval(values)
    shared = dict.fromkeys("abcde", "book")
    right = dict(zip("abcde", values, strict=True))
    assert paired_difference(right, dict.fromkeys("abcde", 0.0), groups=shared).significant


def test_where_there_is_no_interval_none_is_shown():
    assert interval([0.5]).ends("{:.2f} to {:.2f}") == "-"
    assert interval([0.0] * 10).ends("{:.2f} to {:.2f}") == "0.00 to 0.28"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 4))
def test_an_interval_holds_the_mean_and_stays_between_the_values(values, size):
    groups = [i // size for i in range(len(values))]
    for found in (
        interval(values, resamples=300),
        interval(values, groups=groups, resamples=300),
    ):
        assert found.n == len(values)
        assert 0 <= found.low <= found.high <= 1
        assert found.low - 1e-9 <= found.mean <= found.high + 1e-9


def test_pairs_see_what_means_do_not():
    base = {str(i): random.Random(i).random() for i in range(40)}
    better = {i: min(value + 0.05, 1) for i, value in base.items()}
    found = paired_difference(better, base)
    assert found.mean == pytest.approx(np.mean([better[i] - base[i] for i in base]))
    assert found.significant
    assert interval(list(better.values())).low < interval(list(base.values())).high
    assert paired_difference(base, better).mean == pytest.approx(-found.mean)


def test_pairs_are_items_that_both_have():
    found = paired_difference({"a": 1, "b": 0, "x": 1}, {"a": 0, "b": 0, "y": 1})
    assert (found.n, found.mean) == (2, 0.5)
    same = paired_difference({"a": 1, "b": 1}, {"a": 1, "b": 1})
    assert (same.mean, same.method, same.significant) == (0, "none", False)
    one = paired_difference({"a": 1, "b": 1}, {"a": 0, "b": 0})
    assert (one.mean, one.method, one.significant) == (1, "none", False)
    with pytest.raises(InvalidOption, match="no item in common"):
        paired_difference({"a": 1}, {"b": 1})


# The table of NoLiMa's README: base score, scores at 1K to 32K, effective length.
NOLIMA = [
    (99.3, (98.1, 98.0, 95.7, 89.2, 81.6, 69.7), 8_000),
    (97.3, (94.2, 87.4, 81.5, 72.1, 59.5, 42.7), 2_000),
    (94.7, (89.0, 85.0, 74.5, 60.1, 48.4, 38.0), 2_000),
    (94.5, (91.0, 81.8, 71.2, 62.7, 51.8, 43.2), 2_000),
    (92.6, (86.4, 82.7, 75.4, 63.9, 55.5, 48.2), 2_000),
    (92.4, (76.3, 74.1, 70.8, 62.2, 52.7, 43.6), None),
    (87.9, (86.1, 85.5, 73.3, 51.5, 32.6, 18.7), 2_000),
    (87.6, (85.4, 84.0, 77.6, 61.7, 45.7, 29.8), 4_000),
    (76.7, (65.7, 54.4, 44.1, 31.9, 22.6, 14.2), 1_000),
]


@pytest.mark.parametrize(("base", "scores", "tokens"), NOLIMA)
def test_effective_length_is_nolimas(base, scores, tokens):
    lengths = (1_000, 2_000, 4_000, 8_000, 16_000, 32_000)
    found = effective_length(dict(zip(lengths, scores, strict=True)), base=base)
    assert found.tokens == tokens
    assert not found.beyond


def test_effective_length_at_the_edges():
    assert effective_length({4: 1.0, 8: 0.9}).beyond
    assert effective_length({8: 0.9, 4: 1.0}).tokens == 8
    assert effective_length({4: 1.0, 8: 0.5, 16: 1.0}).tokens == 4  # no late recovery
    assert effective_length({4: 0.0, 8: 0.0}).tokens is None
    with pytest.raises(InvalidOption):
        effective_length({})
    with pytest.raises(InvalidOption):
        interval([])
    with pytest.raises(InvalidOption, match="2 values have 1 groups"):
        interval([1, 2], groups=["a"])
