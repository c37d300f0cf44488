"""The shell: ``reader ask``, ``estimate``, ``eval``, ``calibrate``, ``strategies`` and more.

Exit codes: 0 answered; 1 an error of the model, the network or the store; 2 wrong usage (document,
question, option, strategy, budget); 3 partial (budget, deadline or failed chunks); 4 not found in
the document; 130 interrupted (the same command resumes).
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from reader.cli_compare import compare
from reader.cli_mcp import mcp
from reader.cli_options import (
    INTERRUPTED,
    BudgetText,
    Choices,
    ChunkTokens,
    Concurrency,
    Deadline,
    Documents,
    Html,
    Json,
    Model,
    Options,
    Quiet,
    StoreFolder,
    Strategy,
    Summary,
    Window,
    check_report,
    options_of,
    show,
    split,
    tell_spent,
    watched,
)
from reader.cli_runs import runs_app
from reader.cli_store import store_app
from reader.errors import InputError, ReaderError

app = typer.Typer(
    name="reader",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
strategies_app = typer.Typer(help="List reading strategies, show one.", no_args_is_help=False)
models_app = typer.Typer(help="List, fetch and remove the models of the catalogue.")
# By name: the type checker knows the folder as evals. It imports nothing but typer.
app.add_typer(import_module("reader.evals.shell").eval_app, name="eval")
app.add_typer(strategies_app, name="strategies")
app.add_typer(models_app, name="models")
app.add_typer(runs_app, name="runs")
app.add_typer(store_app, name="store")
app.command()(mcp)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from reader import __version__

        typer.echo(f"longdoc-reader {__version__}")
        raise typer.Exit


@app.callback()
def reader_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Read documents longer than any model's window."""


