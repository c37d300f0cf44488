"""Showing a comparison: a table in a terminal, as plain text, and as HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from reader.render import money, safe

if TYPE_CHECKING:
    from rich.table import Table

    from reader.comparison import Compared, Comparison

_HEADS = ("strategy", "answer", "agrees", "citations", "read", "calls", "tokens in", "out", "price")
_NUMBERS = _HEADS[2:]


def comparison_table(comparison: Comparison) -> Table:
    """One row a strategy, for a rich console."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(safe(comparison.question or "(summary)")), title_justify="left", show_lines=True
    )
    for head in _HEADS:
        table.add_column(
            head,
            justify="right" if head in _NUMBERS else "left",
            ratio=1 if head == "answer" else None,
            overflow="fold",
        )
    for row in _rows(comparison):
        table.add_row(*(Text(safe(cell)) for cell in row))
    return table


def comparison_text(comparison: Comparison, width: int = 110) -> str:
    """The same without colours."""
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    Console(file=out, width=width, color_system=None, force_jupyter=False).print(
        comparison_table(comparison)
    )
    return out.getvalue().rstrip("\n")


def comparison_html(comparison: Comparison) -> str:
    """A table, and below it each answer as it shows itself."""
    heads = "".join(
        f'<th scope="col" style="text-align:{_side(head)}">{head}</th>' for head in _HEADS
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:{_side(head)};vertical-align:top">{_escaped(cell)}</td>'
            for head, cell in zip(_HEADS, row, strict=True)
        )
        + "</tr>"
        for row in _rows(comparison)
    )
    answers = "".join(
        f"<details><summary>{_escaped(entry.label)}</summary>{entry.answer._repr_html_()}</details>"
        for entry in comparison.entries
        if entry.answer is not None
    )
    return (
        f'<div style="text-align:left"><p>{_escaped(comparison.question or "(summary)")}</p>'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{answers}</div>"
    )


def _escaped(text: str) -> str:
    return escape(safe(text))


def _side(head: str) -> str:
    return "right" if head in _NUMBERS else "left"


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    groups = {
        label: f"{chr(ord('A') + number % 26)} ({len(group)})"
        for number, group in enumerate(comparison.agreement)
        for label in group
    }
    return [_row(entry, groups.get(entry.label, "-")) for entry in comparison.entries]


def _row(entry: Compared, group: str) -> tuple[str, ...]:
    if entry.answer is None:
        return (entry.label, entry.error, *["-"] * len(_NUMBERS))
    answer, usage = entry.answer, entry.answer.usage
    text = answer.text if answer.status == "answered" else f"{answer.text} ({answer.status})"
    calls = f"{usage.calls}" + (f" + {usage.cached_calls} kept" if usage.cached_calls else "")
    return (
        entry.label,
        text,
        group,
        str(len(answer.citations)),
        f"{int(answer.coverage.share * 100)}%" if answer.coverage.chunks else "-",
        calls,
        f"{usage.prompt_tokens:,}",
        f"{usage.completion_tokens:,}",
        money(usage.cost),
    )
