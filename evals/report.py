"""The report of a comparison: one page that opens without a network, a Markdown table, pictures.

What stands in documents and what models wrote is data: the page is made by Jinja2 with escaping
on, runs no script, and tells the browser to load nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reader.errors import InvalidOption

from . import plots
from .plan import BASELINES
from .results import named_apart, read_rows
from .row import Row
from .statistics import Difference, EffectiveLength
from .summary import (
    Point,
    Summary,
    by,
    by_length,
    differences,
    endurance,
    grids,
    lengths_asked,
    summarised,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
MOST_STEP_CHARACTERS = 700
MOST_ITEMS = 200
FEW_DOCUMENTS = 10
SPREAD = 1.5  # documents that are all about as long say nothing about length


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure of the page.

    Attributes:
        name: File name without its ending, and the id on the page.
        caption: What it shows and how to read it.
        svg: The figure as an SVG element.
        png: The same as a PNG file.
    """

    name: str
    caption: str
    svg: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Chapter:
    """Everything about one question set."""

    name: str
    rows: Sequence[Row]
    summaries: Sequence[Summary]
    pictures: Sequence[Picture]
    differences: Mapping[str, Mapping[str, Difference]]
    endurance: Mapping[str, EffectiveLength]
    notes: Sequence[str]
    failures: Sequence[Row] = field(default_factory=tuple)

    @property
    def questions(self) -> list[list[Row]]:
        """The rows of each question, at most ``MOST_ITEMS`` questions; a note says so."""
        return list(by(self.rows, lambda r: r.item).values())[:MOST_ITEMS]


def write_report(log_dir: Path, output: Path) -> list[Path]:
    """Write the page, the Markdown table beside it, and every picture as SVG and PNG.

    Args:
        log_dir: Folder of the logs.
        output: The page, ".html"; the table is ".md", pictures go to a folder of its name.

    Returns:
        The page, the table, the folder of pictures.

    Raises:
        NoLogs: nothing finished in the folder.
        InvalidOption: the output is no .html file.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise InvalidOption(f"{str(output)!r} is not an .html file.", hint="Like report.html.")
    chapters = chapters_of(named_apart(read_rows(log_dir)))
    output.parent.mkdir(parents=True, exist_ok=True)
    pictures = output.with_name(f"{output.stem}-pictures")
    pictures.mkdir(exist_ok=True)
    for chapter in chapters:
        for picture in chapter.pictures:
            (pictures / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
            (pictures / f"{picture.name}.png").write_bytes(picture.png)
    output.write_text(page(chapters), encoding="utf-8")
    table = output.with_suffix(".md")
    table.write_text(markdown(chapters), encoding="utf-8")
    return [output, table, pictures]


def chapters_of(rows: Sequence[Row]) -> list[Chapter]:
    """One chapter a set."""
    return [_chapter(str(name), found) for name, found in by(rows, lambda r: r.set).items()]


def page(chapters: Sequence[Chapter]) -> str:
    """The page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = Markup  # ours, made by matplotlib, which escapes its texts
    environment.filters["shortened"] = shortened
    return environment.get_template("report.html").render(
        chapters=chapters, models=_models(chapters), heads=HEADS, cells=cells
    )


def markdown(chapters: Sequence[Chapter]) -> str:
    """The tables alone, for a README or an issue."""
    lines: list[str] = []
    for chapter in chapters:
        metric = ", ".join(dict.fromkeys(s.metric for s in chapter.summaries))
        lines += [f"## {_cell(chapter.name)}", "", f"Score: {metric}. {_models([chapter])}", ""]
        lines += [*_table(chapter), ""]
        for note in chapter.notes:
            lines.append(f"* {_cell(note)}")
        for against, found in chapter.differences.items():
            said = ", ".join(
                f"{_cell(label)} {one.mean:+.3f} ({one.ends('{:+.3f} to {:+.3f}')})"
                for label, one in sorted(found.items(), key=lambda pair: -pair[1].mean)
            )
            lines.append(f"* Minus {_cell(against)}, on the same questions: {said}.")
        lines.append("")
    return "\n".join(lines)


def shortened(text: str, most: int = MOST_STEP_CHARACTERS) -> str:
    """A text for the page; what is left out is said."""
    if len(text) <= most:
        return text
    return f"{text[:most]} [... {len(text) - most:,} more characters in the log]"


def _chapter(name: str, rows: Sequence[Row]) -> Chapter:
    summaries = summarised(rows)
    against = [s.label for s in summaries if _method(rows, s.label) in BASELINES]
    best = summaries[0].label
    compared = dict.fromkeys([*against, best])
    found = {label: diff for label in compared if (diff := differences(rows, label))}
    points = by_length(rows)
    lengths = [p.length for found in points.values() for p in found]
    several = max(lengths) >= SPREAD * min(lengths)
    ends = endurance(points) if several and lengths_asked(rows) else {}
    return Chapter(
        name=name,
        rows=rows,
        summaries=summaries,
        pictures=tuple(_pictures(name, rows, summaries, found, points if several else {})),
        differences=found,
        endurance=ends,
        notes=tuple(_notes(rows, summaries)),
        failures=tuple(row for row in rows if row.failure is not None),
    )