@app.command()
def ask(
    documents: Documents,
    strategy: Strategy = "coa",
    model: Model = None,
    choice: Choices = None,
    budget: BudgetText = None,
    deadline: Deadline = None,
    window: Window = None,
    chunk_tokens: ChunkTokens = None,
    concurrency: Concurrency = None,
    scorer: Annotated[
        str | None, typer.Option(help="Whose heads look, for strategy attention.")
    ] = None,
    option: Options = None,
    summary: Summary = False,
    store: StoreFolder = None,
    html: Html = None,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="With --html: the prompts in full.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer a question about one or several documents."""
    from reader.session import Reader

    check_report(html)
    docs, question = split(documents, summary)
    options = options_of(option, window, chunk_tokens, concurrency)
    if scorer is not None:
        options["scorer"] = scorer
    with (
        watched(quiet=quiet) as progress,
        Reader(
            model,
            store=store,
            keep_prompts=prompts and html is not None,
            on_download=progress.download,
        ) as reader,
    ):
        answer = reader.answer(
            docs,
            question,
            strategy,
            choices=choice,
            budget=budget,
            deadline=deadline,
            on_event=progress,
            **options,
        )
    write = None if html is None else partial(answer.report, html, prompts=prompts)
    show(answer, as_json, write)


app.command()(compare)


@app.command()
def estimate(
    documents: Documents,
    strategy: Strategy = "coa",
    model: Model = None,
    choice: Choices = None,
    window: Window = None,
    chunk_tokens: ChunkTokens = None,
    option: Options = None,
    summary: Summary = False,
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Say what a question would cost, before any model call."""
    from reader.progress import TerminalProgress
    from reader.session import Reader

    docs, question = split(documents, summary)
    options = options_of(option, window, chunk_tokens, None)
    with (
        TerminalProgress() as progress,
        Reader(model, store=store, on_download=progress.download) as reader,
    ):
        found = reader.estimate(docs, question, strategy, choices=choice, **options)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    counts = "" if found.exact_counts else " (a conservative estimate: no tokenizer to be had)"
    money = "unknown" if found.cost is None else f"${found.cost:.4f}" if found.cost else "no charge"
    most = f", at most ${found.max_cost:.4f}" if found.max_cost else ""
    typer.echo(
        f"{found.calls} calls, {found.depth} of them in series\n"
        f"{found.prompt_tokens:,} tokens in{counts}\n"
        f"{found.completion_tokens:,} tokens out, at most {found.max_completion_tokens:,} "
        f"({found.basis})\n"
        f"cost: {money}{most}"
    )


@app.command()
def calibrate(
    scorer: Annotated[str, typer.Argument(help="transformers:PATH, embedded, embedded:tiny.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Questions with known evidence, JSON lines; needles when not given."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table here too.")] = None,
    limit: Annotated[int | None, typer.Option(help="Questions used.")] = None,
    heads: Annotated[int, typer.Option(min=1, help="Heads chosen.")] = 8,
    store: StoreFolder = None,
) -> None:
    """Find the retrieval heads of a model and keep them for the attention strategy."""
    import asyncio

    from rich.console import Console
    from rich.progress import Progress

    from reader.attention.calibration import calibrate_model
    from reader.attention.heads import keep_table
    from reader.attention.resolve import open_attention
    from reader.memory.store import Store

    model = open_attention(scorer)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("questions", total=limit)
        table = asyncio.run(
            calibrate_model(
                model,
                data,
                limit=limit,
                heads=heads,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        )
    keep_table(table, asyncio.run(model.info()), Store(store))
    text = table.model_dump_json(indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    typer.echo(text)


@strategies_app.callback(invoke_without_command=True)
def list_strategies(context: typer.Context) -> None:
    """List the installed strategies."""
    if context.invoked_subcommand is None:
        from reader.strategy import strategies

        for name, kind in strategies().items():
            typer.echo(f"{name:16} {kind.title} ({kind.source})")


@strategies_app.command("show")
def show_strategy(name: str) -> None:
    """Print a strategy's state machine (Mermaid) and its options."""
    from reader.drawing import draw
    from reader.strategy import find_strategy

    kind = find_strategy(name)
    typer.echo(f"{kind.title}. {kind.source}\n")
    typer.echo(str(draw(name)))
    for field, info in kind.Options.model_fields.items():
        default = info.get_default()
        typer.echo(f"  {field} = {default!r}: {info.description}")


@models_app.callback(invoke_without_command=True)
def list_models(context: typer.Context) -> None:
    """List the models of the catalogue."""
    if context.invoked_subcommand is None:
        from reader.llm.catalogue import catalogue
        from reader.llm.download import installed

        here = {entry.name for entry in installed()}
        for entry in catalogue():
            state = "here" if entry.name in here else "not fetched"
            typer.echo(
                f"{entry.name:16} {entry.title}, {entry.bytes / 1e6:,.0f} MB, "
                f"{entry.licence}, window {entry.window:,}: {state}"
            )


@models_app.command("fetch")
def fetch_model(name: str) -> None:
    """Fetch a model of the catalogue into the user's cache."""
    import asyncio

    from reader.llm.catalogue import entry
    from reader.llm.download import fetch, models_folder
    from reader.progress import TerminalProgress

    with TerminalProgress() as progress:
        path = asyncio.run(fetch(entry(name), models_folder(), progress.download))
    typer.echo(str(path))


@models_app.command("remove")
def remove_model(name: str) -> None:
    """Remove a fetched model from the user's cache."""
    from reader.llm.download import remove

    typer.echo("removed" if remove(name) else "it was not fetched")


def main() -> None:
    """The console script; errors become one sentence and an exit code."""
    try:
        code = app(standalone_mode=False) or 0
        if code == INTERRUPTED:  # typer makes this code of Ctrl-C by itself
            raise KeyboardInterrupt
        sys.exit(code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("Interrupted. The same command goes on where it was.", err=True)
        sys.exit(INTERRUPTED)
    except ReaderError as error:
        typer.echo(f"reader: {error}", err=True)
        tell_spent(error.spent, after=" The same command resumes.")
        sys.exit(2 if isinstance(error, InputError) else 1)
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors print themselves
        if show is None:
            raise
        show()
        sys.exit(2)
