"""What a MemAgent run fixes before its first call: options, token budget, prompts.

Section 3 and appendix of Yu et al., arXiv 2507.02259, and the published code's defaults.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from reader.chunking import room
from reader.errors import InvalidOption
from reader.llm.choice import render
from reader.llm.schemas import instructions
from reader.memory.facts import Fact, FactLog
from reader.prompts import Prompt, fence, load_prompts
from reader.strategy import Reading, StrategyOptions

PROMPTS = load_prompts("reader.strategies", "memagent")
PAPER_WINDOW = 8192
PAPER_CHUNK = 5000
EMPTY = "No previous memory."
QUOTE_TOKENS = 200  # room for the quotes of one reply, beside the memory
SHOWN_QUOTE_TOKENS = 600  # room for verified quotes in the last prompt
GATE_TOKENS = 8
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "careful": {
        "gate": True,
        "quotes": True,
        "second_pass": True,
        "align": True,
        "temperature": 0.0,
    },
    "revisions": {"mode": "revisions", "second_pass": True, "align": True, "temperature": 0.0},
}


class MemAgentOptions(StrategyOptions):
    """Options of MemAgent; the defaults are the paper's and its code's."""

    preset: Literal["paper", "careful", "revisions"] = Field(
        default="paper",
        description="careful: gate, quotes, second_pass, align; revisions: mode=revisions,"
        " second_pass, align; both at temperature 0",
    )
    mode: Literal["overwrite", "revisions"] = Field(
        default="overwrite", description="rewrite the memory, or add, change and drop single facts"
    )
    chunk_tokens: int | None = Field(
        default=None, ge=16, description="tokens of a segment; 5000 where the window allows"
    )
    memory_tokens: int = Field(
        default=1024, ge=32, description="cap of the memory; at most 1/8 of the window"
    )
    answer_tokens: int = Field(
        default=1024, ge=8, description="cap of the last reply; at most 1/8 of the window"
    )
    answer_format: Literal["sentence", "boxed"] = Field(
        default="sentence", description="of the last reply: as published evaluation or training"
    )
    temperature: float = Field(default=0.7, ge=0, le=2, description="of all calls")
    seed: int = Field(default=0, description="of sampling")
    guard: bool = Field(
        default=True, description="keep both memories when one rewrite loses over half the words"
    )
    section_first: bool = Field(
        default=False, description="segment before problem and memory: a prefix for all questions"
    )
    gate: bool = Field(
        default=False, description="ask in one word whether a segment adds anything; skip if not"
    )
    quotes: bool = Field(default=False, description="verified quotes beside the memory")
    align: bool = Field(
        default=False, description="end segments at sentences, within 5% of their length"
    )
    second_pass: bool = Field(
        default=False, description="nothing found: unread and most similar segments once more"
    )
    second_pass_chunks: int = Field(default=3, ge=1, description="similar segments read again")

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {**PRESETS.get(str(values.get("preset", "paper")), {}), **values}
        return values

    @model_validator(mode="after")
    def _fits_mode(self) -> MemAgentOptions:
        if self.mode == "revisions":
            wrong = [n for n in ("gate", "quotes", "section_first") if getattr(self, n)]
            if wrong:
                raise ValueError(
                    f"{wrong[0]} does not go with mode='revisions': changes may be none, facts"
                    " have quotes of their own, and the memory must come first"
                )
        return self


class Plan:
    """What is fixed for a run, and the log of what it knows."""

    def __init__(self, reading: Reading) -> None:
        options: MemAgentOptions = reading.options
        self.options = options
        self.reading = reading
        self.window = min(options.window or PAPER_WINDOW, reading.info.window)
        self.memory_tokens = min(options.memory_tokens, max(self.window // 8, 32))
        self.answer_tokens = min(options.answer_tokens, max(self.window // 8, 32))
        self.revises = options.mode == "revisions"
        self.summary = reading.question is None
        self.problem = reading.question or PROMPTS["summary_problem"].fill()
        if reading.choices:
            self.problem = f"{self.problem}\n{render(reading.choices)}"
        self.finder = reading.finder
        self.log = FactLog(reading.store, reading.run_id)
        self.fixed_tokens = self.extra_tokens = self.gate_tokens = self.final_tokens = 0

    async def measure(self, form: type[Any] | None) -> int:
        """Count the fixed parts of the prompts; returns the tokens of a segment.

        Args:
            form: What a typed reply must look like, where the mode wants one.

        Raises:
            WindowTooSmall: no room for a segment.
            InvalidOption: ``chunk_tokens`` does not fit; says how many do.
        """
        count = self.reading.info.counter.count_messages
        typed = "" if form is None else f"\n\n{instructions(form)}"
        self.fixed_tokens = await count([("user", self.prompt("", "") + typed)])
        extras = PROMPTS["again"].fill() + PROMPTS["echo"].fill()
        self.extra_tokens = await count([("user", extras)])
        self.final_tokens = await count([("user", self.final_prompt("", [], unknown=True))])
        if self.options.gate:
            self.gate_tokens = await count([("user", self.gate_prompt("", ""))])
        room_for = room(
            self.window,
            fixed_tokens=max(self.fixed_tokens + self.extra_tokens, self.gate_tokens),
            memory_tokens=self.memory_tokens,
            output_tokens=self.reply_tokens,
        )
        wanted = self.options.chunk_tokens
        if wanted is not None and wanted > room_for:
            raise InvalidOption(
                f"chunk_tokens={wanted} does not fit a window of {self.window} tokens.",
                hint=f"At most {room_for} fit beside the prompt, the memory and the reply.",
            )
        return wanted or min(room_for, PAPER_CHUNK)

    @property
    def reply_tokens(self) -> int:
        """Cap of the reply about one segment; changes are shorter than a memory."""
        if self.revises:
            return max(self.memory_tokens // 2, 32) + QUOTE_TOKENS
        return self.memory_tokens + (QUOTE_TOKENS if self.options.quotes else 0)

    @property
    def words(self) -> str:
        """The cap of the memory in words, as models understand it."""
        return str(max(int(self.memory_tokens * 0.6), 20))

    def prompt(self, section: str, memory: str, extra: str = "") -> str:
        """The prompt that reads one segment."""
        if self.revises:
            return self._read(PROMPTS["revise"], section, memory, extra)
        end = PROMPTS["update_quotes" if self.options.quotes else "update"].fill(extra=extra)
        return f"{self._head(section, memory)}\n{end}"

    def gate_prompt(self, section: str, memory: str) -> str:
        """The prompt that asks whether to read; begins like the one that reads."""
        return f"{self._head(section, memory)}\n{PROMPTS['gate'].fill()}"

    def _head(self, section: str, memory: str) -> str:
        first = self.options.section_first
        return self._read(PROMPTS["read_section_first" if first else "read"], section, memory)

    def _read(self, prompt: Prompt, section: str, memory: str, extra: str = "") -> str:
        values = {
            "problem": fence(self.problem, "problem"),
            "memory": fence(memory or EMPTY, "memory"),
            "section": fence(section, "section"),
        }
        return prompt.fill(**values, extra=extra)

    def final_prompt(self, memory: str, quotes: list[str], *, unknown: bool) -> str:
        """The last prompt: the memory alone, and verified quotes where they are kept."""
        said = "\n".join(f"- {quote}" for quote in quotes)
        lines = f"\nPassages of the article, word for word:\n{fence(said, 'quotes')}\n"
        values = {
            "memory": fence(memory or EMPTY, "memory"),
            "quotes": lines if quotes else "",
            "problem": fence(self.problem, "problem"),
            "unknown": PROMPTS["unknown"].fill() if unknown else "",
        }
        return self.final_form.fill(**values)

    @property
    def final_form(self) -> Prompt:
        """Which last prompt the run uses."""
        if self.summary:
            return PROMPTS["final_summary"]
        if self.reading.choices:
            return PROMPTS["final_choice"]
        return PROMPTS[f"final_{self.options.answer_format}"]

    def verified(self, quote: str, within: tuple[int, int]) -> tuple[int, int] | None:
        """Where a quote stands in the document; None where it does not."""
        match = self.finder.find(quote, within=within) if quote.strip() else None
        return (match.start, match.end) if match else None

    def source(self, fact: Fact) -> str:
        """The words of the document behind a fact, "" without."""
        if fact.start is None or fact.end is None:
            return ""
        return self.reading.document.text[fact.start : fact.end]
