"""Running one strategy: resume, limits, events, result; for one question or several in a pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from reader.answers import Answer, Coverage, Origin, Trace, remembering
from reader.budget import CallRecord, Estimate, Ledger, Price, Usage, divided
from reader.calls import Call
from reader.chunking import ChunkCache, KeyedLocks
from reader.errors import InvalidOption, ReaderError
from reader.events import ChunkRead, Done, Emit, RunStarted, ignore
from reader.llm.cache import Flight
from reader.llm.types import ChatModel, ModelInfo
from reader.memory.store import RunRecord, Store
from reader.strategy import Closing, Outcome, Reading, Strategy, check_budget

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    from reader.llm.limiter import Limiter


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all runs of one ``Reader`` share on one event loop."""

    model: ChatModel
    info: ModelInfo
    spec: str | None
    store: Store
    limiter: Limiter
    price: Price | None
    keep_prompts: bool = False
    chunk_cache: ChunkCache = field(default_factory=ChunkCache)
    flights: dict[str, Flight] = field(default_factory=dict)
    alone: KeyedLocks = field(default_factory=KeyedLocks)


Machine: TypeAlias = Callable[[Strategy[Any], Reading, Shared, bool], Awaitable[dict[str, Any]]]
"""Runs a strategy's graph to its last state; the flag says that an earlier run goes on."""


def known_answer(call: Call, store: Store, identity: str) -> Answer | None:
    """The answer of an earlier, complete run of the same call; nothing was paid for it now."""
    record = store.run(call.run_id(identity))
    if record is None or record.answer is None or record.state == "partial":
        return None
    try:
        answer = Answer.from_json(record.answer)
    except InvalidOption:  # of another version of the library
        return None
    used = answer.usage
    fresh = used.model_copy(
        update={
            "calls": 0,
            "cached_calls": used.calls + used.cached_calls,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "cached_tokens": 0,
            "failed_calls": 0,
            "seconds": 0.0,
            "cost": None if used.cost is None else 0.0,
        }
    )
    origin = Origin(call.document, store.folder, record.id)
    return remembering(answer.model_copy(update={"usage": fresh}), origin)


