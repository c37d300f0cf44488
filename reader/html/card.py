"""The card of a notebook: one element with its own style, no script, in the page's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reader.html.page import UNCITED, asset, environment
from reader.html.strip import strip_of
from reader.render import STATUS, cost_line, coverage_line, place_of, shortened, warnings_of

if TYPE_CHECKING:
    from reader.answers import Answer


def answer_card(answer: Answer) -> str:
    """The answer, the words around its citations, the strip of the document, status and cost."""
    return (
        environment()
        .get_template("card.html")
        .render(
            answer=answer,
            strip=strip_of(answer),
            status=STATUS[answer.status],
            coverage=coverage_line(answer.coverage),
            warnings=warnings_of(answer),
            cost=cost_line(answer),
            place=place_of,
            shortened=shortened,
            uncited=UNCITED,
            style=asset("card.css"),
        )
    )
