"""MemAgent's other mode: changes of single facts instead of a memory written anew.

The idea of PRISM (arXiv 2412.18914): the model lists changes, the program checks and applies them,
and appends them to the memory's text, so that the prompt up to there stays in a prefix cache. What
is not touched cannot be lost. Facts here are numbered sentences, not PRISM's typed schemas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field
from rapidfuzz import fuzz

from reader.folding import content_words, same_facts
from reader.llm.replies import clean, says_nothing_found
from reader.llm.structured import typed_reply
from reader.memory.facts import Add, Change, Drop, Fact, FactLog, Operation
from reader.strategy import Reading

from .memagent_memory import Memory, Segment, request, without_prompt
from .memagent_plan import Plan

SAME = 95.0  # similarity (0 to 100) from which two facts say the same
DOUBLE = 90.0  # from which compaction keeps the newer one only
NEAREST = 80.0  # from which an unknown number is taken for the nearest fact
FULL = 0.9  # of its cap, to which compaction brings the memory down
LONGEST = 500  # characters of a fact
MANY = 4  # facts, from which on losing over half of them at once is suspicious
_OPS = {
    "add": "add insert new append create",
    "change": "change update replace modify revise amend correct edit",
    "drop": "drop delete remove forget discard",
}
_BY_NAME = {name: op for op, names in _OPS.items() for name in names.split()}


def _op(value: Any) -> Any:
    return _BY_NAME.get(value.strip().casefold(), value) if isinstance(value, str) else value


def _number(value: Any) -> Any:
    if value is None:
        return 0
    found = re.search(r"\d{1,9}", value) if isinstance(value, str) else None
    return int(found[0]) if found else 0 if isinstance(value, str) else value


class Patch(BaseModel):
    """One change."""

    op: Annotated[Literal["add", "change", "drop"], BeforeValidator(_op)]
    id: Annotated[int, BeforeValidator(_number)] = Field(
        default=0, description="number of the fact to change or drop, 0 to add"
    )
    fact: str = Field(default="", description="the new fact in one sentence, empty to drop")
    quote: str = Field(
        default="", description="words of the section that say so, copied exactly, or empty"
    )


class Patches(BaseModel):
    """A reply about one section."""

    revisions: list[Patch] = Field(max_length=8, description="the changes, at most 8, or none")


async def revise(
    reading: Reading, plan: Plan, before: Memory, segment: Segment, pos: int, chunk: int
) -> Memory:
    """Ask for changes, carry out those that hold, and compact a memory over its cap."""
    typed = await typed_reply(
        reading.model,
        request(reading, plan, before, segment),
        Patches,
        can_enforce=reading.info.json_schema,
        max_reasks=1,
        counts=reading.ledger,
        default=lambda: Patches(revisions=[]),
    )
    if typed.level == "forced":
        reason = "the reply could not be understood"
        return replace(before, outcome="unread", calls=typed.calls, level="forced", reason=reason)
    written = typed.reply.completion_tokens
    reading.saw_reply("update", written)
    patches = typed.value.revisions
    lines = apply_patches(plan, patches, segment, pos, chunk)
    after = replace(
        before,
        outcome="read",
        calls=typed.calls,
        level="ok" if typed.level == "strict" else typed.level,
        quotes=tuple(p.quote for p in patches if p.quote.strip()),
        written=written,
        said="\n".join(lines),
        text="\n".join(filter(None, (before.text, *lines))),
        reason="",
    )
    if not lines:
        reading.saw_reply("growth", 0)
        return replace(after, level="unchanged" if after.level == "ok" else after.level)
    (tokens,) = await reading.info.counter.count([after.text])
    reading.saw_reply("growth", max(tokens - before.tokens, 0))
    if tokens <= plan.memory_tokens:
        return replace(after, tokens=tokens)
    return await compacted(reading, plan, replace(after, tokens=tokens), pos)


def apply_patches(
    plan: Plan, patches: Sequence[Patch], segment: Segment, pos: int, chunk: int
) -> list[str]:
    """Write the changes that hold to the log; returns the lines that the memory gets."""
    log, lines = plan.log, []
    standing = log.at(kind="fact")
    drops = sum(p.op == "drop" for p in patches)
    too_many = plan.options.guard and len(standing) >= MANY and 2 * drops > len(standing)
    log.write(pos, (), chunk)
    for patch in patches:
        if patch.op == "drop" and too_many:
            continue
        operation = _checked(plan, patch, log.at(kind="fact"), segment)
        if operation is None:
            continue
        written = log.write(pos, [operation])
        lines.append(_line(log, operation, written))
    if too_many:
        plan.reading.warn("A reply dropped over half of the facts at once; they were kept instead.")
    return lines


def _checked(plan: Plan, patch: Patch, facts: Sequence[Fact], segment: Segment) -> Operation | None:
    """The patch as an operation; None where it changes nothing or is no fact."""
    limit = min(LONGEST, 2 * plan.memory_tokens)
    text = " ".join(clean(patch.fact).split())[:limit].strip()
    target = next((f for f in facts if f.root == patch.id), None)
    if target is None and patch.op != "add":
        target = _nearest(text, facts)
    if patch.op == "drop":
        return Drop(id=target.id, by="update", reason=text) if target else None
    if not without_prompt(text, plan.problem) or says_nothing_found(text):
        return None
    if any(_alike(text, f.text, SAME) for f in facts):
        return None
    place = plan.verified(patch.quote, (segment.start, segment.end))
    start, end = place or (None, None)
    if patch.op == "change" and target is not None:
        return Change(id=target.id, text=text, by="update", quote=patch.quote, start=start, end=end)
    return Add(text=text, by="update", quote=patch.quote, start=start, end=end)


def _nearest(text: str, facts: Sequence[Fact]) -> Fact | None:
    scored = [(fuzz.token_set_ratio(text.casefold(), f.text.casefold()), -f.id, f) for f in facts]
    best = max(scored, key=lambda s: s[:2], default=None)
    return best[2] if best and text and best[0] >= NEAREST else None


def _alike(one: str, other: str, at_least: float) -> bool:
    """Whether two facts are that similar, with the same numbers and as many negations."""
    one, other = one.casefold(), other.casefold()
    return fuzz.ratio(one, other) >= at_least and same_facts(one, other)


def _line(log: FactLog, operation: Operation, written: Sequence[Fact]) -> str:
    if isinstance(operation, Drop):
        return f"[{log.root(operation.id)}] no longer holds."
    [fact] = written
    if isinstance(operation, Change):
        return f"[{fact.root}] is now: {fact.text}"
    return f"[{fact.root}] {fact.text}"


def listed(facts: Sequence[Fact]) -> str:
    """Facts with their numbers, a line each."""
    return "\n".join(f"[{fact.root}] {fact.text}" for fact in facts)


def rendered(log: FactLog, base: int) -> str:
    """The memory's text: the facts as they stood after ``base``, then every change since."""
    lines = [listed(log.at(base, "fact"))] if base >= 0 else []
    written = {pos: list(facts) for pos, facts in groupby(log.all("fact"), lambda f: f.pos)}
    for pos in range(base + 1, log.done):
        lines += _lines(log, log.operations(pos), written.get(pos, []))
    return "\n".join(filter(None, lines))


