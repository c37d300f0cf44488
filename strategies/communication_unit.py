"""One worker of chain-of-agents: a chunk and the communication unit before it, to the next one.

Holds the rows of the failure table that concern a single chunk (empty reply, suspected overwrite,
reply over its cap, prompt overflow, failed call), so that ``coa.py`` reads like the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, Field

from reader.chunking import Chunk
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
    trim_to_sentence,
)
from reader.llm.structured import typed_reply
from reader.llm.types import ChatReply, ChatRequest, Message
from reader.prompts import Prompt, fence
from reader.strategy import Reading

from .echo import without_prompt
from .invention import is_invented

UNCHANGED = "UNCHANGED"
QUOTE_TOKENS = 200  # room for the quotes of one reply, beside the communication unit
QUOTE_CHARACTERS = 200
SHRUNK = 0.3  # a unit this much shorter than the one before may have overwritten it
MIN_SPLIT = 100  # characters; a shorter chunk that does not fit is not the chunk's fault
LOST = 0.2  # a cut that lost more than this is worth another call
NOTHING = "(Nothing: this is the first part.)"


class WorkerNote(BaseModel):
    """A worker's reply when quotes are asked for."""

    adds: bool = Field(description="true if the part holds something new that helps")
    quotes: list[str] = Field(
        max_length=4,
        description="sentences copied word for word from the part that help to answer, at most 4",
        # Where the endpoint enforces it: small models copy whole paragraphs and reach the cap.
        json_schema_extra={"items": {"type": "string", "maxLength": QUOTE_CHARACTERS}},
    )
    summary: str = Field(default="", description="the updated summary, containing the earlier one")


