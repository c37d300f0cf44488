"""``reader runs``: past runs and what they cost, their answers, going on with them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reader.cli_options import (
    BudgetText,
    Deadline,
    Html,
    Json,
    Model,
    StoreFolder,
    check_report,
    show,
    watched,
)
from reader.errors import DocumentError, InvalidOption, RunNotFound

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.memory.store import RunRecord, Store

runs_app = typer.Typer(help="Past runs: list, show, resume.")


@runs_app.callback(invoke_without_command=True)
def list_runs(
    context: typer.Context,
    store: StoreFolder = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List past runs and what they cost."""
    if context.invoked_subcommand is not None:
        return
    from datetime import UTC, datetime

    from reader.memory.store import Store

    runs = Store(store).runs(limit)
    if as_json:
        rows = [
            {"id": r.id, "at": r.at, "state": r.state, "strategy": r.strategy, "model": r.model}
            | {"document": r.document, "question": r.question, "usage": r.usage}
            for r in runs
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for run in runs:
        at = datetime.fromtimestamp(run.at, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        calls, cost = run.usage["calls"], run.usage["cost"]
        money = f", ${cost:.4f}" if cost else ""
        typer.echo(
            f"{run.id}  {at}  {run.state:11}  {run.strategy}  {_line(run.document, 24)}  "
            f"{_line(run.question or '(summary)', 40)}  "
            f"{calls:,} call{'s'[: calls != 1]}{money}"
        )


@runs_app.command("show")
def show_run(
    run_id: str, store: StoreFolder = None, html: Html = None, as_json: Json = False
) -> None:
    """Show the answer of a past run."""
    from reader.answers import Answer
    from reader.memory.store import Store

    check_report(html)
    kept = Store(store)
    run = kept.run(run_id)
    if run is None:
        raise RunNotFound(f"There is no run {run_id!r} in the store.")
    if run.answer is None:
        typer.echo(f"Run {run.id} is {run.state}: `reader runs resume {run.id}` goes on with it.")
        raise typer.Exit(3)
    answer = Answer.from_json(run.answer)
    write = None if html is None else partial(_report_of_run, answer, run, kept, html)
    show(answer, as_json, write)


@runs_app.command("resume")
def resume_run(
    run_id: str,
    store: StoreFolder = None,
    model: Model = None,
    budget: BudgetText = None,
    deadline: Deadline = None,
    as_json: Json = False,
) -> None:
    """Go on with a run that was interrupted, failed, or ran out of budget."""
    from reader.memory.store import Store
    from reader.session import Reader

    kept = Store(store)
    run = kept.run(run_id)
    if run is None:
        raise RunNotFound(f"There is no run {run_id!r} in the store.")
    with (
        watched() as progress,
        Reader(model or run.call["model"], store=kept, on_download=progress.download) as reader,
    ):
        answer = reader.resume(run.id, on_event=progress, budget=budget, deadline=deadline)
    show(answer, as_json)


def _report_of_run(answer: Answer, run: RunRecord, store: Store, html: Path) -> Path:
    """The report of a past run, with the text if its document is still there and the same."""
    document = None
    if run.source is not None:
        files = [Path(line) for line in run.source.split("\n")]
        document = files if len(files) > 1 else files[0]
    try:
        return answer.report(html, document=document, store=store)
    except (DocumentError, InvalidOption) as error:
        typer.echo(f"reader: {error} The report is without the text.", err=True)
        return answer.report(html, store=store)


def _line(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
