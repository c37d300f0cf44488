"""The whole document in one call; what does not fit is cut out, and the answer says so.

The baseline that every other way of reading is compared with. Where the document is longer than the
window, its middle is cut out, as LongBench does (Bai et al., ACL 2024, arXiv 2308.14508); keeping
the head or the tail alone are the other two usual forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from reader.budget import Estimate
from reader.chunking import MIN_ROOM, Chunk, room
from reader.coverage import ChunkStatus
from reader.errors import ContextOverflow, WindowTooSmall
from reader.events import ChunkRead
from reader.prompts import fence, load_prompts, versions
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions

from .final_answer import (
    EXPECTED_ANSWER,
    WHY,
    AnswerForm,
    AnswerOptions,
    answer_claims,
    answer_steps,
    estimate_of,
    give_answer,
    outcome_of,
    status_of,
)

PROMPTS = load_prompts("reader.strategies", "full")
GRAIN = 32  # the cut is at a boundary within this part of the room
CHARACTERS = 16  # of a token, at most: a longer document need not be counted to be too long
MARK_TOKENS = 40  # what says that something is left out, twice at most
SHRINK = 0.8
MOST_SHRINKS = 4  # a prompt that still does not fit is another fault
LEFT_OUT = "\n\n[... {} characters of the source text are left out here ...]\n\n"


class FullOptions(AnswerOptions):
    """Options of the full document."""

    overflow: Literal["cut_middle", "keep_head", "keep_tail", "refuse"] = Field(
        default="cut_middle", description="what to do when the document does not fit the window"
    )
    quotes: bool = Field(default=True, description="the answer is followed by a checked quote")


class Plan:
    """What is fixed for a run: the form of the prompt, and how much of the document fits."""

    def __init__(self, reading: Reading) -> None:
        self.options: FullOptions = reading.options
        self.reading = reading
        self.window = min(self.options.window or reading.info.window, reading.info.window)
        self.form = AnswerForm(reading, self.window, quotes=self.options.quotes)
        self.fixed_tokens = self.room = self.tokens = 0

    async def measure(self) -> list[tuple[int, int]]:
        """Count the prompt and the document; returns the ranges that will be shown."""
        reading, counter = self.reading, self.reading.info.counter
        self.fixed_tokens = await counter.count_messages([("user", self.prompt([]))])
        self.room = room(
            self.window,
            fixed_tokens=self.fixed_tokens,
            memory_tokens=0,
            output_tokens=self.form.output_tokens,
        )
        text = reading.document.text
        if len(text) <= self.room * CHARACTERS:
            (self.tokens,) = await counter.count([text])
            if self.tokens <= self.room:
                return [(0, len(text))]
        if self.options.overflow == "refuse":
            raise WindowTooSmall(
                f"The document does not fit a window of {self.window} tokens, of which"
                f" {self.room} are left for it.",
                hint="Use a model with a larger window, overflow='cut_middle', or strategy 'coa'.",
            )
        return await self.cut(self.room)

    async def cut(self, tokens: int) -> list[tuple[int, int]]:
        """The ranges that are kept in so many tokens, whole pieces of the document each."""
        tokens = max(tokens - MARK_TOKENS, 16)
        grain = self.options.chunk_tokens or max(tokens // GRAIN, 16)
        pieces = await self.reading.cut(min(grain, tokens))
        kept = keep(pieces, tokens, self.options.overflow)
        ranges = merged(kept)
        whole = await self.reading.info.counter.count_messages([("user", self.prompt(ranges))])
        self.tokens = whole - self.fixed_tokens
        return ranges

    def prompt(self, ranges: Sequence[tuple[int, int]]) -> str:
        """The prompt with these ranges of the document; it tells what is left out."""
        text = self.reading.document.text
        values = {
            "text": fence(shown(text, ranges), "source_text"),
            "requirement": self.form.requirement(),
        }
        if self.form.summary:
            return PROMPTS["summary"].fill(**values)
        return PROMPTS["answer"].fill(**values, question=self.form.question)


class FullState(TypedDict, total=False):
    """The whole run: what was shown, and what came back."""

    kept: list[list[int]]
    result: dict[str, Any]


class FullDocument(Strategy[FullOptions]):
    """The whole document in one call."""

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "Full document"
    source: ClassVar[str] = "baseline; cut as in LongBench, Bai et al., ACL 2024, arXiv 2308.14508"
    Options: ClassVar[type[StrategyOptions]] = FullOptions

    @classmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts."""
        return versions(PROMPTS)

    async def prepare(self, reading: Reading) -> None:
        """Count the document and find out what of it fits.

        Raises:
            WindowTooSmall: nothing fits, or not all does and ``overflow`` is "refuse".
        """
        reading.plan = plan = Plan(reading)
        reading.chunks = as_chunks(await plan.measure())

    def estimate(self, reading: Reading) -> Estimate:
        """One call with what fits."""
        plan: Plan = reading.plan
        seen = reading.store.reply_length(self.length_key(reading, "answer"))
        guess = plan.form.output_tokens // 2 if plan.form.summary else EXPECTED_ANSWER
        return estimate_of(
            reading,
            calls=1,
            depth=1,
            prompt=plan.fixed_tokens + plan.tokens,
            completion=min(int(seen[1]) if seen else guess, plan.form.output_tokens),
            most=plan.form.output_tokens,
            seen=seen,
        )

    def closing(self, reading: Reading) -> Closing:
        """The one call is the last one."""
        plan: Plan = reading.plan
        prompt = bound(plan.fixed_tokens + plan.tokens)
        return Closing(0, 0, 0, prompt, plan.form.output_tokens)

    def length_key(self, reading: Reading, kind: str) -> str:
        """Lengths depend on model, words and cap."""
        form: AnswerForm = reading.plan.form
        words = f"{form.requirement()}|{form.output_tokens}"
        return f"full|{reading.info.identity}|{versions(PROMPTS)}|{words}|{kind}"

    def start(self, reading: Reading) -> dict[str, Any]:
        """What will be shown."""
        return {"kept": [[c.start, c.end] for c in reading.chunks]}

    def max_supersteps(self, reading: Reading) -> int:
        """One node."""
        return 5

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """answer."""
        graph = StateGraph(FullState, context_schema=Reading)
        graph.add_node("answer", answer)
        graph.add_edge(START, "answer")
        graph.add_edge("answer", END)
        return graph

    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """What was shown is read, what was cut out is skipped, with the reason."""
        result = state["result"]
        ranges = [(start, end) for start, end in state["kept"]]
        chunks = statuses(ranges, len(reading.document.text), result)
        return Outcome(
            text=result["text"],
            status=status_of(result, chunks),
            chunks=chunks,
            claims=answer_claims(reading, result, ranges),
            steps=answer_steps(result),
            choice=result["choice"],
            depth=result["calls"],
        )


