"""Showing a comparison: a table in a terminal, as plain text, and as HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Literal

from reader.render import money, safe

if TYPE_CHECKING:
    from rich.table import Table

    from reader.comparison import Compared, Comparison

_HEADS = ("strategy", "answer", "agrees", "citations", "read", "calls", "tokens in", "out", "price")
_NUMBERS = _HEADS[2:]
_SHORT = {"citations": "cited", "tokens in": "in"}
_PAGE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:70em;"
    "margin:2em auto;padding:0 1em}h1{font-size:1.4em}table{border-collapse:collapse}"
    "th,td{padding:.4em .7em;border:1px solid rgba(128,128,128,.4)}summary{padding:.5em 0}"
)


def comparison_table(comparison: Comparison) -> Table:
    """One row a strategy, for a rich console; 80 columns are wide enough for it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = _rows(comparison)
    paid = any(row[-1].startswith("$") for row in rows)
    table = Table(
        title=Text(safe(comparison.question or "(summary)")),
        title_justify="left",
        box=box.HORIZONTALS,
        show_lines=True,
        pad_edge=False,
    )
    for head in _HEADS if paid else _HEADS[:-1]:
        table.add_column(
            _SHORT.get(head, head),
            justify=_side(head),
            ratio=1 if head == "answer" else None,
            overflow="fold",
            no_wrap=head in _NUMBERS,
        )
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in (row if paid else row[:-1])))
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


def comparison_page(comparison: Comparison) -> str:
    """The same as a page of its own, which runs nothing and loads nothing."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " style-src 'unsafe-inline'\">"
        f"<title>{_escaped(comparison.document)}: strategies compared</title>"
        f"<style>{_PAGE}</style></head><body>"
        f"<h1>{_escaped(comparison.document)}</h1>{comparison_html(comparison)}</body></html>"
    )


def _escaped(text: str) -> str:
    return escape(safe(text))


def _side(head: str) -> Literal["left", "right"]:
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
