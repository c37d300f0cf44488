"""Live progress in a notebook: one bar for a run, drawn by tqdm, under a running loop too."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reader.events import (
    CallRetried,
    ChunkRead,
    Event,
    ModelCalled,
    Notice,
    Progress,
    RunStarted,
    UsageChanged,
    ignore,
)
from reader.progress import minutes

if TYPE_CHECKING:
    from reader.events import Emit

_FORM = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} calls [{elapsed}{postfix}]"
_STOPPED = "Stopped. Run the cell again to go on: what was read is kept."


def in_notebook() -> bool:
    """Whether this is a notebook's kernel; looks only at what is imported already."""
    shell = sys.modules.get("IPython")
    active = shell.get_ipython() if shell is not None else None
    return getattr(active, "kernel", None) is not None


@contextmanager
def listening(on_event: Emit | None) -> Iterator[Emit]:
    """The caller's listener; without one a bar in a notebook, and nothing elsewhere."""
    if on_event is not None or not in_notebook():
        yield on_event or ignore
        return
    with NotebookProgress() as progress:
        yield progress


def downloads(on_download: Callable[[str, int, int], None] | None) -> Any:
    """The same for the state of downloads."""
    if on_download is not None or not in_notebook():
        return on_download
    return NotebookDownloads()


class NotebookProgress:
    """A listener for ``on_event``: calls made and expected, time left, tokens, what is read.

    With ipywidgets installed (``pip install "longdoc-reader[notebook]"``) it is a widget, in
    classic notebooks and in Lab; without, a line of text.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._left = self._tokens = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is None:
            return
        if kind is None:
            self._bar.total = self._bar.n  # fewer calls than expected are not a failure
            self._left = ""
            self._say("Read", at_once=True)
        elif issubclass(kind, (asyncio.CancelledError, KeyboardInterrupt)):
            self._left = ""
            self._say("Stopped", at_once=True)
            self._bar.write(_STOPPED, file=sys.stderr)
        self._bar.close()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Notice):
            sys.stderr.write(event.text + "\n")
        elif isinstance(event, RunStarted):
            if self._bar is None:
                self._bar = _tqdm(total=event.estimate.calls, bar_format=_FORM, miniters=1)
            self._say("Resuming" if event.resumed else "Reading", at_once=True)
        elif self._bar is None:
            return
        elif isinstance(event, Progress):
            self._left = "" if event.seconds_left is None else minutes(event.seconds_left) + " left"
            self._bar.total = event.total
            self._say()
            self._bar.update(event.done - self._bar.n)
        elif isinstance(event, UsageChanged):
            usage = event.usage
            self._tokens = f"{usage.prompt_tokens + usage.completion_tokens:,} tokens"
        elif isinstance(event, ChunkRead):
            self._say(f"Read chunk {event.chunk + 1}")
        elif isinstance(event, CallRetried):
            self._say(f"Waiting: {event.reason}"[:60], at_once=True)
        elif isinstance(event, ModelCalled) and event.purpose != "worker":
            self._say(event.purpose.replace("_", " ").capitalize())

    def _say(self, now: str | None = None, *, at_once: bool = False) -> None:
        """Change the words; they are drawn with the next step, ten times a second at most."""
        if now is not None:
            self._bar.set_description_str(now, refresh=False)
        said = ", ".join(filter(None, [self._left, self._tokens]))
        self._bar.set_postfix_str(said, refresh=at_once)


class NotebookDownloads:
    """A listener for ``on_download``: a bar for each file."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show the state of a download, bytes."""
        if label not in self._bars:
            self._bars[label] = _tqdm(
                total=total, desc=f"Fetching {label}", unit="B", unit_scale=True
            )
        bar = self._bars[label]
        bar.n = done
        bar.refresh()
        if done >= total:
            bar.close()


def _tqdm(**arguments: Any) -> Any:
    if find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as widget

        return widget(**arguments)
    from tqdm import tqdm as line

    return line(file=sys.stderr, **arguments)