def _pictures(
    name: str,
    rows: Sequence[Row],
    summaries: Sequence[Summary],
    found: Mapping[str, Mapping[str, Difference]],
    points: Mapping[str, Sequence[Point]],
) -> Iterator[Picture]:
    def picture(kind: str, caption: str, figure: Figure) -> Picture:
        full = f"{name}-{kind}".replace(" ", "_").replace("/", "-")
        return Picture(full, caption, plots.svg(figure, full), plots.png(figure))

    yield picture("quality", "Score of each strategy.", plots.quality_bars(summaries))
    yield picture(
        "cost",
        "Score against tokens a question. On the dashed line lie those that no other beats at the"
        " same tokens or fewer.",
        plots.quality_cost(summaries),
    )
    if all(s.cost is not None for s in summaries) and any(s.cost for s in summaries):
        yield picture(
            "dollars", "Score against dollars.", plots.quality_cost(summaries, dollars=True)
        )
    for label, diff in found.items():
        yield picture(
            f"minus-{label}",
            f"Difference to {label} on the same questions; filled where the interval excludes 0.",
            plots.difference_bars(diff, label),
        )
    if points:
        yield picture(
            "length",
            "Score over the length of the document.",
            plots.quality_length(points, summaries[0].metric),
        )
    for label, grid in grids(rows).items():
        yield picture(
            f"needle-{label}", f"Needle, {label}: by length and depth.", plots.heat_map(grid, label)
        )


def _notes(rows: Sequence[Row], summaries: Sequence[Summary]) -> Iterator[str]:
    """What a reader must know before comparing."""
    present = {row.strategy for row in rows}
    missing = [name for name in BASELINES if name not in present]
    if missing:
        yield f"Without the baseline {', '.join(missing)}: how much reading is worth is not shown."
    most = max(s.quality.n for s in summaries)
    for one in summaries:
        if one.quality.n < most:
            yield f"{one.label} has {one.quality.n} of {most} answers: its run is not complete."
        if one.counted < one.quality.n:
            yield (
                f"{one.label}: costs are means over {one.counted} of {one.quality.n} questions;"
                " of the others a part was spent before the run was killed and is not known."
            )
        if one.from_store:
            yield (
                f"{one.label}: {one.from_store:.1f} replies a question were those of another"
                " question; they are not in calls, tokens and dollars a second time."
            )
        if one.failures:
            said = ", ".join(f"{one.kinds.get(k, 0)} {k}" for k in ("error", "timeout", "empty"))
            yield f"{one.label}: {one.failures} answers counted as wrong ({said})."
    documents = len({row.group for row in rows})
    if documents == 1:
        yield "One document: intervals speak of other questions about it, not of other documents."
    elif documents < FEW_DOCUMENTS:
        yield (
            f"Only {documents} documents: a bootstrap over so few makes its intervals too narrow."
            " Take them for a hint, not for a result."
        )
    seeds = sorted({row.seed for row in rows})
    if len(seeds) > 1:
        yield f"Seeds: {', '.join(map(str, seeds))}."
    count = len({row.item for row in rows})
    if count > MOST_ITEMS:
        yield f"The page shows {MOST_ITEMS} of {count} questions; the logs hold all."


def _method(rows: Sequence[Row], label: str) -> str:
    return next(row.strategy for row in rows if row.label == label)


def _models(chapters: Sequence[Chapter]) -> str:
    names = dict.fromkeys(row.model for chapter in chapters for row in chapter.rows)
    return f"Model: {', '.join(names)}."


HEADS = (
    "strategy",
    "score",
    "95 % interval",
    "evidence recall",
    "citation precision",
    "calls",
    "in series",
    "tokens in",
    "tokens out",
    "cached in",
    "dollars",
    "seconds",
    "invalid replies",
    "failed",
)


def cells(one: Summary) -> list[str]:
    """One line of the big table, as texts."""
    quality = one.quality

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    def cost(value: str) -> str:
        return value if one.counted else "-"

    return [
        one.label,
        f"{quality.mean:.3f}",
        quality.ends("{:.3f} to {:.3f}"),
        share(None if one.recall is None else one.recall.mean),
        share(None if one.precision is None else one.precision.mean),
        cost(f"{one.calls:.1f}"),
        cost(f"{one.depth:.1f}"),
        cost(f"{one.prompt_tokens:,.0f}"),
        cost(f"{one.completion_tokens:,.0f}"),
        cost(f"{one.cached_tokens:,.0f}"),
        cost("unknown" if one.cost is None else f"{one.cost:.4f}"),
        "-" if one.seconds is None else f"{one.seconds:.1f}",
        "-" if one.invalid is None else f"{one.invalid:.0%}",
        f"{one.failures} of {quality.n}",
    ]


def _table(chapter: Chapter) -> Iterator[str]:
    yield f"| {' | '.join(HEADS)} |"
    yield f"|{'|'.join('---' if i == 0 else '--:' for i in range(len(HEADS)))}|"
    for one in chapter.summaries:
        yield f"| {' | '.join(_cell(text) for text in cells(one))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
