"""One chunk and a memory slot for each question, to the next slots.

Holds what can go wrong with a single chunk: a slot that is missing, empty, a refusal, cut off, over
its cap, or that lost what it held. Whatever happens to one slot, the others have what they have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from reader.llm.replies import is_refusal_or_empty, says_nothing_found, trim_to_sentence
from reader.llm.types import ChatRequest, FinishReason, Message
from reader.prompts import Prompt, fence, load_prompts
from reader.strategy import Reading
from reader.trace import StepLevel

from .invention import is_invented
from .slots_reply import ask_for_slots

PROMPTS = load_prompts("reader.strategies", "slots")
UNCHANGED = "UNCHANGED"
MIN_SPLIT = 100  # characters; a shorter chunk that does not fit is not the chunk's fault
TAG_TOKENS = 24  # of a reply, around the text of a slot


@dataclass(frozen=True, slots=True)
class SlotForm:
    """How the slots of a pass are asked for; made once a pass.

    Attributes:
        prompt: The prompt file.
        name: Of a slot: "summary", "memory".
        empty: What stands in a slot before anything was found.
        questions: A question for each slot.
        cap: Tokens of a slot.
        fixed_tokens: The prompt without chunk and slots.
        temperature: Of sampling.
        seed: Of sampling, None at temperature 0.
        gate: A slot may be left as it is by a word.
        lost: Whether a new text lost too much of the one before it.
        purpose: Of the calls.
    """

    prompt: Prompt
    name: str
    empty: str
    questions: tuple[str, ...]
    cap: int
    fixed_tokens: int
    temperature: float
    seed: int | None
    gate: bool
    lost: Callable[[str, str], bool]
    purpose: str

    @property
    def count(self) -> int:
        """Number of slots."""
        return len(self.questions)

    @property
    def reply_tokens(self) -> int:
        """Cap of a reply."""
        return self.count * (self.cap + TAG_TOKENS)

    def filled(self, chunk: str, texts: Sequence[str], *, tagged: bool) -> str:
        """The prompt: the chunk first, so that all passes over the document share its prefix."""
        slots = "\n\n".join(
            f"{fence(question, f'question_{i}')}\n{fence(text or self.empty, f'{self.name}_{i}')}"
            for i, (question, text) in enumerate(zip(self.questions, texts, strict=True), 1)
        )
        form = (
            PROMPTS["tagged"].fill(count=str(self.count), name=self.name)
            if tagged
            else PROMPTS["object"].fill(first=f"{self.name}_1", last=f"{self.name}_{self.count}")
        )
        return self.prompt.fill(
            chunk=fence(chunk, "source_text"),
            slots=slots,
            words=str(max(int(self.cap * 0.6), 20)),
            nothing=PROMPTS["unchanged" if self.gate else "repeat"].fill(),
            form=form,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A question's memory and how it came about.

    Attributes:
        text: The memory, "" before anything was found.
        tokens: Its length.
        outcome: What became of the chunk, for this question.
        level: "ok", or what had to be done.
        written: Tokens written for it.
        finish_reason: "length" where its text was cut off.
        reason: Why the chunk is unread or failed, in words.
    """

    text: str = ""
    tokens: int = 0
    outcome: ChunkOutcome = "read"
    level: StepLevel = "ok"
    written: int = 0
    finish_reason: FinishReason = "stop"
    reason: str = ""

    def note(self, chunk: Chunk, text: str) -> dict[str, Any]:
        """What the store keeps of the chunk for the question."""
        return {
            "chunk": chunk.index,
            "start": chunk.start,
            "end": chunk.end,
            "outcome": self.outcome,
            "text": text,
            "written": self.written,
            "finish_reason": self.finish_reason,
            "level": self.level,
            "reason": self.reason,
            "quotes": [],
        }


async def read_chunk(
    reading: Reading, form: SlotForm, before: Sequence[Slot], chunk: Chunk
) -> tuple[list[Slot], int]:
    """The slots after one chunk, and the calls in series that it took.

    Raises:
        LimitReached: budget or deadline; the chunk stays unvisited.
        ModelError: one that no other chunk would survive either (wrong key, no server).
    """
    fresh = [Slot(text=slot.text, tokens=slot.tokens) for slot in before]
    try:
        return await _read(reading, form, fresh, chunk.start, chunk.end, chunk.tokens)
    except (ServerFailed, ModelTimeout, BadReply, RateLimited, RequestRefused) as error:
        failed = [replace(s, outcome="failed", level="failed", reason=error.message) for s in fresh]
        return failed, 1


