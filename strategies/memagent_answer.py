"""The end of MemAgent: the answer from the memory alone, in either form of the original.

The published evaluation takes what follows the last "the answer is"; training and one variant take
the last box (section 4.4 of the specification; code of Yu et al., arXiv 2507.02259).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reader.errors import LimitReached, ModelError, ModelUnavailable
from reader.events import AnswerToken
from reader.folding import content_words
from reader.llm.choice import choose
from reader.llm.replies import clean, is_refusal_or_empty, says_nothing_found
from reader.llm.types import ChatRequest, Message
from reader.memory.facts import Fact
from reader.prompts import fence
from reader.strategy import Reading

from .memagent_memory import holds_nothing
from .memagent_plan import PROMPTS, SHOWN_QUOTE_TOKENS, Plan
from .optional_call import reply_if_possible

SHOWN_REPLY = 2000  # characters of a reply from which the answer is taken
EXTRACT_TOKENS = 64
_PHRASE = re.compile(r"\banswer\s+is\b\s*:?(?:[ \t]*that\b(?! of\b))?[ \t]*", re.IGNORECASE)
_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_WRAPPER = re.compile(r"\A\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{(.*)\}\Z", re.DOTALL)
_EDGES = " \t*_`\"'\u201c\u201d"
_PAIRS = (('"', '"'), ("\u201c", "\u201d"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The end of a run.

    Attributes:
        answer: The answer's text.
        choice: Index of the chosen option.
        closed: False where no call could be made or finished: the answer is the memory.
        calls: Calls in series that it took.
        reply: The last reply that gave it, for the trace.
    """

    answer: str
    choice: int | None = None
    closed: bool = True
    calls: int = 0
    reply: str = ""


async def close(reading: Reading, memory: str, tokens: int) -> Final:
    """Answer from the memory; without a call (limit, failure) the memory is the best answer.

    Raises:
        ModelError: one that cannot succeed again (wrong key, no server).
    """
    plan: Plan = reading.plan
    nothing = holds_nothing(memory)
    quotes = await shown_quotes(reading, plan)
    request = ChatRequest(
        messages=(Message("user", plan.final_prompt(memory, quotes, unknown=nothing)),),
        max_tokens=plan.answer_tokens,
        temperature=plan.options.temperature,
        seed=plan.options.seed if plan.options.temperature else None,
        prompt_tokens=plan.final_tokens
        + tokens
        + (SHOWN_QUOTE_TOKENS + 4 * len(quotes) if quotes else 0)
        + 16,
        purpose="final",
        closing=True,
    )
    try:
        if reading.choices:
            chosen = await choose(reading.model, request, reading.choices, counts=reading.ledger)
            final = Final(
                answer=reading.choices[chosen.index],
                choice=chosen.index,
                calls=chosen.calls,
                reply=clean(chosen.reply.text),
            )
        else:
            final = await _answer(reading, plan, request)
    except LimitReached as error:
        reading.warn(f"{error.message} The answer is the memory as it stood.")
        return Final(answer=memory, closed=False)
    except ModelError as error:
        if not error.retryable or isinstance(error, ModelUnavailable):
            raise
        reading.warn(f"The last call failed: {error.message} The answer is the memory.")
        return Final(answer=memory, closed=False)
    reading.step_done()
    if not final.answer:
        reading.warn("The last reply was empty; the answer is the memory.")
        return replace(final, answer=memory)
    return final


async def _answer(reading: Reading, plan: Plan, request: ChatRequest) -> Final:
    """The last reply's answer; a missing one is asked for again, then taken out of the reply."""
    reply = await reading.model.generate(
        request, lambda piece: reading.emit(AnswerToken(text=piece))
    )
    reading.saw_reply("final", reply.completion_tokens)
    said = clean(reply.text)
    nothing = says_nothing_found(said)
    calls, found = 1, None if nothing else find_answer(said, plan)
    missing = found is None and not nothing
    if missing and (again := await _ask_again(reading, plan, request, said)) is not None:
        calls, found = 2, find_answer(again, plan)
        said = said if is_refusal_or_empty(again) else again
        if found is None and not says_nothing_found(again):
            extracted = await _extract(reading, plan, request, said)
            if extracted is not None:
                calls, found = 3, extracted
    if found is None:
        found = "" if is_refusal_or_empty(said) else said
    return Final(answer=found, calls=calls, reply=said)


