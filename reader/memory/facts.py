"""What a run knew at each position: facts added, changed and dropped, never forgotten.

A memory that is rewritten or revised loses things. The log keeps every entry with its quote, its
place in the document, who wrote it and when, and by what it was replaced, so that a run's memory
can be shown as it stood at any position and a fact that was dropped can be found again.

    log = FactLog(store, answer.run_id)
    for fact in log.at(12):            # what the memory held after position 12
        print(fact.id, fact.text)
    log.history(7)                     # all versions of that entry, the first one first
    log.dropped()                      # what was given up without a successor
    log.search("golden key")           # whatever was ever known about it

Operations of one position are one row of the store. A position is a step of the reading (0 for
the first), a path is one of several readings side by side (0 where there is one).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from reader.errors import InvalidOption
from reader.folding import content_words
from reader.memory.store import Store

Kind: TypeAlias = Literal["fact", "memory", "quote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """A new entry.

    Attributes:
        text: The fact, or a memory as a whole.
        by: Who wrote it: "worker", "compaction", ...
        kind: "fact"; "memory" (a whole memory, one version of it); "quote" (kept beside one).
        quote: Words of the document that say so, as the model gave them.
        start: First character of the quote in ``document.text``, None where it was not found.
        end: One past its last character.
    """

    text: str
    by: str
    kind: Kind = "fact"
    quote: str = ""
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A new version of the entry ``id``; fields as for ``Add``."""

    id: int
    text: str
    by: str
    quote: str = ""
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The entry ``id`` is given up; ``reason`` in words."""

    id: int
    by: str
    reason: str = ""


Operation: TypeAlias = Add | Change | Drop
_FORMS: dict[str, type[Add] | type[Change] | type[Drop]] = {
    "add": Add,
    "change": Change,
    "drop": Drop,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One entry.

    Attributes:
        id: From 1, in the order of writing.
        root: Id of the first version of it; a new entry is its own root.
        text: What it says.
        kind: "fact", "memory" or "quote".
        quote: Words of the document that say so, "" without.
        start: First character of the quote in ``document.text``, None where not found.
        end: One past its last character.
        by: Who wrote it.
        pos: Position at which it was written.
        chunk: Index of the chunk that was read there.
        replaces: Id of the version before.
        replaced_by: Id of the next version.
        ended: Position at which it was changed or dropped, None while it stands.
        ended_by: Who did that.
        reason: Why it was dropped.
    """

    id: int
    root: int
    text: str
    kind: Kind
    quote: str
    start: int | None
    end: int | None
    by: str
    pos: int
    chunk: int | None
    replaces: int | None = None
    replaced_by: int | None = None
    ended: int | None = None
    ended_by: str = ""
    reason: str = ""

    @property
    def state(self) -> Literal["kept", "changed", "dropped"]:
        """What became of it in the end."""
        if self.ended is None:
            return "kept"
        return "dropped" if self.replaced_by is None else "changed"


