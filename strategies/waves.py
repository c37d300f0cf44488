"""Reading many chunks side by side, a wave a superstep.

A wave is a few times as many chunks as there are calls in flight, so that little is idle at its
end, little is in memory, and a run that is killed goes on at the last wave. The note of a chunk is
kept as soon as it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from reader.boundaries import halves
from reader.chunking import Chunk
from reader.coverage import ChunkOutcome, ChunkStatus
from reader.errors import (
    BadReply,
    ContextOverflow,
    LimitReached,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    RequestRefused,
    ServerFailed,
)
from reader.events import ChunkRead
from reader.llm.types import FinishReason
from reader.strategy import Reading
from reader.trace import Step, StepLevel

PIECE_FAILED = (ServerFailed, ModelTimeout, BadReply, RateLimited, RequestRefused)
"""Errors of one call that say nothing about the next one."""
WAVE = 4  # chunks for each call in flight
SMALLEST_WAVE = 8
MAX_FAILURES = 5  # calls failing one after another: the server is broken, not the chunks
MIN_SPLIT = 100  # characters; a shorter text that does not fit is not the text's fault

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a call made of a chunk.

    Attributes:
        outcome: What became of the chunk.
        text: What is noted, "" where it says nothing about the question.
        quotes: Quotes that the model claims, not yet checked.
        places: Where each quote is said to stand: a paragraph, or the chunk.
        tokens: Upper bound of what the note takes in a later prompt.
        calls: Calls in series that it took.
        level: "ok", or what had to be done.
        written: Tokens of the reply.
        finish_reason: As in ``ChatReply``.
        reason: Why the chunk is unread or failed, in words.
    """

    outcome: ChunkOutcome = "read"
    text: str = ""
    quotes: tuple[str, ...] = ()
    places: tuple[tuple[int, int], ...] = ()
    tokens: int = 0
    calls: int = 1
    level: StepLevel = "ok"
    written: int = 0
    finish_reason: FinishReason = "stop"
    reason: str = ""


Ask = Callable[[int, int, int], Awaitable[Piece]]
"""Reads characters ``start`` to ``end`` of about so many tokens."""


