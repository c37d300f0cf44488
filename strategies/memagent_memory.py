"""One segment and the memory before it, to the next memory: MemAgent's rewrite.

Section 3 of Yu et al., arXiv 2507.02259. Holds the rows of the failure table that concern a single
segment (empty reply, echo of the prompt, collapse of the memory, reply over its cap, prompt
overflow, failed call), for both modes, so that ``memagent.py`` reads like the paper.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from pydantic import BaseModel, Field

from reader.coverage import ChunkOutcome
from reader.errors import (
    BadReply,
    ContextOverflow,
    ModelTimeout,
    RateLimited,
    RequestRefused,
    ServerFailed,
)
from reader.llm.replies import (
    clean,
    content_overlap,
    is_refusal_or_empty,
    says_nothing_found,
    sentences,
    trim_to_sentence,
)
from reader.llm.structured import typed_reply
from reader.llm.types import ChatRequest, FinishReason, Message
from reader.prompts import fence
from reader.strategy import Reading
from reader.trace import StepLevel

from .invention import is_invented
from .memagent_plan import EMPTY, GATE_TOKENS, PROMPTS, Plan

LOST_WORDS = 0.5  # share of its content words that a memory may lose in one step
SHORT = 40  # characters; a memory so short cannot collapse
LONG = 1500  # characters; nobody needs so many to say that nothing was found
LOST = 0.2  # a cut that lost more than this is worth another call
MIN_SPLIT = 100  # characters; a shorter piece that does not fit is not the piece's fault
_TAGS = "problem|memory|section|notes|quotes"
_BLOCK = re.compile(r"<(problem|section)(_*)>.*?(?:</\1\2>|\Z)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(rf"</?(?:{_TAGS})_*>", re.IGNORECASE)
_LABEL = re.compile(r"\b(?:updated|new|previous|memory|problem|section)\b", re.IGNORECASE)


class MemoryWithQuotes(BaseModel):
    """A reply when quotes are asked for."""

    quotes: list[str] = Field(
        max_length=4,
        description="sentences copied word for word from the section that help, at most 4",
    )
    memory: str = Field(description="the whole updated memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A memory and how it came about.

    Attributes:
        text: The memory, "" before the first segment.
        tokens: Upper bound of its length.
        outcome: What became of the segment.
        calls: Calls in series that it took.
        level: "ok", or what had to be done ("trimmed", "reasked", "joined", ...).
        quotes: Quotes that the model claims, not yet checked.
        written: Tokens of the reply.
        said: What the step wrote, for the trace; "" where nothing changed.
        base: In revisions mode, the position after which changes are appended, -1 for none.
        reason: Why the segment is unread or failed, in words.
    """

    text: str = ""
    tokens: int = 0
    outcome: ChunkOutcome = "read"
    calls: int = 0
    level: StepLevel = "ok"
    quotes: tuple[str, ...] = ()
    written: int = 0
    finish_reason: FinishReason = "stop"
    said: str = ""
    base: int = -1
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """Characters ``start`` to ``end`` of the document, at most so many tokens, read ``again``?"""

    start: int
    end: int
    tokens: int
    again: bool = False


Read: TypeAlias = Callable[[Memory, Segment], Awaitable[Memory]]


async def read_segment(reading: Reading, before: Memory, segment: Segment, read: Read) -> Memory:
    """The memory after one segment; the old one when the segment gave nothing usable.

    Raises:
        LimitReached: budget or deadline; the segment stays unvisited.
        ModelError: one that no other segment would survive either (wrong key, no server).
    """
    fresh = replace(before, calls=0, level="ok", quotes=(), written=0, said="", reason="")
    fresh = replace(fresh, outcome="read", finish_reason="stop")
    try:
        return await _halves(reading, fresh, segment, read)
    except (ServerFailed, ModelTimeout, BadReply, RateLimited, RequestRefused) as error:
        return replace(fresh, outcome="failed", calls=1, level="failed", reason=error.message)


