"""Calibrated retrieval heads: passages by where a few known heads look from the question.

QRHead and QRRetriever (Zhang et al., EMNLP 2025, arXiv 2506.09944), after ICR (Chen et al., ICLR
2025, arXiv 2410.02642). Three things differ: windows instead of one prompt that must hold
everything, a second look at the best passages of all windows, and fusing with BM25 by reciprocal
rank, since words and heads miss different passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reader.attention.ranking import fused, named, second_look
from reader.attention.windows import BEST_TOKENS, Range, passage_scores

from .attention_plan import SENTENCES_KEPT, Looking, Plan, Selection, merged


class CalibratedHeads(Looking):
    """Windows side by side, passages ranked, neighbours added."""

    async def look(
        self, plan: Plan, numbers: Sequence[int], state: dict[str, Any]
    ) -> dict[int, dict[str, Any]]:
        """Scores of the windows' passages, and their best sentences."""
        windows = [plan.windows[n] for n in numbers]
        (scores,) = await plan.looker.tokens(windows, [plan.question])
        return {
            number: note_of(plan, window, values)
            for number, window, values in zip(numbers, windows, scores, strict=True)
        }

    async def select(
        self, plan: Plan, notes: dict[int, dict[str, Any]], state: dict[str, Any]
    ) -> Selection:
        """The first k passages of the ranking and those beside them, in the document's order."""
        words, vectors = (plan.lexical(), await plan.dense()) if plan.options.fuse else ([], [])
        by_heads, first, titles = ranking(notes), [], []
        how = ["heads", *["BM25"] * bool(words), *["vectors"] * bool(vectors)]
        if plan.twice and len(notes) == len(plan.windows):
            ranked = fused(by_heads, words=words, vectors=vectors)
            again = await second_look(plan.looker, plan.passages(), plan.question, ranked)
            if again is not None:
                notes = {0: note_of(plan, *again)}
                twice = ranking(notes)
                first, by_heads = by_heads, list(dict.fromkeys([*twice, *ranked]))
                how.append(f"a second look at {len(twice)}")
        if plan.options.fuse:
            titles = named(by_heads, plan.passages(), plan.titles())
            how += ["titles"] * bool(titles)
        else:
            first = []  # the last look alone
        ranked = fused(by_heads, first=first, words=words, vectors=vectors, titles=titles)
        best, shown = with_neighbours(plan, ranked)
        evidence = evidence_of(plan, notes, shown)
        names = ", ".join(str(number + 1) for number in ranked[: len(best)])
        return Selection(
            shown=tuple(shown),
            evidence=tuple(evidence),
            passages=plan.passages_in(shown),
            note=f"{', '.join(how)}: passages {names}",
        )


def note_of(plan: Plan, window: Any, values: Any) -> dict[str, Any]:
    """What is kept of a window: ``passages`` [number, score], ``sentences`` [start, end, score]."""
    numbers = sorted({piece.passage for piece in window.pieces})
    scores = passage_scores([window], [values], len(plan.reading.chunks))
    best = plan.sentence_scores(window, values, BEST_TOKENS)[:SENTENCES_KEPT]
    return {
        "passages": [[number, float(scores[number])] for number in numbers],
        "sentences": [[start, end, value] for value, (start, end) in best],
    }


def ranking(notes: dict[int, dict[str, Any]]) -> list[int]:
    """Passages by their scores, the best first; one in two windows counts by its better part."""
    scores: dict[int, float] = {}
    for note in notes.values():
        for number, score in note["passages"]:
            scores[number] = max(score, scores.get(number, score))
    return sorted(scores, key=lambda number: (-scores[number], number))


def with_neighbours(plan: Plan, ranked: Sequence[int]) -> tuple[list[int], list[Range]]:
    """The best k passages that fit, and what is shown: with their neighbours where these fit too.

    Returns:
        The passages, the best first, and ranges of the document in order.
    """
    chunks = plan.reading.chunks
    best: list[int] = []
    ranges: list[Range] = []

    def add(number: int) -> bool:
        more = merged([*ranges, (chunks[number].start, chunks[number].end)])
        if plan.size(more) > plan.room:
            return False
        ranges[:] = more
        return True

    for number in ranked:
        if len(best) == plan.options.k:
            break
        if add(number):
            best.append(number)
    for step in range(1, plan.options.neighbours + 1):
        for number in best:
            for beside in (number - step, number + step):
                if 0 <= beside < len(chunks):
                    add(beside)
    return best, ranges


def evidence_of(
    plan: Plan, notes: dict[int, dict[str, Any]], shown: Sequence[Range]
) -> list[Range]:
    """The best sentences of what is shown, the best first."""
    found = [tuple(one) for note in notes.values() for one in note["sentences"]]
    found.sort(key=lambda one: (-one[2], one[0]))
    return [
        (start, end) for start, end, _ in found if any(a <= start and end <= b for a, b in shown)
    ]
