"""The shell: ``reader ask``, ``estimate``, ``eval``, ``calibrate``, ``strategies`` and more.

Exit codes: 0 answered; 1 an error of the model, the network or the store; 2 wrong usage (document,
question, option, strategy, budget); 3 partial (budget, deadline or failed chunks); 4 not found in
the document; 130 interrupted (the same command resumes).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reader.cli_mcp import mcp
from reader.cli_store import store_app
from reader.errors import DocumentError, InputError, InvalidOption, ReaderError, RunNotFound

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.memory.store import RunRecord, Store

app = typer.Typer(
    name="reader",
    help="Read documents longer than any model's window.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
strategies_app = typer.Typer(help="List reading strategies, show one.", no_args_is_help=False)
models_app = typer.Typer(help="List, fetch and remove the models of the catalogue.")
runs_app = typer.Typer(help="Past runs: list, show, resume.")
# By name: the type checker knows the folder as evals. It imports nothing but typer.
app.add_typer(import_module("reader.evals.shell").eval_app, name="eval")
app.add_typer(strategies_app, name="strategies")
app.add_typer(models_app, name="models")
app.add_typer(runs_app, name="runs")
app.add_typer(store_app, name="store")
app.command()(mcp)

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
    summary: Annotated[
        bool, typer.Option("--summary", help="No question: summarise the document.")
    ] = False,
    store: StoreFolder = None,
    html: Html = None,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="With --html: the prompts in full.")
    ] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Answer a question about one or several documents."""
    from reader.progress import TerminalProgress
    from reader.session import Reader

    _check_report(html)
    docs, question = _split(documents, summary)
    options = _options(option, window, chunk_tokens, concurrency)
    if scorer is not None:
        options["scorer"] = scorer
    with (
        TerminalProgress(enabled=not quiet) as progress,
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
    _show(answer, as_json, write)


@app.command()
def estimate(
    documents: Documents,
    strategy: Strategy = "coa",
    model: Model = None,
    choice: Choices = None,
    window: Window = None,
    chunk_tokens: ChunkTokens = None,
    option: Options = None,
    summary: Annotated[bool, typer.Option("--summary", help="No question.")] = False,
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Say what a question would cost, before any model call."""
    from reader.progress import TerminalProgress
    from reader.session import Reader

    docs, question = _split(documents, summary)
    options = _options(option, window, chunk_tokens, None)
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
        cost = run.usage["cost"]
        money = f", ${cost:.4f}" if cost else ""
        typer.echo(
            f"{run.id}  {at}  {run.state:11}  {run.strategy}  {_line(run.document, 24)}  "
            f"{_line(run.question or '(summary)', 40)}  "
            f"{run.usage['calls']} calls{money}"
        )


@runs_app.command("show")
def show_run(
    run_id: str, store: StoreFolder = None, html: Html = None, as_json: Json = False
) -> None:
    """Show the answer of a past run."""
    from reader.answers import Answer
    from reader.memory.store import Store

    _check_report(html)
    kept = Store(store)
    run = kept.run(run_id)
    if run is None:
        raise RunNotFound(f"There is no run {run_id!r} in the store.")
    if run.answer is None:
        typer.echo(f"Run {run.id} is {run.state}: `reader runs resume {run.id}` goes on with it.")
        raise typer.Exit(3)
    answer = Answer.from_json(run.answer)
    write = None if html is None else partial(_report_of_run, answer, run, kept, html)
    _show(answer, as_json, write)


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
    from reader.progress import TerminalProgress
    from reader.session import Reader

    kept = Store(store)
    run = kept.run(run_id)
    if run is None:
        raise RunNotFound(f"There is no run {run_id!r} in the store.")
    with (
        TerminalProgress() as progress,
        Reader(model or run.call["model"], store=kept, on_download=progress.download) as reader,
    ):
        answer = reader.resume(run.id, on_event=progress, budget=budget, deadline=deadline)
    _show(answer, as_json)


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
        if error.spent is not None and error.spent.calls:
            typer.echo(
                f"reader: spent so far: {error.spent.calls} call{'s'[: error.spent.calls != 1]}, "
                f"{error.spent.prompt_tokens:,} tokens in, "
                f"{error.spent.completion_tokens:,} out. The same command resumes.",
                err=True,
            )
        sys.exit(2 if isinstance(error, InputError) else 1)
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors print themselves
        if show is None:
            raise
        show()
        sys.exit(2)


def _split(arguments: list[str], summary: bool) -> tuple[Any, str | None]:
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


def _options(
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


def _check_report(html: Path | None) -> None:
    if html is not None:
        from reader.html.report import check_path

        check_path(html)


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


def _show(answer: Answer, as_json: bool, write: Callable[[], Path] | None = None) -> None:
    """Print the answer, write its report, exit with its code."""
    if as_json:
        typer.echo(answer.to_json())
    else:
        from rich.console import Console

        Console().print(answer)
    if write is not None:
        typer.echo(f"The report is {write()}.", err=True)
    raise typer.Exit(EXIT[answer.status])


def _line(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
