"""Several strategies on one question under the same budget, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from reader.answers import Answer
from reader.budget import Frozen
from reader.calls import BudgetLike, checked
from reader.errors import (
    AuthenticationFailed,
    DownloadFailed,
    InvalidOption,
    ModelUnavailable,
    ReaderError,
    StoreError,
    UnknownModel,
)
from reader.selection import vote

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from rich.console import RenderableType

    from reader.asynchronous import AsyncReader
    from reader.documents import Source
    from reader.events import Emit

# What would stop every other strategy too.
_FOR_ALL = (AuthenticationFailed, DownloadFailed, ModelUnavailable, StoreError, UnknownModel)

Strategies: TypeAlias = "Sequence[str] | Mapping[str, Mapping[str, Any]]"


class Compared(Frozen):
    """What one strategy came to.

    Attributes:
        label: Its name in the comparison.
        answer: None where it ended with an error.
        error: What happened then, and what to do.
    """

    label: str
    answer: Answer | None = None
    error: str = ""


class Comparison(Frozen):
    """Answers of several strategies to one question.

    Terminals and notebooks show them side by side.

    Attributes:
        question: None where a summary was asked for.
        document: Title of the document.
        entries: In the order in which they were asked for.
    """

    question: str | None
    document: str
    entries: tuple[Compared, ...]

    def __getitem__(self, label: str) -> Answer:
        """The answer of one strategy.

        Raises:
            KeyError: it is not in the comparison, or ended with an error.
        """
        for entry in self.entries:
            if entry.label == label and entry.answer is not None:
                return entry.answer
        raise KeyError(label)

    @property
    def agreement(self) -> tuple[tuple[str, ...], ...]:
        """Labels of the strategies whose answers say the same, the largest group first.

        As in a vote (``reader.selection.vote``): token F1 of at least 0.8 with the same numbers
        and negations. Only answers that were found count.
        """
        found = [
            (entry.label, entry.answer.text)
            for entry in self.entries
            if entry.answer is not None and entry.answer.status != "not_found"
        ]
        if not found:
            return ()
        clusters = vote([text for _, text in found]).clusters
        return tuple(tuple(found[i][0] for i in members) for members in clusters)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the table and each answer's card as one page that opens without a network.

        Raises:
            InvalidOption: not an .html file.
            NotWritten: the file cannot be written.
        """
        from reader.html.report import check_path, write_page
        from reader.render_comparison import comparison_page

        return write_page(comparison_page(self), check_path(path))

    def __str__(self) -> str:
        return "\n".join(
            f"{entry.label}: {entry.answer.text if entry.answer else entry.error}"
            for entry in self.entries
        )

    def __rich__(self) -> RenderableType:
        from reader.render_comparison import comparison_table

        return comparison_table(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        from reader.render_comparison import comparison_text

        printer.text(repr(self) if cycle else comparison_text(self))

    def _repr_html_(self) -> str:
        from reader.render_comparison import comparison_html

        return comparison_html(self)


async def compared(
    reader: AsyncReader,
    doc: Source,
    question: str | None,
    strategies: Strategies,
    *,
    choices: Sequence[str] | None,
    budget: BudgetLike,
    deadline: float | None,
    on_event: Emit | None,
    options: dict[str, Any],
) -> Comparison:
    """Run the strategies one after another; see ``Reader.compare``."""
    entrants = _entrants(strategies, options)
    limits: dict[str, Any] = {"choices": choices, "budget": budget, "deadline": deadline}
    calls = [
        await checked(doc, question, name, options=own, **limits) for name, own in entrants.values()
    ]
    entries = []
    for label, (name, own) in entrants.items():
        try:
            answer = await reader.aanswer(
                calls[0].document, question, name, on_event=on_event, **limits, **own
            )
            entries.append(Compared(label=label, answer=answer))
        except ReaderError as error:
            if isinstance(error, _FOR_ALL):
                raise
            entries.append(Compared(label=label, error=str(error)))
    return Comparison(
        question=calls[0].question, document=calls[0].document.title, entries=tuple(entries)
    )


def _entrants(
    strategies: Strategies, options: Mapping[str, Any]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Label -> strategy and its options; options of all are given to those that have them."""
    from reader.strategy import find_strategy

    if isinstance(strategies, str):
        raise InvalidOption(
            "Strategies are a list of names, or a mapping of labels to options.",
            hint=f"Like this: strategies=[{strategies!r}, 'rag'].",
        )
    given: Mapping[str, Mapping[str, Any]] = (
        strategies if isinstance(strategies, Mapping) else {name: {} for name in strategies}
    )
    if not given:
        raise InvalidOption("There is no strategy to compare.", hint="strategies=['coa', 'rag'].")
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for label, own in given.items():
        name = own.get("strategy", label)
        known = find_strategy(name).Options.model_fields
        shared = {key: value for key, value in options.items() if key in known}
        rest = {key: value for key, value in own.items() if key != "strategy"}
        found[label] = name, shared | rest
    unknown = [key for key in options if not any(key in own for _, own in found.values())]
    if unknown:
        raise InvalidOption(
            f"None of these strategies has an option {unknown[0]!r}.",
            hint="`reader strategies show NAME` lists the options of one.",
        )
    return found
