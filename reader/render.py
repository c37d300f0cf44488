"""Showing an answer in a terminal (rich) and as plain text; the words that HTML uses too.

Text of documents and models is data here: control characters are taken out, markup is not read.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group

    from reader.answers import Answer
    from reader.budget import Usage
    from reader.citations import Citation
    from reader.coverage import Coverage

_SHOWN = 320  # characters of a cited passage that are shown; longer ones lose their middle
_CELLS = 60  # cells of the coverage strip

STATUS = {
    "answered": "answered",
    "not_found": "not found: the document does not say",
    "partial": "partial: not everything was read",
}
MATCH = {
    "exact": "word for word",
    "near": "nearly word for word",
    "elsewhere": "found elsewhere than where it was read",
    "answer": "holds the answer; not quoted by the model",
}
# The outcome that a reader must not miss stands first: it wins the cell.
_BLOCKS = {"failed": "X", "unread": "▒", "skipped": "░", "read": "█"}
_STYLES = {"failed": "bold red", "unread": "yellow", "skipped": "dim", "read": "green"}

# C0 and C1 controls but tab and line feed, and the marks that reorder text.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def safe(text: str) -> str:
    """Text without characters that steer a terminal or turn the direction of writing."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def answer_panel(answer: Answer) -> Group:
    """The answer with status, citations, coverage and cost, for a rich console."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.text import Text

    style = {"answered": "green", "partial": "yellow", "not_found": "red"}[answer.status]
    body = [
        Panel(
            Text(safe(answer.text) or "(no text)"),
            title=Text(STATUS[answer.status], style=style),
            title_align="left",
            border_style=style,
        )
    ]
    lines: list[Text | Padding] = []
    for number, citation in enumerate(answer.citations, 1):
        head = Text.assemble((f"[{number}] ", "bold"), (safe(place_of(citation)), "dim"))
        lines += [
            head,
            Padding(Text(f"“{shortened(citation.text)}”", style="italic"), (0, 0, 0, 4)),
        ]
    if answer.coverage.chunks:
        strip = Text()
        for outcome, cells in groupby(_strip(answer.coverage)):
            strip.append(_BLOCKS[outcome] * len(list(cells)), style=_STYLES[outcome])
        lines += [strip, Text(coverage_line(answer.coverage), style="dim")]
    lines += [Text(f"! {safe(warning)}", style="yellow") for warning in warnings_of(answer)]
    lines.append(Text(cost_line(answer), style="dim"))
    return Group(*body, *lines)


def answer_text(answer: Answer, width: int = 88) -> str:
    """The same without colours."""
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    Console(file=out, width=width, color_system=None, force_jupyter=False).print(
        answer_panel(answer)
    )
    return out.getvalue().rstrip("\n")


def place_of(citation: Citation) -> str:
    """Where a citation stands, in words."""
    places = [
        citation.document or "",
        f"page {citation.page}" if citation.page is not None else "",
        " ".join(citation.section.split()) if citation.section else "",
        f"characters {citation.start:,}-{citation.end:,}",
        MATCH[citation.match],
    ]
    return " · ".join(filter(None, places))


def shortened(passage: str) -> str:
    """A passage on one line; the range beside it says how long it is."""
    words = " ".join(safe(passage).split())
    half = _SHOWN // 2
    if len(words) <= _SHOWN:
        return words
    return f"{words[:half].rstrip()} […] {words[-half:].lstrip()}"


def _strip(coverage: Coverage) -> list[str]:
    """The outcome for each cell of the strip."""
    first = min(c.start for c in coverage.chunks)
    length = max(max(c.end for c in coverage.chunks) - first, 1)
    cells: list[set[str]] = [set() for _ in range(_CELLS)]
    for chunk in coverage.chunks:
        begin = (chunk.start - first) * _CELLS // length
        end = max(-((first - chunk.end) * _CELLS // length), begin + 1)
        for cell in cells[begin:end]:
            cell.add(chunk.outcome)
    return [next((o for o in _BLOCKS if o in cell), "skipped") for cell in cells]


def coverage_line(coverage: Coverage) -> str:
    """How much was read, in words."""
    total = len(coverage.chunks)
    # Rounding must not turn a gap into "all".
    percent = int(coverage.share * 100) if coverage.share < 1 else 100
    others = [
        f"{count} {name}"
        for count, name in (
            (coverage.skipped, "skipped"),
            (coverage.unread, "gave nothing usable"),
            (coverage.failed, "failed"),
        )
        if count
    ]
    read = f"read {coverage.read} of {total} chunks, {percent}% of the text"
    return ", ".join([read, *others])


def warnings_of(answer: Answer) -> list[str]:
    """What the user should know, a sentence each."""
    trace = answer.trace
    if not trace.invented_quotes:
        return list(trace.warnings)
    dropped = (
        f"{trace.invented_quotes} of {trace.checked_quotes} quotes by the model are not in the"
        " document and were dropped"
    )
    return [*trace.warnings, dropped]


def money(cost: float | None) -> str:
    """Dollars in words."""
    if cost is None:
        return "price not known"
    return "no charge" if cost == 0 else f"${cost:.{2 if cost >= 1 else 4}f}"


def _before(earlier: Usage) -> str:
    """What earlier attempts at the same call took, in words."""
    if not earlier.calls:
        return ""
    dollars = f", {money(earlier.cost)}" if earlier.cost else ""
    return f"before it went on {earlier.calls:,} call{'s'[: earlier.calls != 1]}{dollars}"


def cost_line(answer: Answer) -> str:
    """What answered, and what it took, on one line."""
    usage = answer.usage
    cached = f" ({usage.cached_calls} more from the store)" if usage.cached_calls else ""
    parts = [
        " ".join(filter(None, [answer.strategy, "with" if answer.model else "", answer.model])),
        f"{usage.calls:,} call{'' if usage.calls == 1 else 's'}{cached}",
        f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out",
        f"{usage.seconds:.1f} s",
        f"{usage.depth} in series",
        money(usage.cost),
        _before(answer.earlier),
    ]
    return " · ".join(filter(None, map(safe, parts)))
