"""Retrieve, then answer: the passages that are most like the question, and one call.

Lewis et al., "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks", NeurIPS 2020,
arXiv 2005.11401, in the untrained form that is everywhere now. The defaults are those of LaRA (Li
et al., ICML 2025, arXiv 2502.09977): passages of 600 tokens, 100 of them shared with the passage
before, the 5 best by words and vectors together; fusing by reciprocal rank instead of by scores,
and leaving out LaRA's reranker, are ours.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command
from pydantic import Field

from reader.budget import Estimate
from reader.chunking import MIN_CHUNK, ChunkOptions, room
from reader.coverage import ChunkStatus
from reader.errors import InvalidOption, LimitReached
from reader.events import ChunkRead
from reader.prompts import fence, load_prompts, versions
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions
from reader.trace import Step

from .final_answer import (
    EXPECTED_ANSWER,
    WHY,
    AnswerForm,
    AnswerOptions,
    answer_claims,
    answer_steps,
    estimate_of,
    give_answer,
    needs_question,
    outcome_of,
    status_of,
)
from .passages import PART, SHORTEST_LIMIT, TRANSIENT, EmbedderOption, Passages, Ranker, fused

PROMPTS = load_prompts("reader.strategies", "rag")
PASSAGE_TOKENS = 600
OVERLAP_PART = 6  # of a passage is its overlap: 100 of 600
FENCE_TOKENS = 24  # around each passage, from above
NOT_RETRIEVED = "not among the passages retrieved"


class RagOptions(AnswerOptions):
    """Options of retrieve-then-answer; ``chunk_tokens`` is the size of a passage."""

    retriever: Ranker = Field(
        default="hybrid", description="bm25, dense, or both fused by reciprocal rank"
    )
    embedder: EmbedderOption = Field(
        default=None,
        description="for dense and hybrid: http://HOST/v1#NAME, openai:NAME, minilm,"
        " sentence-transformers:PATH, or an Embedder",
    )
    k: int = Field(default=5, ge=1, description="passages shown")
    overlap_tokens: int | None = Field(
        default=None, ge=0, description="shared with the passage before; a sixth of a passage"
    )
    order: Literal["rank", "document", "best_last"] = Field(
        default="rank", description="of the passages in the prompt"
    )
    quotes: bool = Field(default=True, description="the answer is followed by a checked quote")


class Plan:
    """What is fixed for a run: the form of the prompt, the size of a passage, the ranker."""

    passages: Passages

    def __init__(self, reading: Reading) -> None:
        self.options: RagOptions = reading.options
        self.reading = reading
        self.query = needs_question(reading, "passages are ranked by it")
        self.window = min(self.options.window or reading.info.window, reading.info.window)
        self.form = AnswerForm(reading, self.window, quotes=self.options.quotes)
        self.fixed_tokens = 0
        self.ranker: Ranker = self.options.retriever
        if self.ranker != "bm25" and self.options.embedder is None:
            self.ranker = "bm25"

    async def measure(self) -> ChunkOptions:
        """Count the fixed part of the prompt; returns how the document is cut.

        Raises:
            InvalidOption: so many passages of that size do not fit.
            WindowTooSmall: there is no room for any.
        """
        counter = self.reading.info.counter
        self.fixed_tokens = await counter.count_messages([("user", self.prompt([]))])
        space = room(
            self.window,
            fixed_tokens=self.fixed_tokens,
            memory_tokens=0,
            output_tokens=self.form.output_tokens,
        )
        k, wanted = self.options.k, self.options.chunk_tokens
        most = space // k - FENCE_TOKENS
        if most < MIN_CHUNK or (wanted is not None and wanted > most):
            raise InvalidOption(
                f"{k} passages of {wanted or MIN_CHUNK} tokens do not fit a window of"
                f" {self.window}.",
                hint=f"{space} tokens are left for all: lower k or chunk_tokens.",
            )
        size = wanted or min(PASSAGE_TOKENS, most)
        overlap = self.options.overlap_tokens
        if overlap is not None and 2 * overlap > size:
            raise InvalidOption(
                f"overlap_tokens={overlap} is too much for passages of {size} tokens.",
                hint=f"At most {size // 2}, half of a passage.",
            )
        return ChunkOptions(
            chunk_tokens=size, overlap_tokens=size // OVERLAP_PART if overlap is None else overlap
        )

    def prompt(self, passages: list[int]) -> str:
        """The prompt with these passages, in this order."""
        text, chunks = self.reading.document.text, self.reading.chunks
        shown = [text[chunks[i].overlap_start : chunks[i].end] for i in passages]
        return PROMPTS["answer"].fill(
            passages="\n\n".join(fence(passage, "passage") for passage in shown),
            requirement=self.form.requirement(),
            question=self.form.question,
        )


class RagState(TypedDict, total=False):
    """The whole run: which passages were shown, in which order, by which ranker."""

    shown: list[int]
    ranker: str
    result: dict[str, Any]


class RetrieveThenAnswer(Strategy[RagOptions]):
    """The passages most like the question, and one call."""

    name: ClassVar[str] = "rag"
    title: ClassVar[str] = "Retrieve, then answer"
    source: ClassVar[str] = "Lewis et al., NeurIPS 2020, arXiv 2005.11401; LaRA, arXiv 2502.09977"
    Options: ClassVar[type[StrategyOptions]] = RagOptions

    @classmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts."""
        return versions(PROMPTS)

    async def prepare(self, reading: Reading) -> None:
        """Cut the document into passages.

        Raises:
            InvalidOption: no question, or k passages of that size do not fit.
            WindowTooSmall: no room for passages.
        """
        reading.plan = plan = Plan(reading)
        how = await plan.measure()
        reading.chunks = await reading.cut(how.chunk_tokens, overlap_tokens=how.overlap_tokens)
        plan.passages = Passages(reading, how, plan.query)

    def estimate(self, reading: Reading) -> Estimate:
        """One call with k passages of the mean length; an embedder's calls are not counted."""
        plan: Plan = reading.plan
        seen = reading.store.reply_length(self.length_key(reading, "answer"))
        k, n = min(plan.options.k, len(reading.chunks)), len(reading.chunks)
        text = sum(chunk.tokens for chunk in reading.chunks) * k // n
        return estimate_of(
            reading,
            calls=1,
            depth=1,
            prompt=plan.fixed_tokens + text + k * FENCE_TOKENS // 2,
            completion=min(int(seen[1]) if seen else EXPECTED_ANSWER, plan.form.output_tokens),
            most=plan.form.output_tokens,
            seen=seen,
            bound="" if k == n else "passages are taken to be of mean length",
        )

    def closing(self, reading: Reading) -> Closing:
        """The one call is the last one."""
        plan: Plan = reading.plan
        longest = sorted((c.tokens for c in reading.chunks), reverse=True)[: plan.options.k]
        prompt = plan.fixed_tokens + prompt_bound(longest)
        return Closing(0, 0, 0, prompt, plan.form.output_tokens)

    def length_key(self, reading: Reading, kind: str) -> str:
        """Lengths depend on model, words and cap."""
        form: AnswerForm = reading.plan.form
        words = f"{form.requirement()}|{form.output_tokens}"
        return f"rag|{reading.info.identity}|{versions(PROMPTS)}|{words}|{kind}"

    def start(self, reading: Reading) -> dict[str, Any]:
        """With which ranker it begins."""
        return {"ranker": reading.plan.ranker}

    def max_supersteps(self, reading: Reading) -> int:
        """A superstep a part of the vectors, then two."""
        windows = len(reading.document.text) * 2 // SHORTEST_LIMIT + len(reading.chunks)
        return windows // PART + 20

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """embed ... embed -> retrieve -> answer."""
        graph = StateGraph(RagState, context_schema=Reading)
        graph.add_node("embed", embed, destinations=("embed", "retrieve"))
        graph.add_node("retrieve", retrieve)
        graph.add_node("answer", answer)
        graph.add_edge(START, "embed")
        graph.add_edge("retrieve", "answer")
        graph.add_edge("answer", END)
        return graph

    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """Passages that were shown are read, the others skipped: by design, so not "partial"."""
        result, shown = state["result"], set(state["shown"])
        outcome = outcome_of(result)
        chunks = tuple(
            ChunkStatus(
                index=c.index,
                start=c.start,
                end=c.end,
                outcome=outcome if c.index in shown else "skipped",
                reason=WHY[outcome] if c.index in shown else NOT_RETRIEVED,
            )
            for c in reading.chunks
        )
        ranges = [(reading.chunks[i].overlap_start, reading.chunks[i].end) for i in state["shown"]]
        passages = ", ".join(str(i + 1) for i in state["shown"])
        return Outcome(
            text=result["text"],
            status=status_of(result, chunks, by_design=True),
            chunks=chunks,
            claims=answer_claims(reading, result, ranges),
            steps=(
                Step(purpose="retrieve", text=f"{state['ranker']}: passages {passages}"),
                *answer_steps(result),
            ),
            choice=result["choice"],
            depth=result["calls"],
        )


