"""MemAgent: a memory of fixed size, overwritten segment after segment, answers alone.

Yu et al., "MemAgent: Reshaping Long-Context LLM with Multi-Conv RL-based Memory Agent", arXiv
2507.02259. The document is cut after every so many tokens; for each segment the model writes the
memory anew from problem, memory and segment; at the end it answers from problem and memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from reader.bm25 import BM25Index
from reader.budget import Estimate
from reader.chunking import Chunk
from reader.errors import LimitReached, ModelUnavailable
from reader.events import ChunkRead, NoteChanged
from reader.evidence import Claim, candidates
from reader.llm.replies import says_nothing_found
from reader.memory.facts import Add, Change, Fact, FactLog, Operation
from reader.prompts import versions
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions, Together
from reader.trace import Step

from .coa import chunk_statuses
from .memagent_answer import close
from .memagent_cost import expected
from .memagent_memory import (
    Memory,
    MemoryWithQuotes,
    Segment,
    holds_nothing,
    read_segment,
    rewrite,
)
from .memagent_plan import PROMPTS, SHOWN_QUOTE_TOKENS, MemAgentOptions, Plan
from .memagent_revisions import Patches, listed, rendered, revise
from .memagent_segments import segments

SLICE_SECONDS = 3.0  # a superstep reads for so long, so that checkpoints never outweigh the calls
MAX_FAILURES = 5  # segments failing one after another: the server is broken, not the segments


class MemoryState(TypedDict, total=False):
    """The whole run. The memory itself is in the log of facts, so this stays as small as it is.

    ``pos`` counts readings: the segments in order, then those of ``again``, the second pass.
    ``size`` are the memory's tokens at most, ``base`` the position of its last compaction.
    """

    pos: int
    size: int
    base: int
    depth: int
    failures: int
    again: list[int]
    result: dict[str, Any]


class MemAgent(Strategy[MemAgentOptions]):
    """A memory under a cap, overwritten segment by segment; the answer comes from it alone."""

    name: ClassVar[str] = "memagent"
    title: ClassVar[str] = "MemAgent"
    source: ClassVar[str] = "Yu et al., 2025, arXiv 2507.02259"
    Options: ClassVar[type[StrategyOptions]] = MemAgentOptions

    @classmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts."""
        return versions(PROMPTS)

    async def prepare(self, reading: Reading) -> None:
        """Compute the room for a segment and cut the document."""
        reading.plan = plan = Plan(reading)
        form = Patches if plan.revises else MemoryWithQuotes if plan.options.quotes else None
        size = await plan.measure(form)
        reading.chunks = await segments(
            reading.store,
            reading.document.sha256,
            reading.document.text,
            reading.info.counter,
            size,
            align=plan.options.align,
        )

    def estimate(self, reading: Reading) -> Estimate:
        """n + 1 calls, all in series; a gate adds n and spares rewrites."""
        return expected(reading, lambda kind: self.length_key(reading, kind))

    def closing(self, reading: Reading) -> Closing:
        """The last call; asking again for an answer's form is left out where nothing is left."""
        plan: Plan = reading.plan
        options = plan.options
        quotes = SHOWN_QUOTE_TOKENS + 64 if options.quotes or plan.revises else 0
        largest = max(chunk.tokens for chunk in reading.chunks)
        return Closing(
            calls=1,
            prompt_tokens=plan.final_tokens + 2 * plan.memory_tokens + quotes + 16,
            completion_tokens=plan.answer_tokens,
            read_prompt_tokens=max(plan.fixed_tokens, plan.gate_tokens) + int(largest * 1.03) + 16,
            read_completion_tokens=plan.reply_tokens,
        )

    def length_key(self, reading: Reading, kind: str) -> str:
        """Lengths depend on model, words, mode and cap."""
        plan: Plan = reading.plan
        options = plan.options
        cap = plan.answer_tokens if kind == "final" else plan.memory_tokens
        form = f"{options.mode}/{options.quotes}/{options.gate}/{plan.final_form.name}"
        return f"memagent|{reading.info.identity}|{versions(PROMPTS)}|{form}|{kind}|{cap}"

    def start(self, reading: Reading) -> dict[str, Any]:
        """Nothing is known at the start."""
        return {"pos": 0, "size": 0, "base": -1, "depth": 0, "failures": 0, "again": []}

    def max_supersteps(self, reading: Reading) -> int:
        """A superstep a segment at most, and once more for a second pass."""
        return 2 * len(reading.chunks) + 20

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """update (loop) -> final, and from there once back for a second pass."""
        graph = StateGraph(MemoryState, context_schema=Reading)
        graph.add_node("update", update, destinations=("update", "final"))
        graph.add_node("final", final, destinations=("update", END))
        graph.add_edge(START, "update")
        return graph

    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """Citations from the log of facts, coverage from the notes."""
        result = state["result"]
        plan: Plan = reading.plan
        notes = [note for _, _, note in reading.store.notes(reading.run_id)]
        chunks = chunk_statuses(reading.chunks, notes)
        incomplete = any(c.outcome in ("skipped", "failed") for c in chunks)
        status: Literal["answered", "not_found", "partial"] = "answered"
        if incomplete or not result["closed"]:
            status = "partial"
        elif says_nothing_found(result["answer"]):
            status = "not_found"
        end = Step(purpose="final", text=result["reply"])
        return Outcome(
            text=result["answer"],
            status=status,
            chunks=chunks,
            claims=claims(plan.log, reading.chunks, notes),
            steps=(*map(step, notes), end) if result["reply"] else tuple(map(step, notes)),
            choice=result["choice"],
            depth=state["depth"] + result["calls"],
        )

    @classmethod
    def together(cls, options: MemAgentOptions) -> type[Together[Any]] | None:
        """Memories that are overwritten, and no more than that, are kept for several problems."""
        from .memagent_many import MemoriesForMany

        more = options.gate or options.quotes or options.second_pass
        return MemoriesForMany if options.mode == "overwrite" and not more else None