async def estimate(call: Call, shared: Shared) -> Estimate:
    """What the call would use, without a call."""
    reading = _reading(call, call.run_id(shared.info.identity), shared, Ledger(price=shared.price))
    strategy = call.strategy()
    await strategy.prepare(reading)
    return strategy.estimate(reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One state machine, prepared: for one call, or for several that are read in one pass.

    Attributes:
        calls: What was asked.
        strategy: The machine's strategy.
        reading: What its nodes get.
        parts: The readings of the single questions; just ``reading`` where there is one.
        closings: What the budget must keep for the end of each part.
        shared: What all runs share.
        emit: Gets the events.
    """

    calls: tuple[Call, ...]
    strategy: Strategy[Any]
    reading: Reading
    parts: tuple[Reading, ...]
    closings: tuple[Closing, ...]
    shared: Shared
    emit: Emit


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
        yield Run(
            calls=calls,
            strategy=strategy,
            reading=reading,
            parts=parts,
            closings=closings,
            shared=shared,
            emit=emit,
        )


async def carry_out(run: Run, machine: Machine | None = None) -> list[Answer]:
    """Run the state machine to the answers, one for each call.

    What the pass as a whole used is divided evenly among the answers, what was used for one
    question is that answer's: the sum over the answers is what was spent.

    Raises:
        ReaderError: with what was spent and the id under which it resumes.
    """
    shared, reading, strategy, store = run.shared, run.reading, run.strategy, run.shared.store
    identity = shared.info.identity
    first = run.calls[0].run_id(identity)
    earlier = [store.run(call.run_id(identity)) for call in run.calls]
    resumed = any(
        e is not None and e.state in ("running", "interrupted", "failed") for e in earlier
    )
    try:
        with reported(reading.ledger, first):
            assert reading.estimate is not None
            run.emit(
                RunStarted(
                    run_id=first,
                    strategy=strategy.name,
                    model=shared.info.name,
                    estimate=reading.estimate,
                    resumed=resumed,
                )
            )
            _warn_of_gaps(run)
            _keep(run, "running")
            state = await (machine or drive)(strategy, reading, shared, resumed)
            _warn_of_gaps(run)
            outcomes = [strategy.outcome(state, part) for part in run.parts]
            answers = await _answers(run, outcomes)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _keep(run, "interrupted")
        raise
    except ReaderError:
        _keep(run, "failed")
        raise
    _keep(run, "", answers)
    for part in {id(r): r for r in (reading, *run.parts)}.values():
        store.add_reply_lengths(
            {strategy.length_key(part, kind): seen for kind, seen in part.lengths.items()}
        )
    for answer in answers:
        run.emit(Done(answer=answer))
    return answers


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


async def _answers(run: Run, outcomes: Sequence[Outcome]) -> list[Answer]:
    """The answers, with what each of them used."""
    for part, outcome in zip(run.parts, outcomes, strict=True):
        part.ledger.depth = outcome.depth
    assert run.reading.estimate is not None
    expected = divided(run.reading.estimate, len(run.parts))
    return [
        await _answer(call, run, part, outcome, usage, estimate)
        for call, part, outcome, usage, estimate in zip(
            run.calls, run.parts, outcomes, _used(run), expected, strict=True
        )
    ]


def _used(run: Run) -> list[Usage]:
    """What was used for each question: its own calls and an even share of the pass."""
    own = [part.ledger.usage() for part in run.parts]
    if run.reading is run.parts[0]:
        return own
    shares = divided(run.reading.ledger.usage(), len(own))
    return [_plus(mine, share) for mine, share in zip(own, shares, strict=True)]


def _plus(own: Usage, share: Usage) -> Usage:
    """What a question used, with its share of the pass; time and depth are its own."""
    counted = {
        name: getattr(own, name) + getattr(share, name)
        for name in Usage.model_fields
        if name not in ("seconds", "depth", "cost")
    }
    cost = None if own.cost is None or share.cost is None else own.cost + share.cost
    return own.model_copy(update={**counted, "cost": cost})


def _replies(run: Run, part: Reading) -> tuple[tuple[CallRecord, ...], tuple[str, ...]]:
    """The replies of a question and of the pass that it is part of, and their prompts if kept."""
    ledgers = {id(ledger): ledger for ledger in (run.reading.ledger, part.ledger)}.values()
    first = min(ledger.started for ledger in ledgers)
    found = []
    for ledger in ledgers:
        prompts = ledger.prompts or [""] * len(ledger.made)
        later = ledger.started - first
        for made, prompt in zip(ledger.made, prompts, strict=True):
            moved = made.model_copy(update={"began": round(made.began + later, 3)})
            found.append((moved, prompt))
    found.sort(key=lambda pair: pair[0].began)
    prompts_kept = tuple(prompt for _, prompt in found) if part.ledger.keep_prompts else ()
    return tuple(made for made, _ in found), prompts_kept


async def _answer(
    call: Call,
    run: Run,
    reading: Reading,
    outcome: Outcome,
    usage: Usage,
    estimate: Estimate,
) -> Answer:
    from reader.evidence import cite

    shared = run.shared
    calls, prompts = _replies(run, reading)
    # In a thread: looking up an invented quote in a book would hold up the other questions.
    cited = await asyncio.to_thread(
        cite,
        call.document,
        reading.finder,
        outcome.claims,
        question=call.question or "",
        answer=outcome.text,
    )
    answer = Answer(
        question=call.question,
        text=outcome.text,
        status=outcome.status,
        citations=cited.citations if outcome.status != "not_found" else (),
        coverage=Coverage(chunks=outcome.chunks),
        usage=usage,
        estimate=estimate,
        trace=Trace(
            steps=outcome.steps,
            warnings=tuple(reading.warnings),
            invented_quotes=cited.invented,
            checked_quotes=cited.checked,
            options=call.options.model_dump(mode="json"),
            paths=outcome.paths,
            calls=calls,
            places=outcome.places,
        ),
        strategy=call.strategy.name,
        model=shared.info.name,
        run_id=call.run_id(shared.info.identity),
        choice=outcome.choice,
        document=call.document.title,
        sha256=call.document.sha256,
    )
    origin = Origin(call.document, shared.store.folder, reading.run_id, prompts)
    return remembering(answer, origin)


def _keep(run: Run, state: str, answers: Sequence[Answer] = ()) -> None:
    """Write down where the run stands and how to make the same call again."""
    used = _used(run)
    for i, (call, part) in enumerate(zip(run.calls, run.parts, strict=True)):
        run_id = call.run_id(run.shared.info.identity)
        if not answers and part.run_id != run_id:
            continue  # the same run is in progress elsewhere, and says where it stands
        again: dict[str, Any] = {
            "model": run.shared.spec,
            "strategy": call.strategy.name,
            "choices": list(call.choices),
            "options": call.options.model_dump(mode="json", exclude_unset=True),
        }
        if call.beside:
            again["beside"] = [[question, list(choices)] for question, choices in call.beside]
        run.shared.store.keep_run(
            RunRecord(
                id=run_id,
                at=time.time(),
                state=answers[i].status if answers else state,
                strategy=call.strategy.name,
                model=run.shared.info.name,
                document=call.document.title,
                source=call.document.source,
                question=call.question,
                call=again,
                usage=(answers[i].usage if answers else used[i]).model_dump(mode="json"),
                answer=answers[i].to_json() if answers else None,
            )
        )
