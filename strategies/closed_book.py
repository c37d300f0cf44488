"""Closed book: the question alone, without the document.

A control and no way of reading: what is answered right here needs no document. Questions that a
model answers from memory say nothing about how well it reads (Roberts et al., "How Much Knowledge
Can You Pack Into the Parameters of a Language Model?", EMNLP 2020, arXiv 2002.08910).
"""

from __future__ import annotations

from typing import Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from reader.budget import Estimate
from reader.chunking import Chunk
from reader.coverage import ChunkStatus
from reader.errors import WindowTooSmall
from reader.prompts import load_prompts, versions
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions

from .final_answer import (
    EXPECTED_ANSWER,
    AnswerForm,
    AnswerOptions,
    answer_steps,
    estimate_of,
    give_answer,
    needs_question,
    status_of,
)

PROMPTS = load_prompts("reader.strategies", "closed_book")


class ClosedBookOptions(AnswerOptions):
    """Options of the closed book."""


class Plan:
    """What is fixed for a run."""

    def __init__(self, reading: Reading) -> None:
        needs_question(reading, "the document is not shown")
        self.window = min(reading.options.window or reading.info.window, reading.info.window)
        self.form = AnswerForm(reading, self.window, quotes=False)
        self.prompt = PROMPTS["answer"].fill(
            question=self.form.question, requirement=self.form.requirement(unknown=False)
        )
        self.prompt_tokens = 0


class ClosedBookState(TypedDict, total=False):
    """The whole run."""

    result: dict[str, Any]


class ClosedBook(Strategy[ClosedBookOptions]):
    """The question alone."""

    name: ClassVar[str] = "closed_book"
    title: ClassVar[str] = "Closed book"
    source: ClassVar[str] = "control; Roberts et al., EMNLP 2020, arXiv 2002.08910"
    Options: ClassVar[type[StrategyOptions]] = ClosedBookOptions

    @classmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts."""
        return versions(PROMPTS)

    async def prepare(self, reading: Reading) -> None:
        """Count the prompt."""
        reading.plan = plan = Plan(reading)
        plan.prompt_tokens = await reading.info.counter.count_messages([("user", plan.prompt)])
        if plan.prompt_tokens + plan.form.output_tokens > plan.window:
            raise WindowTooSmall(
                f"The question takes {plan.prompt_tokens} tokens, the reply"
                f" {plan.form.output_tokens}: too many for a window of {plan.window}.",
                hint="Use a larger window= or a shorter question.",
            )
        reading.chunks = (Chunk(0, 0, len(reading.document.text), 0, 0),)

    def estimate(self, reading: Reading) -> Estimate:
        """One call."""
        plan: Plan = reading.plan
        seen = reading.store.reply_length(self.length_key(reading, "answer"))
        answer = min(int(seen[1]) if seen else EXPECTED_ANSWER, plan.form.output_tokens)
        return estimate_of(
            reading,
            calls=1,
            depth=1,
            prompt=plan.prompt_tokens,
            completion=answer,
            most=plan.form.output_tokens,
            seen=seen,
        )

    def closing(self, reading: Reading) -> Closing:
        """The one call is the last one."""
        plan: Plan = reading.plan
        return Closing(0, 0, 0, plan.prompt_tokens, plan.form.output_tokens)

    def length_key(self, reading: Reading, kind: str) -> str:
        """Lengths depend on model, words and cap."""
        form: AnswerForm = reading.plan.form
        rules = form.requirement(unknown=False)
        words = f"{rules}|{form.output_tokens}"
        return f"closed_book|{reading.info.identity}|{versions(PROMPTS)}|{words}|{kind}"

    def start(self, reading: Reading) -> dict[str, Any]:
        """Nothing is known at the start."""
        return {"result": {}}

    def max_supersteps(self, reading: Reading) -> int:
        """One node."""
        return 5

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """answer."""
        graph = StateGraph(ClosedBookState, context_schema=Reading)
        graph.add_node("answer", answer)
        graph.add_edge(START, "answer")
        graph.add_edge("answer", END)
        return graph

    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """No citations, as nothing was read; coverage says so."""
        result = state["result"]
        chunks = (
            ChunkStatus(
                index=0,
                start=0,
                end=len(reading.document.text),
                outcome="skipped",
                reason="the document is not shown",
            ),
        )
        return Outcome(
            text=result["text"],
            status=status_of(result, chunks, by_design=True),
            chunks=chunks,
            steps=answer_steps(result),
            choice=result["choice"],
            depth=result["calls"],
        )


async def answer(state: ClosedBookState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """Ask."""
    plan: Plan = runtime.context.plan
    return {
        "result": await give_answer(runtime.context, plan.form, plan.prompt, plan.prompt_tokens)
    }
