"""What the store's folder holds, and making it smaller without harm to a run in progress.

Rows are deleted a few at a time at the store's gate, where runs are claimed: a run that begins in
between finds what it finds. What a run in progress (in any process) may still read is left alone:
all that was prepared, its own notes and checkpoints, and replies that came since it began.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reader.errors import StoreUnavailable
from reader.memory.claims import ASIDE, claimed, gate
from reader.memory.store import CHECKPOINTS, DATABASE, connect, store_error
from reader.memory.vectors import FOLDER as VECTORS

ROUNDS = 3  # of removing what is too much: rows are not all of a file
BATCH = 500  # rows deleted while the gate is held
YOUNG = 3600.0  # seconds; a file that nothing points to may be about to be
ROW_BYTES = 64  # of a row, beside its texts
_ENDED = ("answered", "not_found", "partial")
_SIZES = {
    "replies": "SELECT count(*), sum(length(key) + length(record)) FROM replies",
    "notes": "SELECT count(*), sum(length(note)) FROM notes",
    "facts": "SELECT count(*), sum(length(changes)) FROM facts",
    "runs": "SELECT count(*), sum(length(call) + coalesce(length(answer), 0)) FROM runs",
}


@dataclass(frozen=True, slots=True)
class Size:
    """So many rows (or files), and bytes of their texts."""

    count: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is in a store.

    Attributes:
        folder: Where it is.
        kinds: Rows by kind; "artifact: KIND" for what strategies prepared.
        files: Bytes of each file; "vectors" for all of that folder.
        running: Runs in progress, in any process.
    """

    folder: Path
    kinds: dict[str, Size]
    files: dict[str, int]
    running: int

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())


