"""Running one strategy on one question: identity, resume, limits, events, result."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from reader.answers import Answer, Coverage, Trace
from reader.budget import Budget, Estimate, Ledger, Price
from reader.chunking import ChunkCache
from reader.documents import Document
from reader.errors import ReaderError
from reader.events import ChunkRead, Done, Emit, RunStarted
from reader.llm.types import ChatModel, ModelInfo
from reader.memory.store import RunRecord, Store
from reader.strategy import Outcome, Reading, Strategy, StrategyOptions, check_budget

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    from reader.llm.limiter import Limiter


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a caller asked for, checked."""

    document: Document
    question: str | None
    choices: tuple[str, ...]
    strategy: type[Strategy[Any]]
    options: StrategyOptions
    budget: Budget | None
    deadline: float | None

    def run_id(self, identity: str) -> str:
        """The same call has the same id: after a crash it resumes, later it is already answered."""
        parts = {
            "document": self.document.sha256,
            "question": self.question,
            "choices": self.choices,
            "strategy": self.strategy.name,
            "options": self.options.model_dump(mode="json", exclude={"concurrency"}),
            "prompts": self.strategy.prompt_versions(),
            "model": identity,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all runs of one ``Reader`` share on one event loop."""

    model: ChatModel
    info: ModelInfo
    spec: str | None
    store: Store
    limiter: Limiter
    price: Price | None
    chunk_cache: ChunkCache = field(default_factory=ChunkCache)


def known_answer(call: Call, store: Store, identity: str) -> Answer | None:
    """The answer of an earlier, complete run of the same call; nothing was paid for it now."""
    record = store.run(call.run_id(identity))
    if record is None or record.answer is None or record.state == "partial":
        return None
    answer = Answer.from_json(record.answer)
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
    return answer.model_copy(update={"usage": fresh})


async def estimate(call: Call, shared: Shared) -> Estimate:
    """What the call would use, without a call."""
    ledger = Ledger(price=shared.price)
    reading = _reading(call, shared, ledger, lambda event: None, shared.model)
    strategy = call.strategy()
    await strategy.prepare(reading)
    return strategy.estimate(reading)


async def execute(call: Call, shared: Shared, emit: Emit) -> Answer:
    """Run the call to its answer.

    Raises:
        ReaderError: with what was spent and the id under which it resumes.
    """
    ledger = Ledger(budget=call.budget, price=shared.price, deadline=call.deadline)
    from reader.llm.stack import build_stack

    model = build_stack(
        shared.model, store=shared.store, ledger=ledger, limiter=shared.limiter, emit=emit
    )
    reading = _reading(call, shared, ledger, emit, model)
    strategy = call.strategy()
    earlier = shared.store.run(reading.run_id)
    resumed = earlier is not None and earlier.state in ("running", "interrupted", "failed")
    try:
        await strategy.prepare(reading)
        reading.estimate = strategy.estimate(reading)
        closing = strategy.closing(reading)
        check_budget(call.budget, closing, reading)
        ledger.keep_for_closing(closing.calls, closing.prompt_tokens, closing.completion_tokens)
        emit(
            RunStarted(
                run_id=reading.run_id,
                strategy=strategy.name,
                model=shared.info.name,
                estimate=reading.estimate,
                resumed=resumed,
            )
        )
        for text in shared.store.notices:
            reading.warn(text)
        shared.store.notices.clear()
        _keep(call, shared, reading, "running", None)
        state = await _drive(strategy, reading, shared, resumed)
        outcome = strategy.outcome(state, reading)
        ledger.depth = outcome.depth
        answer = await _answer(call, shared, reading, outcome)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _keep(call, shared, reading, "interrupted", None)
        raise
    except ReaderError as error:
        error.spent, error.run_id = ledger.usage(), reading.run_id
        if reading.estimate is not None:
            _keep(call, shared, reading, "failed", None)
        raise
    _keep(call, shared, reading, answer.status, answer.to_json())
    shared.store.add_reply_lengths(
        {strategy.length_key(reading, kind): seen for kind, seen in reading.lengths.items()}
    )
    emit(Done(answer=answer))
    return answer


async def _drive(
    strategy: Strategy[Any], reading: Reading, shared: Shared, resumed: bool
) -> dict[str, Any]:
    """Run the state machine, from its last checkpoint where there is one."""
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
        for path, _, note in shared.store.notes(reading.run_id):
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
    else:
        await saver.adelete_thread(reading.run_id)
        shared.store.drop_notes(reading.run_id)
    final: dict[str, Any] = await graph.ainvoke(start, config, context=reading, durability="sync")
    await saver.adelete_thread(reading.run_id)
    return final


@cache
def compiled(strategy: type[Strategy[Any]]) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The strategy's graph, compiled once a process: nodes get their run as context."""
    return strategy().graph().compile()


def _reading(call: Call, shared: Shared, ledger: Ledger, emit: Emit, model: ChatModel) -> Reading:
    return Reading(
        run_id=call.run_id(shared.info.identity),
        document=call.document,
        question=call.question,
        choices=call.choices,
        options=call.options,
        model=model,
        info=shared.info,
        store=shared.store,
        ledger=ledger,
        emit=emit,
        chunk_cache=shared.chunk_cache,
    )


async def _answer(call: Call, shared: Shared, reading: Reading, outcome: Outcome) -> Answer:
    from reader.evidence import cite

    # In a thread: looking up an invented quote in a book would hold up the other questions.
    cited = await asyncio.to_thread(
        cite,
        call.document,
        reading.finder,
        outcome.claims,
        question=call.question or "",
        answer=outcome.text,
    )
    return Answer(
        question=call.question,
        text=outcome.text,
        status=outcome.status,
        citations=cited.citations if outcome.status != "not_found" else (),
        coverage=Coverage(chunks=outcome.chunks),
        usage=reading.ledger.usage(),
        estimate=reading.estimate,
        trace=Trace(
            steps=outcome.steps,
            warnings=tuple(reading.warnings),
            invented_quotes=cited.invented,
            checked_quotes=cited.checked,
            options=call.options.model_dump(mode="json"),
            paths=outcome.paths,
        ),
        strategy=call.strategy.name,
        model=shared.info.name,
        run_id=reading.run_id,
        choice=outcome.choice,
        document=call.document.title,
    )


def _keep(call: Call, shared: Shared, reading: Reading, state: str, answer: str | None) -> None:
    """Write down where the run stands and how to make the same call again."""
    again = {
        "model": shared.spec,
        "strategy": call.strategy.name,
        "choices": list(call.choices),
        "options": call.options.model_dump(mode="json", exclude_unset=True),
    }
    shared.store.keep_run(
        RunRecord(
            id=reading.run_id,
            at=time.time(),
            state=state,
            strategy=call.strategy.name,
            model=shared.info.name,
            document=call.document.title,
            source=call.document.source,
            question=call.question,
            call=again,
            usage=reading.ledger.usage().model_dump(mode="json"),
            answer=answer,
        )
    )
