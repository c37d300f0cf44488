"""The shell: ``reader eval SET...`` and ``reader eval report FOLDER``.

Nothing heavy is imported before a command runs, so that ``reader --help`` works without the extra.
"""

from __future__ import annotations

import asyncio
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from reader.cli_options import tell_spent
from reader.errors import InputError, InvalidOption, MissingExtra

if TYPE_CHECKING:
    from reader.llm.types import ChatModel

    from .plan import Plan

NEEDED = ("inspect_ai", "matplotlib", "scipy", "rouge_score")


class _RunByDefault(TyperGroup):
    """``reader eval SET`` is ``reader eval run SET``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


eval_app = typer.Typer(
    cls=_RunByDefault,
    help="Compare strategies on question sets: reader eval SET... ; reader eval report FOLDER.",
    no_args_is_help=True,
)

Sets = Annotated[list[str], typer.Argument(metavar="SET...", help="A known set, or a JSONL file.")]
LogDir = Annotated[
    Path, typer.Option("--log-dir", help="Folder of the logs; the same one resumes.")
]


class NeedsConfirmation(InputError):
    """Nobody is there to be asked."""


@eval_app.command("run")
def run(
    sets: Sets,
    strategy: Annotated[
        list[str] | None,
        typer.Option("--strategy", "-s", help="By commas; LABEL=NAME for a variant. [coa]"),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="As for `reader ask`.")] = "embedded",
    limit: Annotated[int | None, typer.Option(help="So many questions of each set.")] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help='Of each question, for all strategies: "tokens=20000".'),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds for a question; longer counts as wrong.")
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", "--seed", help="One or several, by commas.")
    ] = "0",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="STRATEGY:NAME=VALUE, or NAME=VALUE for all."),
    ] = None,
    set_option: Annotated[
        list[str] | None,
        typer.Option("--set-option", help="Of a known set: NAME=VALUE or SET:NAME=VALUE."),
    ] = None,
    window: Annotated[int | None, typer.Option(help="Tokens a call may use.")] = None,
    chunk_tokens: Annotated[int | None, typer.Option(help="Tokens of a chunk.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Model calls at once.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Add closed_book, full and rag.")
    ] = True,
    store: Annotated[
        Path | None, typer.Option("--store", help="Folder of the store; the user's by default.")
    ] = None,
    log_dir: LogDir = Path("reader-evals"),
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask failed and timed-out questions again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before spending.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Compare strategies on question sets; prints the estimate and asks before it spends."""
    _need_extra()
    from reader.budget import Budget

    from .plan import Plan, entrants

    shared = {"window": window, "chunk_tokens": chunk_tokens, "concurrency": concurrency}
    plan = Plan(
        sets=tuple(sets),
        entrants=entrants(
            strategy or ["coa"],
            option or (),
            shared={name: value for name, value in shared.items() if value is not None},
            baselines=baselines,
        ),
        model=model,
        limit=_positive(limit, "--limit"),
        seeds=_seeds(seeds),
        budget=None if budget is None else Budget.parse(budget),
        timeout=_positive(timeout, "--timeout"),
        set_options=_pairs(set_option or ()),
    )
    _evaluate(plan, store, log_dir, retry_failed=retry_failed, yes=yes, quiet=quiet)


@eval_app.command("report")
def report(
    log_dir: Annotated[Path, typer.Argument(help="Folder of the logs.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; FOLDER/report.html.")
    ] = None,
) -> None:
    """Make one HTML page, a Markdown table and pictures of the logs in a folder."""
    _need_extra()
    from .report import write_report

    for path in write_report(log_dir, output or log_dir / "report.html"):
        typer.echo(str(path))


def _evaluate(
    plan: Plan, store: Path | None, log_dir: Path, *, retry_failed: bool, yes: bool, quiet: bool
) -> None:
    from reader.llm.resolve import open_model
    from reader.progress import TerminalProgress
    from reader.session import Reader

    with TerminalProgress(enabled=not quiet) as downloads:
        opened = open_model(plan.model, on_progress=downloads.download)
        info = asyncio.run(opened.info())
    try:
        with Reader(opened, store=store) as reader:
            _run(plan, reader, info, log_dir, retry_failed=retry_failed, yes=yes, quiet=quiet)
    finally:
        asyncio.run(_close(opened))


def _run(
    plan: Plan,
    reader: Any,
    info: Any,
    log_dir: Path,
    *,
    retry_failed: bool,
    yes: bool,
    quiet: bool,
) -> None:
    from rich.console import Console

    from .forecast import forecast, forecast_table
    from .plan import batches
    from .progress import EvaluationProgress
    from .results import finished, forget_failures, read_rows
    from .runner import Interrupted, rounds
    from .runner import run as run_rounds
    from .summary import summarised, summary_table

    console = Console()
    loaded = batches(plan, info.counter)
    todo = rounds(plan, loaded, info.identity)
    if retry_failed:
        forget_failures(log_dir)
    done = finished(log_dir)
    keys = {(r.batch.name, r.batch.seed, r.entrant.label): r.key for r in todo}
    with console.status("Estimating ..."):
        expected = asyncio.run(forecast(plan, loaded, reader, info, done, keys))
    console.print(forecast_table(expected, info.name))
    for row in expected:
        if row.refused:
            typer.echo(f"{row.label}: {row.refused} questions cannot start. {row.reason}")
    left = sum(row.items for row in expected)
    before = sum(row.finished for row in expected)
    if before:
        said = "1 question is" if before == 1 else f"{before} questions are"
        typer.echo(f"{said} finished already and not asked again.")
    if left and not yes:
        _confirm()
    with EvaluationProgress(todo, done, enabled=not quiet) as progress:
        try:
            run_rounds(
                plan,
                todo,
                reader,
                done=done,
                log_dir=log_dir,
                model_name=info.name,
                at_once=info.concurrency,
                on_score=progress,
            )
        except Interrupted as stop:
            tell_spent(stop.spent)
            raise
    wanted = {r.key for r in todo}
    rows = [row for row in read_rows(log_dir) if row.key in wanted]
    for name in dict.fromkeys(row.set for row in rows):
        console.print(summary_table(summarised([r for r in rows if r.set == name]), title=name))
    typer.echo(f"The whole comparison: reader eval report {log_dir}")


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise NeedsConfirmation(
            "Nothing was spent: there is no terminal to ask on.", hint="Pass --yes to go on."
        )
    if not typer.confirm("Go on?"):
        typer.echo("Nothing was spent.")
        raise typer.Exit(0)


def _need_extra() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"Evaluation needs {', '.join(missing)}.", hint="Install longdoc-reader[evals]."
        )


def _seeds(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise InvalidOption(f"--seeds {text!r} is not understood.", hint="Like 0,1,2.") from None
    return found


def _positive(value: Any, name: str) -> Any:
    if value is not None and value <= 0:
        raise InvalidOption(f"{name} must be above 0.", hint="")
    return value


def _pairs(texts: Any) -> dict[str, Any]:
    """NAME=VALUE; a value with commas is a list."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InvalidOption(f"--set-option {text!r} is not NAME=VALUE.", hint="")
        found[name.strip().replace("-", "_")] = value.split(",") if "," in value else value
    return found


async def _close(model: ChatModel) -> None:
    await model.aclose()
