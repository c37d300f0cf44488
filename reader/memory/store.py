"""The folder where everything that must not be paid for twice is kept.

``reader.sqlite`` holds model replies, prepared artifacts, runs, their notes and facts, and the
lengths of replies seen; ``checkpoints.sqlite`` holds LangGraph's checkpoints of unfinished runs.
Both are safe for several processes and threads. A damaged file is moved aside, reported and made
anew; so is a single row, by the checksum that stands in it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reader.errors import StoreError, StoreFull, StoreUnavailable
from reader.memory.claims import Claims, gate
from reader.memory.sealing import sealed, unsealed

if TYPE_CHECKING:
    from reader.memory.checkpoints import CheckpointSaver

SCHEMA_VERSION = 1
DATABASE = "reader.sqlite"
CHECKPOINTS = "checkpoints.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, record TEXT NOT NULL, at REAL NOT NULL)
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS artifacts (
  key TEXT PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
  id TEXT PRIMARY KEY, at REAL NOT NULL, state TEXT NOT NULL, strategy TEXT NOT NULL,
  model TEXT NOT NULL, document TEXT NOT NULL, source TEXT, question TEXT, call TEXT NOT NULL,
  usage TEXT NOT NULL, answer TEXT);
CREATE TABLE IF NOT EXISTS notes (
  run TEXT NOT NULL, path INTEGER NOT NULL, pos INTEGER NOT NULL, note TEXT NOT NULL,
  PRIMARY KEY (run, path, pos)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (
  run TEXT NOT NULL, path INTEGER NOT NULL, pos INTEGER NOT NULL, changes TEXT NOT NULL,
  PRIMARY KEY (run, path, pos)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reply_lengths (
  key TEXT PRIMARY KEY, replies INTEGER NOT NULL, tokens INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the store knows it.

    Attributes:
        id: The run's id; the same call has the same id.
        at: Unix time of its last change, seconds.
        state: "running", "interrupted", "failed", or the status of its answer.
        strategy: Name of the strategy.
        model: Name of the model.
        document: Title of the document.
        source: Absolute path of the document, None for a text from memory.
        question: The question, None for a summary.
        call: The arguments that make the same call again.
        usage: What all attempts at it used; seconds and depth are the last one's.
        answer: The answer as JSON, None while there is none.
    """

    id: str
    at: float
    state: str
    strategy: str
    model: str
    document: str
    source: str | None
    question: str | None
    call: dict[str, Any]
    usage: dict[str, Any]
    answer: str | None


