"""What a memory held along the document: facts added, changed and dropped, versions compared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reader.answers import Answer, origin_of
from reader.llm.cleaning import sentences
from reader.memory.facts import Fact, FactLog, fact_logs
from reader.memory.store import DATABASE, Store
from reader.trace import Step

if TYPE_CHECKING:
    import os

MOST_ENTRIES = 600
MOST_VERSIONS = 300
MOST_CHARACTERS = 400_000  # of all versions together
NOTES = ("worker", "update")  # purposes of the steps whose reply is the memory that travels on


@dataclass(frozen=True, slots=True)
class Entry:
    """One fact with its versions, the first one first, and what became of it."""

    versions: tuple[Fact, ...]
    state: Literal["kept", "changed", "dropped"]
    left: float
    width: float

    @property
    def last(self) -> Fact:
        """The version that stood last."""
        return self.versions[-1]


@dataclass(frozen=True, slots=True)
class Change:
    """A sentence of a memory: "same", "new", or "lost" (it was in the version before)."""

    kind: Literal["same", "new", "lost"]
    text: str


@dataclass(frozen=True, slots=True)
class Version:
    """A memory after a chunk, sentence by sentence against the version before.

    Attributes:
        chunk: Index of the chunk that was read.
        changes: Its sentences; the lost ones last.
        new: Sentences that were not in the version before.
        lost: Sentences of that which are gone.
    """

    chunk: int | None
    changes: tuple[Change, ...]
    new: int
    lost: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """One path of a run. ``more`` entries and versions are not shown."""

    path: int
    positions: int
    entries: tuple[Entry, ...]
    versions: tuple[Version, ...]
    more: int = 0

    def count(self, state: str) -> int:
        """Entries of that state."""
        return sum(entry.state == state for entry in self.entries)


def timelines(answer: Answer, store: Store | str | os.PathLike[str] | None) -> list[Timeline]:
    """From the store's log of facts; else from the notes of the trace, if one travelled on."""
    found = [
        line for log in _logs(answer, store) if (line := _of_log(log)).entries or line.versions
    ]
    return found or _of_steps(answer.trace.steps)


def _logs(answer: Answer, store: Store | str | os.PathLike[str] | None) -> list[FactLog]:
    if isinstance(store, Store):
        return fact_logs(store, answer.run_id)
    origin = origin_of(answer)
    folder = Path(store) if store is not None else origin.store
    if folder is None or not (folder / DATABASE).exists():
        return []
    with closing(Store(folder)) as opened:
        return fact_logs(opened, answer.run_id if store is not None else origin.run)


def _of_log(log: FactLog) -> Timeline:
    roots: dict[int, list[Fact]] = {}
    for fact in log.all():
        if fact.kind != "memory":
            roots.setdefault(fact.root, []).append(fact)
    last = max(log.done, 1)
    entries = []
    for versions in list(roots.values())[:MOST_ENTRIES]:
        end = versions[-1].ended
        until = last if end is None else max(end, versions[0].pos)
        state = versions[-1].state
        if state == "kept" and len(versions) > 1:
            state = "changed"
        left = 100 * versions[0].pos / last
        width = max(100 * (until - versions[0].pos) / last, 0.6)
        entries.append(Entry(tuple(versions), state, left, width))
    memories = [(fact.chunk, fact.text) for fact in log.all("memory")]
    compared = _compared(memories)
    more = len(roots) - len(entries) + len(memories) - len(compared)
    return Timeline(log.path, last, tuple(entries), tuple(compared), more)


def _of_steps(steps: Sequence[Step]) -> list[Timeline]:
    paths: dict[int, list[tuple[int | None, str]]] = {}
    for step in steps:
        if step.purpose in NOTES and step.chunk is not None and step.text:
            paths.setdefault(step.path, []).append((step.chunk, step.text))
    found = []
    for path, notes in paths.items():
        compared = _compared(notes)
        more = len(notes) - len(compared)
        found.append(Timeline(path, len(notes), (), tuple(compared), more))
    return [line for line in found if line.positions > 1]


def _compared(memories: Sequence[tuple[int | None, str]]) -> list[Version]:
    found: list[Version] = []
    before: dict[str, str] = {}
    left = MOST_CHARACTERS
    for chunk, text in memories[:MOST_VERSIONS]:
        said = {" ".join(text[a:b].split()).casefold(): text[a:b] for a, b in sentences(text)}
        gone = {key: s for key, s in before.items() if key not in said}
        left -= len(text) + sum(map(len, gone.values()))
        if left < 0:
            break
        changes = [Change("same" if k in before else "new", s) for k, s in said.items()]
        changes += [Change("lost", s) for s in gone.values()]
        new = sum(change.kind == "new" for change in changes)
        found.append(Version(chunk, tuple(changes), new, len(gone)))
        before = said
    return found