async def _read(
    reading: Reading, form: SlotForm, before: Sequence[Slot], start: int, end: int, tokens: int
) -> tuple[list[Slot], int]:
    text = reading.document.text[start:end]
    try:
        return await _ask(reading, form, before, text, tokens)
    except ContextOverflow:
        if end - start < MIN_SPLIT:
            raise
    # The count was wrong (an estimate, or a template that grew): read the halves in turn.
    reading.warn("A chunk did not fit the model's window and was read in two halves.")
    middle = text.rfind(" ", 0, len(text) // 2 + 1)
    cut = start + (middle + 1 if middle > 0 else len(text) // 2)
    half = tokens // 2 + 1
    first, one = await _read(reading, form, before, start, cut, half)
    clean = [Slot(text=slot.text, tokens=slot.tokens) for slot in first]
    second, two = await _read(reading, form, clean, cut, end, half)
    both = [
        replace(b, outcome="read", level="split", reason="")
        if "read" in (a.outcome, b.outcome)
        else b
        for a, b in zip(first, second, strict=True)
    ]
    return both, one + two


async def _ask(
    reading: Reading, form: SlotForm, before: Sequence[Slot], text: str, tokens: int
) -> tuple[list[Slot], int]:
    texts = [slot.text for slot in before]

    def request(*, tagged: bool) -> ChatRequest:
        return ChatRequest(
            messages=(Message("user", form.filled(text, texts, tagged=tagged)),),
            max_tokens=form.reply_tokens,
            temperature=form.temperature,
            seed=form.seed,
            prompt_tokens=form.fixed_tokens
            + sum(slot.tokens for slot in before)
            + int(tokens * 1.03)
            + 16,
            purpose=form.purpose,
        )

    reply = await ask_for_slots(
        reading,
        request(tagged=False),
        count=form.count,
        name=form.name,
        cap=form.cap,
        tagged=request(tagged=True),
    )
    if reply.texts:
        reading.saw_reply("slots", reply.tokens)
    last = max(reply.texts, default=-1)
    level: StepLevel = "ok" if reply.level == "strict" else reply.level
    after = [
        _after(form, slot, reply.texts.get(i), level, cut=reply.cut and i == last)
        for i, slot in enumerate(before)
    ]
    after = [
        replace(old, level="invented")
        if new.text != old.text and is_invented(new.text, question, text, old.text)
        else new
        for question, old, new in zip(form.questions, before, after, strict=True)
    ]
    return await _sized(reading, form, before, after), reply.calls


def _after(form: SlotForm, before: Slot, said: str | None, level: StepLevel, *, cut: bool) -> Slot:
    """What a reply makes of one slot; nothing usable never overwrites what was there."""
    if said is None:
        return _kept(before, "the reply holds nothing for this question")
    if form.gate and said.strip(" .\"'*<>").upper() == UNCHANGED:
        return replace(before, level="unchanged", written=1)
    if is_refusal_or_empty(said) or said.strip(" .()") == form.empty.strip(" .()"):
        if said.strip(" .()") == form.empty.strip(" .()") and not before.text:
            return replace(before, level="unchanged")
        return _kept(before, "the reply was empty or a refusal")
    if cut:
        said, _ = trim_to_sentence(said)
        if len(said) < len(before.text):
            return _kept(before, "the reply was cut off before this question")
    nothing = before.text and says_nothing_found(said) and not says_nothing_found(before.text)
    if nothing or said == before.text:
        return replace(before, level="unchanged")
    if before.text and form.lost(before.text, said):
        return replace(before, text=said, level="joined")
    ended: FinishReason = "length" if cut else "stop"
    return replace(before, text=said, level="trimmed" if cut else level, finish_reason=ended)


def _kept(before: Slot, reason: str) -> Slot:
    return replace(before, outcome="unread", level="kept", reason=reason)


async def _sized(
    reading: Reading, form: SlotForm, before: Sequence[Slot], after: Sequence[Slot]
) -> list[Slot]:
    """The new slots with their lengths, each within its cap."""
    changed = [i for i, slot in enumerate(after) if slot.text != before[i].text]
    counts = await reading.info.counter.count([after[i].text for i in changed])
    sized = list(after)
    for i, tokens in zip(changed, counts, strict=True):
        slot = replace(after[i], tokens=tokens, written=tokens)
        if slot.level == "joined":
            room = form.cap - tokens
            old, size = await _shortened(reading, before[i].text, before[i].tokens, room)
            slot = replace(slot, text=f"{old}\n{slot.text}".strip(), tokens=size + tokens)
        if slot.tokens > form.cap:
            text, size = await _shortened(reading, slot.text, slot.tokens, form.cap)
            level: StepLevel = slot.level if slot.level == "joined" else "trimmed"
            slot = replace(slot, text=text, tokens=size, level=level)
        sized[i] = slot
    return sized


async def _shortened(reading: Reading, text: str, tokens: int, cap: int) -> tuple[str, int]:
    """The first whole sentences of a text that fit the cap, and their tokens."""
    while tokens > cap:
        if cap < 1 or not text:
            return "", 0
        text = text[: int(len(text) * 0.95 * cap / tokens)]
        text = trim_to_sentence(text)[0] or text
        (tokens,) = await reading.info.counter.count([text])
    return text, tokens
