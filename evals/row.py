"""One question answered by one strategy, as comparisons and reports take it."""

from __future__ import annotations

from pydantic import Field, JsonValue

from reader.answers import Answer
from reader.budget import Frozen, Usage

from .evidence import EvidenceScore
from .outcome import Failure, Kind


class Row(Frozen):
    """One question, answered by one strategy.

    Attributes:
        set: Name of the question set.
        label: Name of the strategy in tables.
        strategy: The strategy itself.
        seed: Of the draw and of sampling.
        item: Id of the question in its set.
        key: Of the task it belongs to: same key, same settings.
        model: Name of the model.
        group: Rows of one group read the same document.
        title: Of the document.
        tokens: Length of the document by the model's tokenizer, None where it was not counted.
        characters: Length of the document.
        question: "" for a summary.
        references: Accepted answers.
        kind: What became of it.
        quality: 0 to 1 by ``metric``; failures, time-outs and empty replies are 0.
        metric: Name of the metric.
        also: Further metrics, 0 to 1.
        evidence: Citations against gold evidence, None where nothing was answered.
        usage: What the run takes with an empty store, None where a part of it is not known.
        timed: Its seconds were waited for; False where replies of earlier runs were used.
        answer: The answer with its trace.
        failure: Why there is none.
        options: Of the strategy, as the run had them.
        meta: Extras of the item.
    """

    set: str
    label: str
    strategy: str
    seed: int
    item: str
    key: str
    model: str
    group: str
    title: str = ""
    tokens: int | None = None
    characters: int = 0
    question: str = ""
    references: tuple[str, ...] = ()
    kind: Kind
    quality: float
    metric: str
    also: dict[str, float] = Field(default_factory=dict)
    evidence: EvidenceScore | None = None
    usage: Usage | None = None
    timed: bool = True
    answer: Answer | None = None
    failure: Failure | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict)
    meta: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens: as asked for where the document was generated, else counted, else estimated."""
        asked = self.meta.get("length")
        if isinstance(asked, int):
            return asked
        return self.tokens if self.tokens is not None else self.characters // 4