@dataclass(slots=True)
class Waves:
    """The chunks of one run on their way."""

    reading: Reading
    ask: Ask
    failures: int = 0
    done: set[int] | None = None

    @property
    def size(self) -> int:
        """Chunks of a wave."""
        return wave_size(self.reading)

    async def read(self, start: int) -> int:
        """Read the wave that begins at a chunk; returns where the next one begins.

        Raises:
            ModelUnavailable: several chunks failed one after another.
            ModelError: one that no other chunk would survive either.
        """
        if self.done is None:  # an interrupted wave may have left notes
            notes = self.reading.store.notes(self.reading.run_id, 0)
            self.done = {position for _, position, _ in notes}
        wave = self.reading.chunks[start : start + self.size]
        todo = [chunk for chunk in wave if chunk.index not in self.done]
        await side_by_side(self._one, todo, calls_at_once(self.reading))
        return start + len(wave)

    async def _one(self, chunk: Chunk) -> None:
        if self.reading.ledger.stopped_by is not None:
            return
        try:
            piece = await self._whole_or_halves(chunk.start, chunk.end, chunk.tokens)
        except LimitReached:
            return
        except PIECE_FAILED as error:
            piece = Piece(outcome="failed", level="failed", reason=error.message)
        reading = self.reading
        note = as_note(chunk, piece)
        reading.store.keep_notes(reading.run_id, 0, [(chunk.index, note)])
        reading.emit(
            ChunkRead(chunk=chunk.index, start=chunk.start, end=chunk.end, outcome=piece.outcome)
        )
        if piece.outcome in ("failed", "unread"):
            reading.warn(f"Chunk {chunk.index + 1} is {piece.outcome}: {piece.reason}.")
        reading.step_done()
        self.failures = self.failures + 1 if piece.outcome == "failed" else 0
        if self.failures >= MAX_FAILURES:
            raise ModelUnavailable(
                f"{self.failures} chunks failed one after another, the last one so: {piece.reason}"
            )

    async def _whole_or_halves(self, start: int, end: int, tokens: int) -> Piece:
        try:
            return await self.ask(start, end, tokens)
        except ContextOverflow:
            if end - start < MIN_SPLIT:
                raise
        # The count was wrong (an estimate, or a template that grew).
        self.reading.warn("A chunk did not fit the model's window and was read in two halves.")
        parts = halves(self.reading.document.text, (start, end), code=False)
        pieces = [await self._whole_or_halves(a, b, tokens // 2 + 1) for a, b in parts]
        return joined(pieces)


def joined(pieces: Sequence[Piece]) -> Piece:
    """The pieces of a chunk that was read in parts, as one."""
    best = next((p for p in pieces if p.outcome == "read"), pieces[0])
    return replace(
        best,
        text="\n".join(p.text for p in pieces if p.text),
        quotes=tuple(quote for p in pieces for quote in p.quotes),
        places=tuple(place for p in pieces for place in p.places),
        tokens=sum(p.tokens for p in pieces),
        calls=sum(p.calls for p in pieces),
        written=sum(p.written for p in pieces),
        level="split",
    )


def wave_size(reading: Reading) -> int:
    """Calls that one superstep makes at most."""
    return max(WAVE * calls_at_once(reading), SMALLEST_WAVE)


def calls_at_once(reading: Reading) -> int:
    """Calls in flight."""
    wanted: int | None = reading.options.concurrency
    return wanted or reading.info.concurrency


async def side_by_side(
    work: Callable[[T], Awaitable[R]], items: Sequence[T], at_once: int
) -> list[R]:
    """Do the work for all items, so many at once; results are in the order of the items.

    Raises:
        BaseException: the first failure; the calls under way are cancelled.
    """
    results: dict[int, R] = {}
    left = iter(enumerate(items))

    async def take() -> None:
        for index, item in left:
            results[index] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(items))):
                group.create_task(take())
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return [results[index] for index in range(len(items))]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def as_note(chunk: Chunk, piece: Piece) -> dict[str, Any]:
    """The piece as the store keeps it."""
    return {
        "chunk": chunk.index,
        "start": chunk.start,
        "end": chunk.end,
        "outcome": piece.outcome,
        "text": piece.text,
        "quotes": list(piece.quotes),
        "places": [list(place) for place in piece.places],
        "tokens": piece.tokens,
        "calls": piece.calls,
        "written": piece.written,
        "finish_reason": piece.finish_reason,
        "level": piece.level,
        "reason": piece.reason,
    }


def chunk_notes(reading: Reading) -> list[dict[str, Any]]:
    """The notes of all chunks that were visited, in their order."""
    return [note for _, _, note in reading.store.notes(reading.run_id, 0)]


def chunk_statuses(reading: Reading, notes: Sequence[dict[str, Any]]) -> tuple[ChunkStatus, ...]:
    """What became of each chunk; those without a note were not visited."""
    of = {note["chunk"]: note for note in notes}
    return tuple(
        ChunkStatus(
            index=c.index,
            start=c.start,
            end=c.end,
            outcome=of[c.index]["outcome"] if c.index in of else "skipped",
            reason=of[c.index]["reason"] if c.index in of else "",
        )
        for c in reading.chunks
    )


def chunk_steps(notes: Iterable[dict[str, Any]], purpose: str) -> tuple[Step, ...]:
    """The calls of the chunks as the trace shows them."""
    return tuple(
        Step(
            purpose=purpose,
            chunk=note["chunk"],
            text=note["text"] or "\n".join(note["quotes"]),
            tokens=note["written"],
            finish_reason=note["finish_reason"],
            level=note["level"],
        )
        for note in notes
    )
