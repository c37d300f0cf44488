"""Running one strategy: resume, limits, events, result; for one question or several in a pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from reader.answers import Answer
from reader.budget import Estimate, Ledger, Usage
from reader.calls import Call
from reader.errors import ReaderError, StoreError
from reader.events import ChunkRead, Done, Emit, RunStarted, ignore
from reader.memory.store import RunRecord, Store
from reader.prepared import Run, Shared
from reader.results import answers_of, keep_record
from reader.strategy import Reading, Strategy, check_budget

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

SECONDS_BETWEEN_RECORDS = 5.0
UNFINISHED = ("running", "interrupted", "failed")

Machine: TypeAlias = Callable[[Strategy[Any], Reading, Shared, bool], Awaitable[dict[str, Any]]]
"""Runs a strategy's graph to its last state; the flag says that an earlier run goes on."""


async def estimate(call: Call, shared: Shared) -> Estimate:
    """What the call would use, without a call."""
    reading = _reading(call, call.run_id(shared.info.identity), shared, Ledger(price=shared.price))
    strategy = call.strategy()
    await strategy.prepare(reading)
    return strategy.estimate(reading)


async def execute(call: Call, shared: Shared, emit: Emit, machine: Machine | None = None) -> Answer:
    """Run the call to its answer.

    Args:
        call: What was asked.
        shared: What all runs share.
        emit: Gets the events.
        machine: Runs the graph; ``drive`` by default, which keeps checkpoints in the store.

    Raises:
        ReaderError: with what was spent and the id under which it resumes.
    """
    ledger = Ledger(
        budget=call.budget,
        price=shared.price,
        deadline=call.deadline,
        keep_prompts=shared.keep_prompts,
    )
    async with prepared((call,), shared, emit, ledger) as run:
        with reported(ledger, run.calls[0].run_id(shared.info.identity)):
            check_budget(call.budget, run.closings[0], run.reading)
        [answer] = await carry_out(run, machine)
        return answer


@asynccontextmanager
async def prepared(
    calls: tuple[Call, ...],
    shared: Shared,
    emit: Emit,
    ledger: Ledger,
    listeners: Sequence[Emit] = (),
) -> AsyncIterator[Run]:
    """Claim the run, do its question-free work and set aside what its end needs.

    Args:
        calls: One, or several that are read in one pass.
        shared: What all runs share.
        emit: Gets the events.
        ledger: Counts the run; for several calls it counts all, and each has a part of it.
        listeners: For several calls, what gets the events of each question.

    Raises:
        ReaderError: with what was spent and the id under which it resumes.
    """
    first = calls[0]
    identity = shared.info.identity
    with ExitStack() as stack:
        ids = [stack.enter_context(shared.store.claim(c.run_id(identity))) for c in calls]
        for call, run_id in zip(calls, ids, strict=True):
            if run_id != call.run_id(identity):
                stack.callback(_forget, shared.store, run_id)
        with reported(ledger, first.run_id(identity)):
            form = first.together
            strategy = first.strategy() if form is None else form()
            if form is None:
                reading = _reading(first, ids[0], shared, ledger, emit)
            else:
                reading = one_pass(calls, shared, ledger, ids, emit, listeners)
            parts = reading.parts or (reading,)
            await strategy.prepare(reading)
            reading.estimate = strategy.estimate(reading)
            closings = strategy.closings(reading)
            for part, end in zip(parts, closings, strict=True):
                part.ledger.keep_for_closing(end.calls, end.prompt_tokens, end.completion_tokens)
        before = [shared.store.run(call.run_id(identity)) for call in calls]
        yield Run(
            calls=calls,
            strategy=strategy,
            reading=reading,
            parts=parts,
            closings=closings,
            shared=shared,
            emit=emit,
            resumed=any(record is not None and record.state in UNFINISHED for record in before),
            earlier=tuple(
                _used_before(record if run_id == call.run_id(identity) else None)
                for record, run_id, call in zip(before, ids, calls, strict=True)
            ),
        )


async def carry_out(run: Run, machine: Machine | None = None) -> list[Answer]:
    """Run the state machine to the answers, one for each call.

    What the pass as a whole used is divided evenly among the answers, what was used for one
    question is that answer's: the sum over the answers is what was spent.

    Raises:
        ReaderError: with what was spent and the id under which it resumes.
    """
    shared, reading, strategy, store = run.shared, run.reading, run.strategy, run.shared.store
    first = run.calls[0].run_id(shared.info.identity)
    written = asyncio.create_task(_keep_written(run))
    try:
        with reported(reading.ledger, first):
            assert reading.estimate is not None
            run.emit(
                RunStarted(
                    run_id=first,
                    strategy=strategy.name,
                    model=shared.info.name,
                    estimate=reading.estimate,
                    resumed=run.resumed,
                )
            )
            _warn_of_gaps(run)
            keep_record(run, "running")
            state = await (machine or drive)(strategy, reading, shared, run.resumed)
            _warn_of_gaps(run)
            outcomes = [strategy.outcome(state, part) for part in run.parts]
            answers = await answers_of(run, outcomes)
    except (KeyboardInterrupt, asyncio.CancelledError):
        keep_record(run, "interrupted")
        raise
    except ReaderError:
        keep_record(run, "failed")
        raise
    finally:
        written.cancel()
    keep_record(run, "", answers)
    for part in {id(r): r for r in (reading, *run.parts)}.values():
        store.add_reply_lengths(
            {strategy.length_key(part, kind): seen for kind, seen in part.lengths.items()}
        )
    for answer in answers:
        run.emit(Done(answer=answer))
    return answers


