"""The synchronous face: an event loop in a thread of its own.

So it works under a running loop (Jupyter) too and patches nothing.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")
INTERRUPT_SECONDS = 5.0


class Portal:
    """Runs coroutines for callers that have no loop; its thread starts with the first one."""

    def __init__(self) -> None:
        self._exit = ExitStack()
        # Who forgets to close gets it done before Python ends: after that the thread no longer
        # runs, and its end would be waited for without end.
        weakref.finalize(self, self._exit.close)
        self._portal: BlockingPortal | None = None

    def start(self, function: Callable[[], Awaitable[T]]) -> Future[T]:
        """Begin a coroutine in the loop's thread."""
        if self._portal is None:
            from anyio.from_thread import start_blocking_portal

            self._portal = self._exit.enter_context(start_blocking_portal())
        return self._portal.start_task_soon(function)

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine to its end."""
        ended = threading.Event()

        async def run() -> T:
            try:
                return await function()
            finally:
                ended.set()

        future = self.start(run)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C arrives here, in the caller's thread: stop the run and let it write down
            # where it stands before the exception goes on.
            if future.cancel():
                ended.wait(INTERRUPT_SECONDS)
            raise

    def close(self) -> None:
        """End the thread; the next coroutine starts another."""
        self._exit.close()
        self._portal = None
