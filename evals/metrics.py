"""Scores of answers: the metric of each set, from 0 to 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field

from reader.budget import Frozen

if TYPE_CHECKING:
    from reader.answers import Answer
    from .item import Item

Metric: TypeAlias = Literal[
    "exact_match",
    "f1",
    "subspan",
    "rouge1",
    "rouge2",
    "rougeL",
    "choice",
    "recall_all",
    "recall_any",
    "babi",
    "abstention",
]


class Score(Frozen):
    """One answer by one metric.

    Attributes:
        metric: Its name.
        value: 0 to 1; an error, a time-out or an empty reply is 0.
        details: What the value was made of, for people.
    """

    metric: str
    value: float = Field(ge=0, le=1)
    details: dict[str, float | str | bool | None] = Field(default_factory=dict)


def score(item: Item, answer: Answer | str | None, metric: str | None = None) -> Score:
    """Score an answer; None (nothing came) is 0. ``metric`` None: that of the item's set.

    Raises:
        InvalidOption: no such metric, or one that this row cannot be scored by.
    """
    raise NotImplementedError