async def _keep_written(run: Run) -> None:
    """Write down from time to time what was used, for a process that is killed."""
    with suppress(StoreError):  # where it cannot write, neither can the run itself
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_RECORDS)
            keep_record(run, "running")


def _used_before(record: RunRecord | None) -> Usage:
    """What unfinished attempts had used."""
    if record is None or record.state not in (*UNFINISHED, "partial"):
        return Usage()
    return Usage.model_validate(record.usage)


@contextmanager
def reported(ledger: Ledger, run_id: str) -> Iterator[None]:
    """Errors say what was spent, and the id under which the run resumes."""
    try:
        yield
    except ReaderError as error:
        error.spent = error.spent or ledger.usage()
        error.run_id = error.run_id or run_id
        raise


def _warn_of_gaps(run: Run) -> None:
    texts = run.shared.store.take_notices()
    document = run.parts[0].document
    blank, pages = document.pages_without_text, len(document.pages)
    if pages and 4 * blank >= pages:  # fewer are the backs of title pages
        texts.append(
            f"{blank} of {pages} pages hold no text. If they are scanned, run text recognition"
            " over the document first."
        )
    for text in texts:
        for part in run.parts:
            part.warn(text)


def _forget(store: Store, run_id: str) -> None:
    """Remove what the second of two equal runs kept for itself."""
    store.drop_notes(run_id)
    store.saver().delete_thread(run_id)


async def drive(
    strategy: Strategy[Any], reading: Reading, shared: Shared, resumed: bool
) -> dict[str, Any]:
    """Run the state machine, from its last checkpoint in the store where there is one."""
    saver = shared.store.saver()
    graph = compiled(type(strategy)).copy(update={"checkpointer": saver})
    config: Any = {
        "recursion_limit": strategy.max_supersteps(reading),
        "configurable": {"thread_id": reading.run_id},
    }
    start: dict[str, Any] | None = strategy.start(reading)
    state = await graph.aget_state(config) if resumed else None
    if state is not None and state.next:
        start = None
        replay(reading)
    else:
        await saver.adelete_thread(reading.run_id)
        for part in reading.parts or (reading,):
            shared.store.drop_notes(part.run_id)
    final: dict[str, Any] = await graph.ainvoke(start, config, context=reading, durability="sync")
    await saver.adelete_thread(reading.run_id)
    return final


def replay(reading: Reading) -> None:
    """Tell the listeners of what an earlier run has read already."""
    for path, _, note in reading.store.notes(reading.run_id):
        if "chunk" not in note:
            continue
        reading.replayed += 1
        reading.emit(
            ChunkRead(
                chunk=note["chunk"],
                start=note["start"],
                end=note["end"],
                outcome=note["outcome"],
                path=path,
            )
        )
    if reading.replayed:
        reading.step_done(reading.replayed)


@cache
def compiled(strategy: type[Strategy[Any]]) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The strategy's graph, compiled once a process: nodes get their run as context."""
    return strategy().graph().compile()


def _reading(
    call: Call, run_id: str, shared: Shared, ledger: Ledger, emit: Emit = ignore
) -> Reading:
    from reader.llm.stack import build_stack

    return Reading(
        run_id=run_id,
        document=call.document,
        question=call.question,
        choices=call.choices,
        options=call.options,
        model=build_stack(
            shared.model,
            store=shared.store,
            ledger=ledger,
            limiter=shared.limiter,
            emit=emit,
            flights=shared.flights,
        ),
        info=shared.info,
        store=shared.store,
        ledger=ledger,
        emit=emit,
        chunk_cache=shared.chunk_cache,
        alone=shared.alone,
    )


def one_pass(
    calls: Sequence[Call],
    shared: Shared,
    ledger: Ledger,
    ids: Sequence[str] = (),
    emit: Emit = ignore,
    listeners: Sequence[Emit] = (),
) -> Reading:
    """The reading of a pass for several questions, with one for each of them in ``parts``."""
    ids = ids or [call.run_id(shared.info.identity) for call in calls]
    reading = _reading(calls[0], ids[0], shared, ledger.part(), emit)
    reading.question, reading.choices = None, ()
    reading.parts = tuple(
        _reading(call, run_id, shared, ledger.part(), heard)
        for call, run_id, heard in zip(calls, ids, listeners or [ignore] * len(calls), strict=True)
    )
    return reading
