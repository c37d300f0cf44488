"""How strongly each passage drew the scorer's heads, for the trace: one number a passage.

In the method's own units: only the passages of one answer can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .attention_plan import Plan

DIGITS = 6


def looked_at(
    plan: Plan, notes: Sequence[dict[str, Any]], carried: Iterable[Sequence[float]]
) -> dict[int, float]:
    """Scores by the numbers of the passages; those of which nothing was kept have none.

    Args:
        plan: Of the run.
        notes: On its windows: scores of passages, or of places in them.
        carried: What InfiniRetri kept to the end: [start, end, score].
    """
    scores: dict[int, float] = {}

    def add(number: int, score: float) -> None:
        scores[number] = max(score, scores.get(number, score))

    for note in notes:
        for number, score in note.get("passages", ()):
            add(number, score)
        for start, end, score in note.get("kept", ()) if "of" not in note else ():
            for number in plan.passages_in([(start, end)]):
                add(number, score)
        for start, end, _, mean in note.get("facts", ()):
            for number in plan.passages_in([(start, end)]):
                add(number, mean)
    for start, end, score in carried:
        for number in plan.passages_in([(int(start), int(end))]):
            add(number, score)
    return {number: float(f"{score:.{DIGITS}g}") for number, score in scores.items()}