class Store:
    """The store in a folder; ``Store.in_memory()`` keeps nothing after the process.

    Raises:
        StoreUnavailable: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder: Path | None = Path(folder) if folder is not None else default_folder()
        self.notices: list[str] = []
        self._lock = threading.RLock()
        self._saver: CheckpointSaver | None = None
        self._claims = Claims(self.folder)
        self._open()

    @classmethod
    def in_memory(cls) -> Store:
        """A store that is gone with the process."""
        store = cls.__new__(cls)
        store.folder = None
        store.notices = []
        store._lock = threading.RLock()
        store._saver = None
        store._claims = Claims(None)
        store._open()
        return store

    def saver(self) -> CheckpointSaver:
        """LangGraph's saver on the checkpoint file; opened at the first run."""
        with self._lock:
            if self._saver is None:
                from reader.memory.checkpoints import open_saver

                self._saver = open_saver(self)
            return self._saver

    @property
    def checkpoints(self) -> str:
        """Path of the checkpoint file, as SQLite takes it."""
        return ":memory:" if self.folder is None else str(self.folder / CHECKPOINTS)

    def _open(self) -> None:
        if self.folder is None:
            self._db = connect(":memory:")
            self._db.executescript(_SCHEMA)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"The store {self.folder} cannot be made: {error}.") from None
        path = self.folder / DATABASE
        if path.exists():
            with suppress(sqlite3.DatabaseError):
                if self._opened(path) == SCHEMA_VERSION:
                    return
        # One process at a time makes the file, or moves a damaged one aside.
        with _translated(self.folder), gate(self.folder):
            try:
                usable = self._opened(path) in (0, SCHEMA_VERSION)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                usable = False
            if not usable:
                self._quarantine(path)
                self._opened(path)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _opened(self, path: Path) -> int:
        """Open the file and make what it lacks; returns its version, 0 for a new one."""
        with ExitStack() as undo:
            db = connect(path)
            undo.callback(db.close)
            version: int = db.execute("PRAGMA user_version").fetchone()[0]
            if version in (0, SCHEMA_VERSION):
                db.executescript(_SCHEMA)
                self._db = db
                undo.pop_all()
        return version

    def claim(self, run_id: str) -> AbstractContextManager[str]:
        """Say that a run is in progress; gives the id under which it keeps notes and checkpoints.

        That is another one where the same run is in progress already, in whatever process.
        """
        return self._claims.claim(run_id)

    def take_notices(self) -> list[str]:
        """What the store found damaged since it was asked last, in sentences."""
        with self._lock:
            taken = list(dict.fromkeys(self.notices))
            self.notices.clear()
            return taken

    def _whole(self, row: str, what: str) -> str | None:
        """The text of a sealed row; one that is damaged is reported."""
        text = unsealed(row)
        if text is None:
            self.notices.append(
                f"{what} in the store was damaged or of another version; it is made anew."
            )
        return text

    def _quarantine(self, path: Path) -> None:
        """Move a file that cannot be used aside, with its journals."""
        aside = quarantine(path)
        self.notices.append(
            f"The store's file {path.name} was damaged or of another version; it was moved to "
            f"{aside.name} and made anew."
        )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
            if self._saver is not None:
                self._saver.conn.close()

    def _write(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        with self._lock, _translated(self.folder):
            try:
                self._db.execute("BEGIN")
                self._db.executemany(sql, rows)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _write_one(self, sql: str, row: tuple[Any, ...]) -> None:
        with self._lock, _translated(self.folder):
            self._db.execute(sql, row)

    def _read(self, sql: str, row: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._lock, _translated(self.folder):
            return self._db.execute(sql, row).fetchall()

    # Model replies -----------------------------------------------------------------------

    def get(self, key: str) -> str | None:
        """The reply kept under the key, as JSON."""
        rows = self._read("SELECT record FROM replies WHERE key = ?", (key,))
        return self._whole(rows[0][0], "A reply") if rows else None

    def put(self, key: str, record: str) -> None:
        """Keep a reply."""
        row = (key, sealed(record), _now())
        self._write_one("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", row)

    # Prepared artifacts ------------------------------------------------------------------

    def artifact(self, key: str) -> Any | None:
        """What was prepared under the key; None when nothing, or nothing usable, is there."""
        rows = self._read("SELECT payload FROM artifacts WHERE key = ?", (key,))
        text = self._whole(rows[0][0], "A prepared artifact") if rows else None
        return None if text is None else json.loads(text)

    def keep_artifact(self, key: str, kind: str, payload: Any) -> None:
        """Keep something prepared: JSON values only."""
        row = (key, kind, sealed(json.dumps(payload, separators=(",", ":"))), _now())
        self._write_one("INSERT OR REPLACE INTO artifacts VALUES (?, ?, ?, ?)", row)

    # Runs and their notes ----------------------------------------------------------------

    def keep_run(self, run: RunRecord) -> None:
        """Keep the state of a run."""
        self._write_one(
            "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run.id,
                run.at,
                run.state,
                run.strategy,
                run.model,
                run.document,
                run.source,
                run.question,
                json.dumps(run.call),
                json.dumps(run.usage),
                None if run.answer is None else sealed(run.answer),
            ),
        )

    def run(self, run_id: str) -> RunRecord | None:
        """The run of that id, or the only one whose id begins so."""
        found = self._runs("WHERE id = ?", (run_id,))
        if not found and len(run_id) >= 4:
            found = self._runs("WHERE substr(id, 1, ?) = ?", (len(run_id), run_id))
        return found[0] if len(found) == 1 else None

    def runs(self, limit: int = 50) -> list[RunRecord]:
        """The newest runs first."""
        return self._runs("ORDER BY at DESC LIMIT ?", (limit,))

    def _runs(self, clause: str, row: tuple[Any, ...]) -> list[RunRecord]:
        rows = self._read(f"SELECT * FROM runs {clause}", row)  # noqa: S608 (constant clauses)
        found = []
        for r in rows:
            try:
                call, usage = json.loads(r[8]), json.loads(r[9])
            except ValueError:
                self.notices.append(f"The record of run {r[0]} in the store was damaged.")
                continue
            found.append(
                RunRecord(
                    id=r[0],
                    at=r[1],
                    state=r[2],
                    strategy=r[3],
                    model=r[4],
                    document=r[5],
                    source=r[6],
                    question=r[7],
                    call=call,
                    usage=usage,
                    answer=None if r[10] is None else self._whole(r[10], "An answer"),
                )
            )
        return found

    def keep_notes(self, run: str, path: int, notes: Iterable[tuple[int, dict[str, Any]]]) -> None:
        """Keep notes of a run by their position on a path."""
        self._write(
            "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)",
            [(run, path, pos, sealed(json.dumps(note))) for pos, note in notes],
        )

    def notes(self, run: str, path: int | None = None) -> list[tuple[int, int, dict[str, Any]]]:
        """The notes of a run in order: (path, position, note)."""
        clause = "" if path is None else " AND path = ?"
        row: tuple[Any, ...] = (run,) if path is None else (run, path)
        sql = f"SELECT path, pos, note FROM notes WHERE run = ?{clause} ORDER BY path, pos"  # noqa: S608
        found = []
        for at, pos, kept in self._read(sql, row):
            note = self._whole(kept, "A note")
            if note is not None:
                found.append((at, pos, json.loads(note)))
        return found

    def drop_notes(self, run: str) -> None:
        """Forget the notes and facts of a run."""
        self._write_one("DELETE FROM notes WHERE run = ?", (run,))
        self._write_one("DELETE FROM facts WHERE run = ?", (run,))

    # Changes of facts, read and written by ``reader.memory.facts`` ------------------------

    def keep_changes(self, run: str, path: int, pos: int, changes: str) -> None:
        """Keep what happened to the facts of a path at a position, as JSON."""
        row = (run, path, pos, sealed(changes))
        self._write_one("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", row)

    def changes(self, run: str, path: int) -> list[tuple[int, str]]:
        """Positions of a path in order, and what happened to its facts there; "" where damaged."""
        sql = "SELECT pos, changes FROM facts WHERE run = ? AND path = ? ORDER BY pos"
        return [(pos, unsealed(row) or "") for pos, row in self._read(sql, (run, path))]

    def paths_with_facts(self, run: str) -> list[int]:
        """Paths of a run that have facts, in order."""
        sql = "SELECT DISTINCT path FROM facts WHERE run = ? ORDER BY path"
        return [path for (path,) in self._read(sql, (run,))]

    def drop_changes(self, run: str, path: int, first: int) -> None:
        """Forget what happened to the facts of a path from a position on."""
        self._write_one(
            "DELETE FROM facts WHERE run = ? AND path = ? AND pos >= ?", (run, path, first)
        )

    # Reply lengths, for estimates --------------------------------------------------------

    def add_reply_lengths(self, lengths: dict[str, tuple[int, int]]) -> None:
        """Add (replies, tokens) per kind of reply."""
        self._write(
            "INSERT INTO reply_lengths VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
            " replies = replies + excluded.replies, tokens = tokens + excluded.tokens",
            [(key, n, tokens) for key, (n, tokens) in lengths.items()],
        )

    def reply_length(self, key: str) -> tuple[int, float] | None:
        """How many replies of that kind were seen, and their mean length in tokens."""
        rows = self._read("SELECT replies, tokens FROM reply_lengths WHERE key = ?", (key,))
        return (rows[0][0], rows[0][1] / rows[0][0]) if rows and rows[0][0] else None


def default_folder() -> Path:
    """The store's folder when none is named: in the user's cache."""
    import platformdirs

    named = os.environ.get("LONGDOC_READER_STORE")
    if named:
        return Path(named)
    return Path(platformdirs.user_cache_dir("longdoc-reader", appauthor=False)) / "store"


def quarantine(path: Path) -> Path:
    """Move a damaged SQLite file and its journals aside; returns where the file went."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for ending in ("", "-wal", "-shm"):
        part = path.with_name(path.name + ending)
        if part.exists():
            part.replace(aside.with_name(aside.name + ending))
    return aside


def connect(path: str | Path) -> sqlite3.Connection:
    """A connection to one of the store's files, safe beside other processes."""
    # Autocommit: each statement is its own transaction unless one is opened by hand.
    db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
    db.text_factory = lambda data: data.decode("utf-8", "replace")  # damage is found by its seal
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextmanager
def _translated(folder: Path | None) -> Iterator[None]:
    """SQLite's errors as the store's."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise store_error(error, folder) from None


def store_error(error: sqlite3.DatabaseError, folder: Path | None) -> StoreError:
    """The store's error for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"The disk of the store {folder} is full.")
    if _is_damage(error):
        return StoreUnavailable(
            f"The store {folder} is damaged.",
            hint="Call again: it is moved aside and made anew when it is opened.",
        )
    return StoreUnavailable(f"The store {folder} cannot be used: {error}.")


def _now() -> float:
    return time.time()
