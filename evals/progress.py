"""Live progress of an evaluation on a terminal; in a pipe, a line for each strategy and failure."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .outcome import Outcome

if TYPE_CHECKING:
    from rich.progress import TaskID

    from .runner import Round


class EvaluationProgress:
    """A listener for ``runner.run``'s ``on_score`` that draws a bar for each strategy and set.

    Args:
        rounds: What runs.
        done: Ids of items that were finished before, by key.
        enabled: False shows nothing.
    """

    def __init__(
        self, rounds: Sequence[Round], done: Mapping[str, set[str]], *, enabled: bool = True
    ) -> None:
        self._rounds = rounds
        self._done = {
            each.key: len(done.get(each.key, set()) & {item.id for item in each.batch.items})
            for each in rounds
        }
        self._sum = dict.fromkeys(self._done, 0.0)
        self._new = dict.fromkeys(self._done, 0)
        self._failed = dict.fromkeys(self._done, 0)
        self._seconds = dict.fromkeys(self._done, 0.0)
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
                completed=self._done[each.key],
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

    def __call__(self, each: Round, outcome: Outcome, value: float) -> None:
        """One question is done."""
        key = each.key
        self._new[key] += 1
        self._sum[key] += value
        self._failed[key] += outcome.wrong
        self._seconds[key] += outcome.seconds
        count = self._new[key]
        said = f"score {self._sum[key] / count:.2f}, {self._seconds[key] / count:.1f} s a question"
        if self._failed[key]:
            said += f", {self._failed[key]} failed"
        completed = self._done[key] + self._new[key]
        self._bars.update(self._tasks[key], completed=completed, said=said)
        if outcome.failure is not None:
            self._say(f"{each.entrant.label}: {outcome.failure.type}: {outcome.failure.message}")
        if not self._draws and completed >= len(each.batch.items):
            self._say(f"{each.batch.name} {each.entrant.label}: {completed} done, {said}")

    def _say(self, text: str) -> None:
        self._console.print(text[:300], markup=False, highlight=False, style="dim")
