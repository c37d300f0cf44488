"""What the attention methods share: options, the scorer, windows over the document, what is shown.

Passages are the chunks of the document; windows are passages side by side, each in one window, so
that windows are independent. Every position is a character of the document.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, PlainSerializer, field_validator

from reader.attention.heads import read_table
from reader.attention.looking import Looker
from reader.attention.model import AttentionModel, Head
from reader.attention.windows import Range, Window, top_mean
from reader.bm25 import BM25Index
from reader.chunking import ChunkOptions, room
from reader.errors import InvalidOption, LimitReached
from reader.llm.cleaning import sentences
from reader.prompts import fence, load_prompts
from reader.strategy import Reading
from reader.tokens import estimated

from .final_answer import AnswerForm, AnswerOptions, needs_question
from .passages import TRANSIENT, EmbedderOption, Passages, named

if TYPE_CHECKING:
    from reader.attention.model import FloatArray

PROMPTS = load_prompts("reader.strategies", "attention")
PASSAGE_TOKENS = 128
FENCE_TOKENS = 24  # around each part of the text, from above
SENTENCES_KEPT = 16  # of a window, for citations and replay
LONGEST_SENTENCE = 600  # characters; what is longer is cut into parts of it

Method: TypeAlias = Literal["heads", "infiniretri", "attrieval", "gemfilter", "sorting"]


class AttentionOptions(AnswerOptions):
    """Options of the attention strategy; ``chunk_tokens`` is the size of a passage."""

    method: Method = Field(default="heads", description="which paper's way of selecting")
    preset: Literal["calibrated", "paper"] = Field(
        default="calibrated", description="retrieval heads, or the paper's own layers and rows"
    )
    scorer: Annotated[Any, PlainSerializer(named)] = Field(
        default=None,
        description="whose heads look: transformers:PATH, embedded, embedded:tiny, vllm:URL, or an"
        " AttentionModel; embedded by default",
    )
    heads: str | None = Field(
        default=None, description="file of a table of heads (reader calibrate)"
    )
    scorer_window: int | None = Field(
        default=None, ge=256, description="tokens that the scorer reads at once; 1,600 by default"
    )
    calibrate: bool | None = Field(
        default=None, description='subtract what the question "N/A" draws; as the table says'
    )
    fuse: bool = Field(
        default=True,
        description="fuse with BM25, with vectors where there is an embedder, and with passages"
        " whose titles the best ones name (heads)",
    )
    embedder: EmbedderOption = Field(
        default=None,
        description="vectors to fuse with: http://HOST/v1#NAME, openai:NAME, minilm,"
        " sentence-transformers:PATH, or an Embedder",
    )
    twice: bool = Field(
        default=True,
        description="read the best passages of all windows again, side by side in one (heads)",
    )
    k: int = Field(default=5, ge=1, description="passages shown (heads, sorting)")
    neighbours: int = Field(
        default=1, ge=0, description="passages shown beside each, before and after (heads)"
    )
    keep_tokens: int | None = Field(
        default=None, ge=64, description="most tokens of sentences kept (infiniretri, gemfilter)"
    )
    replay: bool = Field(
        default=False, description="the best sentences once more before the question (ReContext)"
    )
    quotes: bool = Field(default=True, description="the answer is followed by a checked quote")

    @field_validator("scorer")
    @classmethod
    def _is_scorer(cls, value: Any) -> Any:
        if value is None or isinstance(value, str | AttentionModel):
            return value
        raise ValueError("a scorer is a name or an object with info, tokenizer, score and aclose")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a method found.

    Attributes:
        shown: Ranges of the document for the answer, as they stand in the prompt.
        evidence: Ranges of sentences, the one that drew most attention first.
        passages: Of ``shown``, the passages, for the coverage; by number.
        note: What was done, for the trace.
    """

    shown: tuple[Range, ...]
    evidence: tuple[Range, ...]
    passages: frozenset[int]
    note: str


