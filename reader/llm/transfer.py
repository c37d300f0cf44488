"""Fetching one file over HTTP: goes on where it stopped, is checked, can be called off."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, TypeAlias

from reader.errors import DownloadFailed

if TYPE_CHECKING:
    import requests

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with (label, bytes done, bytes in total), from a worker thread."""

BLOCK = 1 << 16  # bytes; a broken connection loses at most one
BETWEEN_REPORTS = 0.1  # seconds
TIMEOUTS = (5.0, 15.0)  # seconds to connect, and between two blocks
SECONDS_BEFORE_NEXT = 1.0  # when a connection broke
FRUITLESS = 3  # attempts in a row that bring no new byte


class CalledOff(Exception):
    """Nobody waits for the file any more."""


@dataclass(slots=True)
class Transfer:
    """What all requests of one download share.

    Attributes:
        label: The name under which progress is told.
        on_progress: Told at most ten times a second.
        stop: Set when nobody waits any more.
        total: Bytes to fetch, 0 while not known.
        done: Bytes of it that are here.
    """

    label: str
    on_progress: OnProgress | None = None
    stop: Event = field(default_factory=Event)
    total: int = 0
    done: int = 0
    _told: float = 0.0

    def advance(self, count: int, *, tell: bool = False) -> None:
        """Count bytes (negative: thrown away) and tell the listener.

        Raises:
            CalledOff: nobody waits any more.
        """
        if self.stop.is_set():
            raise CalledOff
        self.done += count
        now = time.monotonic()
        if self.on_progress and self.total and (tell or now - self._told >= BETWEEN_REPORTS):
            self._told = now
            self.on_progress(self.label, min(self.done, self.total), self.total)

    def fetch(
        self,
        session: requests.Session,
        url: str,
        path: Path,
        *,
        sha256: str | None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Bring the file at ``url`` to ``path``; ``path.partial`` grows beside it meanwhile.

        Raises:
            DownloadFailed: what arrived is not the file.
            requests.RequestException: the server does not answer, or not with the file.
            CalledOff: nobody waits any more; what has arrived stays for the next time.
        """
        partial = partial_of(path)
        resumed = partial.exists() and partial.stat().st_size > 0
        self.advance(partial.stat().st_size if resumed else 0)
        self._all(session, url, partial, headers or {})
        if sha256 is not None and file_sha256(partial) != sha256:
            self.advance(-partial.stat().st_size)
            partial.unlink()
            if not resumed:
                raise DownloadFailed(f"{path.name} arrived damaged: its SHA-256 does not match.")
            self.fetch(session, url, path, sha256=sha256, headers=headers)
        else:
            partial.replace(path)
            self.advance(0, tell=True)

    def _all(
        self, session: requests.Session, url: str, partial: Path, headers: Mapping[str, str]
    ) -> None:
        import requests

        fruitless = 0
        while True:
            before = self.done
            try:
                self._rest(session, url, partial, headers)
                return
            except (
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
            ):
                fruitless = 0 if self.done > before else fruitless + 1
                if fruitless >= FRUITLESS:
                    raise
                self.stop.wait(SECONDS_BEFORE_NEXT)

    def _rest(
        self, session: requests.Session, url: str, partial: Path, headers: Mapping[str, str]
    ) -> None:
        import requests

        have = partial.stat().st_size if partial.exists() else 0
        asked = {**headers, "Accept-Encoding": "identity"}
        if have:
            asked["Range"] = f"bytes={have}-"
        with session.get(url, headers=asked, stream=True, timeout=TIMEOUTS) as reply:
            status = reply.status_code
            if have and status == 416 and _whole(reply) == have:
                return  # all of it was here already
            if have and status in (200, 206, 416):
                start = reply.headers.get("Content-Range", "").partition("-")[0]
                if status != 206 or start != f"bytes {have}":
                    self.advance(-have)
                    partial.unlink()
                    if status != 200:
                        raise requests.ConnectionError("the server gave another range")
            reply.raise_for_status()
            with partial.open("ab") as file:
                for block in reply.iter_content(BLOCK):
                    file.write(block)
                    self.advance(len(block))


@contextmanager
def network_errors(source: str) -> Iterator[None]:
    """What goes wrong on the way to ``source``, in this library's words.

    Raises:
        DownloadFailed: for every ``requests.RequestException``.
    """
    import requests

    try:
        yield
    except requests.HTTPError as error:
        status = "an error" if error.response is None else f"status {error.response.status_code}"
        raise DownloadFailed(f"{source} answers with {status}.") from error
    except requests.RequestException as error:
        raise DownloadFailed(f"{source} does not answer ({type(error).__name__}).") from error


def _whole(reply: requests.Response) -> int | None:
    """Size of the whole file, by the reply to a range beyond its end."""
    size = reply.headers.get("Content-Range", "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def partial_of(path: Path) -> Path:
    """Where a file grows until it is whole."""
    return path.with_name(path.name + ".partial")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
