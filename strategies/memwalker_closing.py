"""The end of a MemWalker run: the answer of a leaf, or the best that can be said without one.

Chen et al., arXiv 2310.05029, end at the leaf that answers. The best answer from working memory,
and joining what a beam of two found, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from reader.errors import LimitReached, ModelError, ModelUnavailable
from reader.events import AnswerToken
from reader.folding import content_words
from reader.llm.choice import choose
from reader.llm.replies import clean, is_refusal_or_empty
from reader.llm.types import ChatRequest, Message
from reader.prompts import fence
from reader.selection import vote
from reader.strategy import Reading
from reader.tokens import estimated

from .memwalker_build import request_for
from .memwalker_plan import PROMPTS, Plan
from .memwalker_prompts import NOTE, remembered

NO_ANSWER = "Not found in the document."


async def finish(reading: Reading, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run's answer: {"text", "choice", "by": the walkers it rests on, "kind", "calls"}.

    ``kind`` is "leaf" (a leaf or several answered), "memory" (best effort), "summary" (no
    question), "none" (nothing, by the paper's rule) or "cut" (without the call it needed).
    """
    if reading.question is None:
        winner = await _summary(reading)
    elif answered := [r for r in results if r["status"] == "answered"]:
        winner = await _of_leaves(reading, answered)
    elif kept := [r for r in results if r["kept"]]:
        reading.warn("No quote supports the answer.")
        winner = _winner("leaf", kept[0]["kept"]["text"], kept[0]["kept"]["choice"], kept[:1])
    elif all(r["status"] == "stopped" for r in results):
        reading.warn("The model gave no valid action; by the paper's rule there is no answer.")
        winner = _winner("none", NO_ANSWER, None, [])
    else:
        winner = await _best_effort(reading, results)
    reading.emit(AnswerToken(text=winner["text"]))
    return winner


def _winner(
    kind: str, text: str, choice: int | None, by: Sequence[dict[str, Any]], calls: int = 0
) -> dict[str, Any]:
    walkers = [r["walker"] for r in by]
    return {"kind": kind, "text": text, "choice": choice, "by": walkers, "calls": calls}


async def _of_leaves(reading: Reading, answered: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One answer, or two that agree: the first. Others are joined by a call."""
    first = answered[0]
    texts = [r["answer"] for r in answered]
    same = len({r["choice"] for r in answered}) == 1 and first["choice"] is not None
    if same or len(vote(texts).clusters) < 2:
        return _winner("leaf", first["answer"], first["choice"], answered)
    plan: Plan = reading.plan
    found = "\n\n".join(
        f"Reader {i}: {r['answer']}\nWhy: {r['reasoning']}" for i, r in enumerate(answered, 1)
    )
    prompt = PROMPTS["join"].fill(
        found=fence(found, "found"), question=plan.question, requirement=plan.requirement
    )
    closed = await _close(reading, prompt, estimated(found))
    if closed is None:
        return _winner("cut", first["answer"], first["choice"], answered[:1])
    return _winner("leaf", closed[0], closed[1], answered, closed[2])


async def _best_effort(reading: Reading, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """From working memory and notes; where the tree was not finished, from what is likeliest."""
    plan: Plan = reading.plan
    reading.warn("No part that was read gave the answer; it rests on summaries and notes.")
    notes = [
        note["text"]
        for _, _, note in reading.store.notes(reading.run_id)
        if note.get("action") == NOTE
    ]
    visited = list(dict.fromkeys(node for r in results for node in r["visited"]))
    room = plan.closing_room - sum(estimated(note) + 3 for note in notes)
    text = remembered(plan, visited or likely_leaves(reading), room)
    shown = "\n\n".join([text, *(f"Note: {note}" for note in notes)])
    prompt = PROMPTS["answer"].fill(
        memory=fence(shown, "summaries"), question=plan.question, requirement=plan.requirement
    )
    closed = await _close(reading, prompt, plan.closing_room)
    if closed is None:
        return _winner("cut", "\n\n".join(notes) or text or NO_ANSWER, None, [])
    return _winner("memory", closed[0] or NO_ANSWER, closed[1], results, closed[2])


def likely_leaves(reading: Reading) -> list[int]:
    """Leaves by the words of the question in their text, the likeliest first."""
    asked = set(content_words(reading.question or ""))
    shared = [len(asked & set(content_words(reading.text(c)))) for c in reading.chunks]
    return sorted(range(len(shared)), key=lambda i: (-shared[i], i))[:20]


async def _close(reading: Reading, prompt: str, size: int) -> tuple[str, int | None, int] | None:
    """The closing call: answer, choice, calls; None where a limit or a failure prevents it."""
    plan: Plan = reading.plan
    request = ChatRequest(
        messages=(Message("user", prompt),),
        max_tokens=plan.reply_tokens,
        prompt_tokens=plan.answer_fixed + plan.asked + size + 16,
        purpose="answer",
        closing=True,
    )
    try:
        if reading.choices:
            chosen = await choose(reading.model, request, reading.choices, counts=reading.ledger)
            reading.step_done()
            return reading.choices[chosen.index], chosen.index, chosen.calls
        reply = await reading.model.generate(request)
    except LimitReached as error:
        reading.warn(f"{error.message} The answer is what was known by then.")
        return None
    except ModelError as error:
        if not error.retryable or isinstance(error, ModelUnavailable):
            raise
        reading.warn(f"The closing call failed: {error.message}")
        return None
    reading.saw_reply("answer", reply.completion_tokens)
    reading.step_done()
    said = clean(reply.text).strip()
    return ("" if is_refusal_or_empty(said) else said), None, 1


async def _summary(reading: Reading) -> dict[str, Any]:
    """Without a question: the root's summary, made of what there is where the build was cut."""
    plan: Plan = reading.plan
    root = plan.tree[plan.tree.root]
    if reading.ledger.stopped_by is None or root.id not in plan.missing or root.kind == "leaf":
        return _winner("summary", plan.texts[root.id], None, [])
    request = replace(request_for(plan, root), closing=True, purpose="answer")
    try:
        reply = await reading.model.generate(request)
    except LimitReached as error:
        reading.warn(f"{error.message} The summary is put together from parts.")
        return _winner("cut", plan.texts[root.id], None, [])
    except ModelError as error:
        if not error.retryable or isinstance(error, ModelUnavailable):
            raise
        reading.warn(f"The closing call failed: {error.message}")
        return _winner("cut", plan.texts[root.id], None, [])
    said = clean(reply.text).strip()
    usable = not is_refusal_or_empty(said)
    return _winner("cut", said if usable else plan.texts[root.id], None, [], 1)
