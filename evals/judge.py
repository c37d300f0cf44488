"""An LLM as judge: sees the question, the references and the cited passages, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reader.budget import Frozen

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.llm.types import ChatModel

    from .item import Item


class Verdict(Frozen):
    """What the judge said.

    Attributes:
        correct: Its yes or no; None where its reply could not be used (counts as not correct).
        supported: The cited passages bear the answer out; None without a citation.
        reply: Its words.
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


async def judge(item: Item, answer: Answer, model: ChatModel) -> Verdict:
    """Ask the judge once.

    Raises:
        ModelError: the call failed.
    """
    raise NotImplementedError
