"""What answers took, whatever the store held when they were asked for.

A reply that the store had is free for the one who asks, and so would be a method that was
measured twice. Here each distinct call counts once in every evaluation of one strategy: for the
question that made it, or for the first one that had it from the store. What questions share, a
summary tree for instance, is thus paid for once, as it would be with an empty store.

One thing is not seen: a finished tree or graph that an earlier evaluation left in the store is
read without a reply, so its calls are missing. Where that matters, take another store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reader.budget import CallRecord, Usage

from .row import Row


def as_with_an_empty_store(rows: Iterable[Row]) -> list[Row]:
    """The same rows; ``usage`` has the replies from the store that no other question paid for.

    Such a row is not ``timed``: nobody waited for those replies. Usage is left as it is where an
    answer's trace does not say which calls its replies are of (answers of older versions).
    """
    found = list(rows)
    tasks: dict[str, list[int]] = {}
    for at, row in enumerate(found):
        tasks.setdefault(row.key, []).append(at)
    for places in tasks.values():
        paid = {c.key for at in places for c in _replies(found[at]) if not c.cached}
        for at in places:
            usage = found[at].usage
            if usage is None:
                continue
            first: dict[str, CallRecord] = {}
            for call in _replies(found[at]):
                if call.key and call.key not in paid:
                    first[call.key] = call
            paid |= set(first)
            if first:
                whole = _with_replies(usage, tuple(first.values()))
                found[at] = found[at].model_copy(update={"usage": whole, "timed": False})
    return found


def _replies(row: Row) -> Sequence[CallRecord]:
    return () if row.answer is None or row.usage is None else row.answer.trace.calls


def _with_replies(usage: Usage, calls: Sequence[CallRecord]) -> Usage:
    """What a run used and the calls that it had from the store."""
    costs = [call.cost for call in calls]
    known = [cost for cost in costs if cost is not None]
    return usage.model_copy(
        update={
            "calls": usage.calls + len(calls),
            "cached_calls": max(usage.cached_calls - len(calls), 0),
            "prompt_tokens": usage.prompt_tokens + sum(c.prompt_tokens for c in calls),
            "completion_tokens": usage.completion_tokens + sum(c.completion_tokens for c in calls),
            "cached_tokens": usage.cached_tokens + sum(c.cached_tokens for c in calls),
            "cost": None if usage.cost is None or None in costs else usage.cost + sum(known),
        }
    )
