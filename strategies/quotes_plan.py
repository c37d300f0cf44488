"""What is fixed for a run of quote-then-answer: options, prompts, budgets of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pydantic import BaseModel, Field, create_model

from reader.chunking import room
from reader.errors import InvalidOption
from reader.llm.schemas import instructions
from reader.prompts import fence, load_prompts
from reader.strategy import Reading

from .final_answer import (
    AnswerForm,
    AnswerOptions,
    needs_question,
)
from .waves import (
    Waves,
)

PROMPTS = load_prompts("reader.strategies", "quotes")
USUAL_WINDOW = 8192  # that of chain-of-agents, so that both read the same chunks
SENTENCE_TOKENS = 80  # of a quote with its JSON
JSON_TOKENS = 20  # of these, what is not the quote
CHARACTERS = 3  # of a quote for each of its tokens; the rest of its sentence is looked up
NUMBERS = 0.9  # part of a chunk's room that is text; numbers of paragraphs take the rest
WORD_FOR_WORD = "the sentence, word for word"
EVERY = "every sentence that helps; an empty list only where none does"
NOTHING = "(No sentence was found.)"


class Sentence(BaseModel):
    """A sentence of the text."""

    paragraph: int = Field(default=0, description="number of its paragraph")
    quote: str = Field(description=WORD_FOR_WORD)


class Sentences(BaseModel):
    """The reply of the first step."""

    quotes: list[Sentence] = Field(description=EVERY)


def capped(most: int, characters: int) -> type[Sentences]:
    """The reply with caps that an endpoint can enforce.

    Small models copy whole paragraphs, and their replies are cut off. A longer reply is as good:
    pydantic does not check the caps.
    """
    text = Field(description=WORD_FOR_WORD, json_schema_extra={"maxLength": characters})
    sentence = create_model("Sentence", __base__=Sentence, quote=(str, text))
    several = Field(description=EVERY, json_schema_extra={"maxItems": most})
    return create_model("Sentences", __base__=Sentences, quotes=(list[sentence], several))  # type: ignore[valid-type]


class QuotesOptions(AnswerOptions):
    """Options of quote-then-answer."""

    most_quotes: int = Field(default=4, ge=1, le=12, description="sentences from one chunk")


class Plan:
    """What is fixed for a run: forms of the prompts, budgets of tokens."""

    waves: Waves

    def __init__(self, reading: Reading) -> None:
        self.options: QuotesOptions = reading.options
        self.reading = reading
        self.query = needs_question(reading, "sentences are picked for it")
        window = self.options.window or min(USUAL_WINDOW, reading.info.window)
        self.window = min(window, reading.info.window)
        self.form = AnswerForm(reading, self.window, quotes=False)
        cap = max(self.window // 8, 64)
        most = self.options.most_quotes
        self.output_tokens = min(SENTENCE_TOKENS * most, cap)
        each = max(self.output_tokens // most - JSON_TOKENS, JSON_TOKENS)
        self.reply = capped(most, CHARACTERS * each)
        self.finder = reading.finder
        self.quote_tokens = self.answer_tokens = self.answer_room = 0

    async def measure(self) -> int:
        """Count the fixed parts of the prompts; returns the tokens of a chunk.

        Raises:
            WindowTooSmall: no room for a chunk.
            InvalidOption: ``chunk_tokens`` does not fit.
        """
        count = self.reading.info.counter.count_messages
        words = instructions(self.reply)
        self.quote_tokens = await count([("user", f"{self.quote_prompt('')}\n\n{words}")])
        self.answer_tokens = await count([("user", self.answer_prompt([]))])
        fits = partial(room, self.window, memory_tokens=0)
        self.answer_room = fits(
            fixed_tokens=self.answer_tokens, output_tokens=self.form.output_tokens
        )
        whole = fits(fixed_tokens=self.quote_tokens, output_tokens=self.output_tokens)
        most, wanted = int(whole * NUMBERS), self.options.chunk_tokens
        if wanted is not None and wanted > most:
            raise InvalidOption(
                f"chunk_tokens={wanted} does not fit a window of {self.window} tokens.",
                hint=f"At most {most} fit beside the prompt and the reply.",
            )
        return wanted or most

    def quote_prompt(self, chunk: str) -> str:
        """The prompt for one chunk, which comes first."""
        return PROMPTS["quote"].fill(
            chunk=fence(chunk, "source_text"),
            question=self.form.question,
            most=str(self.options.most_quotes),
        )

    def answer_prompt(self, ranges: Sequence[tuple[int, int]]) -> str:
        """The prompt that answers from the checked sentences."""
        text = self.reading.document.text
        lines = "\n".join(f"- {' '.join(text[start:end].split())}" for start, end in ranges)
        return PROMPTS["answer"].fill(
            quotes=fence(lines, "sentences") if lines else NOTHING,
            requirement=self.form.requirement(),
            question=self.form.question,
        )
