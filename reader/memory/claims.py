"""Which runs are in progress, in any process: a lock file each, free again when its process ends.

Two runs of the same call at the same time would write the same notes and checkpoints. The second
one gets an id of its own for these; replies are shared all the same. Pruning leaves alone what is
claimed. A store in memory has no files and nobody to share with but its own process.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

GATE = "store.lock"
FOLDER = "running"
ASIDE = "~"
"""Stands between a run's id and what tells a second run of the same call apart."""
GATE_SECONDS = 30.0

_numbers = itertools.count(1)


class Claims:
    """The runs of one store that this process has in hand."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._own: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def claim(self, run_id: str) -> Iterator[str]:
        """Say that a run is in progress.

        Yields:
            The id under which it keeps notes and checkpoints: its own, or another one where the
            same run is in progress already.
        """
        with self._lock:
            mine = run_id not in self._own
            name = run_id if mine else _aside(run_id)
            self._own.add(name)
        lock, used = None, name
        try:
            if self._folder is not None:
                lock, used = _locked(self._folder, run_id, name)
            yield used
        finally:
            if self._folder is not None and lock is not None:
                with gate(self._folder):
                    lock.release()
                    Path(lock.lock_file).unlink(missing_ok=True)
            with self._lock:
                self._own.discard(name)


def _aside(run_id: str) -> str:
    return f"{run_id}{ASIDE}{os.getpid()}.{next(_numbers)}"


def _locked(folder: Path, run_id: str, name: str) -> tuple[BaseFileLock | None, str]:
    """A lock and the name it is for; without one where the file system knows no locks."""
    from filelock import Timeout

    with gate(folder):
        for wanted in (name, _aside(run_id)):
            try:
                (folder / FOLDER).mkdir(exist_ok=True)
                return _acquired(folder / FOLDER / f"{wanted}.lock"), wanted
            except Timeout:  # another process has it
                continue
            except (OSError, NotImplementedError):
                return None, wanted
    return None, wanted


def _acquired(path: Path) -> BaseFileLock:
    from filelock import FileLock

    lock = FileLock(path, thread_local=False)
    lock.acquire(timeout=0)
    return lock


@contextmanager
def gate(folder: Path) -> Iterator[None]:
    """Held for moments: while the store is opened, a run is claimed, something is deleted."""
    from filelock import FileLock

    lock = FileLock(folder / GATE, thread_local=False)
    # A store that cannot be locked (a disk that is full, a file system without locks) is used
    # all the same; a process that was stopped while it held the gate is not waited for.
    with suppress(OSError, NotImplementedError):
        lock.acquire(timeout=GATE_SECONDS)
    try:
        yield
    finally:
        lock.release()


def claimed(folder: Path) -> dict[str, float]:
    """Runs in progress in any process, and since when (Unix time); to be called at the gate.

    Lock files that a dead process left are removed.
    """
    from filelock import Timeout

    found: dict[str, float] = {}
    for path in (folder / FOLDER).glob("*.lock"):
        try:
            began = path.stat().st_mtime
            lock = _acquired(path)
        except Timeout:
            found[path.name.removesuffix(".lock")] = began
        except (OSError, NotImplementedError):
            continue
        else:
            lock.release()
            path.unlink(missing_ok=True)
    return found
