"""The end of GraphReader: the notebooks of all agents are weighed against one another.

Li et al. 2024, arXiv 2406.14550, section 3.4. Where no agent noted anything, one call answers from
the chunks most similar to the question, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reader.bm25 import BM25Index
from reader.errors import ContextOverflow, LimitReached, ModelError, ModelUnavailable
from reader.events import AnswerToken
from reader.llm.choice import choose
from reader.llm.lenient import readings
from reader.llm.replies import clean, is_refusal_or_empty, trim_to_sentence
from reader.llm.schemas import plain_schema
from reader.llm.structured import typed_reply
from reader.llm.types import ChatRequest, Message
from reader.prompts import fence
from reader.strategy import Reading

from .graphreader_functions import Weighed
from .graphreader_notebook import is_empty
from .graphreader_plan import PROMPTS, UNKNOWN, Plan
from .optional_call import reply_if_possible

MOST_SIMILAR = 5  # chunks of the fallback
_LABEL = "final answer"


async def close(reading: Reading, notebooks: Sequence[str]) -> dict[str, Any]:
    """The answer; without its call (limit, failure) the longest notebook is the best there is.

    Returns:
        ``text``, ``choice``, ``closed`` (the call was made), ``calls`` in series, ``chunks`` (those
        that the fallback read), ``analysis``.

    Raises:
        ModelError: the call failed and there is nothing to answer with, or no other call would
            survive it either.
    """
    filled = [text for text in notebooks if not is_empty(text)]
    best = max(filled, key=len, default="")
    result: dict[str, Any] = {
        "text": best,
        "choice": None,
        "closed": False,
        "calls": 0,
        "chunks": [],
        "analysis": "",
    }
    try:
        if filled:
            return result | await _weigh_fitted(reading, filled)
        return result | await _from_similar_chunks(reading)
    except LimitReached as error:
        reading.warn(f"{error.message} The answer is the fullest notebook.")
    except ModelError as error:
        if not best or not error.retryable or isinstance(error, ModelUnavailable):
            raise
        reading.warn(f"The last call failed: {error.message} The answer is the fullest notebook.")
    return result


async def _weigh_fitted(reading: Reading, filled: Sequence[str]) -> dict[str, Any]:
    plan: Plan = reading.plan
    fixed = plan.fixed["answer"] + plan.asked + 32
    space = int(plan.window * 0.97) - fixed - plan.answer_tokens
    try:
        return await _weigh(reading, await fitted(reading, filled, space))
    except ContextOverflow:
        reading.warn("The notebooks did not fit the model's window and were cut to half.")
        return await _weigh(reading, await fitted(reading, filled, space // 2))


async def fitted(reading: Reading, notebooks: Sequence[str], tokens: int) -> list[str]:
    """The notebooks, the longer ones cut where together they are more than so many tokens."""
    counts = await reading.info.counter.count(list(notebooks))
    sizes = [count + 16 for count in counts]
    if sum(sizes) <= tokens:
        return list(notebooks)
    share = max(tokens // len(notebooks), 1)
    return [
        text if size <= share else text[: int(len(text) * share / size)]
        for text, size in zip(notebooks, sizes, strict=True)
    ]


async def _weigh(reading: Reading, notebooks: Sequence[str]) -> dict[str, Any]:
    plan: Plan = reading.plan
    shown = "\n\n".join(
        f"Notebook {number}\n{fence(text, 'notebook')}" for number, text in enumerate(notebooks, 1)
    )
    if reading.choices:
        prompt = PROMPTS["choose"].fill(notebooks=shown, question=plan.question)
        return await _choice(reading, prompt)
    prompt = PROMPTS["answer"].fill(
        notebooks=shown,
        question=plan.question,
        requirement=plan.requirement,
        unknown=UNKNOWN,
    )
    typed = await typed_reply(
        reading.model,
        _request(plan, prompt),
        Weighed,
        can_enforce=reading.info.json_schema,
        max_reasks=1,
        validate=lambda w: "final_answer is empty" if is_refusal_or_empty(w.final_answer) else None,
        counts=reading.ledger,
        default=lambda: Weighed(final_answer=""),
    )
    reading.saw_reply("answer", typed.reply.completion_tokens)
    reading.saw_reply("answer prompt", typed.reply.prompt_tokens)
    text, calls = clean(typed.value.final_answer).strip(), typed.calls
    if not text and typed.reply.finish_reason == "length":
        text, more = await _conclusion(reading, shown)
        calls += more
    text = text or in_words(typed.reply.text)
    if is_refusal_or_empty(text):
        reading.warn("The last reply held no answer; the answer is the fullest notebook.")
        text = max(notebooks, key=len)
    reading.emit(AnswerToken(text=text))
    reading.step_done()
    analysis = clean(typed.value.analysis)
    return {"text": text, "closed": True, "calls": calls, "analysis": analysis}


async def _conclusion(reading: Reading, notebooks: str) -> tuple[str, int]:
    """The answer alone, where the analysis left no room for it; "" where there is none either.

    Small models analyse until their cap, asked again too.
    """
    plan: Plan = reading.plan
    prompt = PROMPTS["conclude"].fill(
        notebooks=notebooks,
        question=plan.question,
        requirement=plan.requirement,
        unknown=UNKNOWN,
    )
    reply = await reply_if_possible(reading, _request(plan, prompt))
    if reply is None:
        return "", 0
    text = clean(reply.text).strip()
    usable = not text.startswith("{") and not is_refusal_or_empty(text)
    if usable and reply.finish_reason == "length":
        text = trim_to_sentence(text)[0] or text
    return text if usable else "", 1


def in_words(reply: str) -> str:
    """What a reply says that is not in order.

    Of an object that was cut off before its answer, the analysis; of free words what stands after
    the last "Final answer:", else all of them.
    """
    said = clean(reply).strip()
    if said.startswith("{"):
        found = next(readings(said, plain_schema(Weighed), cut=True), None)
        return trim_to_sentence(str(found.get("analysis", "")))[0] if found else ""
    at = said.casefold().rfind(_LABEL)
    if at < 0 or len(said.casefold()) != len(said):
        return said
    return said[at + len(_LABEL) :].strip(' :*_\n"') or said


async def _choice(reading: Reading, prompt: str) -> dict[str, Any]:
    plan: Plan = reading.plan
    chosen = await choose(
        reading.model, _request(plan, prompt), reading.choices, counts=reading.ledger
    )
    reading.saw_reply("answer", chosen.reply.completion_tokens)
    reading.step_done()
    text = reading.choices[chosen.index]
    return {"text": text, "choice": chosen.index, "closed": True, "calls": chosen.calls}


async def _from_similar_chunks(reading: Reading) -> dict[str, Any]:
    """One call over the chunks that share most words with the question."""
    plan: Plan = reading.plan
    ranked = [i for i, _ in similar_chunks(reading)][:MOST_SIMILAR] or [0]
    fixed = plan.fixed["answer"] + plan.asked + 32
    space = int(plan.window * 0.97) - fixed - plan.answer_tokens
    taken: list[int] = []
    for index in ranked:
        space -= reading.chunks[index].tokens + 16
        if space < 0 and taken:
            break
        taken.append(index)
    reading.warn(
        f"No agent noted anything: the answer comes from the {len(taken)} chunks that share most"
        " words with the question (BM25)."
    )
    try:
        answered = await _answer_from(reading, taken)
    except ContextOverflow:
        taken = taken[:1]
        answered = await _answer_from(reading, taken, part=0.5)
    return answered | {"chunks": taken}


async def _answer_from(
    reading: Reading, chunks: Sequence[int], part: float = 1.0
) -> dict[str, Any]:
    plan: Plan = reading.plan
    texts = [reading.text(reading.chunks[index]) for index in sorted(chunks)]
    prompt = PROMPTS["fallback"].fill(
        chunks="\n\n".join(fence(text[: int(len(text) * part)], "source_text") for text in texts),
        question=plan.question,
        requirement="Answer with the letter of the one right option."
        if reading.choices
        else plan.requirement,
        unknown="" if reading.choices else UNKNOWN.strip(),
    )
    if reading.choices:
        return await _choice(reading, prompt)
    reply = await reading.model.generate(
        _request(plan, prompt), lambda piece: reading.emit(AnswerToken(text=piece))
    )
    reading.step_done()
    text = clean(reply.text).strip()
    closed = not is_refusal_or_empty(text)
    if not closed:
        reading.warn("The model gave no answer: its last reply was empty or a refusal.")
        text = ""
    return {"text": text, "closed": closed, "calls": 1}


def similar_chunks(reading: Reading) -> list[tuple[int, float]]:
    """Chunks that share a word with the question, as (index, score), the best first."""
    plan: Plan = reading.plan
    return BM25Index([reading.text(chunk) for chunk in reading.chunks]).rank(plan.question)


def _request(plan: Plan, prompt: str) -> ChatRequest:
    return ChatRequest(
        messages=(Message("user", prompt),),
        max_tokens=plan.answer_tokens,
        temperature=plan.options.temperature,
        seed=plan.seed,
        purpose="answer",
        closing=True,
    )