@dataclass(frozen=True, slots=True)
class Form:
    """How the workers of a run are asked; made once a run."""

    worker: Prompt
    echo: Prompt
    compress: Prompt
    question: str
    cu_tokens: int
    fixed_tokens: int
    temperature: float
    quotes: bool
    skip_gate: bool

    @property
    def words(self) -> str:
        """The cap in words, as models understand it."""
        return str(max(int(self.cu_tokens * 0.6), 20))

    @property
    def own_words(self) -> str:
        """The prompt without the text and the unit that it shows, with and without a unit."""
        return self.prompt("", "") + self.prompt("", " ")

    def prompt(self, chunk: str, cu: str, extra: str = "") -> str:
        """The worker's prompt: chunk first, so that its prefix is shared by all questions."""
        if self.skip_gate and not self.quotes:
            extra += (
                " If the part adds nothing that may help, write only the word " + UNCHANGED + "."
            )
        return self.worker.fill(
            chunk=fence(chunk, "source_text"),
            cu=fence(cu, "summary") if cu else NOTHING,
            question=self.question,
            words=self.words,
            extra=extra,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A communication unit and how it came about.

    Attributes:
        text: The unit, "" before the first.
        tokens: Upper bound of its length.
        outcome: What became of the chunk.
        calls: Calls in series that it took.
        level: "ok", or what had to be done ("trimmed", "reasked", "joined", ...).
        quotes: Quotes that the worker claims, not yet checked.
        written: Tokens of the worker's reply.
        reason: Why the chunk is unread or failed, in words.
    """

    text: str = ""
    tokens: int = 0
    outcome: ChunkOutcome = "read"
    calls: int = 0
    level: str = "ok"
    quotes: tuple[str, ...] = ()
    written: int = 0
    finish_reason: str = "stop"
    reason: str = ""


async def read_chunk(
    reading: Reading, form: Form, before: Unit, chunk: Chunk, seed: int | None
) -> Unit:
    """The unit after one chunk; the old text when the chunk gave nothing usable.

    Raises:
        LimitReached: budget or deadline; the chunk stays unvisited.
        ModelError: one that no other chunk would survive either (wrong key, no server).
    """
    try:
        return await _read(reading, form, before, chunk.start, chunk.end, chunk.tokens, seed)
    except (ServerFailed, ModelTimeout, BadReply, RateLimited, RequestRefused) as error:
        return replace(
            before,
            outcome="failed",
            calls=1,
            level="failed",
            quotes=(),
            written=0,
            reason=error.message,
        )


async def _read(
    reading: Reading, form: Form, before: Unit, start: int, end: int, tokens: int, seed: int | None
) -> Unit:
    text = reading.document.text[start:end]
    try:
        after = await _ask(reading, form, before, text, tokens, seed)
    except ContextOverflow:
        if end - start < MIN_SPLIT:
            raise
        # The count was wrong (an estimate, or a template that grew): read the halves in turn.
        reading.warn("A chunk did not fit the model's window and was read in two halves.")
        middle = text.rfind(" ", 0, len(text) // 2 + 1)
        cut = start + (middle + 1 if middle > 0 else len(text) // 2)
        half = tokens // 2 + 1
        first = await _read(reading, form, before, start, cut, half, seed)
        second = await _read(reading, form, first, cut, end, half, seed)
        outcome = "read" if "read" in (first.outcome, second.outcome) else second.outcome
        return replace(
            second,
            outcome=outcome,
            calls=first.calls + second.calls,
            level="split",
            quotes=first.quotes + second.quotes,
        )
    if after.outcome == "read" and after.text != before.text:
        if is_invented(after.text, form.question, text, before.text):
            return replace(after, text=before.text, tokens=before.tokens, level="invented")
        after = await _guard(reading, form, before, after, text, tokens, seed)
    return after


async def _ask(
    reading: Reading,
    form: Form,
    before: Unit,
    text: str,
    tokens: int,
    seed: int | None,
    extra: str = "",
) -> Unit:
    request = ChatRequest(
        messages=(Message("user", form.prompt(text, before.text, extra)),),
        max_tokens=form.cu_tokens + (QUOTE_TOKENS if form.quotes else 0),
        temperature=form.temperature,
        seed=seed,
        prompt_tokens=form.fixed_tokens + before.tokens + int(tokens * 1.03) + 16 + len(extra) // 3,
        purpose="worker",
    )
    if form.quotes:
        return await _ask_for_note(reading, request, before)
    reply = await reading.model.generate(request)
    said = clean(reply.text)
    if not is_refusal_or_empty(said) and not (said := without_prompt(said, form.own_words)):
        reminder = form.echo.fill()
        if reminder in extra:
            return _unread(before, "the reply repeated the prompt twice", 1, "kept")
        again = await _ask(reading, form, before, text, tokens, seed, extra + reminder)
        level = "reasked" if again.level == "ok" else again.level
        return replace(again, calls=again.calls + 1, level=level)
    if form.skip_gate and said.strip(" .\"'*").upper() == UNCHANGED:
        return replace(before, outcome="read", calls=1, level="unchanged", quotes=(), written=1)
    return _unit(reading, before, said, reply, calls=1, level="ok")


async def _ask_for_note(reading: Reading, request: ChatRequest, before: Unit) -> Unit:
    typed = await typed_reply(
        reading.model,
        request,
        WorkerNote,
        can_enforce=reading.info.json_schema,
        max_reasks=1,
        counts=reading.ledger,
        default=lambda: WorkerNote(adds=False, quotes=[], summary=""),
    )
    note, level = typed.value, "ok" if typed.level == "strict" else typed.level
    if level == "forced":
        return _unread(before, "the reply could not be understood", typed.calls, "forced")
    if not note.adds and not note.quotes and before.text:
        return replace(
            before,
            outcome="read",
            calls=typed.calls,
            level="unchanged",
            quotes=(),
            written=typed.reply.completion_tokens,
        )
    # A reply cut off among its quotes has no summary: then the quotes are what it adds.
    said = clean(note.summary) or "\n".join(filter(None, [before.text, *note.quotes]))
    unit = _unit(reading, before, said, typed.reply, typed.calls, level)
    return replace(unit, quotes=tuple(q for q in note.quotes if q.strip()))


def _unit(
    reading: Reading, before: Unit, said: str, reply: ChatReply, calls: int, level: str
) -> Unit:
    """The reply as a unit; an empty one or a refusal never overwrites what was there."""
    if is_refusal_or_empty(said):
        return _unread(before, "the reply was empty or a refusal", calls, "kept")
    reading.saw_reply("worker", reply.completion_tokens)
    return Unit(
        text=said,
        tokens=reply.completion_tokens,
        calls=calls,
        level=level,
        written=reply.completion_tokens,
        finish_reason=reply.finish_reason,
    )


def _unread(before: Unit, reason: str, calls: int, level: str) -> Unit:
    return replace(
        before, outcome="unread", calls=calls, level=level, quotes=(), written=0, reason=reason
    )


async def _guard(
    reading: Reading,
    form: Form,
    before: Unit,
    after: Unit,
    text: str,
    tokens: int,
    seed: int | None,
) -> Unit:
    """Suspected overwrite, then a unit cut off at its cap."""
    if _overwrote(before.text, after.text):
        again = await _ask(
            reading, form, before, text, tokens, seed, " Keep all facts of the earlier summary."
        )
        calls = after.calls + again.calls
        if again.outcome == "read" and not _overwrote(before.text, again.text):
            after = replace(
                again, calls=calls, level="reasked", quotes=again.quotes or after.quotes
            )
        else:
            joined = f"{before.text}\n{after.text}"
            size = before.tokens + after.tokens
            after = replace(after, text=joined, tokens=size, calls=calls, level="joined")
            if size > form.cu_tokens:
                after = await _compress(reading, form, after, seed)
    if after.finish_reason == "length":
        whole, lost = trim_to_sentence(after.text)
        if lost > LOST and not form.quotes:
            return await _compress(reading, form, after, seed)
        return replace(after, text=whole, level="trimmed", finish_reason="length")
    return after


def _overwrote(before: str, after: str) -> bool:
    """Much shorter than the unit before, and sharing nothing with it."""
    return (
        len(after) < SHRUNK * len(before)
        and not says_nothing_found(before)
        and content_overlap(after, before) < 0.1
    )


async def _compress(reading: Reading, form: Form, unit: Unit, seed: int | None) -> Unit:
    """Ask once for a shorter version; whatever comes is trimmed to whole sentences."""
    request = ChatRequest(
        messages=(
            Message(
                "user",
                form.compress.fill(
                    cu=fence(unit.text, "notes"), question=form.question, words=form.words
                ),
            ),
        ),
        max_tokens=form.cu_tokens,
        temperature=form.temperature,
        seed=seed,
        prompt_tokens=form.fixed_tokens + unit.tokens + 64,
        purpose="compress",
    )
    reply = await reading.model.generate(request)
    said = clean(reply.text)
    usable = not is_refusal_or_empty(said)
    text = said if usable else unit.text
    if not usable or reply.finish_reason == "length":
        text = _to_size(trim_to_sentence(text)[0], form.cu_tokens)
    return replace(
        unit,
        text=text,
        tokens=min(reply.completion_tokens if usable else unit.tokens, form.cu_tokens),
        calls=unit.calls + 1,
        level="compressed",
    )


def _to_size(text: str, tokens: int) -> str:
    """The newest sentences of a text that no model call could shorten."""
    room = tokens * 4
    return text if len(text) <= room else text[-room:].split(" ", 1)[-1]


def as_note(chunk: Chunk, unit: Unit) -> dict[str, Any]:
    """The unit as the store keeps it."""
    return {
        "chunk": chunk.index,
        "start": chunk.start,
        "end": chunk.end,
        "outcome": unit.outcome,
        "text": unit.text,
        "written": unit.written,
        "finish_reason": unit.finish_reason,
        "level": unit.level,
        "reason": unit.reason,
        "quotes": list(unit.quotes),
    }
