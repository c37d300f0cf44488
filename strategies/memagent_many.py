"""MemAgent for several problems: one pass over the segments, a memory a problem, an answer each.

The memory is that of Yu et al., arXiv 2507.02259, section 3; that one pass serves several problems
is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from reader.chunking import Chunk
from reader.strategy import Reading, Strategy, StrategyOptions

from .memagent import MemAgent, changes
from .memagent_answer import close
from .memagent_memory import Memory, collapsed
from .memagent_plan import EMPTY, PAPER_CHUNK, MemAgentOptions, Plan
from .memagent_segments import segments
from .slots import ClosingState, SlotReader
from .slots_read import PROMPTS, Slot, SlotForm


class MemoriesForMany(SlotReader[MemAgentOptions]):
    """A memory for each problem, all overwritten segment by segment."""

    name: ClassVar[str] = "memagent"
    title: ClassVar[str] = "MemAgent, several problems"
    source: ClassVar[str] = MemAgent.source
    Options: ClassVar[type[StrategyOptions]] = MemAgentOptions
    single: ClassVar[type[Strategy[Any]]] = MemAgent
    final: ClassVar[str] = "final"

    def plan_of(self, part: Reading) -> Plan:
        """The plan for one problem."""
        return Plan(part)

    def cap_of(self, plan: Plan) -> int:
        """Cap of a memory."""
        return plan.memory_tokens

    def form(self, plans: Sequence[Plan], cap: int) -> SlotForm:
        """A memory for each problem."""
        options = plans[0].options
        return SlotForm(
            prompt=PROMPTS["memories"],
            name="memory",
            empty=EMPTY,
            questions=tuple(p.problem for p in plans),
            cap=cap,
            fixed_tokens=0,
            temperature=options.temperature,
            seed=options.seed if options.temperature else None,
            gate=False,
            lost=collapsed if options.guard else lambda before, after: False,
            purpose="update",
        )

    async def measured(self, plan: Plan, cap: int) -> int:
        """The last prompt."""
        plan.memory_tokens = cap
        await plan.measure(None)
        return plan.final_tokens

    def final_tokens(self, part: Reading) -> int:
        """The last prompt."""
        plan: Plan = part.plan
        return plan.final_tokens

    async def cut(self, reading: Reading, plan: Plan, most: int) -> Sequence[Chunk]:
        """MemAgent's segments."""
        return await segments(
            reading.store,
            reading.document.sha256,
            reading.document.text,
            reading.info.counter,
            plan.options.chunk_tokens or min(most, PAPER_CHUNK),
            align=plan.options.align,
        )

    def rewind(self, part: Reading, pos: int) -> None:
        """Forget memories from a position on."""
        plan: Plan = part.plan
        plan.log.rewind(pos)

    def write(
        self, part: Reading, pos: int, before: Slot, after: Slot, chunk: Chunk
    ) -> dict[str, Any]:
        """A new version of the memory in the log; the note holds what changed."""
        plan: Plan = part.plan
        old, new = Memory(text=before.text), Memory(text=after.text)
        plan.log.write(pos, changes(plan, old, new, chunk), chunk.index)
        return after.note(chunk, after.text if after.text != before.text else "")

    async def close(self, part: Reading, state: ClosingState) -> dict[str, Any]:
        """The answer from the memory."""
        end = await close(part, state["text"], state["tokens"])
        result = {
            "answer": end.answer,
            "choice": end.choice,
            "closed": end.closed,
            "calls": end.calls,
            "reply": end.reply,
        }
        return {"depth": state["depth"], "result": result}
