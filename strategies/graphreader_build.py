"""Building GraphReader's graph: the facts of all chunks in one parallel wave, then the graph.

The facts of each chunk are kept in the store as soon as they are there, the graph once it is
complete: a build that was cut off repeats no finished call, a second question makes none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from reader.chunking import Chunk
from reader.errors import LimitReached, ModelUnavailable
from reader.strategy import Reading

from .atomic_facts import Extraction, extract, facts_without_model
from .fact_graph import Fact, FactGraph, build_graph
from .graphreader_plan import CALL_FAILED, Plan

MAX_FAILURES = 5  # chunks failing one after another: the server is broken, not the chunks
_LARGE = 1 << 16  # characters of a document whose graph is built beside the event loop

T = TypeVar("T")


def kept_graph(reading: Reading) -> FactGraph | None:
    """The graph of an earlier question, None where there is none that can be used."""
    plan: Plan = reading.plan
    payload = reading.store.artifact(plan.graph_key)
    if payload is None:
        return None
    try:
        graph = FactGraph.from_json(payload)
    except ValueError as error:
        reading.warn(f"The kept graph cannot be used and is built anew ({error}).")
        return None
    if any(fact.chunk >= len(reading.chunks) for fact in graph.facts):
        reading.warn("The kept graph is of other chunks and is built anew.")
        return None
    return graph


def missing_facts(reading: Reading) -> list[Chunk]:
    """The chunks that a model has yet to take facts from."""
    if not reading.plan.form.by_model:
        return []
    return [chunk for chunk in reading.chunks if kept_facts(reading, chunk) is None]


def kept_facts(reading: Reading, chunk: Chunk) -> Extraction | None:
    """The facts of a chunk where they were taken before."""
    plan: Plan = reading.plan
    key = plan.form.key(reading.info.identity, reading.text(chunk))
    payload = reading.store.artifact(key)
    return None if payload is None else Extraction.from_json(payload)


async def take_facts(reading: Reading) -> tuple[dict[int, str], int]:
    """Take the facts of all chunks that have none yet, so many at once as the model likes.

    Returns:
        Why chunks failed, by index, and the calls in series. A chunk for which a limit left no
        call has no facts and is not among the failed ones.

    Raises:
        ModelUnavailable: several chunks failed one after another.
        ModelError: one that no other chunk would survive either.
    """
    plan: Plan = reading.plan
    failed: dict[int, str] = {}
    in_a_row = depth = cut_off = 0

    async def one(chunk: Chunk) -> None:
        nonlocal in_a_row, depth, cut_off
        try:
            taken = await extract(reading, plan.form, chunk)
        except LimitReached:
            return
        except CALL_FAILED as error:
            failed[chunk.index] = error.message
            in_a_row += 1
            reading.warn(f"Chunk {chunk.index + 1} is failed: {error.message}")
            reading.step_done()
            if in_a_row >= MAX_FAILURES:
                raise ModelUnavailable(
                    f"{in_a_row} chunks failed one after another, the last one so: {error.message}"
                ) from None
            return
        in_a_row = 0
        depth = max(depth, taken.calls)
        key = plan.form.key(reading.info.identity, reading.text(chunk))
        reading.store.keep_artifact(key, "atomic facts", taken.to_json())
        if taken.level == "forced":
            reading.warn(f"Chunk {chunk.index + 1} gave no atomic facts: its sentences are used.")
        cut_off += taken.level == "repaired"
        reading.step_done()

    at_once = reading.options.concurrency or reading.info.concurrency
    await side_by_side(one, missing_facts(reading), at_once)
    if cut_off:
        reading.warn(
            f"The facts of {cut_off} of {len(reading.chunks)} chunks were cut off at their cap:"
            " the sentences after them are used."
        )
    return failed, depth


async def side_by_side(
    work: Callable[[T], Awaitable[None]], items: Sequence[T], at_once: int
) -> None:
    """Do the work for all items, so many at once; the first failure ends it."""
    left = iter(items)

    async def take() -> None:
        for item in left:
            await work(item)

    takers = [asyncio.create_task(take()) for _ in range(min(at_once, len(items)))]
    try:
        await asyncio.gather(*takers)
    finally:
        for taker in takers:
            taker.cancel()
        await asyncio.gather(*takers, return_exceptions=True)


def graph_of(reading: Reading) -> FactGraph:
    """The run's graph; made again of the facts in the store where a resumed run has none."""
    plan: Plan = reading.plan
    if plan.graph is None:
        plan.graph = kept_graph(reading) or made_graph(reading)
    return plan.graph


def made_graph(reading: Reading) -> FactGraph:
    """The graph of the facts that are in the store, or of the sentences."""
    if reading.plan.form.by_model:
        taken = [kept_facts(reading, chunk) for chunk in reading.chunks]
        said = [() if found is None else found.facts for found in taken]
    else:
        said = facts_without_model([reading.text(chunk) for chunk in reading.chunks])
    facts = [
        Fact(chunk.index, text, elements)
        for chunk, found in zip(reading.chunks, said, strict=True)
        for text, elements in found
    ]
    return build_graph(facts, reading.document.text)


async def finish_graph(reading: Reading, *, complete: bool) -> FactGraph:
    """Make the graph; keep it if no chunk is missing in it."""
    plan: Plan = reading.plan
    if len(reading.document.text) > _LARGE:
        plan.graph = await asyncio.to_thread(made_graph, reading)
    else:
        plan.graph = made_graph(reading)
    if complete:
        reading.store.keep_artifact(plan.graph_key, "fact graph", plan.graph.to_json())
    return plan.graph
