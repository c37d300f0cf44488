"""Live progress on a terminal, from the events of a run. Quiet in a pipe."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reader.budget import Usage
from reader.events import (
    CallRetried,
    ChunkRead,
    Event,
    ModelCalled,
    Notice,
    Progress,
    RunStarted,
    UsageChanged,
)

if TYPE_CHECKING:
    from rich.progress import TaskID


class TerminalProgress:
    """A listener for ``on_event`` and ``on_download`` that draws bars on standard error.

    Args:
        enabled: False draws nothing, and so does a standard error that is not a terminal;
            notices are written in either case, but not when disabled.

    Attributes:
        spent: Calls, tokens and dollars of the runs listened to, one after the other.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._bars: Any = None
        self._task: TaskID | None = None
        self._downloads: dict[str, TaskID] = {}
        self.spent = self._before = Usage()

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._console = Console(stderr=True, quiet=not self._enabled)
        draw = self._enabled and sys.stderr.isatty()
        text = TextColumn("{task.description}", markup=False)
        self._bars = Progress(
            text,
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("calls"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not draw,
        )
        self._files = Progress(
            text, BarColumn(bar_width=30), DownloadColumn(), console=self._console, disable=not draw
        )
        self._open: Any = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open is not None:
            self._open.stop()

    def _switch(self, bars: Any) -> None:
        if self._open is not bars:
            if self._open is not None:
                self._open.stop()
            bars.start()
            self._open = bars

    def download(self, label: str, done: int, total: int) -> None:
        """Show the state of a download, bytes."""
        self._switch(self._files)
        if label not in self._downloads:
            self._downloads[label] = self._files.add_task(f"Fetching {label}", total=total)
        self._files.update(self._downloads[label], completed=done, total=total)

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, UsageChanged):
            self.spent = self._before.plus(event.usage)
        elif isinstance(event, Notice):
            self._console.print(event.text, markup=False, highlight=False, style="dim")
        elif isinstance(event, RunStarted):
            self._before = self.spent
            self._switch(self._bars)
            verb = "Resuming" if event.resumed else "Reading"
            self._task = self._bars.add_task(verb, total=event.estimate.calls, left="")
        elif self._task is None:
            return
        elif isinstance(event, Progress):
            left = event.seconds_left
            said = "" if left is None else f"about {minutes(left)} left"
            self._bars.update(self._task, completed=event.done, total=event.total, left=said)
        elif isinstance(event, ChunkRead):
            self._bars.update(self._task, description=f"Read chunk {event.chunk + 1}")
        elif isinstance(event, CallRetried):
            self._bars.update(self._task, description=f"Waiting: {event.reason}"[:60])
        elif isinstance(event, ModelCalled) and event.purpose != "worker":
            self._bars.update(self._task, description=event.purpose.capitalize())


def minutes(seconds: float) -> str:
    """A time in words."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