async def _ask_again(reading: Reading, plan: Plan, request: ChatRequest, said: str) -> str | None:
    """One more try in the same conversation; None where it cannot be made."""
    turns = (
        Message("assistant", said[-SHOWN_REPLY:] or "(nothing)"),
        Message("user", PROMPTS["answer_missing"].fill()),
    )
    again = replace(request, messages=(*request.messages, *turns), prompt_tokens=None)
    return await _try(reading, replace(again, max_tokens=min(plan.answer_tokens, 256)))


async def _extract(reading: Reading, plan: Plan, request: ChatRequest, said: str) -> str | None:
    """The answer that a reply without form gives; None where it gives none."""
    if is_refusal_or_empty(said):
        return None
    prompt = PROMPTS["extract"].fill(
        problem=fence(plan.problem, "problem"), reply=fence(said[-SHOWN_REPLY:], "reply")
    )
    short = replace(
        request,
        messages=(Message("user", prompt),),
        prompt_tokens=None,
        max_tokens=min(plan.answer_tokens, EXTRACT_TOKENS),
        temperature=0.0,
        seed=None,
        purpose="extract",
    )
    text = await _try(reading, short)
    if text is None or is_refusal_or_empty(text):
        return None
    return find_answer(text, plan) or text


async def _try(reading: Reading, request: ChatRequest) -> str | None:
    """What a call that may be left out says."""
    reply = await reply_if_possible(reading, request)
    return None if reply is None else clean(reply.text)


def find_answer(said: str, plan: Plan) -> str | None:
    """The answer in the form that was asked for, else in the other one; None without any."""
    if plan.summary:
        return None if is_refusal_or_empty(said) else said
    forms = (in_sentence, in_box)
    for form in forms if plan.options.answer_format == "sentence" else forms[::-1]:
        found = form(said)
        if found:
            return found
    return None


def in_sentence(said: str) -> str | None:
    """What follows the last "the answer is", up to the end of the line."""
    phrases = list(_PHRASE.finditer(said))
    if not phrases:
        return None
    rest = said[phrases[-1].end() :].strip(_EDGES + "\n").split("\n")[0].strip(_EDGES)
    if rest.startswith("(") and (close_at := _balanced(rest, 0, "()")) is not None:
        inside, after = rest[1:close_at], rest[close_at + 1 :]
        rest = inside if not re.search(r"\w", after) else rest
    rest = rest.strip(_EDGES)
    rest = rest[:-1].strip(_EDGES) if rest.endswith(".") and rest.count(".") == 1 else rest
    rest = _closed(rest, said)
    return rest if re.search(r"\w", rest) and rest.casefold() != "your answer" else None


def _closed(answer: str, said: str) -> str:
    """With the mark that closes a quotation inside it, which went with the edges."""
    for opening, mark in _PAIRS:
        count = answer.count(mark)
        is_open = count % 2 if opening == mark else answer.count(opening) > count
        if is_open and answer + mark in said:
            return answer + mark
    return answer


def in_box(said: str) -> str | None:
    """What stands in the last box that is closed and not empty."""
    for box in reversed(list(_BOX.finditer(said))):
        end = _balanced(said, box.end() - 1, "{}")
        inside = said[box.end() : end].strip() if end is not None else ""
        while wrapped := _WRAPPER.match(inside):
            inside = wrapped[1].strip()
        if re.search(r"\w", inside):
            return inside
    return None


def _balanced(text: str, start: int, pair: str) -> int | None:
    """Where the bracket at ``start`` is closed."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == pair[0]) - (text[at] == pair[1])
        if depth == 0:
            return at
    return None


async def shown_quotes(reading: Reading, plan: Plan) -> list[str]:
    """Verified quotes for the last prompt: those nearest to the problem, in the text's order."""
    asked = set(content_words(plan.problem))
    known = [f for f in plan.log.at() if f.kind != "memory" and f.start is not None]
    texts = {f.id: plan.source(f) for f in known}

    def rank(fact: Fact) -> tuple[int, int]:
        return -len(asked.intersection(content_words(texts[fact.id]))), -fact.id

    best = sorted(known, key=rank)[:24]
    counts: Sequence[int] = await reading.info.counter.count([texts[f.id] for f in best])
    chosen: list[Fact] = []
    total = 0
    for fact, count in zip(best, counts, strict=True):
        if total + count + 4 <= SHOWN_QUOTE_TOKENS and len(chosen) < 12:
            chosen.append(fact)
            total += count + 4
    return [texts[f.id] for f in sorted(chosen, key=lambda f: f.start or 0)]
