"""Reciprocal rank fusion: one ranking out of several, by places and not by scores.

Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank
Learning Methods", SIGIR 2009. Scores of different rankers have no common scale; places have.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

RRF_K = 60
"""The constant of the paper: how little the first places stand out."""

ItemT = TypeVar("ItemT", bound=Hashable)


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[ItemT]], *, k: int = RRF_K, weights: Sequence[float] = ()
) -> list[tuple[ItemT, float]]:
    """Fuse rankings: an item's score is the sum of 1 / (k + place) over the rankings that hold it.

    Args:
        rankings: Items, the best first; places count from 1. A ranking may leave items out; of an
            item that it names twice the first place counts.
        k: The larger, the less the first places stand out.
        weights: How much each ranking counts; all alike when not given.

    Returns:
        Items with their scores, the best first; of equals, the one met first.
    """
    scores: dict[ItemT, float] = {}
    for ranking, weight in zip(rankings, weights or (1.0,) * len(rankings), strict=True):
        for place, item in enumerate(dict.fromkeys(ranking), start=1):
            scores[item] = scores.get(item, 0.0) + weight / (k + place)
    return sorted(scores.items(), key=lambda pair: -pair[1])