async def _halves(reading: Reading, before: Memory, segment: Segment, read: Read) -> Memory:
    """Read it; where the count was wrong and it does not fit, its halves in turn."""
    try:
        return await read(before, segment)
    except ContextOverflow:
        if segment.end - segment.start < MIN_SPLIT:
            raise
        reading.warn("A segment did not fit the model's window and was read in two halves.")
        text = reading.document.text[segment.start : segment.end]
        middle = text.rfind(" ", 0, len(text) // 2 + 1)
        cut = segment.start + (middle + 1 if middle > 0 else len(text) // 2)
        half = segment.tokens // 2 + 1
        first = await _halves(reading, before, replace(segment, end=cut, tokens=half), read)
        second = await _halves(reading, first, replace(segment, start=cut, tokens=half), read)
        outcome = "read" if "read" in (first.outcome, second.outcome) else second.outcome
        return replace(
            second,
            outcome=outcome,
            calls=first.calls + second.calls,
            level="split",
            quotes=first.quotes + second.quotes,
            said=second.said or first.said,
            reason="" if outcome == "read" else second.reason,
        )


async def rewrite(reading: Reading, plan: Plan, before: Memory, segment: Segment) -> Memory:
    """The whole memory anew, where the gate does not say that there is nothing to write."""
    calls = 0
    if plan.options.gate and not segment.again:
        calls = 1
        if not await _adds(reading, plan, before, segment):
            return replace(before, outcome="read", calls=1, level="unchanged")
    after = await _ask(reading, plan, before, segment)
    text = reading.document.text[segment.start : segment.end]
    if after.said and is_invented(after.text, plan.problem, text, before.text):
        kept = replace(before, calls=after.calls + calls, quotes=after.quotes)
        return replace(kept, level="invented", written=after.written)
    if after.outcome == "read" and plan.options.guard:
        after = await _guard(reading, plan, before, after)
    if after.finish_reason == "length" and not plan.options.quotes:
        after = await _whole(reading, plan, after)
    return replace(after, calls=after.calls + calls)


async def _adds(reading: Reading, plan: Plan, before: Memory, segment: Segment) -> bool:
    """The gate; whatever is not a clear no lets the segment in."""
    text = reading.document.text[segment.start : segment.end]
    reply = await reading.model.generate(
        ChatRequest(
            messages=(Message("user", plan.gate_prompt(text, before.text)),),
            max_tokens=GATE_TOKENS,
            temperature=0.0,
            prompt_tokens=plan.gate_tokens + before.tokens + int(segment.tokens * 1.03) + 16,
            purpose="gate",
        )
    )
    word = re.match(r"\W*(\w+)", clean(reply.text).casefold())
    adds = word is None or word[1] != "no"
    reading.saw_reply("gate", int(adds))
    return adds


def request(
    reading: Reading, plan: Plan, before: Memory, segment: Segment, extra: str = ""
) -> ChatRequest:
    """The call that reads a segment; a second reading has to be another call than the first."""
    options = plan.options
    extra = PROMPTS["again"].fill() * segment.again + extra
    text = reading.document.text[segment.start : segment.end]
    return ChatRequest(
        messages=(Message("user", plan.prompt(text, before.text, extra)),),
        max_tokens=plan.reply_tokens,
        temperature=options.temperature,
        seed=options.seed if options.temperature else None,
        prompt_tokens=plan.fixed_tokens
        + plan.extra_tokens * bool(extra)
        + before.tokens
        + int(segment.tokens * 1.03)
        + 16,
        purpose="update",
    )


async def _ask(reading: Reading, plan: Plan, before: Memory, segment: Segment) -> Memory:
    """Ask for the new memory; once more where the prompt came back instead."""
    if plan.options.quotes:
        return await _ask_with_quotes(reading, plan, before, segment)
    after = await _ask_once(reading, plan, before, segment)
    if after is None:
        again = await _ask_once(reading, plan, before, segment, PROMPTS["echo"].fill())
        if again is None:
            reason = "the reply repeated the prompt twice"
            return replace(before, outcome="unread", calls=2, level="kept", reason=reason)
        level: StepLevel = "reasked" if again.outcome == "read" else again.level
        return replace(again, calls=2, level=level)
    return after


async def _ask_once(
    reading: Reading, plan: Plan, before: Memory, segment: Segment, extra: str = ""
) -> Memory | None:
    """The new memory; None where the reply is nothing but the prompt."""
    reply = await reading.model.generate(request(reading, plan, before, segment, extra))
    said = clean(reply.text)
    if is_refusal_or_empty(said):
        return _unread(before, 1, "kept")
    reading.saw_reply("update", reply.completion_tokens)
    said = without_prompt(said, plan.problem)
    if not said:
        return None
    return _memory(
        before,
        Memory(
            text=said,
            tokens=reply.completion_tokens,
            calls=1,
            written=reply.completion_tokens,
            finish_reason=reply.finish_reason,
        ),
    )


async def _ask_with_quotes(
    reading: Reading, plan: Plan, before: Memory, segment: Segment
) -> Memory:
    typed = await typed_reply(
        reading.model,
        request(reading, plan, before, segment),
        MemoryWithQuotes,
        can_enforce=reading.info.json_schema,
        max_reasks=1,
        validate=lambda m: (
            None
            if not m.memory.strip() or without_prompt(m.memory, plan.problem)
            else "memory repeats the problem or the instructions; write only facts to remember"
        ),
        counts=reading.ledger,
        default=lambda: MemoryWithQuotes(quotes=[], memory=""),
    )
    said = without_prompt(clean(typed.value.memory), plan.problem)
    if typed.level == "forced" or is_refusal_or_empty(said):
        return _unread(before, typed.calls, "forced" if typed.level == "forced" else "kept")
    reading.saw_reply("update", typed.reply.completion_tokens)
    (tokens,) = await reading.info.counter.count([said])
    return _memory(
        before,
        Memory(
            text=said,
            tokens=tokens,
            calls=typed.calls,
            level="ok" if typed.level == "strict" else typed.level,
            quotes=tuple(q for q in typed.value.quotes if q.strip()),
            written=typed.reply.completion_tokens,
            finish_reason=typed.reply.finish_reason,
        ),
    )


def _memory(before: Memory, after: Memory) -> Memory:
    """A usable reply, unless it says no more than the memory before."""
    nothing = after.text.strip(" .") == EMPTY.strip(".") or (
        before.text and holds_nothing(after.text) and not holds_nothing(before.text)
    )
    if nothing or after.text == before.text:
        return replace(
            before,
            outcome="read",
            calls=after.calls,
            level="unchanged",
            quotes=after.quotes,
            written=after.written,
        )
    return replace(after, said=after.text)


def holds_nothing(memory: str) -> bool:
    """Whether a memory is empty or says that nothing was found; a long one says something."""
    return not memory or (len(memory) < LONG and says_nothing_found(memory))


def _unread(before: Memory, calls: int, level: StepLevel) -> Memory:
    reason = (
        "the reply could not be understood"
        if level == "forced"
        else "the reply was empty or a refusal"
    )
    return replace(before, outcome="unread", calls=calls, level=level, reason=reason)


def without_prompt(said: str, problem: str) -> str:
    """A reply without tags and sentences of the prompt; "" where nothing else is in it."""
    text = _TAG.sub("", _BLOCK.sub("", said)).strip()
    for start, end in reversed(sentences(text)):
        if " ".join(text[start:end].split()) in _INSTRUCTIONS:
            text = text[:start] + text[end:]
    rest = " ".join(text.split())
    if rest.strip(" .") != EMPTY.strip("."):
        rest = rest.replace(" ".join(problem.split()), " ").replace(EMPTY.strip("."), " ")
        rest = _LABEL.sub(" ", rest)
    return text.strip() if re.search(r"\w", rest) else ""


def _instructions() -> frozenset[str]:
    """The sentences of our prompts that a reply could repeat."""
    names = ("read", "read_section_first", "update", "update_quotes", "echo")
    found = set()
    for name in names:
        text = PROMPTS[name].template.template.replace("$extra", "")
        found |= {" ".join(text[a:b].split()) for a, b in sentences(text)}
    return frozenset(f for f in found if not f.startswith("$"))


_INSTRUCTIONS = _instructions()


async def _guard(reading: Reading, plan: Plan, before: Memory, after: Memory) -> Memory:
    """A memory that lost over half of its words in one step: keep both."""
    if not collapsed(before.text, after.text):
        return after
    text = f"{before.text}\n{after.text}"
    joined = replace(
        after, text=text, said=text, tokens=before.tokens + after.tokens, level="joined"
    )
    if joined.tokens <= plan.memory_tokens:
        return replace(joined, finish_reason="stop")
    return await _compress(reading, plan, joined)


def collapsed(before: str, after: str) -> bool:
    """Whether over half of the content words of a memory are gone without a reason."""
    return (
        len(before) >= SHORT
        and content_overlap(before, after) < LOST_WORDS
        and not holds_nothing(before)
    )


async def _whole(reading: Reading, plan: Plan, after: Memory) -> Memory:
    """A memory cut at its cap, back to its last sentence; a shorter one where much was lost."""
    if after.level in ("compressed", "unchanged"):
        return after
    text, lost = trim_to_sentence(after.text)
    if lost > LOST and plan.options.guard:
        return await _compress(reading, plan, after)
    return replace(after, text=text, said=text, level="trimmed")


async def _compress(reading: Reading, plan: Plan, memory: Memory) -> Memory:
    """Ask once for a shorter version; whatever comes is trimmed to whole sentences."""
    reply = await reading.model.generate(
        ChatRequest(
            messages=(
                Message(
                    "user",
                    PROMPTS["compress"].fill(
                        memory=fence(memory.text, "memory"),
                        problem=fence(plan.problem, "problem"),
                        words=plan.words,
                    ),
                ),
            ),
            max_tokens=plan.memory_tokens,
            temperature=plan.options.temperature,
            seed=plan.options.seed if plan.options.temperature else None,
            prompt_tokens=plan.fixed_tokens + memory.tokens + 64,
            purpose="compress",
        )
    )
    said = without_prompt(clean(reply.text), plan.problem)
    usable = not is_refusal_or_empty(said)
    text = said if usable else memory.text
    if not usable or reply.finish_reason == "length":
        text = _newest(trim_to_sentence(text)[0], plan.memory_tokens)
    tokens = reply.completion_tokens if usable else memory.tokens
    return replace(
        memory,
        text=text,
        said=text,
        tokens=min(tokens, plan.memory_tokens),
        calls=memory.calls + 1,
        level="compressed",
        finish_reason="stop",
    )


def _newest(text: str, tokens: int) -> str:
    """The end of a text that no model call could shorten."""
    room = tokens * 4
    return text if len(text) <= room else text[-room:].split(" ", 1)[-1]
