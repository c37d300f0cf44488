"""The reading report, or parts of it, inside a notebook."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any

from reader.errors import InvalidOption
from reader.html.report import report_page

if TYPE_CHECKING:
    from reader.answers import Answer

PARTS = (
    *("answer", "warnings", "citations", "coverage", "attention"),
    *("way", "memory", "steps", "calls", "text", "run"),
)
"""Ids of the report's sections, in their order."""


class Shown:
    """What a cell shows: the page in a frame of its own, which reaches nothing outside it."""

    def __init__(self, page: str, title: str, height: int) -> None:
        self.page = page
        self._title = title
        self._height = height

    def __repr__(self) -> str:
        return f"<{self._title}: {len(self.page):,} characters of HTML>"

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="{escape(self._title)}" srcdoc="{escape(self.page)}" width="100%"'
            f' height="{self._height}" sandbox="allow-scripts" style="border:0"></iframe>'
        )


def shown(answer: Answer, parts: tuple[str, ...], *, height: int, **arguments: Any) -> Shown:
    """See ``Answer.show``."""
    page = report_page(answer, **arguments)
    there = [part for part in PARTS if f'<section id="{part}"' in page]
    for part in parts:
        if part not in there:
            known = "is no part of a report" if part not in PARTS else "is not in this report"
            raise InvalidOption(f"{part!r} {known}.", hint=f"Here it has: {', '.join(there)}.")
    if parts:
        page = _only(page, parts)
    return Shown(page, f"Reading report of {answer.document or 'an answer'}", height)


def _only(page: str, parts: tuple[str, ...]) -> str:
    """The page with the sections alone, without its head, its contents and its foot."""
    kept = "".join(f":not(#{part})" for part in parts)
    rule = f"body>:not(main),main>section{kept}{{display:none}}main>section>h2{{margin-top:.4rem}}"
    return re.sub("</style>", f"{rule}</style>", page, count=1)
