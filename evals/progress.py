"""Live progress of an evaluation on a terminal; in a pipe, a line for each strategy and failure."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .outcome import Outcome
from .results import Finished

if TYPE_CHECKING:
    from rich.progress import TaskID

    from .runner import Round


class EvaluationProgress:
    """A listener for ``runner.run``'s ``on_score`` that draws a bar for each strategy and set.

    Args:
        rounds: What runs.
        done: What was finished before, by id, by key; the scores shown are those of all.
        enabled: False shows nothing.
    """

    def __init__(
        self,
        rounds: Sequence[Round],
        done: Mapping[str, Mapping[str, Finished]],
        *,
        enabled: bool = True,
    ) -> None:
        self._rounds = rounds
        ids = {each.key: {item.id for item in each.batch.items} for each in rounds}
        self._done = {
            key: {name: found for name, found in done.get(key, {}).items() if name in ids[key]}
            for key in ids
        }
        self._new = dict.fromkeys(ids, 0)
        self._seconds = dict.fromkeys(ids, 0.0)
        self._enabled = enabled

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console = Console(stderr=True, quiet=not self._enabled)
        self._draws = self._enabled and sys.stderr.isatty()
        self._bars: Any = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            console=self._console,
            disable=not self._draws,
        )
        self._tasks: dict[str, TaskID] = {}
        several = len({(r.batch.name, r.batch.seed) for r in self._rounds}) > 1
        for each in self._rounds:
            name = each.entrant.label
            if several:
                name = f"{each.batch.name} {name}, seed {each.batch.seed}"
            self._tasks[each.key] = self._bars.add_task(
                name,
                total=len(each.batch.items),
                completed=len(self._done[each.key]),
                said="",
            )
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, each: Round, item: str, outcome: Outcome, value: float) -> None:
        """One question is done; one that was done before is not counted twice."""
        key = each.key
        done = self._done[key]
        again = item in done
        done[item] = Finished(value, outcome.wrong)
        self._new[key] += 1
        self._seconds[key] += outcome.seconds
        completed, failed = len(done), sum(found.wrong for found in done.values())
        mean = sum(found.quality for found in done.values()) / completed
        said = f"score {mean:.2f}, {self._seconds[key] / self._new[key]:.1f} s a question"
        if failed:
            said += f", {failed} failed"
        self._bars.update(self._tasks[key], completed=completed, said=said)
        if outcome.failure is not None:
            self._say(f"{each.entrant.label}: {outcome.failure.type}: {outcome.failure.message}")
        if not self._draws and not again and completed >= len(each.batch.items):
            self._say(f"{each.batch.name} {each.entrant.label}: {completed} done, {said}")

    def _say(self, text: str) -> None:
        self._console.print(text[:300], markup=False, highlight=False, style="dim")
