"""What is fixed for a run of map-and-reduce: options, prompts, budgets of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from reader.chunking import room
from reader.errors import InvalidOption, WindowTooSmall
from reader.prompts import fence, load_prompts
from reader.strategy import Reading

from .final_answer import (
    QUOTE_RULE,
    QUOTE_TOKENS,
    AnswerForm,
    AnswerOptions,
)
from .waves import (
    Waves,
)

PROMPTS = load_prompts("reader.strategies", "map_reduce")
USUAL_WINDOW = 8192  # that of chain-of-agents, so that both read the same chunks
NOTHING = "(No part says anything about it.)"
LABEL_TOKENS = 12  # "Note 12:" and the tags around a note


class MapReduceOptions(AnswerOptions):
    """Options of map-and-reduce."""

    note_tokens: int = Field(
        default=512, ge=32, description="cap of a chunk's note; at most 1/8 of the window"
    )
    quotes: bool = Field(default=True, description="each note is followed by a checked quote")


class Plan:
    """What is fixed for a run: forms of the prompts, budgets of tokens."""

    waves: Waves

    def __init__(self, reading: Reading) -> None:
        self.options: MapReduceOptions = reading.options
        self.reading = reading
        window = self.options.window or min(USUAL_WINDOW, reading.info.window)
        self.window = min(window, reading.info.window)
        self.form = AnswerForm(reading, self.window, quotes=False)
        self.quotes = self.options.quotes and not self.form.summary
        self.note_tokens = min(self.options.note_tokens, max(self.window // 8, 32))
        self.output_tokens = self.note_tokens + (QUOTE_TOKENS if self.quotes else 0)
        self.words = str(max(int(self.note_tokens * 0.6), 20))
        self.finder = reading.finder
        self.map_tokens = self.combine_tokens = self.reduce_tokens = 0
        self.combine_room = self.reduce_room = 0

    async def measure(self) -> int:
        """Count the fixed parts of the prompts; returns the tokens of a chunk.

        Raises:
            WindowTooSmall: no room for a chunk, or for two notes side by side.
            InvalidOption: ``chunk_tokens`` does not fit.
        """
        count = self.reading.info.counter.count_messages
        self.map_tokens = await count([("user", self.map_prompt(""))])
        self.combine_tokens = await count([("user", self.combine_prompt(""))])
        self.reduce_tokens = await count([("user", self.reduce_prompt(""))])
        self.combine_room = self._room(self.combine_tokens, self.note_tokens)
        self.reduce_room = self._room(self.reduce_tokens, self.form.output_tokens)
        longest = self.output_tokens + LABEL_TOKENS
        if min(self.combine_room, self.reduce_room) < 2 * longest:
            raise WindowTooSmall(
                f"A window of {self.window} tokens has no room for two notes of {longest}.",
                hint="Use a larger window= or smaller note_tokens=.",
            )
        [asked] = await self.reading.info.counter.count([self.form.question])
        most = self._room(self.map_tokens, self.output_tokens, asked)
        wanted = self.options.chunk_tokens
        if wanted is not None and wanted > most:
            raise InvalidOption(
                f"chunk_tokens={wanted} does not fit a window of {self.window} tokens.",
                hint=f"At most {most} fit beside the prompt and the reply.",
            )
        return wanted or most

    def _room(self, fixed: int, output: int, asked: int = 0) -> int:
        return room(
            self.window,
            fixed_tokens=fixed,
            memory_tokens=0,
            output_tokens=output,
            question_tokens=asked,
        )

    def map_prompt(self, chunk: str) -> str:
        """The prompt for one chunk, which comes first."""
        values = {"chunk": fence(chunk, "source_text"), "words": self.words}
        if self.form.summary:
            return PROMPTS["map_summary"].fill(**values)
        rule = QUOTE_RULE if self.quotes else ""
        return PROMPTS["map"].fill(**values, question=self.form.question, quote_rule=rule)

    def combine_prompt(self, notes: str) -> str:
        """The prompt that makes one note of several."""
        question = self.form.question or "What does the source text say, in summary?"
        return PROMPTS["combine"].fill(notes=notes, question=question, words=self.words)

    def reduce_prompt(self, notes: str) -> str:
        """The prompt that answers from the notes."""
        values = {"notes": notes, "requirement": self.form.requirement()}
        if self.form.summary:
            return PROMPTS["reduce_summary"].fill(**values)
        return PROMPTS["reduce"].fill(**values, question=self.form.question)

    def standing(self, quotes: Sequence[str], start: int, end: int) -> list[str]:
        """The quotes that stand in the chunk from ``start`` to ``end``."""
        matches = [(quote, self.finder.find(quote, within=(start, end))) for quote in quotes]
        return [quote for quote, match in matches if match and match.kind != "elsewhere"]

    @property
    def spare_room(self) -> int:
        """Tokens of notes for which the last call is paid beforehand."""
        two_notes = 2 * (self.output_tokens + LABEL_TOKENS)
        spare: int = min(self.reduce_room, max(self.window // 4, two_notes))
        return spare
