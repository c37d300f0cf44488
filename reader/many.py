"""Several questions about one document: read once for all where the method can, else side by side.

One ledger holds the limits of all; each question counts in a part of it, and what one keeps for
its closing call is out of reach of the others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TypeVar

from reader.answers import Answer
from reader.budget import Estimate, Ledger
from reader.calls import Call
from reader.errors import ReaderError
from reader.events import (
    AnswerToken,
    ChunkRead,
    Emit,
    Event,
    NoteChanged,
    Progress,
    UsageChanged,
    ignore,
)
from reader.memory.store import Store
from reader.prepared import Run, Shared
from reader.results import known_answer
from reader.run import carry_out, one_pass, prepared
from reader.run import estimate as estimate_one
from reader.strategy import Closing, check_budget

T = TypeVar("T")


def known_answers(calls: Sequence[Call], store: Store, identity: str) -> list[Answer | None]:
    """What is answered already. Questions that are read together are known together or not."""
    known = [known_answer(call, store, identity) for call in calls]
    whole = calls[0].together is None or None not in known
    return known if whole else [None] * len(known)


async def execute_many(calls: Sequence[Call], shared: Shared, emit: Emit) -> list[Answer]:
    """Run different calls about one document to their answers, in their order.

    Budget and deadline are those of all of them together.

    Raises:
        ReaderError: with what all of them spent, and the id of one that resumes.
    """
    first = calls[0]
    whole = Ledger(
        budget=first.budget,
        price=shared.price,
        deadline=first.deadline,
        keep_prompts=shared.keep_prompts,
    )
    at_once = shared.limiter.max_concurrency
    whole.keep_for_closing(0, 0, 0, rounds=math.ceil(len(calls) / at_once))
    crowd = _Crowd(emit, whole)
    slots = asyncio.Semaphore(at_once)
    notice = _why_alone(calls)

    async def ready(stack: AsyncExitStack, group: Sequence[Call]) -> Run:
        first = group[0]
        if len(group) > 1:
            parts = [crowd.part(call) for call in group]
            work = prepared(tuple(group), shared, crowd.run(first), whole, parts)
        else:
            heard = crowd.question(first, crowd.run(first))
            work = prepared((first,), shared, heard, whole.part())
        run = await stack.enter_async_context(work)
        if notice:
            run.reading.warn(notice)
        return run

    async def finish(group: Sequence[Call], run: Run | None) -> dict[int, Answer]:
        async with slots, AsyncExitStack() as stack:
            made = run or await ready(stack, group)
            answers = await carry_out(made)
            for part in made.parts:  # what its end did not need is there for the others
                part.ledger.keep_for_closing(0, 0, 0)
        return {call.place: answer for call, answer in zip(group, answers, strict=True)}

    try:
        groups = await _groups(calls, shared)
        found = {
            group[0].place: known
            for group in groups
            if len(group) == 1
            and not shared.keep_prompts
            and (known := known_answer(group[0], shared.store, shared.info.identity))
        }
        groups = [group for group in groups if group[0].place not in found]
        async with AsyncExitStack() as stack:
            runs: list[Run | None] = [None] * len(groups)
            if first.budget is not None and groups:
                # The end of every question is set aside before anything is read.
                made = [await ready(stack, group) for group in groups]
                check_budget(first.budget, _all_of(made), made[0].reading)
                runs = [*made]
            for answers in await _all(
                [finish(group, run) for group, run in zip(groups, runs, strict=True)]
            ):
                found |= answers
    except ReaderError as error:
        error.spent = whole.usage()
        error.run_id = error.run_id or first.run_id(shared.info.identity)
        raise
    return [found[call.place] for call in calls]


async def estimate_many(calls: Sequence[Call], shared: Shared) -> Estimate:
    """What the calls would use together, without a call; what knows no question counts once."""
    ledger = Ledger(price=shared.price)
    groups = await _groups(calls, shared)
    found = []
    for number, group in enumerate(groups):
        if len(group) > 1:
            form = group[0].together
            assert form is not None
            reading = one_pass(group, shared, ledger)
            strategy = form()
            await strategy.prepare(reading)
            found.append(strategy.estimate(reading))
            continue
        one = await estimate_one(group[0], shared)
        found.append(one if number == 0 else _without_preparation(one, shared))
    together = sum(len(group) for group in groups if len(group) > 1)
    how = "each read by itself"
    if together:
        passes = len(groups)
        how = f"read together in {passes} pass{'es' if passes > 1 else ''}"
    return _sum(found, f"{found[0].basis}; {len(calls)} questions, {how}")


async def _groups(calls: Sequence[Call], shared: Shared) -> list[list[Call]]:
    """The calls that are read in one pass each; a pass for one question is a plain run."""
    form = calls[0].together
    if form is None:
        return [[call] for call in calls]
    reading = one_pass(calls, shared, Ledger(price=shared.price))
    of = {id(part): call for part, call in zip(reading.parts, calls, strict=True)}
    groups = [[of[id(part)] for part in group] for group in await form().divide(reading)]
    return [g if len(g) > 1 else [replace(g[0], beside=())] for g in groups]


def _why_alone(calls: Sequence[Call]) -> str:
    first = calls[0]
    able = first.strategy.together(first.strategy.Options()) is not None
    if len(calls) == 1 or not able or first.together is not None:
        return ""
    return "With these options each question reads the document by itself."


def _all_of(runs: Sequence[Run]) -> Closing:
    """What the ends of all questions need, and the dearest of the first reading calls."""
    closings = [closing for run in runs for closing in run.closings]
    return Closing(
        calls=sum(c.calls for c in closings),
        prompt_tokens=sum(c.prompt_tokens for c in closings),
        completion_tokens=sum(c.completion_tokens for c in closings),
        read_prompt_tokens=max(c.read_prompt_tokens for c in closings),
        read_completion_tokens=max(c.read_completion_tokens for c in closings),
    )


def _without_preparation(whole: Estimate, shared: Shared) -> Estimate:
    tokens_in, tokens_out = whole.preparation_prompt_tokens, whole.preparation_completion_tokens
    saved = 0.0 if shared.price is None else shared.price.cost(tokens_in, tokens_out)
    return whole.model_copy(
        update={
            "calls": whole.calls - whole.preparation_calls,
            "prompt_tokens": whole.prompt_tokens - tokens_in,
            "completion_tokens": whole.completion_tokens - tokens_out,
            "max_completion_tokens": max(whole.max_completion_tokens - tokens_out, 0),
            "cost": None if whole.cost is None else whole.cost - saved,
            "max_cost": None if whole.max_cost is None else whole.max_cost - saved,
            "preparation_calls": 0,
            "preparation_prompt_tokens": 0,
            "preparation_completion_tokens": 0,
        }
    )


def _sum(parts: Sequence[Estimate], basis: str) -> Estimate:
    costs = [p.cost for p in parts if p.cost is not None]
    most = [p.max_cost for p in parts if p.max_cost is not None]
    return Estimate(
        calls=sum(p.calls for p in parts),
        prompt_tokens=sum(p.prompt_tokens for p in parts),
        completion_tokens=sum(p.completion_tokens for p in parts),
        depth=max(p.depth for p in parts),
        cost=sum(costs) if len(costs) == len(parts) else None,
        max_completion_tokens=sum(p.max_completion_tokens for p in parts),
        max_cost=sum(most) if len(most) == len(parts) else None,
        exact_counts=all(p.exact_counts for p in parts),
        basis=basis,
        preparation_calls=sum(p.preparation_calls for p in parts),
        preparation_prompt_tokens=sum(p.preparation_prompt_tokens for p in parts),
        preparation_completion_tokens=sum(p.preparation_completion_tokens for p in parts),
    )


async def _all(work: Sequence[Awaitable[T]]) -> list[T]:
    """All results; the first failure ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class _Crowd:
    """One listener of many questions: progress and usage are those of all of them."""

    emit: Emit
    whole: Ledger
    steps: dict[int, tuple[int, int]] = field(default_factory=dict)

    def run(self, call: Call) -> Emit:
        """What takes the events of a run: of one question, or of a pass for several."""

        def pass_on(event: Event) -> None:
            if isinstance(event, Progress):
                event = self._progress(call.place, event)
            self.emit(event)

        return ignore if self.emit is ignore else pass_on

    def question(self, call: Call, emit: Emit) -> Emit:
        """What takes the events that are about one question, on their way to another."""

        def pass_on(event: Event) -> None:
            if isinstance(event, AnswerToken):
                return  # pieces of several answers at once are nobody's
            if isinstance(event, UsageChanged):
                event = UsageChanged(usage=self.whole.usage())
            elif isinstance(event, ChunkRead | NoteChanged):
                event = replace(event, path=call.place)
            emit(event)

        return ignore if self.emit is ignore else pass_on

    def part(self, call: Call) -> Emit:
        """What takes the events of a question that is read in a pass, which tells the progress."""

        def pass_on(event: Event) -> None:
            if not isinstance(event, Progress):
                self.emit(event)

        return self.question(call, pass_on)

    def _progress(self, place: int, event: Progress) -> Progress:
        self.steps[place] = event.done, event.total
        done, total = (sum(s[i] for s in self.steps.values()) for i in (0, 1))
        seconds = self.whole.seconds
        left = seconds / done * (total - done) if done and self.whole.calls else None
        return Progress(done=done, total=total, seconds=seconds, seconds_left=left)
