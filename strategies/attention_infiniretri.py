"""InfiniRetri: windows in order, the kept sentences travel on as text and compete again.

Ye et al., arXiv 2502.12962; the package infini-retri 0.0.3 is its code. ``preset="paper"`` scores
as it does: attention of the last layer, summed over heads; rows from the question to the end of
the prompt, each weighted by the square of the attention that it gives to the question (taken from
the first window); a box of 8 tokens; the 300 best tokens; every sentence with one of them stays.
The default looks with calibrated heads instead, and ranks sentences by their best tokens.

What is added: the package keeps without bound (300 tokens may pull in 300 sentences); here at
most ``keep_tokens`` of sentences stay, the best ones. Sentences are character ranges, so that
none is lost or found twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reader.attention.model import Head, Tail
from reader.attention.windows import BEST_TOKENS, Range, Window, request, top_mean

from .attention_plan import Looking, Plan, Selection, split

if TYPE_CHECKING:
    from reader.attention.model import FloatArray

PHRASE = 8  # tokens of the box
TOP_TOKENS = 300
KEPT_PART = 2  # of the scorer's window is for what is kept


class InfiniRetri(Looking):
    """Kept sentences, and the next window."""

    serial = True

    def heads(self, plan: Plan) -> tuple[Head, ...]:
        """All heads of the last layer, in the paper."""
        if plan.options.preset == "calibrated":
            return plan.looker.heads
        last = plan.looker.info.attending[-1]
        return tuple(Head(last, head) for head in range(plan.looker.info.heads))

    async def look(
        self, plan: Plan, numbers: Sequence[int], state: dict[str, Any]
    ) -> dict[int, dict[str, Any]]:
        """One window with what was kept before it; what is kept now goes to ``carried``."""
        (number,) = numbers
        new = [span for piece in plan.windows[number].pieces for span in sentences_of(plan, piece)]
        before = [(start, end) for start, end, _ in state["carried"]]
        ranges = [*before, *new]
        text = plan.reading.document.text
        layout = plan.looker.layout
        # What travels takes room beside the window; the model's own window is larger.
        room = layout.room(plan.looker.tails([plan.question])) + plan.looker.info.window
        windows = layout.windows([text[a:b] for a, b in ranges], room - layout.window)
        scored: list[tuple[float, int]] = []
        for window in windows:
            scored += await self._scores(plan, window, state)
        limit = plan.options.keep_tokens or layout.window // KEPT_PART
        kept, left = [], limit
        for score, at in sorted(scored, key=lambda pair: (-pair[0], pair[1])):
            tokens = max(plan.size([ranges[at]]) - 20, 1)
            if tokens <= left:
                left -= tokens
                kept.append((*ranges[at], score))
        state["carried"] = [list(one) for one in sorted(kept)]
        return {number: {"kept": len(kept), "of": len(ranges)}}

    async def _scores(
        self, plan: Plan, window: Window, state: dict[str, Any]
    ) -> list[tuple[float, int]]:
        """Scores of the sentences that are worth keeping, and their numbers in the window."""
        if plan.options.preset == "calibrated":
            ((values,),) = await plan.looker.tokens([window], [plan.question])
            return [
                (float(top_mean(values[first:last], BEST_TOKENS)), piece.passage)
                for piece, (first, last) in zip(window.pieces, window.spans, strict=True)
            ]
        tail = plan.looker.layout.tail(plan.question)
        if not state["weights"]:
            state["weights"] = await question_weights(plan, window, tail, self.heads(plan))
        weights = tuple(weight**2 for weight in state["weights"])
        weighted = Tail(tail.ids, tail.rows, weights)
        (found,) = await plan.looker.model.score([request(window, [weighted], self.heads(plan))])
        values = box(found.tails[0].sum(0), PHRASE)
        chosen = set(np.argsort(values)[::-1][:TOP_TOKENS].tolist())
        return [
            (float(values[first:last].max()), piece.passage)
            for piece, (first, last) in zip(window.pieces, window.spans, strict=True)
            if any(column in chosen for column in range(first, last))
        ]

    async def select(
        self, plan: Plan, notes: dict[int, dict[str, Any]], state: dict[str, Any]
    ) -> Selection:
        """The kept sentences alone, in order; the best of them that fit."""
        best = sorted(state["carried"], key=lambda one: (-one[2], one[0]))
        evidence = [(start, end) for start, end, _ in best]
        shown = sorted(plan.fitting(evidence, plan.room))
        return Selection(
            shown=tuple(shown),
            evidence=tuple(evidence),
            passages=plan.passages_in(shown),
            note=f"{len(shown)} sentences kept ({plan.options.preset})",
        )


def sentences_of(plan: Plan, piece: Any) -> list[Range]:
    """Ranges of the document: the sentences of a piece of a passage."""
    base = plan.reading.chunks[piece.passage].start
    start, end = piece.encoding.offsets[0][0], piece.encoding.offsets[-1][1]
    text = plan.reading.document.text[base + start : base + end]
    return [(base + start + a, base + start + b) for a, b in split(text)]


async def question_weights(
    plan: Plan, window: Window, tail: Tail, heads: Sequence[Head]
) -> list[float]:
    """How much each row looks at the question itself: a sum over its tokens."""
    asked = request(window, [tail], heads, per_row=True)
    first = len(window.prefix) + tail.rows[0]
    at = type(asked)(
        prefix=asked.prefix,
        tails=asked.tails,
        columns=(first, len(window.prefix) + tail.rows[-1] + 1),
        heads=asked.heads,
        per_row=True,
    )
    (found,) = await plan.looker.model.score([at])
    return [float(weight) for weight in found.tails[0].sum(1)]


def box(values: FloatArray, width: int) -> FloatArray:
    """Sums over ``width`` neighbours, zeros beyond the ends."""
    return np.convolve(values, np.ones(width, np.float32), mode="same").astype(np.float32)
