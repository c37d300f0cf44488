"""What a run came to: its answers, what each of them used, and what is written down of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from reader.answers import Answer, Origin, remembering
from reader.budget import CallRecord, Estimate, Usage, divided
from reader.calls import Call
from reader.coverage import Coverage
from reader.errors import InvalidOption
from reader.folding import Range
from reader.memory.store import RunRecord, Store
from reader.prepared import Run
from reader.strategy import Outcome, Reading
from reader.trace import Trace


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
    return remembering(answer.model_copy(update={"usage": fresh, "earlier": Usage()}), origin)


async def answers_of(run: Run, outcomes: Sequence[Outcome]) -> list[Answer]:
    """The answers, with what each of them used."""
    for part, outcome in zip(run.parts, outcomes, strict=True):
        part.ledger.depth = outcome.depth
    assert run.reading.estimate is not None
    expected = divided(run.reading.estimate, len(run.parts))
    return [
        await _answer(call, run, part, outcome, usage, earlier, estimate)
        for call, part, outcome, usage, earlier, estimate in zip(
            run.calls, run.parts, outcomes, used_by(run), run.earlier, expected, strict=True
        )
    ]


def used_by(run: Run) -> list[Usage]:
    """What was used for each question: its own calls and an even share of the pass."""
    own = [part.ledger.usage() for part in run.parts]
    if run.reading is run.parts[0]:
        return own
    shares = divided(run.reading.ledger.usage(), len(own))
    return [mine.plus(share) for mine, share in zip(own, shares, strict=True)]


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
    earlier: Usage,
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
        read=_searched(outcome),
    )
    answer = Answer(
        question=call.question,
        text=outcome.text,
        status=outcome.status,
        citations=cited.citations if outcome.status != "not_found" else (),
        coverage=Coverage(chunks=outcome.chunks),
        usage=usage,
        earlier=earlier,
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


def _searched(outcome: Outcome) -> tuple[Range, ...]:
    """Where a short answer is looked for; a choice has the words of the one who asks."""
    if outcome.choice is not None or outcome.status == "not_found":
        return ()
    return tuple((c.start, c.end) for c in outcome.chunks if c.outcome == "read")


def keep_record(run: Run, state: str, answers: Sequence[Answer] = ()) -> None:
    """Write down where the run stands and how to make the same call again."""
    used = [answer.usage for answer in answers] or used_by(run)
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
                usage=used[i].plus(run.earlier[i]).model_dump(mode="json"),
                answer=answers[i].to_json() if answers else None,
            )
        )
