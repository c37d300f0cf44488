"""Running an evaluation: one inspect-ai task for each set, seed and strategy, resumable.

inspect's eval sets give the log files, the viewer and the resume: a finished sample is written to
its log at once, and the same set of tasks in the same folder goes on where it was. Three of its
defaults are changed, for reasons seen in inspect-ai 0.3.285:

* ``log_buffer=1``: by default up to ten finished samples wait in memory (``recorders/eval.py``).
* ``log_realtime=False``: otherwise samples in progress, document text with them, go to a database
  in the user's data folder.
* Failures of a question are recorded by our solver, not raised: inspect would run errored samples
  of an unfinished log again, and would leave those of a finished one alone (``task/run.py``,
  ``eval_log_sample_source``), so what a resume repeats would depend on when it was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

from inspect_ai import Task, eval_set
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog

from reader.budget import Usage
from reader.errors import ReaderError
from reader.session import Reader

from .outcome import Outcome
from .plan import Batch, Entrant, Plan, fingerprint
from .results import Finished
from .scorer import Key, quality
from .solver import Earlier, Halt, Library, reading

Display = Literal["full", "rich", "plain", "log", "none"]
OnScore: TypeAlias = "Callable[[Round, str, Outcome, float], None]"


class EvaluationFailed(ReaderError):
    """The evaluation stopped before its end; what was finished is kept."""

    default_hint = "The same command goes on where it was."


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; what was finished is kept.

    Attributes:
        spent: As in ``ReaderError``.
    """

    def __init__(self, spent: Usage) -> None:
        super().__init__()
        self.spent = spent


@dataclass(frozen=True, slots=True)
class Round:
    """One entrant on one batch: what becomes one task and one log.

    Attributes:
        batch: The items.
        entrant: The strategy.
        key: ``plan.fingerprint`` of the two.
    """

    batch: Batch
    entrant: Entrant
    key: str


def rounds(plan: Plan, batches: Sequence[Batch], identity: str) -> list[Round]:
    """Every entrant on every batch; ``identity`` is the model's."""
    return [
        Round(batch, entrant, fingerprint(plan, batch, entrant, identity))
        for batch in batches
        for entrant in plan.entrants
    ]


def run(
    plan: Plan,
    todo: Sequence[Round],
    reader: Reader,
    *,
    done: Mapping[str, Mapping[str, Finished]],
    log_dir: Path,
    model_name: str,
    at_once: int,
    display: Display = "none",
    on_score: OnScore | None = None,
) -> list[EvalLog]:
    """Run what is not finished yet. Blocks; works outside of a running event loop.

    Args:
        plan: Limits and the model's name in logs.
        todo: The rounds.
        reader: Answers all questions.
        done: What the logs hold, by id, by key of the round: a question that failed is not asked
            again where the round is another one now (a larger ``limit``).
        log_dir: Where the logs of this evaluation are.
        model_name: For people.
        at_once: Questions read at once.
        display: inspect's way to show progress.
        on_score: Called for each question that is done: its round, id, outcome, score.

    Returns:
        Headers of the logs.

    Raises:
        ReaderError: what every further question would meet; the same call goes on.
        Interrupted: likewise.
    """
    halt = Halt()
    tasks = [
        _task(plan, each, reader, done.get(each.key, {}), halt, model_name, on_score)
        for each in todo
    ]
    complete, logs = eval_set(
        tasks,
        log_dir=str(log_dir),
        model=None,
        display=display,
        log_buffer=1,
        log_realtime=False,
        log_dir_allow_dirty=True,
        log_level="error",
        ctl_server=False,
        retry_attempts=1,
        fail_on_error=True,
        max_samples=at_once,
        max_tasks=1,
    )
    if halt.error is not None:
        halt.error.spent = halt.spent
        raise halt.error
    if len(logs) < len(tasks) or any(log.status == "cancelled" for log in logs):
        raise Interrupted(halt.spent)  # inspect catches Ctrl-C and gives back what it has
    if not complete:
        why = next((log.error.message for log in logs if log.error is not None), "unknown")
        raise EvaluationFailed(f"A task of the evaluation failed: {why}.")
    return logs


def samples_of(batch: Batch, entrant: Entrant) -> list[Sample]:
    """inspect's samples. Documents are not in them: a log would hold one for every strategy."""
    return [
        Sample(
            id=item.id,
            input=item.question or "",
            target=list(item.answers),
            choices=list(item.choices) if item.choices is not None else None,
            metadata={
                "dataset": item.dataset,
                "document": batch.documents[item.id].sha256,
                "title": batch.documents[item.id].title,
                "characters": len(batch.documents[item.id].text),
                "tokens": batch.tokens.get(item.id),
                "options": entrant.options_for(item, batch.seed),
                "answers": list(item.answers),
                "meta": item.meta,
            },
        )
        for item in batch.items
    ]


def _task(
    plan: Plan,
    each: Round,
    reader: Reader,
    done: Mapping[str, Finished],
    halt: Halt,
    model_name: str,
    on_score: OnScore | None,
) -> Task:
    batch, entrant = each.batch, each.entrant
    documents = batch.documents
    return Task(
        # The version is part of the identity by which an eval set knows a task's log again.
        name=f"{batch.name}-{entrant.label}-{batch.seed}",
        version=f"{each.key}-{batch.digest}",
        dataset=MemoryDataset(samples_of(batch, entrant), name=batch.name),
        solver=reading(
            entrant.strategy,
            reader=reader,
            library=Library({d.sha256: d for d in documents.values()}),
            budget=plan.budget,
            timeout=plan.timeout,
            on_error="record",
            halt=halt,
            earlier=Earlier({item: f.failure for item, f in done.items() if f.failure}),
        ),
        scorer=quality(
            key=Key(
                {item.id: (item, documents[item.id]) for item in batch.items},
                on_score and partial(on_score, each),
            )
        ),
        metadata={
            "reader": {
                "set": batch.name,
                "seed": batch.seed,
                "label": entrant.label,
                "strategy": entrant.strategy,
                "options": entrant.options,
                "model": model_name,
                "budget": None if plan.budget is None else plan.budget.model_dump(),
                "timeout": plan.timeout,
                "key": each.key,
                "version": version("longdoc-reader"),
            }
        },
    )
