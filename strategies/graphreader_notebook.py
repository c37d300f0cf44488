"""The notebook of an agent: what a reply may do to it, and keeping it under its cap.

An empty reply or a refusal never overwrites what was noted, and a notebook over its cap is
compressed with its word-for-word quotes kept.
"""

from __future__ import annotations

from reader.evidence import quoted_strings
from reader.llm.replies import (
    clean,
    content_overlap,
    is_refusal_or_empty,
    says_nothing_found,
    trim_to_sentence,
)
from reader.llm.types import ChatRequest, Message
from reader.prompts import fence
from reader.strategy import Reading

from .graphreader_functions import Kind
from .graphreader_plan import CALL_FAILED, PROMPTS, Plan

SHRUNK = 0.3  # a notebook this much shorter than before may have lost what was in it
ECHO = 40  # characters; what begins with so many of the prompt's own words repeats it
LOST = 0.1  # it has, if it shares less than this with it


def updated(before: str, said: str) -> tuple[str, str]:
    """The notebook after a reply, and what had to be done: "ok", "kept" or "joined"."""
    said = clean(said).strip()
    if is_refusal_or_empty(said) or (before and says_nothing_found(said)):
        return before, "kept"
    if len(said) < SHRUNK * len(before) and content_overlap(said, before) < LOST:
        return f"{before}\n{said}", "joined"
    return said, "ok"


def repeats_task(said: str, kind: Kind) -> bool:
    """Whether a notebook holds the prompt's own words instead of what the text says."""
    said = " ".join(clean(said).split()).casefold()
    task = " ".join(PROMPTS[kind].template.template.split()).casefold()
    return len(said) >= ECHO and said[:ECHO] in task


def is_empty(notebook: str) -> bool:
    """Whether nothing was found."""
    return is_refusal_or_empty(notebook) or says_nothing_found(notebook)


async def within_cap(reading: Reading, notebook: str) -> tuple[str, int]:
    """The notebook at most as long as its cap, and the calls that it took.

    Raises:
        LimitReached: budget or deadline.
        ModelError: one that no other call would survive either.
    """
    plan: Plan = reading.plan
    cap = plan.notebook_tokens
    if await _tokens(reading, notebook) <= cap:
        return notebook, 0
    words = str(max(int(cap * 0.5), 20))
    prompt = PROMPTS["compress"].fill(
        notebook=fence(notebook, "notebook"), question=plan.question, words=words
    )
    request = ChatRequest(
        messages=(Message("user", prompt),),
        max_tokens=cap,
        temperature=plan.options.temperature,
        seed=plan.seed,
        purpose="compress",
    )
    try:
        reply = await reading.model.generate(request)
    except CALL_FAILED:
        shorter = ""
    else:
        shorter = clean(reply.text).strip()
        if reply.finish_reason == "length":
            shorter = trim_to_sentence(shorter)[0]
    if is_empty(shorter):
        shorter = notebook
    quotes = lost_quotes(plan, notebook, shorter)
    kept = "\n".join(f'"{quote}"' for quote in quotes)
    for_quotes = await _tokens(reading, kept)
    if for_quotes > cap // 2:
        kept, for_quotes = await _cut(reading, kept, cap // 2), cap // 2
    shorter = await _cut(reading, shorter, cap - for_quotes)
    return f"{shorter}\n{kept}".strip(), 1


def lost_quotes(plan: Plan, before: str, after: str) -> list[str]:
    """Quotes that stand in the document and that compressing left out."""
    return [q for q in quoted_strings(before) if q not in after and plan.finder.find(q)]


async def _tokens(reading: Reading, text: str) -> int:
    (count,) = await reading.info.counter.count([text])
    return count


async def _cut(reading: Reading, text: str, tokens: int) -> str:
    """The beginning of a text, to a sentence or line where that loses little."""
    while text and (size := await _tokens(reading, text)) > tokens:
        text = text[: min(int(len(text) * tokens / size), len(text) - 1)]
        whole, lost = trim_to_sentence(text)
        text = whole if lost < 0.5 else text
    return text.strip()
