"""Our metrics as a scorer of inspect-ai.

The value is the metric of the item's set, 0 to 1. Failures, time-outs and empty replies are 0, and
the explanation says which. Evidence and further metrics are in the score's metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from reader.answers import Answer
from reader.documents import Document

from .evidence import evidence_score
from .item import Item
from .metrics import score
from .outcome import Outcome
from .sets import set_info


class Key:
    """Items and their documents by the sample's id: what the scorer compares with."""

    name = "key"

    def __init__(
        self,
        items: Mapping[str, tuple[Item, Document]],
        on_score: Callable[[str, Outcome, float], None] | None = None,
    ) -> None:
        self.items = items
        self.on_score = on_score


@scorer(metrics=[mean(), stderr()])
def quality(metric: str | None = None, key: Key | None = None) -> Scorer:
    """Score what ``reading`` left in the sample.

    Args:
        metric: A name of ``metrics.Metric``; None takes the one of the item's set.
        key: The items. Without it an item is made of the sample: input, targets, choices, and
            the metadata "document" (the text), "evidence" and "dataset", where they are given.
    """

    async def grade(state: TaskState, target: Target) -> Score:
        if key is not None:
            item, document = key.items[str(state.sample_id)]
        else:
            item = item_of(state, target)
            document = item.document()
        given = state.metadata.get("outcome")
        if given is None:
            return Score(value=0.0, answer="", explanation="error: the sample has no outcome")
        outcome = Outcome.model_validate(given)
        made = graded(item, document, outcome, metric)
        if key is not None and key.on_score is not None:
            key.on_score(item.id, outcome, made.as_float())
        return made

    return grade


def graded(item: Item, document: Document, outcome: Outcome, metric: str | None = None) -> Score:
    """The score of one outcome."""
    answer = None if outcome.wrong else outcome.answer
    info = set_info(item)
    main = score(item, answer, metric)
    more = {name: score(item, answer, name).value for name in info.also if name != main.metric}
    # Who failed cited nothing: leaving it out would flatter.
    cited = answer or Answer(question=item.question, text="", status="partial")
    evidence = evidence_score(item, cited, document)
    said: str = outcome.kind
    if outcome.failure is not None:
        said += f": {outcome.failure.type}: {outcome.failure.message}"
    metadata: dict[str, Any] = {
        "metric": main.metric,
        "prediction": main.prediction,
        "abstained": main.abstained,
        "also": more,
        "evidence": evidence.model_dump(mode="json"),
    }
    return Score(
        value=main.value,
        answer=outcome.answer.text if outcome.answer is not None else "",
        explanation=said,
        metadata=metadata,
    )


def item_of(state: TaskState, target: Target) -> Item:
    """The item that a sample of a task of one's own stands for."""
    metadata = state.metadata
    return Item(
        id=str(state.sample_id),
        dataset=str(metadata.get("dataset") or "samples"),
        context=metadata["document"],
        question=state.input_text.strip() or None,
        answers=tuple(target.target),
        evidence=metadata.get("evidence"),
        choices=tuple(choice.value for choice in state.choices) or None,
        meta=metadata.get("meta") or {},
    )
