"""The end of chain-of-agents: the manager's call, and the choice between several paths.

Sections 3.2 and 5 of Zhang et al., arXiv 2406.02818; the judge's prompt is not published and ours.
"""

from __future__ import annotations

import random
from typing import Any

from pydantic import BaseModel, Field

from reader.errors import LimitReached, ModelError, ModelUnavailable
from reader.events import AnswerToken
from reader.llm.choice import choose
from reader.llm.replies import before_next_question, clean, is_refusal_or_empty, repeats
from reader.llm.structured import typed_reply
from reader.llm.types import ChatRequest, Message
from reader.prompts import fence
from reader.selection import vote
from reader.strategy import Reading

from .coa_plan import PROMPTS, Plan
from .echo import without_prompt


class Verdict(BaseModel):
    """The judge's reply."""

    reason: str = Field(description="short", max_length=600)
    label: str = Field(description="the label of the best summary, such as S1")
    answer: str = Field(description="the answer to the question from that summary")


async def close(reading: Reading, result: dict[str, Any], *, unknown: bool) -> dict[str, Any]:
    """The manager's call; without it (limit, failure) the unit itself is the best answer."""
    plan: Plan = reading.plan
    shown, shown_tokens = await shown_to_manager(reading, result)
    prompt = plan.manager_prompt(shown, result["quotes"], unknown=unknown)
    size = plan.manager_tokens + shown_tokens + 50 * len(result["quotes"]) + 16
    if plan.options.direct_when_fits and len(reading.chunks) == 1:
        size += reading.chunks[0].tokens
        prompt = PROMPTS["direct"].fill(
            chunk=fence(reading.document.text, "source_text"),
            requirement=plan.requirement,
            question=plan.question or "What does the source text say, in summary?",
        )
    request = ChatRequest(
        messages=(Message("user", prompt),),
        max_tokens=plan.answer_tokens,
        temperature=0.0,
        prompt_tokens=size,
        purpose="manager",
        closing=True,
    )
    single = plan.options.number_of_paths == 1
    try:
        if reading.choices:
            chosen = await choose(reading.model, request, reading.choices, counts=reading.ledger)
            answer, index, calls = reading.choices[chosen.index], chosen.index, chosen.calls
        else:
            reply = await reading.model.generate(
                request,
                (lambda piece: reading.emit(AnswerToken(text=piece)))
                if single and reading.listened
                else None,
            )
            reading.saw_reply("manager", reply.completion_tokens)
            answer, index, calls = before_next_question(clean(reply.text)), None, 1
            if plan.options.task == "qa":  # code repeats itself
                answer = without_prompt(answer, plan.manager_prompt("", [], unknown=False))
            if is_refusal_or_empty(answer) or repeats(answer, plan.question):
                reading.warn("The manager's reply held no answer; the answer is its notes.")
                answer, index = result["cu"], None
    except LimitReached as error:
        reading.warn(f"{error.message} The answer is the notes as they stood.")
        return {**result, "answer": result["cu"], "closed": False}
    except ModelError as error:
        if not error.retryable or isinstance(error, ModelUnavailable):
            raise
        reading.warn(f"The manager's call failed: {error.message} The answer is its notes.")
        return {**result, "answer": result["cu"], "closed": False}
    reading.step_done()
    return {**result, "answer": answer, "choice": index, "depth": result["depth"] + calls}


async def shown_to_manager(reading: Reading, result: dict[str, Any]) -> tuple[str, int]:
    """The units that the manager sees, and their tokens: the last one, unless a control asks."""
    plan: Plan = reading.plan
    if plan.options.manager_sees == "last":
        return result["cu"], result["size"]
    if plan.options.manager_sees == "none":
        return "", 0
    notes = reading.store.notes(reading.run_id, result["path"])
    units = list(dict.fromkeys(note["text"] for _, _, note in notes if note["text"]))
    sizes = await reading.info.counter.count(units) if units else []
    kept: list[str] = []
    tokens = 0
    for unit, size in zip(reversed(units), reversed(sizes), strict=True):
        if kept and tokens + size + 2 > plan.room_for_units:
            reading.warn(f"The manager sees the last {len(kept)} of {len(units)} units.")
            break
        kept.append(unit)
        tokens += size + 2  # a blank line between two
    return "\n\n".join(reversed(kept)), tokens


async def choose_path(reading: Reading, results: list[dict[str, Any]]) -> dict[str, Any]:
    """One path: its result. Several: the vote, or the judge."""
    plan: Plan = reading.plan
    depth = max(r["depth"] for r in results)
    if plan.judged:
        return {**await judge(reading, results), "depth": depth + 1}
    if len(results) == 1:
        return results[0]
    choice = vote([r["answer"] for r in results])
    winner = results[choice.index]
    if choice.tie and reading.ledger.stopped_by is None and any(r["cu"] for r in results):
        judged = await judge(reading, results)
        winner, depth = {**winner, **judged}, depth + 1
    return {**winner, "depth": depth}


async def judge(reading: Reading, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The best supported of the last units, and the answer from it (not published; ours)."""
    plan: Plan = reading.plan
    shown = random.Random(plan.options.seed).sample(results, len(results))  # noqa: S311
    labels = {f"S{i}": r for i, r in enumerate(shown, 1)}
    units = "\n\n".join(f"{label}\n{fence(r['cu'], 'summary')}" for label, r in labels.items())
    prompt = PROMPTS["judge"].fill(
        candidates=units, question=plan.question or "Summarise the source text."
    )
    request = ChatRequest(
        messages=(Message("user", f"{prompt}\n{plan.requirement}"),),
        max_tokens=plan.answer_tokens + 200,
        prompt_tokens=plan.manager_tokens + sum(r["size"] for r in results) + 200,
        purpose="judge",
        closing=True,
    )
    try:
        typed = await typed_reply(
            reading.model,
            request,
            Verdict,
            can_enforce=reading.info.json_schema,
            max_reasks=1,
            validate=lambda v: None if v.label.strip() in labels else f"not one of {[*labels]}",
            counts=reading.ledger,
            default=lambda: Verdict(reason="", label="", answer=""),
        )
    except LimitReached as error:
        reading.warn(f"{error.message} No judge chose between the paths.")
        longest = max(results, key=lambda r: len(r["cu"]))
        return {**longest, "answer": longest["answer"] or longest["cu"], "closed": False}
    chosen = labels.get(typed.value.label.strip())
    if chosen is None or not typed.value.answer.strip():
        fallback = results[vote([r["answer"] or r["cu"] for r in results]).index]
        return fallback if fallback["answer"] else await close(reading, fallback, unknown=False)
    reading.step_done()
    if reading.choices:
        best = await close(reading, chosen, unknown=False) if not chosen["answer"] else chosen
        return {**chosen, "answer": best["answer"], "choice": best["choice"]}
    return {**chosen, "answer": clean(typed.value.answer), "closed": True}
