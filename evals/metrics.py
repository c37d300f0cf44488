"""Scores of answers: one number from 0 to 1 by the metric of the item's set.

What did not come (an error, a time-out, an empty reply) is 0, like a wrong answer. On an item that
the document does not answer, every metric asks the same thing: was that said? Evidence has scores
of its own (``evidence``), so has a judge (``judge``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from reader.answers import Answer
from reader.budget import Frozen
from reader.errors import InvalidOption
from reader.llm.choice import parse_choice
from reader.llm.replies import says_nothing_found

from . import text_metrics as texts

if TYPE_CHECKING:
    from .item import Item

PLAIN: Mapping[str, Callable[..., float]] = {
    "exact_match": texts.exact_match,
    "f1": texts.f1,
    "f1_characters": texts.f1_characters,
    "subspan": texts.subspan,
    "contains": texts.contains,
    "recall_all": texts.recall_all,
    "recall_any": texts.recall_any,
    "babi": texts.babi,
    "numbers_right": texts.numbers_right,
    "first_number": texts.first_number,
    "last_number": texts.last_number,
    "leading_numbers": texts.leading_numbers,
    "letters": texts.letters,
    "edit_similarity": texts.edit_similarity,
    "rouge1": texts.rouge("rouge1"),
    "rouge2": texts.rouge("rouge2"),
    "rougeL": texts.rouge("rougeL"),
    "rougeLsum": texts.rouge("rougeLsum"),
    "rouge_characters": texts.rouge_characters,
}
"""Metrics of prediction and references alone."""

METRICS = (*PLAIN, "choice", "babilong", "keyword_f1", "classification", "abstention")
"""Every name that ``score`` takes."""

_UNANSWERABLE = ("unanswerable", "not answerable", "cannot be answered", "can't be answered")


class Score(Frozen):
    """One answer by one metric.

    Attributes:
        metric: Its name.
        value: 0 to 1; an error, a time-out or an empty reply is 0.
        prediction: What was scored, "" where nothing came.
        abstained: The answer says that the document does not tell.
    """

    metric: str
    value: float = Field(ge=0, le=1)
    prediction: str = ""
    abstained: bool = False


def score(item: Item, answer: Answer | str | None, metric: str | None = None) -> Score:
    """Score an answer.

    Args:
        item: With its references.
        answer: What a strategy gave, or its text; None: nothing came.
        metric: One of ``METRICS``; None takes that of the item's set.

    Raises:
        InvalidOption: no such metric, or one that this item cannot be scored by.
        MissingExtra: ROUGE without the extra "evals".
    """
    if metric is None:
        from .sets import set_info

        metric = set_info(item).metric
    if metric not in METRICS:
        raise InvalidOption(
            f"There is no metric {metric!r}.", hint=f"There are: {', '.join(METRICS)}."
        )
    said = "" if answer is None else answer.text if isinstance(answer, Answer) else answer
    gave_up = abstained(answer)
    if metric == "abstention" or not item.answerable:
        right = bool(said.strip()) and gave_up != item.answerable
        return Score(metric=metric, value=float(right), prediction=said, abstained=gave_up)
    value = _value(item, answer, said, metric)
    return Score(metric=metric, value=value, prediction=said, abstained=gave_up)


def abstained(answer: Answer | str | None) -> bool:
    """Whether an answer says that the document does not tell; nothing at all says nothing."""
    if answer is None:
        return False
    if isinstance(answer, Answer):
        if answer.status == "not_found":
            return True
        if answer.choice is not None:
            return False
        answer = answer.text
    short = texts.normalised(answer)
    return short in _UNANSWERABLE or says_nothing_found(answer)


def _value(item: Item, answer: Answer | str | None, said: str, metric: str) -> float:
    if metric == "choice":
        return _choice(item, answer, said)
    if not said.strip():
        return 0.0
    if metric == "babilong":
        labels = _texts(item, "labels", metric)
        return texts.babilong(said, item.answers, labels, item.question or "")
    if metric == "keyword_f1":
        keywords = item.meta.get("answer_keywords")
        return texts.keyword_f1(said, item.answers, keywords if isinstance(keywords, str) else None)
    if metric == "classification":
        return texts.classification(said, item.answers, _texts(item, "classes", metric))
    return PLAIN[metric](said, item.answers)


def _choice(item: Item, answer: Answer | str | None, said: str) -> float:
    if item.choices is None:
        raise InvalidOption(
            f"Item {item.id!r} has no choices, so it cannot be scored by 'choice'.", hint=""
        )
    chosen = answer.choice if isinstance(answer, Answer) else None
    if chosen is None:
        chosen = parse_choice(said, item.choices) if said.strip() else None
    return float(chosen is not None and chosen == item.gold_choice)


def _texts(item: Item, field: str, metric: str) -> list[str]:
    value = item.meta.get(field)
    if not isinstance(value, list) or not value:
        raise InvalidOption(
            f"Item {item.id!r} has no meta.{field}, which {metric!r} needs.", hint=""
        )
    return [str(text) for text in value]
