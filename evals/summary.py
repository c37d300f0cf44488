"""From rows to the figures of a comparison: quality beside what it took, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from pydantic import Field

from reader.budget import Frozen

from .outcome import KINDS
from .row import Row
from .statistics import (
    Difference,
    EffectiveLength,
    Interval,
    effective_length,
    interval,
    paired_difference,
)

if TYPE_CHECKING:
    from rich.table import Table

K = TypeVar("K", bound=Hashable)
RESAMPLES = 1_999  # a report computes hundreds of intervals
BINS = 4  # of lengths, where documents have any length


class Summary(Frozen):
    """One strategy on one set.

    What it took are means over the questions whose whole cost is known.

    Attributes:
        set: Name of the set.
        label: Name of the strategy in tables.
        metric: Of ``quality``.
        quality: Mean with its interval; documents are drawn, not questions.
        kinds: How many answers of each ``outcome.Kind``.
        counted: Questions whose whole cost is known.
        calls: Model calls.
        from_store: Replies that another question had paid for.
        depth: Calls in series.
        prompt_tokens: Tokens in.
        completion_tokens: Tokens out.
        cached_tokens: Of the tokens in, those from the server's prefix cache.
        cost: Dollars, None where a price is not known.
        seconds: Wall time, with other questions running beside; None where replies of earlier
            runs were used in all answers.
        invalid: Share of the replies that had to have a form and were repaired, asked again or
            replaced; None where no reply had to.
        recall: Of gold evidence, None where the set has none.
        precision: Of citations, likewise.
        invented: Share of the quotes that are not in the document; None without a quote.
        also: Means of further metrics.
    """

    set: str
    label: str
    metric: str
    quality: Interval
    kinds: dict[str, int]
    counted: int
    calls: float = 0.0
    from_store: float = 0.0
    depth: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    cached_tokens: float = 0.0
    cost: float | None = None
    seconds: float | None = None
    invalid: float | None = None
    recall: Interval | None = None
    precision: Interval | None = None
    invented: float | None = None
    also: dict[str, float] = Field(default_factory=dict)

    @property
    def tokens(self) -> float:
        """Tokens in and out."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def failures(self) -> int:
        """Errors, time-outs and empty replies: all counted as wrong."""
        return sum(self.kinds.get(kind, 0) for kind in ("error", "timeout", "empty"))


class Point(Frozen):
    """Quality of one strategy at one length.

    Attributes:
        length: Tokens; the mean where documents of a range are put together.
        quality: With its interval.
    """

    length: int
    quality: Interval


class Grid(Frozen):
    """Scores of one strategy by length and depth of the needle.

    Attributes:
        lengths: Tokens, ascending.
        depths: 0 (start) to 1 (end), ascending.
        values: ``values[depth][length]``, None where nothing was measured.
    """

    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    values: tuple[tuple[float | None, ...], ...]


def summarised(rows: Iterable[Row]) -> list[Summary]:
    """A summary for each strategy on each set, the best first."""
    made = [_summary(found) for found in by(rows, lambda r: (r.set, r.label)).values()]
    return sorted(made, key=lambda s: (s.set, -s.quality.mean, s.tokens))


