"""How sure a mean is: bootstrap intervals, paired differences, effective length.

Items of one document are not independent of each other: with ``groups``, whole documents are drawn
(a cluster bootstrap), which is the honest interval where a set asks many questions of few
documents. Where all items are of one document, items are drawn, and the interval speaks of
questions about that document alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from reader.budget import Frozen
from reader.errors import InvalidOption, MissingExtra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ALIKE = 1e-9  # values that differ less are taken for equal: nothing could be estimated from them

Method = Literal["bca", "wilson", "none"]


class Interval(Frozen):
    """A mean with its confidence interval.

    Attributes:
        mean: Of the values.
        low: Lower end.
        high: Upper end.
        n: How many values.
        confidence: 0.95 for 95 %.
        method: "bca": the bias-corrected and accelerated bootstrap. "wilson": all values are 0 or
            all are 1, of which a bootstrap would only say that they do not differ. "none": fewer
            than two items, or all values alike; the ends are the mean, which says nothing about
            certainty.
    """

    mean: float
    low: float
    high: float
    n: int
    confidence: float = 0.95
    method: Method = "bca"

    def ends(self, form: str) -> str:
        """Both ends for people, "-" where there is no interval."""
        return "-" if self.method == "none" else form.format(self.low, self.high)


class Difference(Interval):
    """Mean of a's values minus b's, over the items that both have."""

    @property
    def significant(self) -> bool:
        """The interval does not hold 0, and there is one."""
        return self.method != "none" and (self.low > 0 or self.high < 0)


class EffectiveLength(Frozen):
    """The longest length up to which a score keeps ``threshold``; see ``effective_length``.

    Attributes:
        tokens: That length; None where already the shortest one falls below.
        base: The score at short length.
        threshold: What had to be kept.
        beyond: No measured length falls below: the true value may be longer.
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
    """Confidence interval of a mean.

    Args:
        values: Scores of items.
        groups: Of each item, what it shares with others (its document).
        confidence: Between 0 and 1.
        resamples: Of the bootstrap.
        seed: The same seed gives the same interval.

    Raises:
        InvalidOption: no value, or not a group for each.
        MissingExtra: scipy is not installed.
    """
    mean, low, high, method = _interval(values, groups, confidence, resamples, seed)
    return Interval(
        mean=mean, low=low, high=high, n=len(values), confidence=confidence, method=method
    )


def paired_difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    groups: Mapping[str, Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> Difference:
    """Interval of the mean of a - b over the item ids that both have.

    Raises:
        InvalidOption: no id in common.
        MissingExtra: scipy is not installed.
    """
    ids = sorted(set(a) & set(b))
    if not ids:
        raise InvalidOption("The two have no item in common.", hint="Compare runs of one set.")
    values = [a[i] - b[i] for i in ids]
    shared = [groups.get(i, i) for i in ids] if groups is not None else None
    mean, low, high, method = _interval(values, shared, confidence, resamples, seed)
    if method == "wilson":  # differences are no proportions
        low, high, method = mean, mean, "none"
    return Difference(
        mean=mean, low=low, high=high, n=len(ids), confidence=confidence, method=method
    )


def effective_length(
    scores: Mapping[int, float], *, base: float | None = None, share: float = 0.85
) -> EffectiveLength:
    """The longest length up to which the score is at least ``share`` of the short score.

    As NoLiMa defines it (Modarressi et al. 2025, section 4), with ``base`` the score at lengths
    of up to 1,000 tokens; without one it is the score at the shortest length. A length counts
    only if no shorter one falls below: a late recovery is not taken for endurance.

    Args:
        scores: Mean scores by length in tokens.
        base: Score at short length.
        share: Of it that must be kept.

    Raises:
        InvalidOption: no scores.
    """
    if not scores:
        raise InvalidOption("There are no scores.", hint="Measure one length at least.")
    lengths = sorted(scores)
    short = scores[lengths[0]] if base is None else base
    threshold = short * share
    kept: int | None = None
    for length in lengths:
        if scores[length] < threshold or short <= 0:
            return EffectiveLength(tokens=kept, base=short, threshold=threshold, beyond=False)
        kept = length
    return EffectiveLength(tokens=kept, base=short, threshold=threshold, beyond=True)


def _interval(
    values: Sequence[float],
    groups: Sequence[Hashable] | None,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float, float, Method]:
    import numpy as np

    if not values:
        raise InvalidOption("There are no values.", hint="Score one item at least.")
    if groups is not None and len(groups) != len(values):
        raise InvalidOption(
            f"{len(values)} values have {len(groups)} groups.", hint="Give one for each value."
        )
    stats = _scipy_stats()
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if groups is not None and len(set(groups)) < 2:
        groups = None
    sums, sizes = _grouped(data, groups)
    if len(sums) < 2:
        return mean, mean, mean, "none"
    if np.ptp(data) < _ALIKE:
        if mean in (0.0, 1.0):
            # As many independent observations as there are groups.
            ends = stats.binomtest(round(mean * len(sums)), len(sums)).proportion_ci(
                confidence, method="wilson"
            )
            return mean, float(ends.low), float(ends.high), "wilson"
        return mean, mean, mean, "none"
    if np.ptp(sums / sizes) < _ALIKE:
        return mean, mean, mean, "none"  # every group has the same mean: nothing varies
    found = stats.bootstrap(
        (sums, sizes),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        confidence_level=confidence,
        batch=1_000,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return mean, float(found.low), float(found.high), "bca"


def _ratio(sums: NDArray[np.float64], sizes: NDArray[np.float64], axis: int = -1) -> Any:
    return sums.sum(axis=axis) / sizes.sum(axis=axis)


def _grouped(
    data: NDArray[np.float64], groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of each group, in the order of first appearance."""
    import numpy as np

    if groups is None:
        return data, np.ones_like(data)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    index = np.array([numbers[group] for group in groups])
    sizes = np.bincount(index).astype(np.float64)
    return np.bincount(index, weights=data).astype(np.float64), sizes


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtra(
            "Confidence intervals need scipy.", hint="pip install 'longdoc-reader[evals]'"
        ) from error
    return stats
