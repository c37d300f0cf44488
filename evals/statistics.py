"""Intervals, paired differences, effective length."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from reader.budget import Frozen


class Interval(Frozen):
    """A mean with its confidence interval over items.

    Attributes:
        mean: Of the values.
        low: Lower end.
        high: Upper end.
        n: How many values.
        confidence: 0.95 for 95 %.
        method: How it was computed: "bca", "percentile", "wilson", or "none" (fewer than 2 items).
    """

    mean: float
    low: float
    high: float
    n: int
    confidence: float = 0.95
    method: str = "bca"


class Difference(Interval):
    """Mean of a's value minus b's over the items that both have; ``significant``: 0 is outside."""

    @property
    def significant(self) -> bool:
        """The interval does not hold 0."""
        return self.low > 0 or self.high < 0


class EffectiveLength(Frozen):
    """The longest length at which a score still is ``share`` of that at the shortest.

    Attributes:
        tokens: That length; None where already the second length falls below and base is 0.
        base: Score at the shortest length.
        threshold: ``share`` of it.
        beyond: True if no measured length falls below: the true value may be longer.
    """

    tokens: int | None
    base: float
    threshold: float
    beyond: bool


def interval(
    values: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a mean; with ``groups`` whole groups (documents) are drawn."""
    raise NotImplementedError


def paired_difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    groups: Mapping[str, Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> Difference:
    """Interval of the mean difference a - b over the item ids of both."""
    raise NotImplementedError


def effective_length(
    scores: Mapping[int, float], *, base: float | None = None, share: float = 0.85
) -> EffectiveLength:
    """From mean scores by length (tokens)."""
    raise NotImplementedError
