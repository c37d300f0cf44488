"""Building MemWalker's tree: each node's summary as soon as its children have theirs.

Section 3.1 of Chen et al., arXiv 2310.05029. No question is seen here. Every summary is kept under
a key of the text that it sums up the moment it is there, so a build that was cut off goes on with
what is missing, and a second question finds the whole tree.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Any

from reader.errors import (
    BadReply,
    ContextOverflow,
    LimitReached,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    ReaderError,
    RequestRefused,
    ServerFailed,
)
from reader.llm.replies import clean, is_refusal_or_empty, sentences, trim_to_sentence
from reader.llm.types import ChatReply, ChatRequest, Message
from reader.prompts import fence
from reader.tokens import estimated

from .memwalker_plan import PROMPTS, Plan
from .memwalker_tree import Node

SURVIVABLE = (ServerFailed, ModelTimeout, BadReply, RateLimited, RequestRefused, ContextOverflow)
MAX_FAILURES = 5  # calls failing one after another: the server is broken, not the text
FIRST_TOKENS = 150  # of a segment, in place of its summary
LOST = 0.2  # a cut that lost more than this is worth another call


@dataclass(slots=True)
class Growth:
    """What the build came to: summaries made, calls in series, and what ended it early."""

    made: int = 0
    calls: int = 0
    failed: int = 0
    in_a_row: int = 0
    depths: dict[int, int] = field(default_factory=dict)
    stopped: LimitReached | None = None
    broken: ReaderError | None = None


def load(plan: Plan) -> None:
    """Take from the store what is there; the rest gets what stands in for it."""
    for node in plan.tree:
        waits = any(child in plan.missing for child in node.children)
        if node.kind == "section":
            _take(plan, node, _of_headings(plan, node))
            if waits:
                plan.missing.add(node.id)
            continue
        kept = plan.reading.store.artifact(_key(plan, node))
        if isinstance(kept, dict) and isinstance(kept.get("text"), str):
            plan.texts[node.id], plan.sizes[node.id] = kept["text"], int(kept["tokens"])
        else:
            _take(plan, node, stand_in(plan, node))
            waits = True
        if waits:
            plan.missing.add(node.id)


async def grow(plan: Plan) -> Growth:
    """Make what is missing; so many calls at once as the model is good for.

    Raises:
        ModelError: one that no other call would survive; what was in flight is kept first.
    """
    reading = plan.reading
    growth = Growth()
    wanted = [node for node in plan.tree if node.id in plan.missing]
    done = {node.id: asyncio.Event() for node in wanted}
    slots = asyncio.Semaphore(plan.options.concurrency or reading.info.concurrency)

    async def make(node: Node) -> None:
        for child in node.children:
            if child in done:
                await done[child].wait()
        before = max((growth.depths.get(child, 0) for child in node.children), default=0)
        growth.depths[node.id] = before
        if node.kind == "section":
            if not any(child in plan.missing for child in node.children):
                plan.missing.discard(node.id)
            _take(plan, node, _of_headings(plan, node))
        else:
            async with slots:
                if growth.stopped is None and growth.broken is None:
                    growth.depths[node.id] = before + await _try(plan, node, growth)
                else:
                    _take(plan, node, stand_in(plan, node))
        done[node.id].set()

    async with asyncio.TaskGroup() as group:
        for node in wanted:
            group.create_task(make(node))
    if growth.broken is not None:
        raise growth.broken
    return growth


async def _try(plan: Plan, node: Node, growth: Growth) -> int:
    """One summary, kept; a failure is noted and what stands in for the summary stays."""
    reading = plan.reading
    try:
        calls = await _summarise(plan, node)
    except LimitReached as error:
        growth.stopped = error
        _take(plan, node, stand_in(plan, node))
        return 0
    except SURVIVABLE as error:
        growth.failed += 1
        growth.in_a_row += 1
        growth.calls += 1
        _take(plan, node, stand_in(plan, node))
        reading.warn(f"The summary of {name(plan, node)} failed: {error.message}")
        if growth.in_a_row >= MAX_FAILURES:
            growth.broken = ModelUnavailable(
                f"{growth.in_a_row} summaries failed one after another, the last one so:"
                f" {error.message}"
            )
        return 1
    except ReaderError as error:
        # Raised only after the calls in flight: they are paid for.
        growth.broken = error
        return 0
    growth.in_a_row = 0
    growth.made += 1
    growth.calls += calls
    reading.step_done()
    return calls


async def _summarise(plan: Plan, node: Node) -> int:
    """Ask, and once more after an empty reply or one that lost much at its cap."""
    reading = plan.reading
    key = _key(plan, node)
    best, tokens = "", 0
    for attempt in range(2):
        reply = await _ask(plan, node, attempt)
        said = clean(reply.text)
        if is_refusal_or_empty(said):
            continue
        reading.saw_reply("summary" if node.kind == "leaf" else "merge", reply.completion_tokens)
        whole, lost = said.strip(), 0.0
        if reply.finish_reason == "length":
            whole, lost = trim_to_sentence(said)
        best, tokens = whole or said, min(reply.completion_tokens, plan.summary_tokens)
        if lost <= LOST:
            break
    if not best:
        best = stand_in(plan, node)
        reading.warn(f"The summary of {name(plan, node)} is empty; its first words stand for it.")
        tokens = min(estimated(best), plan.summary_tokens)
    plan.texts[node.id], plan.sizes[node.id] = best, tokens
    if not any(child in plan.missing for child in node.children):
        # A summary of stand-ins is good for this run only.
        plan.missing.discard(node.id)
    reading.store.keep_artifact(key, "memwalker-summary", {"text": best, "tokens": tokens})
    return attempt + 1


async def _ask(plan: Plan, node: Node, attempt: int) -> ChatReply:
    """The call; a text that does not fit after all is shortened, and that is said."""
    for part in (1.0, 0.6, 0.3):
        request = request_for(plan, node, attempt, part)
        try:
            return await plan.reading.model.generate(request)
        except ContextOverflow:
            if part == 0.3:
                raise
            plan.reading.warn(
                f"The text of {name(plan, node)} did not fit the window and was shortened."
            )
    raise AssertionError("unreachable")


def request_for(plan: Plan, node: Node, attempt: int = 0, part: float = 1.0) -> ChatRequest:
    """The request for a node's summary, of that part of its text."""
    words = plan.words if attempt == 0 else str(int(plan.words) * 2 // 3)
    if node.kind == "leaf":
        chunk = plan.reading.chunks[node.id]
        text = plan.reading.text(chunk)
        prompt = PROMPTS["leaf_summary"].fill(
            segment=fence(text[: int(len(text) * part)], "source_text"), words=words
        )
        size = plan.leaf_fixed + int(chunk.tokens * 1.03) + 16
    else:
        texts = [plan.texts[c][: int(len(plan.texts[c]) * part)] for c in node.children]
        prompt = PROMPTS["merge"].fill(
            summaries=fence("\n\n".join(texts), "summaries"), words=words
        )
        size = plan.merge_fixed + sum(plan.sizes[c] + 4 for c in node.children) + 16
    return ChatRequest(
        messages=(Message("user", prompt),),
        max_tokens=plan.summary_tokens,
        temperature=0.5 * attempt,
        seed=attempt or None,
        prompt_tokens=size,
        purpose="summary" if node.kind == "leaf" else "merge",
    )


def stand_in(plan: Plan, node: Node) -> str:
    """The first words of a segment, or the first sentences of the children's summaries."""
    if node.kind == "leaf":
        chunk = plan.reading.chunks[node.id]
        text = plan.reading.text(chunk).strip()
        cut = len(text) * min(FIRST_TOKENS, plan.summary_tokens) // max(chunk.tokens, 1)
        return text if cut >= len(text) else _to_word(text[: max(cut, 1)])
    if node.kind == "section":
        return _of_headings(plan, node)
    return shortened(
        " ".join(_first_sentence(plan.texts[c]) for c in node.children), plan.summary_tokens
    )


def _of_headings(plan: Plan, node: Node) -> str:
    """A section's description: its heading, and its children's headings or first sentences."""
    inside = [plan.tree[c].title or _first_sentence(plan.texts[c]) for c in node.children]
    return shortened(f"{node.title}: {'; '.join(inside)}", plan.summary_tokens)


def shortened(text: str, most: int) -> str:
    """At most so many tokens of the text, by a cautious count."""
    tokens = estimated(text)
    return text if tokens <= most else _to_word(text[: max(len(text) * most // tokens, 1)])


def _to_word(text: str) -> str:
    return text.rsplit(None, 1)[0] if len(text.split()) > 1 else text


def _first_sentence(text: str) -> str:
    ranges = sentences(text)
    return text[ranges[0][0] : ranges[0][1]] if ranges else text


def _take(plan: Plan, node: Node, text: str) -> None:
    plan.texts[node.id] = text
    plan.sizes[node.id] = min(estimated(text), plan.summary_tokens)


def _key(plan: Plan, node: Node) -> str:
    """Of a node and what it sums up: after a failed child the parent's summary is another."""
    if node.kind == "leaf":
        return f"{plan.tree_key}|{node.id}"
    below: Any = hashlib.sha256("\0".join(plan.texts[c] for c in node.children).encode())
    return f"{plan.tree_key}|{node.id}|{below.hexdigest()[:16]}"


def name(plan: Plan, node: Node) -> str:
    """The node for people, by its chunks as they are counted from 1."""
    if node.first == node.last:
        return f"chunk {node.first + 1}"
    return f"chunks {node.first + 1} to {node.last + 1}"
