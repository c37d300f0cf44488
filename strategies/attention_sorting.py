"""Attention Sorting: all passages stay, the one that draws most attention stands last.

Peysakhovich and Lerer, arXiv 2310.01427: attention of the first generated token, averaged over all
layers and heads, summed by document; sort, and repeat with the new order. What the answering model
can hold decides how many passages take part. The default looks from all of the question's tokens in
the calibrated heads, which a later comparison found to be worth much more than the last token
(ICR, arXiv 2410.02642); ``preset="paper"`` looks as the paper does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reader.attention.model import Head
from reader.attention.ranking import fused
from reader.attention.windows import BEST_TOKENS, passage_scores, request

from .attention_heads import evidence_of, note_of, ranking
from .attention_plan import Looking, Plan, Selection

ROUNDS = 3


class AttentionSorting(Looking):
    """The order of the passages."""

    def heads(self, plan: Plan) -> tuple[Head, ...]:
        """All heads of all layers, in the paper."""
        if plan.options.preset == "calibrated":
            return plan.looker.heads
        info = plan.looker.info
        return tuple(Head(layer, head) for layer in info.attending for head in range(info.heads))

    async def look(
        self, plan: Plan, numbers: Sequence[int], state: dict[str, Any]
    ) -> dict[int, dict[str, Any]]:
        """Scores of the windows' passages in the document's order."""
        windows = [plan.windows[n] for n in numbers]
        values = await self._tokens(plan, windows)
        return {
            number: note_of(plan, window, mine)
            for number, window, mine in zip(numbers, windows, values, strict=True)
        }

    async def _tokens(self, plan: Plan, windows: Sequence[Any]) -> list[Any]:
        if plan.options.preset == "calibrated":
            (values,) = await plan.looker.tokens(windows, [plan.question])
            return values
        tail = plan.looker.layout.tail(plan.question, "last")
        found = await plan.looker.model.score(
            [request(window, [tail], self.heads(plan)) for window in windows]
        )
        return [scores.tails[0].mean(0) for scores in found]

    async def select(
        self, plan: Plan, notes: dict[int, dict[str, Any]], state: dict[str, Any]
    ) -> Selection:
        """The passages that fit, read again in the new order until it stays."""
        ranked = ranking(notes)
        if plan.options.fuse and plan.options.preset == "calibrated":
            ranked = fused(ranked, words=plan.lexical())
        chunks = plan.reading.chunks
        ranges = [(chunks[n].start, chunks[n].end) for n in ranked]
        order = ranked[: len(plan.fitting(ranges, plan.room))]
        rounds = 1
        while rounds < ROUNDS and len(order) > 1:
            again = await self._sorted(plan, order)
            rounds += 1
            if again == order:
                break
            order = again
        shown = [(chunks[n].start, chunks[n].end) for n in reversed(order)]
        return Selection(
            shown=tuple(shown),
            evidence=tuple(evidence_of(plan, notes, shown)),
            passages=frozenset(order),
            note=f"{len(order)} passages in {rounds} rounds, the best last",
        )

    async def _sorted(self, plan: Plan, order: Sequence[int]) -> list[int]:
        """The passages by their scores when they stand in this order, the best last."""
        texts = [plan.reading.text(plan.reading.chunks[n]) for n in reversed(order)]
        windows = plan.looker.windows(texts, [plan.question])
        values = await self._tokens(plan, windows)
        scores = passage_scores(windows, values, len(texts), BEST_TOKENS)
        ranked = sorted(range(len(texts)), key=lambda at: (-scores[at], at))
        return [list(reversed(order))[at] for at in ranked]
