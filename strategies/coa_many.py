"""Chain of agents for several questions: one chain of workers, a unit a question, a manager each.

The chain is that of Zhang et al., arXiv 2406.02818, section 3; that one pass serves several
questions is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from reader.chunking import Chunk
from reader.llm.replies import says_nothing_found
from reader.strategy import Reading, Strategy, StrategyOptions

from .coa import ChainOfAgents
from .coa_closing import close
from .coa_plan import CoAOptions, Plan
from .communication_unit import NOTHING
from .memagent_memory import collapsed
from .slots import ClosingState, SlotReader
from .slots_read import PROMPTS, SlotForm


class ChainForMany(SlotReader[CoAOptions]):
    """Workers that read a chunk once for all questions; a manager for each."""

    name: ClassVar[str] = "coa"
    title: ClassVar[str] = "Chain of agents, several questions"
    source: ClassVar[str] = ChainOfAgents.source
    Options: ClassVar[type[StrategyOptions]] = CoAOptions
    single: ClassVar[type[Strategy[Any]]] = ChainOfAgents
    final: ClassVar[str] = "manager"

    def plan_of(self, part: Reading) -> Plan:
        """The chain's plan for one question."""
        return Plan(part)

    def cap_of(self, plan: Plan) -> int:
        """Cap of a communication unit."""
        return plan.cu_tokens

    def form(self, plans: Sequence[Plan], cap: int) -> SlotForm:
        """A summary for each question."""
        first = plans[0]
        sampled = first.form.temperature > 0
        return SlotForm(
            prompt=PROMPTS["summaries"],
            name="summary",
            empty=NOTHING,
            questions=tuple(p.question or PROMPTS["whole"].fill() for p in plans),
            cap=cap,
            fixed_tokens=0,
            temperature=first.form.temperature,
            seed=first.options.seed if sampled else None,
            gate=first.options.skip_gate,
            lost=collapsed,  # no call is left to ask again with: rather both than too little
            purpose="worker",
        )

    async def measured(self, plan: Plan, cap: int) -> int:
        """The manager's prompt."""
        plan.cu_tokens = cap
        plan.form = replace(plan.form, cu_tokens=cap)
        await plan.measure()
        return plan.manager_tokens

    def final_tokens(self, part: Reading) -> int:
        """The manager's prompt."""
        plan: Plan = part.plan
        return plan.manager_tokens

    async def cut(self, reading: Reading, plan: Plan, most: int) -> Sequence[Chunk]:
        """The chain's chunks."""
        return await reading.cut(most)

    def order(self, plan: Plan, chunks: Sequence[Chunk]) -> tuple[int, ...]:
        """The order of the chain."""
        return tuple(plan.orders()[0])

    async def close(self, part: Reading, state: ClosingState) -> dict[str, Any]:
        """The manager's call."""
        cu = state["text"]
        result = {
            "path": 0,
            "cu": cu,
            "size": state["tokens"],
            "quotes": [],
            "answer": "",
            "choice": None,
            "closed": True,
            "depth": state["depth"],
        }
        result = await close(part, result, unknown=not cu or says_nothing_found(cu))
        return {"winner": result, "results": [result]}