async def embed(state: RagState, runtime: Runtime[Reading]) -> Command[Any]:
    """Make the next part of the vectors, where the ranker needs them and they are not kept."""
    reading = runtime.context
    plan: Plan = reading.plan
    if plan.options.retriever != "bm25" and plan.options.embedder is None:
        reading.warn("No embedder was given: BM25 alone ranked the passages.")
    if state["ranker"] == "bm25":
        return Command(goto="retrieve")
    try:
        more = await plan.passages.embed_next(plan.options.embedder)
    except (*TRANSIENT, LimitReached) as error:
        return Command(goto="retrieve", update={"ranker": without_vectors(reading, error.message)})
    return Command(goto="embed" if more else "retrieve")


def without_vectors(reading: Reading, reason: str) -> str:
    """The ranker that is left, and a warning."""
    reading.warn(f"{reason} BM25 alone ranked the passages.")
    return "bm25"


async def retrieve(state: RagState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """Rank the passages and take the best k."""
    reading = runtime.context
    plan: Plan = reading.plan
    options, ranker = plan.options, state["ranker"]
    ranking: list[int] = []
    if ranker != "bm25":
        try:
            ranking = await plan.passages.dense(options.embedder)
        except (*TRANSIENT, LimitReached) as error:
            ranker = without_vectors(reading, error.message)
    if ranker != "dense":
        lexical = await plan.passages.lexical()
        ranking = fused(lexical, ranking) if ranker == "hybrid" else lexical
    if not ranking:
        reading.warn("No passage shares a word with the question: the first ones were taken.")
        ranking = [chunk.index for chunk in reading.chunks]
    return {"shown": in_order(ranking[: options.k], options.order), "ranker": ranker}


def in_order(best: list[int], order: str) -> list[int]:
    """The best passages as they stand in the prompt.

    Models read the ends of a prompt better than its middle (Liu et al., "Lost in the Middle", TACL
    2024), hence "best_last": the best passage stands next to the question.
    """
    if order == "document":
        return sorted(best)
    return best[::-1] if order == "best_last" else best


async def answer(state: RagState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """Ask."""
    reading = runtime.context
    plan: Plan = reading.plan
    chunks = [reading.chunks[i] for i in state["shown"]]
    size = plan.fixed_tokens + prompt_bound([chunk.tokens for chunk in chunks])
    result = await give_answer(reading, plan.form, plan.prompt(state["shown"]), size)
    for c in chunks:
        reading.emit(ChunkRead(chunk=c.index, start=c.start, end=c.end, outcome=outcome_of(result)))
    return {"result": result}


def prompt_bound(tokens: list[int]) -> int:
    """An upper bound of so many passages in a prompt."""
    return int(sum(tokens) * 1.03) + FENCE_TOKENS * len(tokens) + 16
