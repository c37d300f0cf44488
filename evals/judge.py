"""An LLM as judge: it sees the question, the references and the cited passages, nothing else.

Not the document, not the trace, not which strategy or model answered. It is asked two things: does
the answer say what a reference says, and do the passages bear it out? A judge is worth what its
agreement with exact metrics says (``agreement``): report that beside its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from reader.budget import Frozen, Ledger
from reader.errors import BadReply, InvalidOption
from reader.llm.structured import typed_reply
from reader.llm.types import ChatRequest, Message
from reader.prompts import fence, load_prompts

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.llm.types import ChatModel

    from .item import Item

PROMPTS = load_prompts("reader.evals", "judge")
REPLY_TOKENS = 128
MOST_PASSAGES = 20


class Verdict(Frozen):
    """What the judge said.

    Attributes:
        correct: The answer says what a reference says; None where the judge's reply could not be
            used, which counts as not correct.
        supported: The cited passages bear the answer out; None without a citation, and where the
            reply could not be used.
        reply: The judge's words, "" where it was not asked (no answer).
        model: Its name.
    """

    correct: bool | None
    supported: bool | None
    reply: str
    model: str

    @property
    def value(self) -> float:
        """1 if correct, else 0."""
        return float(self.correct is True)


class Agreement(Frozen):
    """How far a judge agrees with an exact metric on the same answers.

    Attributes:
        n: Answers that both scored.
        share: Of these, alike.
        kappa: Cohen's: 1 is full agreement, 0 that of chance; None where one of the two says the
            same of all answers and it is not defined.
        only_judge: Answers that only the judge calls right.
        only_metric: Answers that only the metric calls right.
    """

    n: int
    share: float
    kappa: float | None
    only_judge: int
    only_metric: int


class _Said(BaseModel):
    correct: bool = Field(description="the answer says the same as a reference")
    supported: bool = Field(description="the passages show that the answer is true")


async def judge(item: Item, answer: Answer, model: ChatModel) -> Verdict:
    """Ask the judge, once more if its reply cannot be read. No answer is judged without a call.

    Raises:
        ModelError: the call failed.
    """
    info = await model.info()
    if not answer.text.strip():
        return Verdict(correct=False, supported=None, reply="", model=info.name)
    cited = bool(answer.citations)
    request = ChatRequest(
        messages=(Message("user", prompt(item, answer)),),
        max_tokens=REPLY_TOKENS,
        purpose="judge",
    )
    try:
        said = await typed_reply(
            model, request, _Said, can_enforce=info.json_schema, max_reasks=1, counts=Ledger()
        )
    except BadReply as error:
        return Verdict(correct=None, supported=None, reply=error.message, model=info.name)
    return Verdict(
        correct=said.value.correct,
        supported=said.value.supported if cited else None,
        reply=said.reply.text,
        model=info.name,
    )


def prompt(item: Item, answer: Answer) -> str:
    """What the judge reads. Of the answer's citations, the best 20."""
    references = list(item.answers) or ["The document does not say."]
    passages = [citation.text for citation in answer.citations[:MOST_PASSAGES]]
    return PROMPTS["judge"].fill(
        question=fence(item.question or "Summarise the document.", "question"),
        references="\n".join(fence(reference, "reference") for reference in references),
        answer=fence(answer.text, "answer"),
        passages="\n".join(fence(passage, "passage") for passage in passages) or "No passages.",
    )


def agreement(judged: Sequence[float], exact: Sequence[float], *, right: float = 0.5) -> Agreement:
    """Compare a judge's scores with those of an exact metric, item by item.

    Args:
        judged: Of the judge.
        exact: Of the metric, for the same answers.
        right: From which score on an answer counts as right; with a metric that gives parts, such
            as token F1, say what you take.

    Raises:
        InvalidOption: no scores, or not as many of the one as of the other.
    """
    if not judged or len(judged) != len(exact):
        raise InvalidOption(
            f"{len(judged)} verdicts and {len(exact)} scores cannot be compared.",
            hint="Pass both for the same answers.",
        )
    pairs = [(a >= right, b >= right) for a, b in zip(judged, exact, strict=True)]
    n = len(pairs)
    share = sum(a == b for a, b in pairs) / n
    yes_judge = sum(a for a, _ in pairs) / n
    yes_exact = sum(b for _, b in pairs) / n
    chance = yes_judge * yes_exact + (1 - yes_judge) * (1 - yes_exact)
    return Agreement(
        n=n,
        share=share,
        kappa=None
        if chance == 1 or yes_judge in (0, 1) or yes_exact in (0, 1)
        else (share - chance) / (1 - chance),
        only_judge=sum(a and not b for a, b in pairs),
        only_metric=sum(b and not a for a, b in pairs),
    )
