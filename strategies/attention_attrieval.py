"""Attrieval: the model reasons first, and what its reasoning looked at is given back to it.

Zhang et al., "Attention Reveals More Than Tokens", arXiv 2503.09819. (1) A chain of thought from
the context. (2) Each of its tokens votes for the 50 context tokens that it looks at most, in the
last quarter of the layers, all heads. (3) A fact (sentence) with a vote from nearly every token
(99%) is a sink and dropped. (4) Facts are ranked by their mean attention, the ten best are shown
once more before the question. (5) Cross-evaluation: only the tokens of the chain whose next word
the context changes most are believed.

The paper holds the whole context in one window. Here it is read in windows, each with the chain
behind it; a longer document is first narrowed down to what the answering model can hold, by
words. ``preset="calibrated"`` looks with the retrieval heads instead of the last quarter of the
layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reader.attention.model import Head, Tail, tells_words
from reader.attention.windows import Window, request

from .attention_plan import Looking, Plan, Selection, split

if TYPE_CHECKING:
    from reader.attention.model import FloatArray

DRAFT_TOKENS = 200
VOTES = 50  # context tokens that a token of the chain votes for
SINK = 0.99  # share of the chain's tokens that makes a fact a sink
LEAST_SINK = 0.95
FACTS = 10
CROSS = 0.5  # of the chain's tokens are believed: those that the context changes most


class Attrieval(Looking):
    """Votes of a chain of thought."""

    drafts = True

    def heads(self, plan: Plan) -> tuple[Head, ...]:
        """All heads of the last quarter of the layers, in the paper."""
        if plan.options.preset == "calibrated":
            return plan.looker.heads
        info = plan.looker.info
        layers = info.attending[-max(len(info.attending) // 4, 1) :]
        return tuple(Head(layer, head) for layer in layers for head in range(info.heads))

    async def look(
        self, plan: Plan, numbers: Sequence[int], state: dict[str, Any]
    ) -> dict[int, dict[str, Any]]:
        """Votes and mean attention of the windows' sentences: [start, end, votes, mean]."""
        tail = self._tail(plan, state["draft"])
        windows = [plan.windows[n] for n in numbers]
        found = await plan.looker.model.score(
            [request(window, [tail], self.heads(plan), per_row=True) for window in windows]
        )
        notes = {}
        for number, window, scores in zip(numbers, windows, found, strict=True):
            rows = scores.tails[0]
            if state["draft"] and tells_words(plan.looker.model):
                changed = await plan.looker.model.divergences(
                    window.prefix + tail.ids, tail.ids, len(tail.rows)
                )
                rows = rows[believed(changed)]
            notes[number] = {"facts": [list(fact) for fact in facts(plan, window, rows)]}
        return notes

    @staticmethod
    def _tail(plan: Plan, draft: str) -> Tail:
        """The question and the chain, whose tokens look; without one the question's."""
        layout = plan.looker.layout
        return layout.continued(plan.question, draft) if draft else layout.tail(plan.question)

    async def select(
        self, plan: Plan, notes: dict[int, dict[str, Any]], state: dict[str, Any]
    ) -> Selection:
        """The context that fits, and the ten best facts that are no sinks."""
        every = [tuple(fact) for note in notes.values() for fact in note["facts"]]
        level = SINK
        left = [fact for fact in every if fact[2] < level]
        while not left and level > LEAST_SINK:
            level -= 0.01
            left = [fact for fact in every if fact[2] <= level] or left
        left = left or every
        best = sorted(left, key=lambda fact: (-fact[3], fact[0]))[:FACTS]
        evidence = [(start, end) for start, end, _, _ in best]
        repeated = plan.size(evidence)
        shown = sorted(plan.fitting(plan.whole_or_likeliest(evidence), plan.room - repeated))
        return Selection(
            shown=tuple(shown),
            evidence=tuple(evidence),
            passages=plan.passages_in(shown),
            note=f"{len(best)} facts of {len(every)}, {len(every) - len(left)} sinks dropped",
        )


def believed(changed: FloatArray) -> list[int]:
    """Rows of the chain whose next word the context changes most, in order."""
    count = max(int(len(changed) * CROSS), 1)
    return sorted(np.argsort(changed)[::-1][:count].tolist())


def facts(plan: Plan, window: Window, rows: FloatArray) -> list[tuple[int, int, float, float]]:
    """Sentences of a window: (start, end, share of rows with a vote in it, mean attention)."""
    count = min(VOTES, rows.shape[1])
    voted = np.zeros(rows.shape, bool)
    np.put_along_axis(voted, np.argpartition(rows, -count, axis=1)[:, -count:], True, axis=1)
    voted &= rows > 0
    found = []
    for piece, (first, _) in zip(window.pieces, window.spans, strict=True):
        base = plan.reading.chunks[piece.passage].start
        offsets = piece.encoding.offsets
        for start, end in split(plan.reading.text(plan.reading.chunks[piece.passage])):
            columns = [first + at for at, (a, b) in enumerate(offsets) if a < end and b > start]
            if columns:
                votes = float(voted[:, columns].any(1).mean())
                found.append((base + start, base + end, votes, float(rows[:, columns].mean())))
    return found