async def update(state: MemoryState, runtime: Runtime[Reading]) -> Command[Any]:
    """Read on: one segment after the other, for about a second."""
    reading = runtime.context
    plan: Plan = reading.plan
    log, again = plan.log, state["again"]
    # A crash leaves the log ahead of the checkpoint, or behind it; kept replies cost nothing.
    pos = min(state["pos"], log.done)
    log.rewind(pos)
    memory = Memory(text=current(plan, state["base"]), tokens=state["size"], base=state["base"])
    depth, failures = state["depth"], state["failures"]
    last = len(reading.chunks) + len(again)
    notes: list[tuple[int, dict[str, Any]]] = []
    until = time.monotonic() + SLICE_SECONDS
    try:
        while pos < last and reading.ledger.stopped_by is None:
            chunk = segment_at(reading, pos, again)
            try:
                after = await read(reading, memory, chunk, pos)
            except LimitReached:
                log.rewind(pos)
                break
            notes.append((pos, as_note(chunk, after)))
            tell(reading, chunk, memory, after)
            failures = failures + 1 if after.outcome == "failed" else 0
            if failures >= MAX_FAILURES:
                raise ModelUnavailable(
                    f"{failures} segments failed one after another, the last one so: {after.reason}"
                )
            memory, depth, pos = after, depth + after.calls, pos + 1
            if time.monotonic() > until:
                break
    finally:
        reading.store.keep_notes(reading.run_id, 0, notes)
    go_on = pos < last and reading.ledger.stopped_by is None
    return Command(
        goto="update" if go_on else "final",
        update={
            "pos": pos,
            "size": memory.tokens,
            "base": memory.base,
            "depth": depth,
            "failures": failures,
        },
    )


def current(plan: Plan, base: int) -> str:
    """The memory as the log has it at its end."""
    if plan.revises:
        return rendered(plan.log, base)
    known = plan.log.at(kind="memory")
    return known[0].text if known else ""


def segment_at(reading: Reading, pos: int, again: Sequence[int]) -> Chunk:
    """The segment that is read at a position."""
    n = len(reading.chunks)
    return reading.chunks[pos if pos < n else again[pos - n]]


async def read(reading: Reading, before: Memory, chunk: Chunk, pos: int) -> Memory:
    """Read one segment in the run's mode, and write down what changed."""
    plan: Plan = reading.plan
    segment = Segment(chunk.start, chunk.end, chunk.tokens, again=pos >= len(reading.chunks))
    if not plan.revises:
        after = await read_segment(reading, before, segment, partial(rewrite, reading, plan))
        plan.log.write(pos, changes(plan, before, after, chunk), chunk.index)
        reading.saw_reply("memory", after.tokens)
        return after
    one = partial(revise, reading, plan, pos=pos, chunk=chunk.index)
    after = await read_segment(reading, before, segment, one)
    plan.log.write(pos, (), chunk.index)
    if after.outcome == "failed":  # perhaps after its first half had changed something
        text = rendered(plan.log, before.base)
        grown = plan.reply_tokens * (text != before.text)
        return replace(after, text=text, tokens=before.tokens + grown)
    return after