async def answer(state: FullState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """Ask; show less where it did not fit after all."""
    reading = runtime.context
    plan: Plan = reading.plan
    kept = [(start, end) for start, end in state["kept"]]
    for shrinks in range(MOST_SHRINKS + 1):
        left_out = len(reading.document.text) - sum(end - start for start, end in kept)
        if left_out:
            reading.warn(
                f"The document does not fit the window: {left_out:,} of"
                f" {len(reading.document.text):,} characters were not read"
                f" (overflow={plan.options.overflow})."
            )
        size = bound(plan.fixed_tokens + plan.tokens)
        try:
            result = await give_answer(reading, plan.form, plan.prompt(kept), size)
            break
        except ContextOverflow:
            smaller = int(plan.tokens * SHRINK)
            refuse = plan.options.overflow == "refuse"
            if refuse or shrinks == MOST_SHRINKS or smaller < MIN_ROOM:
                raise
            # The count was wrong (an estimate, or a template that grew).
            kept = await plan.cut(smaller)
    for index, (start, end) in enumerate(kept):
        reading.emit(ChunkRead(chunk=index, start=start, end=end, outcome=outcome_of(result)))
    return {"kept": [[start, end] for start, end in kept], "result": result}


def keep(pieces: Sequence[Chunk], tokens: int, policy: str) -> list[Chunk]:
    """The pieces that fit so many tokens: from the head, from the tail, or from both ends."""
    if policy == "keep_head":
        return _first(pieces, tokens)
    if policy == "keep_tail":
        return _first(pieces[::-1], tokens)[::-1]
    head = _first(pieces, tokens // 2)
    rest = pieces[len(head) :][::-1]
    return head + _first(rest, tokens - sum(piece.tokens for piece in head))[::-1]


def _first(pieces: Iterable[Chunk], tokens: int) -> list[Chunk]:
    found: list[Chunk] = []
    for piece in pieces:
        tokens -= piece.tokens
        if tokens < 0:
            break
        found.append(piece)
    return found


def merged(pieces: Iterable[Chunk]) -> list[tuple[int, int]]:
    """The ranges of pieces, neighbours as one."""
    ranges: list[tuple[int, int]] = []
    for piece in pieces:
        if ranges and ranges[-1][1] == piece.start:
            ranges[-1] = (ranges[-1][0], piece.end)
        else:
            ranges.append((piece.start, piece.end))
    return ranges


def shown(text: str, ranges: Sequence[tuple[int, int]]) -> str:
    """The ranges, with a line wherever something is left out."""
    parts, reached = [], 0
    for start, end in [*ranges, (len(text), len(text))] if ranges else []:
        if start > reached:
            parts.append(LEFT_OUT.format(start - reached))
        parts.append(text[start:end])
        reached = end
    return "".join(parts)


def bound(tokens: int) -> int:
    """An upper bound of a prompt that was counted in parts."""
    return int(tokens * 1.02) + 64


def as_chunks(ranges: Iterable[tuple[int, int]]) -> list[Chunk]:
    """Ranges as chunks, for those who listen to the run."""
    return [Chunk(i, start, end, 0, start) for i, (start, end) in enumerate(ranges)]


def statuses(
    ranges: Sequence[tuple[int, int]], length: int, result: dict[str, Any]
) -> tuple[ChunkStatus, ...]:
    """Ranges that tile the document: read, or skipped and why."""
    outcome = outcome_of(result)
    bounds: list[tuple[int, int, bool]] = []
    reached = 0
    for start, end in ranges:
        if start > reached:
            bounds.append((reached, start, False))
        bounds.append((start, end, True))
        reached = end
    if reached < length:
        bounds.append((reached, length, False))
    return tuple(
        ChunkStatus(
            index=i,
            start=start,
            end=end,
            outcome=outcome if kept else "skipped",
            reason=WHY[outcome] if kept else "cut out: it does not fit the window",
        )
        for i, (start, end, kept) in enumerate(bounds)
    )