def by(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    """Rows by a key, in the order of first appearance."""
    found: dict[K, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def differences(rows: Iterable[Row], against: str) -> dict[str, Difference]:
    """Paired differences in quality of every other strategy minus one, on one set, by label.

    Only questions that both have count; several seeds of a question are averaged first.
    """
    labels = by(rows, lambda r: r.label)
    base = _by_item(labels.get(against, []))
    groups = {row.item: row.group for found in labels.values() for row in found}
    made: dict[str, Difference] = {}
    for label, found in labels.items():
        values = _by_item(found)
        if label != against and set(values) & set(base):
            made[label] = paired_difference(values, base, groups=groups, resamples=RESAMPLES)
    return made


def lengths_asked(rows: Iterable[Row]) -> bool:
    """Whether all documents were generated at a length that was asked for."""
    return all(isinstance(row.meta.get("length"), int) for row in rows)


def by_length(rows: Sequence[Row]) -> dict[str, list[Point]]:
    """Quality by length for each strategy, shortest first.

    Generated documents have the lengths that were asked for. Others are put together in four
    ranges of equally many documents.
    """
    edges = _edges(rows)
    made: dict[str, list[Point]] = {}
    for label, found in by(rows, lambda r: r.label).items():
        bins = by(found, lambda row: _bin(row.length, edges))
        made[label] = [
            Point(length=round(fmean(r.length for r in inside)), quality=_interval(inside))
            for _, inside in sorted(bins.items())
        ]
    return made


def endurance(points: Mapping[str, Sequence[Point]]) -> dict[str, EffectiveLength]:
    """Effective length of each strategy that was measured at two lengths at least."""
    return {
        label: effective_length({p.length: p.quality.mean for p in found})
        for label, found in points.items()
        if len(found) > 1
    }


def grids(rows: Iterable[Row]) -> dict[str, Grid]:
    """A needle's heat map for each strategy; empty where rows have no depth."""
    placed = [r for r in rows if _depth(r) >= 0]
    made: dict[str, Grid] = {}
    for label, found in by(placed, lambda r: r.label).items():
        cells = by(found, lambda r: (_depth(r), r.length))
        lengths = sorted({row.length for row in found})
        depths = sorted({_depth(row) for row in found})
        values = tuple(
            tuple(
                fmean(r.quality for r in cell) if (cell := cells.get((d, n))) else None
                for n in lengths
            )
            for d in depths
        )
        made[label] = Grid(lengths=tuple(lengths), depths=tuple(depths), values=values)
    return made


def frontier(summaries: Sequence[Summary]) -> list[Summary]:
    """Those that no other beats in quality at the same tokens or fewer, the cheapest first."""
    kept: list[Summary] = []
    priced = [one for one in summaries if one.counted]
    for one in sorted(priced, key=lambda s: (s.tokens, -s.quality.mean)):
        if not kept or one.quality.mean > kept[-1].quality.mean:
            kept.append(one)
    return kept


def summary_table(summaries: Sequence[Summary], title: str) -> Table:
    """For a terminal."""
    from rich.table import Table

    metric = ", ".join(dict.fromkeys(s.metric for s in summaries))
    table = Table(title=f"{title} ({metric})", title_justify="left")
    table.add_column("strategy")
    for name in ("score", "95 %", "calls", "tokens", "seconds", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in summaries:
        table.add_row(
            one.label,
            f"{one.quality.mean:.3f}",
            one.quality.ends("{:.2f}-{:.2f}"),
            *((f"{one.calls:.1f}", f"{one.tokens:,.0f}") if one.counted else ("-", "-")),
            "-" if one.seconds is None else f"{one.seconds:.1f}",
            f"{one.failures} of {one.quality.n}",
        )
    return table


def _summary(rows: list[Row]) -> Summary:
    usages = [row.usage for row in rows if row.usage is not None]
    answers = [row.answer for row in rows if row.answer is not None]
    structured = sum(u.structured for u in usages)
    invalid = sum(min(u.structured, u.repaired + max(u.reasked, u.forced)) for u in usages)
    checked = sum(a.trace.checked_quotes for a in answers)
    costs = [u.cost for u in usages]
    known = [c for c in costs if c is not None]
    waited = [row.usage.seconds for row in rows if row.usage is not None and row.timed]

    def mean(values: Iterable[float]) -> float:
        found = list(values)
        return fmean(found) if found else 0.0

    return Summary(
        set=rows[0].set,
        label=rows[0].label,
        metric=", ".join(sorted({row.metric for row in rows})),
        quality=_interval(rows),
        kinds={kind: n for kind in KINDS if (n := sum(row.kind == kind for row in rows))},
        counted=len(usages),
        calls=mean(u.calls for u in usages),
        from_store=mean(u.cached_calls for u in usages),
        depth=mean(u.depth for u in usages),
        prompt_tokens=mean(u.prompt_tokens for u in usages),
        completion_tokens=mean(u.completion_tokens for u in usages),
        cached_tokens=mean(u.cached_tokens for u in usages),
        cost=fmean(known) if known and len(known) == len(costs) else None,
        seconds=fmean(waited) if waited else None,
        invalid=invalid / structured if structured else None,
        recall=_evidence(rows, "recall"),
        precision=_evidence(rows, "precision"),
        invented=sum(a.trace.invented_quotes for a in answers) / checked if checked else None,
        also={
            name: fmean(row.also[name] for row in rows if name in row.also)
            for name in dict.fromkeys(name for row in rows for name in row.also)
        },
    )


def _interval(rows: Sequence[Row]) -> Interval:
    return interval([r.quality for r in rows], groups=[r.group for r in rows], resamples=RESAMPLES)


def _evidence(rows: Iterable[Row], name: str) -> Interval | None:
    found = [
        (value, row.group)
        for row in rows
        if row.evidence is not None and (value := getattr(row.evidence, name)) is not None
    ]
    if not found:
        return None
    return interval([v for v, _ in found], groups=[g for _, g in found], resamples=RESAMPLES)


def _by_item(rows: Iterable[Row]) -> dict[str, float]:
    return {k: fmean(r.quality for r in v) for k, v in by(rows, lambda r: r.item).items()}


def _depth(row: Row) -> float:
    """0 to 1, below 0 where the row has none."""
    depth = row.meta.get("depth")
    return float(depth) if isinstance(depth, int | float) else -1.0


def _edges(rows: Sequence[Row]) -> list[int] | None:
    """Upper ends of the ranges of lengths; None where every length stands for itself."""
    lengths = sorted({row.group: row.length for row in rows}.values())
    if lengths_asked(rows) or len(set(lengths)) <= BINS:
        return None
    return [lengths[(n * len(lengths)) // BINS - 1] for n in range(1, BINS)]


def _bin(length: int, edges: list[int] | None) -> int:
    return length if edges is None else sum(length > edge for edge in edges)