class FactLog:
    """The facts of one path of a run.

    Args:
        store: Where the run is kept.
        run: The run's id, as in ``answer.run_id``.
        path: Which of several readings side by side.
    """

    def __init__(self, store: Store, run: str, path: int = 0) -> None:
        self._store = store
        self._run = run
        self.path = path
        self._rows: dict[int, tuple[int | None, list[Operation]]] = {}
        self._facts: dict[int, Fact] = {}
        self._load()

    @property
    def done(self) -> int:
        """The first position of which nothing is known."""
        return max(self._rows, default=-1) + 1

    def __len__(self) -> int:
        return len(self._facts)

    # Writing -----------------------------------------------------------------------------

    def write(
        self, pos: int, operations: Iterable[Operation] = (), chunk: int | None = None
    ) -> list[Fact]:
        """Carry operations out in order and keep them; returns the entries written.

        Positions come in order; writing at the last one again adds to it. A position at which
        nothing happened is worth writing too: it says how far the log goes.

        Raises:
            InvalidOption: a position before the last one, or an entry that does not stand (any
                more); nothing is kept then.
            StoreError: the store cannot keep it.
        """
        if pos < self.done - 1:
            raise InvalidOption(
                f"Facts of position {pos} come after those of {self.done - 1}.",
                hint="rewind() to it first.",
            )
        operations = list(operations)
        before = self._rows.get(pos)
        chunk = before[0] if before and chunk is None else chunk
        done = [*(before[1] if before else ()), *operations]
        facts = dict(self._facts)
        written = _apply(facts, operations, pos, chunk)
        row = {"chunk": chunk, "operations": [_to_json(o) for o in done]}
        self._store.keep_changes(self._run, self.path, pos, json.dumps(row, separators=(",", ":")))
        self._rows[pos] = chunk, done
        self._facts = facts
        return written

    def rewind(self, pos: int) -> None:
        """Forget positions from ``pos`` on: the reading is done again from there."""
        if pos >= self.done:
            return
        self._store.drop_changes(self._run, self.path, pos)
        self._rows = {p: row for p, row in self._rows.items() if p < pos}
        self._facts = {}
        for at, (chunk, operations) in self._rows.items():
            _apply(self._facts, operations, at, chunk)

    # Reading -----------------------------------------------------------------------------

    def at(self, pos: int | None = None, kind: Kind | None = None) -> list[Fact]:
        """Entries that stood after a position (None: after the last), in order of their roots."""
        facts = (
            f
            for f in self._facts.values()
            if (
                f.ended is None
                if pos is None
                else f.pos <= pos and (f.ended is None or f.ended > pos)
            )
        )
        return sorted(
            (f for f in facts if kind is None or f.kind == kind), key=lambda fact: fact.root
        )

    def all(self, kind: Kind | None = None) -> list[Fact]:
        """Every entry that ever was, in the order of writing."""
        return [f for f in self._facts.values() if kind is None or f.kind == kind]

    def history(self, fact_id: int) -> list[Fact]:
        """All versions of an entry, the first one first; [] where there is no such entry."""
        known = self._facts.get(fact_id)
        return [] if known is None else [f for f in self._facts.values() if f.root == known.root]

    def root(self, fact_id: int) -> int:
        """Id of the first version of an entry; its own where it has none before it."""
        known = self._facts.get(fact_id)
        return fact_id if known is None else known.root

    def dropped(self) -> list[Fact]:
        """Entries that were given up without a successor, in the order of writing."""
        return [f for f in self._facts.values() if f.state == "dropped"]

    def operations(self, pos: int) -> list[Operation]:
        """What happened at a position, in order."""
        return list(self._rows[pos][1]) if pos in self._rows else []

    def written(self, pos: int) -> list[Fact]:
        """Entries written at a position."""
        return [f for f in self._facts.values() if f.pos == pos]

    def search(self, words: str, limit: int = 10) -> list[Fact]:
        """Entries that hold most of the words, those that no longer stand too, best first."""
        wanted = set(content_words(words))
        scored = []
        for fact in self._facts.values():
            held = len(wanted.intersection(content_words(f"{fact.text} {fact.quote}")))
            if held:
                scored.append((-held, len(fact.text), fact.id, fact))
        return [fact for *_, fact in sorted(scored, key=lambda s: s[:3])[:limit]]

    def _load(self) -> None:
        """Read the rows; what cannot be read ends the log there, and is reported."""
        for pos, text in self._store.changes(self._run, self.path):
            try:
                row = json.loads(text)
                operations = [_from_json(o) for o in row["operations"]]
                facts = dict(self._facts)
                _apply(facts, operations, pos, row["chunk"])
            except (ValueError, KeyError, TypeError, AttributeError, InvalidOption):
                self._store.notices.append(
                    f"The facts of a run were damaged in the store; those from position {pos} on"
                    " were dropped."
                )
                self._store.drop_changes(self._run, self.path, pos)
                return
            self._rows[pos] = row["chunk"], operations
            self._facts = facts


def fact_logs(store: Store, run: str) -> list[FactLog]:
    """The logs of all paths of a run."""
    return [FactLog(store, run, path) for path in store.paths_with_facts(run)]


def _apply(
    facts: dict[int, Fact], operations: Iterable[Operation], pos: int, chunk: int | None
) -> list[Fact]:
    written = []
    for operation in operations:
        if isinstance(operation, Drop):
            known = _standing(facts, operation.id)
            ended = replace(known, ended=pos, ended_by=operation.by, reason=operation.reason)
            facts[known.id] = ended
            continue
        new = len(facts) + 1
        before = _standing(facts, operation.id) if isinstance(operation, Change) else None
        if before is not None:
            facts[before.id] = replace(before, ended=pos, ended_by=operation.by, replaced_by=new)
        facts[new] = Fact(
            id=new,
            root=before.root if before else new,
            text=operation.text,
            kind=operation.kind if isinstance(operation, Add) else facts[operation.id].kind,
            quote=operation.quote,
            start=operation.start,
            end=operation.end,
            by=operation.by,
            pos=pos,
            chunk=chunk,
            replaces=before.id if before else None,
        )
        written.append(facts[new])
    return written


def _standing(facts: dict[int, Fact], fact_id: int) -> Fact:
    fact = facts.get(fact_id)
    if fact is None or fact.ended is not None:
        raise InvalidOption(f"There is no entry {fact_id} that could be changed or dropped.")
    return fact


def _to_json(operation: Operation) -> dict[str, Any]:
    name = next(name for name, form in _FORMS.items() if isinstance(operation, form))
    return {"op": name, **asdict(operation)}


def _from_json(value: dict[str, Any]) -> Operation:
    return _FORMS[value["op"]](**{k: v for k, v in value.items() if k != "op"})
