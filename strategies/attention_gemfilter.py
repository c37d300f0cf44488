"""GemFilter: one early layer, the last token's products with every key, the best tokens stay.

Shi et al., arXiv 2409.17422; SalesforceAIResearch/GemFilter. The products are taken before the
softmax, summed over the heads of the layer, averaged over 5 neighbours; the k best tokens are
kept in their order and read afresh. ``preset="paper"`` does that, with the whole text as one:
products do not depend on what else stands in a window, so windows can be compared. The default
keeps sentences instead of tokens, whose text is garbled, and looks from all of the question's
tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from reader.attention.model import Head
from reader.attention.windows import Range, request

from .attention_plan import Looking, Plan, Selection, merged

POOL = 5  # tokens
TOP_TOKENS = 1_024
DEPTH = 0.45  # of the layers: 13 of 32, 19 of 40 and 19 of 32 in the paper
SENTENCES = 64  # of a window, at most, that are remembered


class GemFilter(Looking):
    """The products of one early layer."""

    def heads(self, plan: Plan) -> tuple[Head, ...]:
        """All heads of the layer in which most of the retrieval heads are."""
        info, table = plan.looker.info, plan.looker.table
        if table is not None and plan.options.preset == "calibrated":
            layer = Counter(head.layer for head in table.chosen).most_common(1)[0][0]
        else:
            layer = info.attending[int(len(info.attending) * DEPTH)]
        return tuple(Head(layer, head) for head in range(info.heads))

    async def look(
        self, plan: Plan, numbers: Sequence[int], state: dict[str, Any]
    ) -> dict[int, dict[str, Any]]:
        """The windows' best tokens (``paper``) or sentences: [start, end, score]."""
        paper = plan.options.preset == "paper"
        tail = plan.looker.layout.tail(plan.question, "last" if paper else "question_to_end")
        windows = [plan.windows[n] for n in numbers]
        found = await plan.looker.model.score(
            [request(window, [tail], self.heads(plan), kind="logits") for window in windows]
        )
        notes = {}
        for number, window, scores in zip(numbers, windows, found, strict=True):
            pooled = pool(scores.tails[0].sum(0), POOL)
            if paper:
                kept = [(float(pooled[at]), at) for at in np.argsort(pooled)[::-1][:TOP_TOKENS]]
                places = [(plan.range_of(window, int(at)), score) for score, at in kept]
                best = [(*place, score) for place, score in places if place is not None]
            else:
                best = [
                    (start, end, score)
                    for score, (start, end) in plan.sentence_scores(window, pooled, POOL)
                ][:SENTENCES]
            notes[number] = {"kept": [list(one) for one in best]}
        return notes

    async def select(
        self, plan: Plan, notes: dict[int, dict[str, Any]], state: dict[str, Any]
    ) -> Selection:
        """The best tokens or sentences of all windows, in the document's order."""
        every = sorted(
            (tuple(one) for note in notes.values() for one in note["kept"]),
            key=lambda one: (-one[2], one[0]),
        )
        limit = min(plan.options.keep_tokens or TOP_TOKENS, plan.room)
        if plan.options.preset == "paper":
            shown = self._tokens(plan, [(start, end) for start, end, _ in every[:limit]])
            evidence: list[Range] = []
        else:
            evidence = plan.fitting([(start, end) for start, end, _ in every], limit)
            shown = merged(evidence, gap=2)
        return Selection(
            shown=tuple(shown),
            evidence=tuple(evidence),
            passages=plan.passages_in(shown),
            note=f"layer {self.heads(plan)[0].layer}, {len(shown)} places ({plan.options.preset})",
        )

    @staticmethod
    def _tokens(plan: Plan, best: Sequence[Range]) -> list[Range]:
        """As many of the best tokens as fit as runs of text: each run is a part of the prompt."""
        low, high = 1, len(best)
        while low < high:
            middle = (low + high + 1) // 2
            fits = plan.size(merged(best[:middle], gap=1)) <= plan.room
            low, high = (middle, high) if fits else (low, middle - 1)
        return merged(best[:low], gap=1)


def pool(values: Any, width: int) -> Any:
    """Means over ``width`` neighbours; at the ends over those that are there."""
    ones = np.ones(width, np.float32)
    sums = np.convolve(values, ones, mode="same")
    return (sums / np.convolve(np.ones(len(values), np.float32), ones, mode="same")).astype(
        np.float32
    )
