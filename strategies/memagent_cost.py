"""What a MemAgent run is expected to use, before any call."""

from __future__ import annotations

from collections.abc import Callable

from reader.budget import Estimate
from reader.strategy import Reading

from .memagent_plan import GATE_TOKENS, SHOWN_QUOTE_TOKENS, Plan

FULL = 0.45  # share of the cap that a memory fills, before replies were seen
CHANGES = 60  # tokens of a list of changes, likewise
ANSWER = 30


def expected(reading: Reading, key: Callable[[str], str]) -> Estimate:
    """n + 1 calls in series (n more with a gate); lengths from the replies of earlier runs.

    Args:
        reading: The run, after ``prepare``.
        key: Under which lengths of a kind of reply are remembered.
    """
    plan: Plan = reading.plan
    n, text = len(reading.chunks), sum(chunk.tokens for chunk in reading.chunks)
    seen = reading.store.reply_length(key("update"))
    passed = reading.store.reply_length(key("gate")) if plan.options.gate else None
    said = reading.store.reply_length(key("final"))
    reply = seen[1] if seen else CHANGES if plan.revises else plan.memory_tokens * FULL
    memories = _memories(reading, key, n, reply)
    share = passed[1] if passed else 1.0
    rewrites = max(round(n * share), 1)
    long = plan.answer_tokens * FULL if plan.summary else ANSWER
    answer = said[1] if said else min(long, plan.answer_tokens)
    quotes = SHOWN_QUOTE_TOKENS // 2 if plan.options.quotes or plan.revises else 0
    prompt = share * (text + sum(memories[:-1])) + rewrites * plan.fixed_tokens
    prompt += plan.final_tokens + memories[-1] + min(quotes, text)
    completion = rewrites * reply + answer
    most = n * plan.reply_tokens + plan.answer_tokens
    calls = rewrites + 1
    if plan.options.gate:
        prompt += text + sum(memories[:-1]) + n * plan.gate_tokens
        completion += n
        most += n * GATE_TOKENS
        calls += n
    basis = f"{seen[0]} replies seen" if seen else "no reply of this model seen yet"
    if plan.options.gate and not passed:
        basis += "; at most, as if the gate let every segment in"
    if plan.options.second_pass:
        basis += "; without a second pass, which only a memory that holds nothing brings"
    price = reading.ledger.price
    tokens_in, tokens_out = int(prompt), int(completion)
    return Estimate(
        calls=calls,
        prompt_tokens=tokens_in,
        completion_tokens=tokens_out,
        depth=calls,
        cost=price.cost(tokens_in, tokens_out) if price else None,
        max_completion_tokens=most,
        max_cost=price.cost(tokens_in, most) if price else None,
        exact_counts=reading.info.counter.exact,
        basis=basis,
    )


def _memories(reading: Reading, key: Callable[[str], str], n: int, reply: float) -> list[float]:
    """Expected tokens of the memory before each segment, and at the end."""
    plan: Plan = reading.plan
    if not plan.revises:
        held = reading.store.reply_length(key("memory"))
        size = held[1] if held else min(reply, plan.memory_tokens)
        return [0.0, *[size] * n]
    grown = reading.store.reply_length(key("growth"))
    growth = grown[1] if grown else CHANGES / 2
    sizes, size = [0.0], 0.0
    for _ in range(n):
        size += growth
        size = size if size <= plan.memory_tokens else 0.9 * plan.memory_tokens
        sizes.append(size)
    return sizes
