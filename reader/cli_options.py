"""Options and arguments that several commands of the shell share, and what becomes of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reader.errors import InvalidOption

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.budget import Usage
    from reader.progress import TerminalProgress

EXIT = {"answered": 0, "partial": 3, "not_found": 4}
INTERRUPTED = 130

Documents = Annotated[list[str], typer.Argument(metavar="DOC... QUESTION", show_default=False)]
Strategy = Annotated[str, typer.Option("--strategy", "-s", help="Reading strategy.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="openai:NAME, http://HOST/v1[#NAME], gguf:PATH, embedded."),
]
StoreFolder = Annotated[
    Path | None, typer.Option("--store", help="Folder of the store; the user's cache by default.")
]
Window = Annotated[int | None, typer.Option(help="Tokens of prompt and reply a call may use.")]
ChunkTokens = Annotated[int | None, typer.Option(help="Tokens of a chunk.")]
Concurrency = Annotated[int | None, typer.Option(help="Model calls in flight at once.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", help="Option of the strategy, NAME=VALUE; repeatable."),
]
Choices = Annotated[
    list[str] | None, typer.Option("--choice", help="One option of a multiple choice; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write the reading report there: one .html file."),
]
BudgetText = Annotated[
    str | None, typer.Option("--budget", help='Never exceeded: "calls=20,tokens=50000,usd=0.1".')
]
Deadline = Annotated[float | None, typer.Option(help="Seconds until the best answer so far.")]
Summary = Annotated[bool, typer.Option("--summary", help="No question: summarise the document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def split(arguments: list[str], summary: bool) -> tuple[Any, str | None]:
    """The documents and the question that comes last."""
    if summary:
        return (arguments if len(arguments) > 1 else arguments[0]), None
    if len(arguments) < 2:
        raise InvalidOption(
            "A document and a question are needed.",
            hint='Like this: reader ask BOOK.txt "Who is the narrator?"',
        )
    *documents, question = arguments
    return [Path(d) for d in documents] if len(documents) > 1 else Path(documents[0]), question


def options_of(
    pairs: list[str] | None, window: int | None, chunk_tokens: int | None, concurrency: int | None
) -> dict[str, Any]:
    """The strategy's options; pydantic turns the texts into their types."""
    options: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidOption(f"Option {pair!r} is not NAME=VALUE.", hint="")
        options[name.strip().replace("-", "_")] = value
    shared = {"window": window, "chunk_tokens": chunk_tokens, "concurrency": concurrency}
    return options | {name: number for name, number in shared.items() if number is not None}


def check_report(html: Path | None) -> None:
    """Refuse a report's path before anything is paid for."""
    if html is not None:
        from reader.html.report import check_path

        check_path(html)


@contextmanager
def watched(*, quiet: bool = False) -> Iterator[TerminalProgress]:
    """Progress on the terminal; at Ctrl-C a line says what was spent."""
    from reader.progress import TerminalProgress

    with TerminalProgress(enabled=not quiet) as progress:
        try:
            yield progress
        except KeyboardInterrupt:
            tell_spent(progress.spent)
            raise


def tell_spent(spent: Usage | None, after: str = "") -> None:
    """What was used when a command ended early, in one line on standard error, if anything."""
    if spent is not None and spent.calls:
        dollars = f", ${spent.cost:.4f}" if spent.cost else ""
        typer.echo(
            f"reader: spent so far: {spent.calls:,} call{'s'[: spent.calls != 1]}, "
            f"{spent.prompt_tokens:,} tokens in, {spent.completion_tokens:,} out{dollars}.{after}",
            err=True,
        )


def show(answer: Answer, as_json: bool, write: Callable[[], Path] | None = None) -> None:
    """Print the answer, write its report, exit with its code."""
    if as_json:
        typer.echo(answer.to_json())
    else:
        from rich.console import Console

        Console().print(answer)
    if write is not None:
        typer.echo(f"The report is {write()}.", err=True)
    raise typer.Exit(EXIT[answer.status])