def changes(plan: Plan, before: Memory, after: Memory, chunk: Chunk) -> list[Operation]:
    """A new version of the memory, and the quotes that stand in the document."""
    found: list[Operation] = []
    if after.text != before.text:
        known = plan.log.at(kind="memory")
        found.append(
            Change(id=known[0].id, text=after.text, by="update")
            if known
            else Add(text=after.text, by="update", kind="memory")
        )
    places = {(f.start, f.end) for f in plan.log.at(kind="quote")}
    for quote in after.quotes:
        place = plan.verified(quote, (chunk.start, chunk.end))
        if place is not None and place not in places:
            places.add(place)
            text = plan.reading.document.text[place[0] : place[1]]
            found.append(
                Add(text=text, by="update", kind="quote", quote=quote, start=place[0], end=place[1])
            )
    return found


def tell(reading: Reading, chunk: Chunk, before: Memory, after: Memory) -> None:
    """What the listeners hear about one segment."""
    reading.emit(
        ChunkRead(chunk=chunk.index, start=chunk.start, end=chunk.end, outcome=after.outcome)
    )
    if after.text != before.text:
        reading.emit(NoteChanged(chunk=chunk.index, text=after.text))
    if after.outcome in ("failed", "unread"):
        reading.warn(f"Segment {chunk.index + 1} is {after.outcome}: {after.reason}.")
    reading.step_done(max(after.calls, 1))


async def final(state: MemoryState, runtime: Runtime[Reading]) -> Command[Any]:
    """Answer from the memory alone; a second pass first, or after it, where nothing is found."""
    reading = runtime.context
    plan: Plan = reading.plan
    memory = listed(plan.log.at(kind="fact")) if plan.revises else current(plan, state["base"])
    fresh = plan.options.second_pass and not state["again"]
    may_read = fresh and reading.ledger.stopped_by is None and state["pos"] >= len(reading.chunks)
    if may_read and holds_nothing(memory) and (again := to_read_again(reading)):
        return Command(goto="update", update={"again": again})
    end = await close(reading, memory, state["size"])
    unknown = may_read and end.closed and says_nothing_found(end.answer)
    if unknown and (again := to_read_again(reading)):
        return Command(goto="update", update={"again": again, "depth": state["depth"] + end.calls})
    result = {
        "answer": end.answer,
        "choice": end.choice,
        "closed": end.closed,
        "calls": end.calls,
        "reply": end.reply,
    }
    return Command(goto=END, update={"result": result})


def to_read_again(reading: Reading) -> list[int]:
    """Unread and failed segments and those most similar to the problem, in order; perhaps none."""
    plan: Plan = reading.plan
    notes = [note for _, _, note in reading.store.notes(reading.run_id)]
    missed = {note["chunk"] for note in notes if note["outcome"] != "read"}
    index = BM25Index([reading.text(chunk) for chunk in reading.chunks])
    ranked = index.rank(plan.problem, plan.options.second_pass_chunks)
    return sorted(missed | {i for i, _ in ranked})


def claims(
    log: FactLog, chunks: Sequence[Chunk], notes: Sequence[dict[str, Any]]
) -> tuple[Claim, ...]:
    """What the model quoted, the facts that stand, and what the last memory says.

    A sentence of the last memory is looked for in the segment at which it was first written.
    """
    found = [
        Claim(quote=quote, within=(note["start"], note["end"]))
        for note in notes
        for quote in note["quotes"]
    ]
    found += [
        Claim(fact.text, claimed=False, within=_within(fact, chunks))
        for fact in log.at(kind="fact")
    ]
    versions_of_memory = log.all("memory")
    for memory in log.at(kind="memory"):
        for candidate in candidates(memory.text):
            first = next((m for m in versions_of_memory if candidate.text in m.text), memory)
            found.append(Claim(candidate.text, candidate.claimed, _within(first, chunks)))
    return tuple(found)


def _within(fact: Fact, chunks: Sequence[Chunk]) -> tuple[int, int] | None:
    return None if fact.chunk is None else (chunks[fact.chunk].start, chunks[fact.chunk].end)


def as_note(chunk: Chunk, memory: Memory) -> dict[str, Any]:
    """The reading of one segment as the store keeps it; the memory is in the log of facts."""
    return {
        "chunk": chunk.index,
        "start": chunk.start,
        "end": chunk.end,
        "outcome": memory.outcome,
        "text": memory.said,
        "written": memory.written,
        "finish_reason": memory.finish_reason,
        "level": memory.level,
        "reason": memory.reason,
        "quotes": list(memory.quotes),
    }


def step(note: dict[str, Any]) -> Step:
    """One segment's call as the trace shows it."""
    return Step(
        purpose="update",
        chunk=note["chunk"],
        text=note["text"],
        tokens=note["written"],
        finish_reason=note["finish_reason"],
        level=note["level"],
    )