@dataclass(slots=True)
class Plan:
    """What is fixed for a run."""

    reading: Reading
    options: AttentionOptions
    question: str
    form: AnswerForm
    window: int
    looker: Looker
    fixed_tokens: int = 0
    room: int = 0
    passage_tokens: int = PASSAGE_TOKENS
    windows: list[Window] = field(default_factory=list)
    batch: int = 2

    @classmethod
    async def make(cls, reading: Reading) -> Plan:
        """Open the scorer, cut the document, lay the windows out.

        Raises:
            InvalidOption: no question, a table of another model, passages that do not fit.
            WindowTooSmall: no room for passages, in the answerer's window or in the scorer's.
            MissingExtra: the scorer needs a part that is not installed.
            ModelError: the scorer cannot be had or looked into.
        """
        options: AttentionOptions = reading.options
        question = needs_question(reading, "heads look from it")
        looker = await Looker.open(
            options.scorer,
            window=options.scorer_window,
            table=None if options.heads is None else read_table(Path(options.heads)),
            store=reading.store,
            calibrate=options.calibrate,
        )
        window = min(options.window or reading.info.window, reading.info.window)
        form = AnswerForm(reading, window, quotes=options.quotes)
        plan = cls(reading, options, question, form, window, looker)
        await plan._measure()
        return plan

    async def _measure(self) -> None:
        reading, options = self.reading, self.options
        count = reading.info.counter.count_messages
        self.fixed_tokens = await count([("user", self.prompt([], []))])
        self.room = room(
            self.window,
            fixed_tokens=self.fixed_tokens,
            memory_tokens=0,
            output_tokens=self.form.output_tokens,
        )
        size = options.chunk_tokens or min(PASSAGE_TOKENS, max(self.room // options.k, 32))
        if size + FENCE_TOKENS > self.room:
            raise InvalidOption(
                f"A passage of {size} tokens does not fit a window of {self.window}.",
                hint=f"At most {self.room - FENCE_TOKENS} fit.",
            )
        self.passage_tokens = size
        reading.chunks = await reading.cut(size)
        self.windows = self.looker.windows(self.passages(), [self.question])

    @property
    def twice(self) -> bool:
        """Whether the best passages of several windows are to be read again in one."""
        return self.options.twice and len(self.windows) > 1

    def passages(self) -> list[str]:
        """The texts of the passages."""
        return [self.reading.text(chunk) for chunk in self.reading.chunks]

    def titles(self) -> list[str | None]:
        """Of each passage, the title of its section, or of its part where there are several."""
        document = self.reading.document
        found: list[str | None] = []
        for chunk, text in zip(self.reading.chunks, self.passages(), strict=True):
            first = chunk.start + len(text) - len(text.lstrip())
            section, part = document.section_at(first), document.part_at(first)
            found.append(section.title if section else part.title if part else None)
        return found

    def lexical(self) -> list[int]:
        """Passages by BM25, the best first."""
        return [index for index, _ in BM25Index(self.passages()).rank(self.question)]

    async def dense(self) -> list[int]:
        """Passages by their vectors, the best first; none without an embedder, or where it fails.

        Raises:
            ReaderError: the embedder cannot be had.
        """
        spec = self.options.embedder
        if spec is None:
            return []
        passages = Passages(
            self.reading, ChunkOptions(chunk_tokens=self.passage_tokens), self.question
        )
        try:
            while await passages.embed_next(spec):
                pass
            return await passages.dense(spec)
        except (*TRANSIENT, LimitReached) as error:
            self.reading.warn(f"{error.message} The passages were ranked without vectors.")
            return []

    def whole_or_likeliest(self, first: Sequence[Range] = ()) -> list[Range]:
        """Passages in the order in which they should be shown where not all fit.

        Args:
            first: Passages that hold these ranges come first, then those like the question.
        """
        chunks = self.reading.chunks
        held = [number for one in first for number in sorted(self.passages_in([one]))]
        ranked = [*held, *self.lexical(), *range(len(chunks))]
        return [(chunks[n].start, chunks[n].end) for n in dict.fromkeys(ranked)]

    def prompt(self, shown: Sequence[Range], evidence: Sequence[Range]) -> str:
        """The last call's prompt."""
        text = self.reading.document.text
        filled = {
            "passages": "\n\n".join(fence(text[a:b].strip(), "passage") for a, b in shown),
            "requirement": self.form.requirement(),
            "question": self.form.question,
        }
        if not evidence:
            return PROMPTS["answer"].fill(**filled)
        lines = "\n".join(f"- {' '.join(text[a:b].split())}" for a, b in evidence)
        return PROMPTS["replay"].fill(**filled, evidence=fence(lines, "sentences"))

    def size(self, ranges: Iterable[Range]) -> int:
        """Tokens of ranges in a prompt, from above."""
        text = self.reading.document.text
        return sum(estimated(text[a:b]) + FENCE_TOKENS for a, b in ranges)

    def fitting(self, ranges: Sequence[Range], tokens: int) -> list[Range]:
        """The first ranges that fit so many tokens together; one at least, cut if need be."""
        kept: list[Range] = []
        left = tokens
        for one in ranges:
            size = self.size([one])
            if size <= left:
                kept.append(one)
                left -= size
        if not kept and ranges:
            start, end = ranges[0]
            kept = [
                (start, start + max((end - start) * tokens // (self.size([ranges[0]]) or 1), 1))
            ]
        return kept

    def range_of(self, window: Window, column: int) -> Range | None:
        """The characters of the document that a column of a window stands for."""
        place = window.place(column)
        if place is None:
            return None
        passage, (start, end) = place
        base = self.reading.chunks[passage].start
        return base + start, base + end

    def sentence_scores(
        self, window: Window, scores: FloatArray, best: int
    ) -> list[tuple[float, Range]]:
        """Sentences of a window's passages by the mean of their best tokens, the best first."""
        found = []
        for piece, (first, last) in zip(window.pieces, window.spans, strict=True):
            chunk = self.reading.chunks[piece.passage]
            offsets = piece.encoding.offsets
            at = 0
            for start, end in split(self.reading.text(chunk)):
                while at < len(offsets) and offsets[at][1] <= start:
                    at += 1
                stop = at
                while stop < len(offsets) and offsets[stop][0] < end:
                    stop += 1
                if stop > at and first + stop <= last:
                    value = float(top_mean(scores[first + at : first + stop], best))
                    found.append((value, (chunk.start + start, chunk.start + end)))
        return sorted(found, key=lambda pair: (-pair[0], pair[1]))

    def passages_in(self, ranges: Sequence[Range]) -> frozenset[int]:
        """Numbers of the passages that the ranges touch."""
        starts = [chunk.start for chunk in self.reading.chunks]
        found: set[int] = set()
        for start, end in ranges:
            found.update(range(bisect_right(starts, start) - 1, bisect_left(starts, end)))
        return frozenset(found)


def split(text: str) -> list[Range]:
    """Sentences of a text; what is longer than 600 characters in parts."""
    found = []
    for start, end in sentences(text):
        parts = -(-(end - start) // LONGEST_SENTENCE)
        size = -(-(end - start) // parts)
        found += [(at, min(at + size, end)) for at in range(start, end, size)]
    return found


def merged(ranges: Iterable[Range], gap: int = 0) -> list[Range]:
    """Ranges in order, those that touch (or are ``gap`` characters apart) as one."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1] + gap:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


class Looking(ABC):
    """One method: how it looks at windows, and what it takes from them.

    Attributes:
        serial: A window is looked at after the one before; else many at once.
        drafts: The answering model writes a draft first.
    """

    serial: ClassVar[bool] = False
    drafts: ClassVar[bool] = False

    def heads(self, plan: Plan) -> tuple[Head, ...]:
        """In which heads it looks; those of the table unless the paper has others."""
        return plan.looker.heads

    @abstractmethod
    async def look(
        self, plan: Plan, numbers: Sequence[int], state: dict[str, Any]
    ) -> dict[int, dict[str, Any]]:
        """Notes (JSON values) on these windows, by number.

        Raises:
            ModelError: the scorer failed.
        """

    @abstractmethod
    async def select(
        self, plan: Plan, notes: dict[int, dict[str, Any]], state: dict[str, Any]
    ) -> Selection:
        """What is shown, from the notes on all windows that were looked at."""
