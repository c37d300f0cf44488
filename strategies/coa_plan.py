"""What a chain-of-agents run fixes before its first call: options, token budget, prompts, orders.

Sections 3.1 and 4 of Zhang et al., arXiv 2406.02818.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator

from reader.chunking import room
from reader.errors import InvalidOption
from reader.llm.choice import render
from reader.llm.schemas import instructions
from reader.prompts import fence, load_prompts
from reader.strategy import Reading, StrategyOptions

from .communication_unit import QUOTE_TOKENS, Form, WorkerNote

PROMPTS = load_prompts("reader.strategies", "coa")
PAPER_WINDOW = 8192
REQUIREMENT = "Answer the question in as few words as it needs."
SUMMARY_REQUIREMENT = "Write a summary of the source text in one or two paragraphs."
CODE_REQUIREMENT = "Complete the code: write the next line only, no explanation."
UNKNOWN = "If the summary does not hold the answer, write only: Not found in the document.\n"
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "evidence": {"quotes": True, "second_pass": True},
}


class CoAOptions(StrategyOptions):
    """Options of chain-of-agents; the defaults are the paper's form (section 4, appendix)."""

    preset: Literal["paper", "evidence"] = Field(
        default="paper", description="evidence: quotes and second_pass on"
    )
    task: Literal["qa", "code"] = Field(
        default="qa", description="code: the question is the code to complete"
    )
    requirement: str | None = Field(
        default=None, description="what the manager is told about the answer's form"
    )
    order: Literal["left_to_right", "right_to_left", "permutation"] = Field(
        default="left_to_right", description="in which order a single path visits the chunks"
    )
    paths: Literal["single", "bidirectional", "self_consistency", "permutation"] = Field(
        default="single", description="several chains over the same chunks, side by side"
    )
    path_count: int | None = Field(
        default=None, ge=2, le=20, description="number of paths; 2 bidirectional, else 5"
    )
    manager_sees: Literal["last", "all", "none"] = Field(
        default="last", description="which units the manager sees; all and none are controls"
    )
    select: Literal["vote", "judge"] | None = Field(
        default=None, description="vote for short answers, judge for long ones"
    )
    cu_tokens: int = Field(
        default=1024, ge=32, description="cap of a communication unit; at most 1/8 of the window"
    )
    answer_tokens: int = Field(
        default=1024, ge=8, description="cap of the answer; at most 1/8 of the window"
    )
    temperature: float = Field(
        default=0.0, ge=0, le=2, description="0.7 for self_consistency when left at 0"
    )
    seed: int = Field(default=0, description="of permutations and sampling")
    quotes: bool = Field(default=False, description="verified quotes beside the unit")
    skip_gate: bool = Field(default=False, description="a worker may say that nothing changed")
    second_pass: bool = Field(
        default=False, description="nothing found: unread and most similar chunks once more"
    )
    second_pass_chunks: int = Field(default=3, ge=1, description="similar chunks read again")
    direct_when_fits: bool = Field(
        default=False, description="one chunk: answer from it without a worker"
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {**PRESETS.get(values.get("preset", "paper"), {}), **values}
        return values

    @property
    def number_of_paths(self) -> int:
        """P."""
        if self.paths == "single":
            return 1
        return self.path_count or (2 if self.paths == "bidirectional" else 5)


class Plan:
    """What is fixed for a run: forms of the prompts, budgets of tokens."""

    def __init__(self, reading: Reading) -> None:
        options: CoAOptions = reading.options
        self.options = options
        self.reading = reading
        self.window = min(options.window or PAPER_WINDOW, reading.info.window)
        self.cu_tokens = min(options.cu_tokens, max(self.window // 8, 32))
        self.answer_tokens = min(options.answer_tokens, max(self.window // 8, 32))
        self.summary = reading.question is None
        self.question = reading.question or ""
        if reading.choices:
            self.question = f"{self.question}\n{render(reading.choices)}"
        self.judged = (
            options.number_of_paths > 1
            and (options.select or ("judge" if self.summary or options.task == "code" else "vote"))
            == "judge"
        )
        sampled = options.paths == "self_consistency" and options.temperature == 0
        self.form = Form(
            worker=PROMPTS["worker_summary" if self.summary else "worker"],
            echo=PROMPTS["echo"],
            compress=PROMPTS["compress"],
            question=self.question,
            cu_tokens=self.cu_tokens,
            fixed_tokens=0,
            temperature=0.7 if sampled else options.temperature,
            quotes=options.quotes,
            skip_gate=options.skip_gate,
        )
        self.finder = reading.finder

    async def measure(self) -> int:
        """Count the fixed parts of the prompts; returns the tokens of a chunk."""
        count = self.reading.info.counter.count_messages
        typed = f"\n\n{instructions(WorkerNote)}" if self.options.quotes else ""
        fixed = await count([("user", self.form.prompt("", "") + typed)])
        self.form = replace(self.form, fixed_tokens=fixed)
        self.manager_tokens = await count([("user", self.manager_prompt("", [], unknown=True))])
        reply = self.cu_tokens + (QUOTE_TOKENS if self.options.quotes else 0)
        [asked] = await self.reading.info.counter.count([self.question])
        room_for = room(
            self.window,
            fixed_tokens=fixed,
            memory_tokens=reply,
            output_tokens=reply,
            question_tokens=asked,
        )
        wanted = self.options.chunk_tokens
        if wanted is not None and wanted > room_for:
            raise InvalidOption(
                f"chunk_tokens={wanted} does not fit a window of {self.window} tokens.",
                hint=f"At most {room_for} fit beside the prompt, the memory and the reply.",
            )
        return wanted or room_for

    @property
    def room_for_units(self) -> int:
        """Tokens of units that the manager's prompt has room for."""
        quotes = QUOTE_TOKENS if self.options.quotes else 0
        return int((self.window - self.manager_tokens - self.answer_tokens - quotes) * 0.97)

    @property
    def requirement(self) -> str:
        """What the manager is told about the answer's form."""
        if self.options.requirement is not None:
            return self.options.requirement
        if self.summary:
            return SUMMARY_REQUIREMENT
        if self.reading.choices:
            return "Answer with the letter of the one right option."
        return CODE_REQUIREMENT if self.options.task == "code" else REQUIREMENT

    def manager_prompt(self, cu: str, quotes: list[list[int]], *, unknown: bool) -> str:
        """The manager's prompt: the last unit, and checked quotes where they are kept."""
        text = self.reading.document.text
        said = "\n".join(f"- {text[start:end]}" for start, end in quotes)
        lines = f"\nPassages of the source text, word for word:\n{fence(said, 'quotes')}\n"
        values = {
            "requirement": self.requirement,
            "cu": fence(cu, "summary"),
            "quotes": lines if quotes else "",
        }
        if self.summary:
            return PROMPTS["manager_summary"].fill(**values)
        return PROMPTS["manager"].fill(
            **values, question=self.question, unknown=UNKNOWN if unknown else ""
        )

    def orders(self) -> list[list[int]]:
        """The order in which each path visits the chunks."""
        forward = list(range(len(self.reading.chunks)))
        options, number = self.options, self.options.number_of_paths
        if options.paths == "bidirectional":
            return [forward, forward[::-1]] * (number // 2) + [forward] * (number % 2)
        if options.paths == "self_consistency":
            return [forward] * number
        rng = random.Random(options.seed)  # noqa: S311 (an order, not a secret)
        if options.paths == "permutation" or options.order == "permutation":
            return [rng.sample(forward, len(forward)) for _ in range(number)]
        return [forward[::-1] if options.order == "right_to_left" else forward]
