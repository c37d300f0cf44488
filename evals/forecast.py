"""What an evaluation will cost, before any call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping
from typing import TYPE_CHECKING

from reader.budget import Budget, Estimate, Frozen
from reader.errors import InputError

from .item import Item
from .plan import Batch, Entrant, Plan

if TYPE_CHECKING:
    from rich.table import Table

    from reader.llm.types import ModelInfo
    from reader.session import Reader


class Forecast(Frozen):
    """What one strategy is expected to use on all items that are still to do.

    Attributes:
        label: Name of the entrant.
        items: To do.
        finished: Already in the logs; they cost nothing.
        refused: Of the items to do, those that cannot start (window or budget too small): they
            will count as wrong.
        calls: Model calls.
        prompt_tokens: Tokens in.
        completion_tokens: Tokens out.
        cost: Dollars, None where the price is not known.
        most: Dollars if every reply ran to its cap, None where the price is not known.
        exact: False where tokens are a conservative estimate.
        reason: Why the first refused item cannot start.
    """

    label: str
    items: int = 0
    finished: int = 0
    refused: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0
    most: float | None = 0.0
    exact: bool = True
    reason: str = ""

    def plus(self, found: Estimate, budget: Budget | None) -> Forecast:
        """With one more question, which never takes more than its budget."""
        calls, tokens_in, tokens_out = found.calls, found.prompt_tokens, found.completion_tokens
        cost, most = found.cost, found.max_cost
        if budget is not None:
            calls = min(calls, budget.calls or calls)
            whole = tokens_in + tokens_out
            if budget.tokens is not None and whole > budget.tokens:
                share = budget.tokens / whole
                tokens_in, tokens_out = int(tokens_in * share), int(tokens_out * share)
                cost = None if cost is None else cost * share
            if budget.usd is not None:
                cost = None if cost is None else min(cost, budget.usd)
                most = None if most is None else min(most, budget.usd)
        return self.model_copy(
            update={
                "items": self.items + 1,
                "calls": self.calls + calls,
                "prompt_tokens": self.prompt_tokens + tokens_in,
                "completion_tokens": self.completion_tokens + tokens_out,
                "cost": _sum(self.cost, cost),
                "most": _sum(self.most, most),
                "exact": self.exact and found.exact_counts,
            }
        )

    def plus_refused(self, error: InputError) -> Forecast:
        """With one more question that cannot start."""
        return self.model_copy(
            update={
                "items": self.items + 1,
                "refused": self.refused + 1,
                "reason": self.reason or str(error),
            }
        )


async def forecast(
    plan: Plan,
    batches: Iterable[Batch],
    reader: Reader,
    info: ModelInfo,
    done: Mapping[str, Container[str]],
    keys: Mapping[tuple[str, int, str], str],
    on_step: Callable[[], None] = lambda: None,
) -> list[Forecast]:
    """Estimate every strategy on the items that are not finished; counts documents on the way.

    Args:
        plan: What is evaluated.
        batches: Its items; their ``tokens`` are filled in.
        reader: With the model and the store.
        info: The model's.
        done: Finished items, by id, by the key of their task.
        keys: Keys of tasks by set, seed and label.
        on_step: Called after each estimate.

    Raises:
        ReaderError: what every question would meet: no such model, a wrong key, no price for a
            budget in dollars.
    """
    found = {entrant.label: Forecast(label=entrant.label) for entrant in plan.entrants}
    for batch in batches:
        await _count(batch, info)
        for entrant in plan.entrants:
            finished = done.get(keys[batch.name, batch.seed, entrant.label], ())
            for item in batch.items:
                now = found[entrant.label]
                if item.id in finished:
                    now = now.model_copy(update={"finished": now.finished + 1})
                else:
                    now = await _with(now, plan, batch, entrant, item, reader)
                found[entrant.label] = now
                on_step()
    return list(found.values())


def forecast_table(forecasts: Iterable[Forecast], model: str) -> Table:
    """The forecasts for people."""
    from rich.table import Table

    rows = list(forecasts)
    exact = all(row.exact for row in rows)
    table = Table(title=f"Expected, with {model}", title_justify="left")
    table.add_column("strategy")
    for name in ("questions", "calls", "tokens in" if exact else "tokens in, about", "tokens out"):
        table.add_column(name, justify="right")
    table.add_column("dollars", justify="right")
    for row in rows:
        table.add_row(
            row.label,
            f"{row.items:,}",
            f"{row.calls:,}",
            f"{row.prompt_tokens:,}",
            f"{row.completion_tokens:,}",
            _money(row.cost, row.most),
        )
    if len(rows) > 1:
        table.add_section()
        table.add_row(
            "all",
            f"{sum(r.items for r in rows):,}",
            f"{sum(r.calls for r in rows):,}",
            f"{sum(r.prompt_tokens for r in rows):,}",
            f"{sum(r.completion_tokens for r in rows):,}",
            _money(_total(r.cost for r in rows), _total(r.most for r in rows)),
        )
    return table


async def _count(batch: Batch, info: ModelInfo) -> None:
    """Lengths of the documents; each is counted once."""
    by_text: dict[str, int] = {}
    for item_id, document in batch.documents.items():
        if document.sha256 not in by_text:
            (by_text[document.sha256],) = await info.counter.count([document.text])
        batch.tokens[item_id] = by_text[document.sha256]


async def _with(
    now: Forecast, plan: Plan, batch: Batch, entrant: Entrant, item: Item, reader: Reader
) -> Forecast:
    await asyncio.sleep(0)
    try:
        found = await reader.aestimate(
            batch.documents[item.id],
            item.question,
            entrant.strategy,
            choices=item.choices,
            **entrant.options_for(item, batch.seed),
        )
    except InputError as error:
        return now.plus_refused(error)
    return now.plus(found, plan.budget)


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _total(values: Iterable[float | None]) -> float | None:
    total: float | None = 0.0
    for value in values:
        total = _sum(total, value)
    return total


def _money(cost: float | None, most: float | None) -> str:
    if cost is None:
        return "unknown"
    if not cost and not most:
        return "none"
    return f"{cost:.4f}" if most is None else f"{cost:.4f}, at most {most:.4f}"