def _lines(log: FactLog, operations: Sequence[Operation], written: Sequence[Fact]) -> Iterator[str]:
    facts = iter(written)
    for operation in operations:
        yield _line(log, operation, () if isinstance(operation, Drop) else (next(facts),))


async def compacted(reading: Reading, plan: Plan, memory: Memory, pos: int) -> Memory:
    """The facts that stand, without the story of their changes; the least useful ones go.

    Of two that say nearly the same the newer one stays. Then those go that share no word with the
    problem and have no verified quote, the oldest first, then those with a quote, then the rest.
    """
    log = plan.log
    facts = log.at(kind="fact")
    counts = await reading.info.counter.count([listed([f]) for f in facts])
    sizes = {f.id: count + 1 for f, count in zip(facts, counts, strict=True)}
    for older in facts:
        newer = [f for f in log.at(kind="fact") if f.id > older.id]
        if any(_alike(older.text, f.text, DOUBLE) for f in newer):
            log.write(pos, [Drop(id=older.id, by="compaction", reason="said again")])
    left = sorted(log.at(kind="fact"), key=lambda f: (_value(plan, f), f.id))
    total = sum(sizes[f.id] for f in left)
    if total > plan.memory_tokens:
        while len(left) > 1 and total > FULL * plan.memory_tokens:
            least = left.pop(0)
            total -= sizes[least.id]
            log.write(pos, [Drop(id=least.id, by="compaction", reason="no room")])
    text = listed(log.at(kind="fact"))
    (tokens,) = await reading.info.counter.count([text])
    return replace(memory, text=text, tokens=tokens, base=pos, level="compressed")


def _value(plan: Plan, fact: Fact) -> int:
    asked = set(content_words(plan.problem))
    return 2 * bool(asked.intersection(content_words(fact.text))) + (fact.start is not None)
