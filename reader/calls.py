"""What a caller asked for, checked before anything is spent."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import ValidationError

from reader.budget import Budget
from reader.documents import Document, Source
from reader.errors import EmptyQuestion, InvalidOption
from reader.strategy import Strategy, StrategyOptions, Together, find_strategy, read_options

# Raised when the same replies give another answer or other citations: a finished run is then made
# again, from the replies in the store.
ANSWER_VERSION = 7

BudgetLike: TypeAlias = "Budget | Mapping[str, float] | str | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One question about one document.

    Attributes:
        document: What is read.
        question: None asks for a summary.
        choices: Options of a multiple-choice question.
        strategy: The reading method.
        options: Its options.
        budget: Limits of the run.
        deadline: Seconds for the run.
        beside: Question and choices of all that are read in one pass, this one among them; empty
            where it is read by itself.
        place: Its place among the questions that were asked with it.
    """

    document: Document
    question: str | None
    choices: tuple[str, ...]
    strategy: type[Strategy[Any]]
    options: StrategyOptions
    budget: Budget | None
    deadline: float | None
    beside: tuple[tuple[str | None, tuple[str, ...]], ...] = ()
    place: int = 0

    @property
    def together(self) -> type[Together[Any]] | None:
        """The strategy's form for several questions, where this is one of several."""
        return self.strategy.together(self.options) if self.beside else None

    def run_id(self, identity: str) -> str:
        """The same call has the same id: after a crash it resumes, later it is already answered.

        A question that is read together with others has another id than alone: it is asked in
        other words, and the answer may differ.
        """
        parts: dict[str, Any] = {
            "document": self.document.sha256,
            "question": self.question,
            "choices": self.choices,
            "strategy": self.strategy.name,
            "options": self.options.model_dump(mode="json", exclude={"concurrency"}),
            "prompts": self.strategy.prompt_versions(),
            "answer": ANSWER_VERSION,
            "model": identity,
        }
        if self.together is not None:
            parts |= {"beside": self.beside, "together": self.together.prompt_versions()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


async def checked(
    doc: Source,
    question: str | None,
    strategy: str,
    *,
    choices: Sequence[str] | None = None,
    budget: BudgetLike = None,
    deadline: float | None = None,
    options: dict[str, Any],
) -> Call:
    """Check everything that can be checked, and load the document.

    Raises:
        InputError: names what is wrong; nothing was spent.
    """
    [call] = await checked_many(
        doc,
        [question],
        strategy,
        choices=None if choices is None else [choices],
        budget=budget,
        deadline=deadline,
        options=options,
    )
    return call


async def checked_many(
    doc: Source,
    questions: Sequence[str | None],
    strategy: str,
    *,
    choices: Sequence[Sequence[str] | None] | None = None,
    budget: BudgetLike = None,
    deadline: float | None = None,
    options: dict[str, Any],
) -> list[Call]:
    """The same for several questions, in their order; one that is asked twice is the same call.

    Where the strategy can, the calls are read beside each other.

    Raises:
        InputError: names what is wrong; nothing was spent.
    """
    if isinstance(questions, str):
        raise InvalidOption("questions must be a list of texts.", hint="Pass [question].")
    offered = [None] * len(questions) if choices is None else list(choices)
    if len(offered) != len(questions):
        raise InvalidOption(
            f"There are {len(questions)} questions and {len(offered)} sets of choices.",
            hint="Pass one set for each question, None for a question without.",
        )
    asked = [_question(q, c) for q, c in zip(questions, offered, strict=True)]
    if deadline is not None and deadline <= 0:
        raise InvalidOption("deadline must be above 0 seconds.", hint="")
    kind = find_strategy(strategy)
    read = read_options(kind, options)
    limits = _budget(budget)
    if not isinstance(doc, Document):
        doc = await asyncio.to_thread(Document.load, doc)
    distinct = list(dict.fromkeys(asked))
    made = {
        one: Call(
            strategy=kind,
            options=read,
            document=doc,
            question=one[0],
            choices=one[1],
            budget=limits,
            deadline=deadline,
            beside=tuple(distinct) if len(distinct) > 1 and kind.together(read) else (),
            place=place,
        )
        for place, one in enumerate(distinct)
    }
    return [made[one] for one in asked]


def _question(
    question: str | None, choices: Sequence[str] | None
) -> tuple[str | None, tuple[str, ...]]:
    if question is not None and not question.strip():
        raise EmptyQuestion("The question is empty.")
    if choices is not None and (isinstance(choices, str) or len(choices) < 2):
        raise InvalidOption("choices must be a list of at least two texts.", hint="")
    if question is None and choices:
        raise InvalidOption("choices need a question.", hint="Pass both or neither.")
    return question.strip() if question is not None else None, tuple(choices or ())


def _budget(budget: BudgetLike) -> Budget | None:
    if budget is None or isinstance(budget, Budget):
        return budget
    if isinstance(budget, str):
        return Budget.parse(budget)
    try:
        return Budget.model_validate(dict(budget))
    except ValidationError as error:
        raise InvalidOption(
            f"The budget is not understood: {error.errors()[0]['msg']}.",
            hint="It takes calls, tokens and usd, each above zero.",
        ) from None
