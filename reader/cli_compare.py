"""``reader compare``: several strategies on one question, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reader.cli_options import (
    EXIT,
    BudgetText,
    Choices,
    ChunkTokens,
    Concurrency,
    Deadline,
    Documents,
    Json,
    Model,
    Options,
    Quiet,
    StoreFolder,
    Summary,
    Window,
    check_report,
    options_of,
    split,
    watched,
)


def compare(
    documents: Documents,
    strategy: Annotated[
        list[str], typer.Option("--strategy", "-s", help="Reading strategies: coa,rag; repeatable.")
    ],
    model: Model = None,
    choice: Choices = None,
    budget: BudgetText = None,
    deadline: Deadline = None,
    window: Window = None,
    chunk_tokens: ChunkTokens = None,
    concurrency: Concurrency = None,
    option: Options = None,
    summary: Summary = False,
    store: StoreFolder = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the comparison there: one .html file."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer a question with several strategies, each under the same budget.

    The exit code is that of the best answer.
    """
    from rich.console import Console

    from reader.session import Reader

    check_report(html)
    docs, question = split(documents, summary)
    names = [name.strip() for names in strategy for name in names.split(",") if name.strip()]
    with (
        watched(quiet=quiet) as progress,
        Reader(model, store=store, on_download=progress.download) as reader,
    ):
        found = reader.compare(
            docs,
            question,
            names,
            choices=choice,
            budget=budget,
            deadline=deadline,
            on_event=progress,
            **options_of(option, window, chunk_tokens, concurrency),
        )
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        Console().print(found)
    if html is not None:
        typer.echo(f"The comparison is {found.report(html)}.", err=True)
    codes = [EXIT[entry.answer.status] for entry in found.entries if entry.answer is not None]
    raise typer.Exit(min(codes, default=1))