@dataclass(slots=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        kinds: Rows and files by kind.
        freed: Bytes by which the folder's files shrank; 0 in a dry run.
        running: Runs in progress; what they may read was kept.
        notes: What could not be done, in sentences.
    """

    kinds: dict[str, Size] = field(default_factory=dict)
    freed: int = 0
    running: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(size.bytes for size in self.kinds.values())

    def add(self, kind: str, count: int, size: int) -> None:
        """Count what goes."""
        known = self.kinds.get(kind, Size())
        if count:
            self.kinds[kind] = Size(known.count + count, known.bytes + size)


def contents(folder: Path) -> Contents:
    """Sizes by kind.

    Raises:
        StoreUnavailable: there is no store, or it cannot be read.
    """
    kinds: dict[str, Size] = {}
    with _opened(folder, DATABASE) as db:
        for kind, sql in _SIZES.items():
            kinds[kind] = _size(db.execute(sql).fetchone())
        prepared = db.execute(
            "SELECT kind, count(*), sum(length(key) + length(payload)) FROM artifacts"
            " GROUP BY kind ORDER BY kind"
        )
        kinds |= {f"artifact: {kind}": _size((n, size)) for kind, n, size in prepared}
    with _opened(folder, CHECKPOINTS) as db:
        if _has_checkpoints(db):
            sql = (
                "SELECT (SELECT count(*) FROM checkpoints),"
                " (SELECT coalesce(sum(length(checkpoint)), 0) FROM checkpoints)"
                " + (SELECT coalesce(sum(length(value)), 0) FROM writes)"
            )
            kinds["checkpoints"] = _size(db.execute(sql).fetchone())
    with gate(folder):
        running = len(claimed(folder))
    return Contents(folder=folder, kinds=kinds, files=_files(folder), running=running)


def prune(
    folder: Path,
    *,
    older_than: float | None = None,
    max_bytes: int | None = None,
    keep_runs: int = 0,
    dry_run: bool = False,
) -> Pruned:
    """Remove what nothing needs any more, what is old, and what is too much.

    Without limits only remains go: notes and checkpoints of no run or of an ended one, vectors
    that no row names, files that were moved aside as damaged.

    Args:
        folder: The store.
        older_than: Seconds; replies, prepared artifacts and runs made longer ago go.
        max_bytes: What is oldest goes until the files together are no larger.
        keep_runs: So many of the newest runs stay with their notes, whatever their age.
        dry_run: Only count.

    Raises:
        StoreUnavailable: there is no store, or it cannot be written to.
    """
    done = Pruned()
    before = sum(_files(folder).values())
    with _opened(folder, DATABASE) as db, _opened(folder, CHECKPOINTS) as checkpoints:
        work = _Work(folder, db, checkpoints, done, keep_runs, dry_run)
        if older_than is not None:
            work.before(time.time() - older_than)
        work.remains()
        if not dry_run:
            work.shrink()
        for _ in range(1 if dry_run else ROUNDS):
            size = before - done.bytes if dry_run else sum(_files(folder).values())
            cutoff = None if max_bytes is None else work.cutoff(size - max_bytes)
            if cutoff is None:
                break
            work.before(cutoff)
            work.remains()
            if not dry_run:
                work.shrink()
    if not dry_run:
        done.freed = max(before - sum(_files(folder).values()), 0)
    return done


class _Work:
    def __init__(
        self,
        folder: Path,
        db: sqlite3.Connection,
        checkpoints: sqlite3.Connection,
        done: Pruned,
        keep_runs: int,
        dry_run: bool,
    ) -> None:
        self.folder, self.db, self.checkpoints = folder, db, checkpoints
        self.done, self.keep_runs, self.dry_run = done, keep_runs, dry_run

    def before(self, cutoff: float) -> None:
        """Everything made before that time (Unix)."""
        self.rows("replies", cutoff)
        self.rows("artifacts", cutoff)
        self.runs(cutoff)

    def _running(self) -> dict[str, float]:
        """Runs in progress; asked anew each time the gate is held."""
        running = claimed(self.folder)
        self.done.running = max(self.done.running, len(running))
        return running

    def rows(self, table: str, cutoff: float) -> None:
        """Replies or artifacts made before that time."""
        text = {"replies": "record", "artifacts": "payload"}[table]
        kind = "'replies'" if table == "replies" else "'artifact: ' || kind"
        while True:
            with gate(self.folder):
                running = self._running()
                if running and table == "artifacts":
                    return
                until = min([cutoff, *running.values()])
                found = self.db.execute(
                    f"SELECT key, {kind}, length(key) + length({text}) FROM {table}"  # noqa: S608
                    " WHERE at < ? ORDER BY at LIMIT ?",
                    (until, BATCH if not self.dry_run else -1),
                ).fetchall()
                for _, name, size in found:
                    self.done.add(name, 1, size + ROW_BYTES)
                if self.dry_run or not found:
                    return
                with self._at_once(self.db):
                    self.db.executemany(
                        f"DELETE FROM {table} WHERE key = ?",  # noqa: S608
                        [(key,) for key, *_ in found],
                    )

    def runs(self, cutoff: float) -> None:
        """Runs that changed last before that time, with all that is theirs."""
        with gate(self.folder):
            running = {name.split(ASIDE)[0] for name in self._running()}
            newest = self.db.execute(
                "SELECT id FROM runs ORDER BY at DESC LIMIT ?", (self.keep_runs,)
            )
            kept = running | {run for (run,) in newest}
            old = self.db.execute(
                "SELECT id, length(call) + coalesce(length(answer), 0) FROM runs WHERE at < ?",
                (cutoff,),
            ).fetchall()
            gone = [(run, size) for run, size in old if run not in kept]
            for _, size in gone:
                self.done.add("runs", 1, size + ROW_BYTES)
            ids = [(run,) for run, _ in gone]
            for table, text in (("notes", "note"), ("facts", "changes")):
                self._theirs(table, text, ids)
            if not self.dry_run:
                with self._at_once(self.db):
                    self.db.executemany("DELETE FROM runs WHERE id = ?", ids)
                self._threads({run for run, _ in gone})

    def _theirs(self, table: str, text: str, ids: list[tuple[str]]) -> None:
        for run in ids:
            sql = f"SELECT count(*), sum(length({text})) FROM {table} WHERE run = ?"  # noqa: S608
            size = _size(self.db.execute(sql, run).fetchone())
            self.done.add(table, size.count, size.bytes)
        if not self.dry_run:
            with self._at_once(self.db):
                self.db.executemany(f"DELETE FROM {table} WHERE run = ?", ids)  # noqa: S608

    def cutoff(self, excess: int) -> float | None:
        """The time before which rows make up so many bytes; None where nothing must go."""
        if excess <= 0:
            return None
        total, cutoff = 0, None
        rows = self.db.execute(
            "SELECT at, length(key) + length(record) FROM replies UNION ALL"
            " SELECT at, length(key) + length(payload) FROM artifacts UNION ALL"
            " SELECT at, length(call) + coalesce(length(answer), 0) FROM runs ORDER BY 1"
        )
        for at, size in rows:
            total, cutoff = total + size + ROW_BYTES, at + 1e-6
            if total >= excess:
                break
        return cutoff

    def remains(self) -> None:
        """What no run and no row points to."""
        with gate(self.folder):
            running = self._running()
            known: dict[str, str] = dict(self.db.execute("SELECT id, state FROM runs"))
            for table, text in (("notes", "note"), ("facts", "changes")):
                owners = self.db.execute(f"SELECT DISTINCT run FROM {table}").fetchall()  # noqa: S608
                self._theirs(table, text, [o for o in owners if o[0] not in {*known, *running}])
            unfinished = {run for run, state in known.items() if state not in _ENDED}
            if _has_checkpoints(self.checkpoints):
                threads = self.checkpoints.execute("SELECT DISTINCT thread_id FROM checkpoints")
                self._threads({t for (t,) in threads} - unfinished - set(running))
            named = {
                key
                for (key,) in self.db.execute(
                    'SELECT substr(payload, instr(payload, \'"sha256":"\') + 10, 64)'
                    " FROM artifacts WHERE kind = 'vectors'"
                )
            }
            for path in (self.folder / VECTORS).glob("*"):
                if path.stem not in named and (not running or path.suffix == ".new"):
                    self._file("vector files", path)
        for path in self.folder.glob("*.damaged-*"):
            self._file("damaged files", path, young=0.0)

    def _file(self, kind: str, path: Path, young: float = YOUNG) -> None:
        try:
            state = path.stat()
        except FileNotFoundError:
            return
        if time.time() - state.st_mtime < young:
            return
        self.done.add(kind, 1, state.st_size)
        if not self.dry_run:
            path.unlink(missing_ok=True)

    def _threads(self, threads: set[str]) -> None:
        """Checkpoints of these runs."""
        if not _has_checkpoints(self.checkpoints):
            return
        rows = [(thread,) for thread in sorted(threads)]
        for row in rows:
            sql = "SELECT count(*), sum(length(checkpoint)) FROM checkpoints WHERE thread_id = ?"
            size = _size(self.checkpoints.execute(sql, row).fetchone())
            self.done.add("checkpoints", size.count, size.bytes)
        if not self.dry_run:
            with self._at_once(self.checkpoints):
                self.checkpoints.executemany("DELETE FROM checkpoints WHERE thread_id = ?", rows)
                self.checkpoints.executemany("DELETE FROM writes WHERE thread_id = ?", rows)

    @contextmanager
    def _at_once(self, db: sqlite3.Connection) -> Iterator[None]:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def shrink(self) -> None:
        """Give free pages back to the disk, where nobody is in the way."""
        for name, db in ((DATABASE, self.db), (CHECKPOINTS, self.checkpoints)):
            try:
                db.execute("VACUUM")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.OperationalError as error:
                self.done.notes.append(f"{name} could not be made smaller now: {error}.")


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[sqlite3.Connection]:
    """A file of the store; a checkpoint file that is not there yet is an empty one in memory."""
    path = folder / name
    if name == DATABASE and not path.is_file():
        raise StoreUnavailable(f"There is no store at {folder}.", hint="Pass --store FOLDER.")
    try:
        with closing(connect(path if path.is_file() else ":memory:")) as db:
            yield db
    except sqlite3.DatabaseError as error:
        raise store_error(error, folder) from None


def _has_checkpoints(db: sqlite3.Connection) -> bool:
    sql = "SELECT count(*) FROM sqlite_master WHERE name IN ('checkpoints', 'writes')"
    return bool(db.execute(sql).fetchone()[0] == 2)


def _size(row: tuple[int, int | None]) -> Size:
    return Size(row[0], int(row[1] or 0))


def _files(folder: Path) -> dict[str, int]:
    """Bytes of the store's files by name; the vectors as one."""
    found = {p.name: p.stat().st_size for p in sorted(folder.glob("*")) if p.is_file()}
    vectors = sum(p.stat().st_size for p in (folder / VECTORS).glob("*") if p.is_file())
    return found | ({VECTORS: vectors} if vectors else {})
