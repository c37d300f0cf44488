"""Chain of agents: workers read chunk after chunk and hand on a message, a manager answers.

Zhang et al., "Chain of Agents: Large Language Models Collaborating on Long-Context Tasks",
NeurIPS 2024, arXiv 2406.02818. A worker reads a chunk, the question and the communication unit
before it, and writes the next unit; the manager reads the last unit alone (section 3). Several
paths over the chunks, with a vote or a judge, are those of the paper's section 5.
"""

from __future__ import annotations

import operator
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send
from pydantic import BaseModel, Field, model_validator

from reader.answer import ChunkStatus, Step
from reader.budget import Estimate
from reader.chunking import Chunk, chunk_document, room
from reader.errors import InvalidOption, LimitReached, ModelError, ModelUnavailable
from reader.events import AnswerToken, ChunkRead, NoteChanged
from reader.evidence import Claim, QuoteFinder, candidates
from reader.llm.choice import choose, render
from reader.llm.replies import clean, is_refusal_or_empty, says_nothing_found
from reader.llm.structured import typed_reply
from reader.llm.types import ChatRequest, Message
from reader.prompts import fence, load_prompts, versions
from reader.selection import vote
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions

from .communication_unit import QUOTE_TOKENS, Form, Unit, as_note, read_chunk

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

PROMPTS = load_prompts("reader.strategies", "coa")
SLICE_SECONDS = 1.0  # a superstep reads for so long, so that checkpoints never outweigh the calls
MAX_FAILURES = 5  # chunks failing one after another: the server is broken, not the chunks
PAPER_WINDOW = 8192
EXPECTED_UNIT = 0.45  # share of the cap that a unit fills, before replies of the model were seen
EXPECTED_ANSWER = 30
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


class ChainState(TypedDict, total=False):
    """The whole run."""

    results: Annotated[list[dict[str, Any]], operator.add]
    winner: dict[str, Any]


class PathState(TypedDict, total=False):
    """One path over the chunks."""

    path: int
    order: list[int]
    pos: int
    cu: str
    cu_size: int
    quotes: list[list[int]]
    depth: int
    failures: int
    second: bool
    results: Annotated[list[dict[str, Any]], operator.add]


class PathResult(TypedDict):
    """What a path hands to the selection."""

    results: Annotated[list[dict[str, Any]], operator.add]


class Verdict(BaseModel):
    """The judge's reply."""

    reason: str = Field(description="short", max_length=600)
    label: str = Field(description="the label of the best summary, such as S1")
    answer: str = Field(description="the answer to the question from that summary")


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
        self.judged = options.number_of_paths > 1 and (
            options.select or ("judge" if self.summary or options.task == "code" else "vote")
        ) == "judge"
        sampled = options.paths == "self_consistency" and options.temperature == 0
        self.form = Form(
            worker=PROMPTS["worker_summary" if self.summary else "worker"],
            compress=PROMPTS["compress"],
            question=self.question,
            cu_tokens=self.cu_tokens,
            fixed_tokens=0,
            temperature=0.7 if sampled else options.temperature,
            quotes=options.quotes,
            skip_gate=options.skip_gate,
        )
        self.finder = QuoteFinder(reading.document.text)

    async def measure(self) -> int:
        """Count the fixed parts of the prompts; returns the tokens of a chunk."""
        count = self.reading.info.counter.count_messages
        fixed = await count([("user", self.form.prompt("", ""))])
        self.form = replace(self.form, fixed_tokens=fixed)
        self.manager_tokens = await count([("user", self.manager_prompt("", [], unknown=True))])
        room_for = room(
            self.window,
            fixed_tokens=fixed,
            memory_tokens=self.cu_tokens,
            output_tokens=self.cu_tokens + (QUOTE_TOKENS if self.options.quotes else 0),
        )
        wanted = self.options.chunk_tokens
        if wanted is not None and wanted > room_for:
            raise InvalidOption(
                f"chunk_tokens={wanted} does not fit a window of {self.window} tokens.",
                hint=f"At most {room_for} fit beside the prompt, the memory and the reply.",
            )
        return wanted or room_for

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


class ChainOfAgents(Strategy[CoAOptions]):
    """Workers in a chain, then a manager that sees the last communication unit alone."""

    name: ClassVar[str] = "coa"
    title: ClassVar[str] = "Chain of agents"
    source: ClassVar[str] = "Zhang et al., NeurIPS 2024, arXiv 2406.02818"
    Options: ClassVar[type[StrategyOptions]] = CoAOptions

    @classmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts."""
        return versions(PROMPTS)

    async def prepare(self, reading: Reading) -> None:
        """Compute the room for a chunk and cut the document."""
        self.plan = Plan(reading)
        reading.plan = self.plan
        size = await self.plan.measure()
        reading.chunks = await chunk_document(
            reading.document, counter=reading.info.counter, chunk_tokens=size
        )

    def estimate(self, reading: Reading) -> Estimate:
        """n + 1 calls a path (section 3.3 of the paper); expected lengths from replies seen."""
        plan: Plan = reading.plan
        n, paths = len(reading.chunks), plan.options.number_of_paths
        seen = reading.store.reply_length(length_key(reading, "worker", plan))
        unit = int(seen[1]) if seen else int(plan.cu_tokens * EXPECTED_UNIT)
        said = reading.store.reply_length(length_key(reading, "manager", plan))
        long = plan.summary or plan.judged
        guess = int(plan.answer_tokens * EXPECTED_UNIT) if long else EXPECTED_ANSWER
        answer = int(said[1]) if said else min(guess, plan.answer_tokens)
        if plan.options.direct_when_fits and n == 1:
            n, unit = 0, reading.chunks[0].tokens
        closers = 1 if plan.judged else paths
        closing_in = plan.manager_tokens + (paths * unit if plan.judged else unit)
        text = sum(chunk.tokens for chunk in reading.chunks) if n else 0
        prompt = paths * (text + n * plan.form.fixed_tokens + max(n - 1, 0) * unit)
        prompt += closers * closing_in
        price = reading.ledger.price
        completion = paths * n * unit + closers * answer
        most = paths * n * plan.form.cu_tokens + closers * plan.answer_tokens
        return Estimate(
            calls=paths * n + closers,
            prompt_tokens=prompt,
            completion_tokens=completion,
            depth=n + 1,
            cost=price.cost(prompt, completion) if price else None,
            max_completion_tokens=most,
            max_cost=price.cost(prompt, most) if price else None,
            exact_counts=reading.info.counter.exact,
            basis=f"{seen[0]} replies seen" if seen else "no reply of this model seen yet",
        )

    def closing(self, reading: Reading) -> Closing:
        """The manager of each path, or the judge and a manager should it fail."""
        plan: Plan = reading.plan
        paths = plan.options.number_of_paths
        calls = 1 if paths == 1 else 2 if plan.judged else paths + 1
        prompt = plan.manager_tokens + plan.cu_tokens * (paths if paths > 1 else 1) + 600
        largest = max(chunk.tokens for chunk in reading.chunks)
        return Closing(
            calls=calls,
            prompt_tokens=calls * prompt,
            completion_tokens=calls * plan.answer_tokens,
            read_prompt_tokens=plan.form.fixed_tokens + int(largest * 1.03) + 16,
            read_completion_tokens=plan.cu_tokens + (QUOTE_TOKENS if plan.options.quotes else 0),
        )

    def start(self, reading: Reading) -> dict[str, Any]:
        """Nothing is known at the start."""
        return {"results": []}

    def max_supersteps(self, reading: Reading) -> int:
        """A superstep a chunk at most, on the path and once more for a second pass."""
        return 2 * len(reading.chunks) + 20

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """plan -> path x P (worker loop -> manager) -> select."""
        graph = StateGraph(ChainState, context_schema=Reading)
        graph.add_node("plan", plan_paths, destinations=("path",))
        graph.add_node("path", path_graph())
        graph.add_node("select", select)
        graph.add_edge(START, "plan")
        graph.add_edge("path", "select")
        graph.add_edge("select", END)
        return graph

    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """Citations and coverage from the notes of the paths."""
        winner = state["winner"]
        notes = reading.store.notes(reading.run_id)
        chunks = chunk_statuses(reading.chunks, [note for _, _, note in notes])
        incomplete = any(c.outcome in ("skipped", "failed") for c in chunks)
        text = winner["answer"]
        status: Literal["answered", "not_found", "partial"] = "answered"
        if incomplete or not winner["closed"]:
            status = "partial"
        elif says_nothing_found(text):
            status = "not_found"
        return Outcome(
            text=text,
            status=status,
            chunks=chunks,
            claims=claims([n for path, _, n in notes if path == winner["path"]], winner["cu"]),
            steps=tuple(step(path, note) for path, _, note in notes)
            + tuple(
                Step(purpose="manager", path=r["path"], text=r["answer"])
                for r in state["results"]
                if r["answer"]
            ),
            paths=tuple(r["answer"] for r in state["results"]) if len(state["results"]) > 1 else (),
            choice=winner["choice"],
            depth=winner["depth"],
        )


def length_key(reading: Reading, kind: str, plan: Plan) -> str:
    """Under which the lengths of replies are kept: they depend on model, words and cap."""
    cap = plan.cu_tokens if kind == "worker" else plan.answer_tokens
    form = f"{plan.form.worker.name}/{plan.form.quotes}"
    return f"coa|{reading.info.identity}|{versions(PROMPTS)}|{form}|{kind}|{cap}"


def path_graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """One path: worker -> worker ... -> manager."""
    graph = StateGraph(PathState, context_schema=Reading, output_schema=PathResult)
    graph.add_node("worker", worker, destinations=("worker", "manager"))
    graph.add_node("manager", manager, destinations=("worker", END))
    graph.add_edge(START, "worker")
    return graph.compile()


async def plan_paths(state: ChainState, runtime: Runtime[Reading]) -> Command[Any]:
    """Send every path on its way."""
    orders = runtime.context.plan.orders()
    return Command(goto=[Send("path", {"path": p, "order": o}) for p, o in enumerate(orders)])


async def worker(state: PathState, runtime: Runtime[Reading]) -> Command[Any]:
    """Read on: one chunk after the other, for about a second."""
    reading = runtime.context
    plan: Plan = reading.plan
    path, pos, order = state["path"], state.get("pos", 0), state["order"]
    unit = Unit(text=state.get("cu", ""), tokens=state.get("cu_size", 0))
    quotes, depth = list(state.get("quotes", [])), state.get("depth", 0)
    failures = state.get("failures", 0)
    seed = plan.options.seed + path if plan.form.temperature > 0 else None
    direct = plan.options.direct_when_fits and len(reading.chunks) == 1
    notes: list[tuple[int, dict[str, Any]]] = []
    until = time.monotonic() + SLICE_SECONDS
    try:
        while pos < len(order) and reading.ledger.stopped_by is None and not direct:
            chunk = reading.chunks[order[pos]]
            try:
                after = await read_chunk(reading, plan.form, unit, chunk, seed)
            except LimitReached:
                break
            found, invented = check_quotes(plan.finder, after.quotes, chunk)
            quotes = (quotes + [q for q in found if q not in quotes])[-12:]
            notes.append((pos, as_note(chunk, after, found, invented)))
            tell(reading, chunk, unit, after, path)
            failures = failures + 1 if after.outcome == "failed" else 0
            if failures >= MAX_FAILURES:
                raise ModelUnavailable(
                    f"{failures} chunks failed one after another, the last one so: {after.reason}"
                )
            unit, depth, pos = after, depth + after.calls, pos + 1
            if time.monotonic() > until:
                break
    finally:
        reading.store.keep_notes(reading.run_id, path, notes)
    go_on = pos < len(order) and reading.ledger.stopped_by is None and not direct
    return Command(
        goto="worker" if go_on else "manager",
        update={
            "pos": pos,
            "cu": unit.text,
            "cu_size": unit.tokens,
            "quotes": quotes,
            "depth": depth,
            "failures": failures,
        },
    )


def check_quotes(
    finder: QuoteFinder, quotes: tuple[str, ...], chunk: Chunk
) -> tuple[list[list[int]], int]:
    """Ranges of the quotes that stand in the document, and the number of invented ones."""
    matches = [finder.find(quote, within=(chunk.start, chunk.end)) for quote in quotes]
    return [[m.start, m.end] for m in matches if m], sum(m is None for m in matches)


def tell(reading: Reading, chunk: Chunk, before: Unit, after: Unit, path: int) -> None:
    """What the listeners hear about one chunk."""
    reading.emit(
        ChunkRead(
            chunk=chunk.index,
            start=chunk.start,
            end=chunk.end,
            outcome=after.outcome,
            path=path,
        )
    )
    if after.text != before.text:
        reading.emit(NoteChanged(chunk=chunk.index, text=after.text, path=path))
    if after.outcome in ("failed", "unread"):
        reading.warn(f"Chunk {chunk.index + 1} is {after.outcome}: {after.reason}.")
    reading.step_done()


async def manager(state: PathState, runtime: Runtime[Reading]) -> Command[Any]:
    """Answer from the last unit alone; before that, a second pass where nothing was found."""
    reading = runtime.context
    plan: Plan = reading.plan
    path, cu, order = state["path"], state.get("cu", ""), state["order"]
    nothing = not cu or says_nothing_found(cu)
    again = plan.options.second_pass and nothing and not state.get("second")
    if again and reading.ledger.stopped_by is None and state.get("pos", 0) >= len(order):
        extra = chunks_to_read_again(reading, path)
        return Command(goto="worker", update={"order": order + extra, "second": True})
    result = {
        "path": path,
        "cu": cu,
        "size": state.get("cu_size", 0),
        "quotes": state.get("quotes", []),
        "answer": "",
        "choice": None,
        "closed": True,
        "depth": state.get("depth", 0),
    }
    if not plan.judged:
        result = await close(reading, result, unknown=nothing)
    return Command(goto=END, update={"results": [result]})


async def close(reading: Reading, result: dict[str, Any], *, unknown: bool) -> dict[str, Any]:
    """The manager's call; without it (limit, failure) the unit itself is the best answer."""
    plan: Plan = reading.plan
    prompt = plan.manager_prompt(result["cu"], result["quotes"], unknown=unknown)
    if plan.options.direct_when_fits and len(reading.chunks) == 1:
        prompt = PROMPTS["direct"].fill(
            chunk=fence(reading.document.text, "source_text"),
            requirement=plan.requirement,
            question=plan.question or "What does the source text say, in summary?",
        )
    size = plan.manager_tokens + result["size"] + 50 * len(result["quotes"]) + 16
    request = ChatRequest(
        messages=(Message("user", prompt),),
        max_tokens=plan.answer_tokens,
        temperature=0.0,
        prompt_tokens=max(size, len(prompt) // 3),
        purpose="manager",
        closing=True,
    )
    single = plan.options.number_of_paths == 1
    try:
        if reading.choices:
            chosen = await choose(reading.model, request, reading.choices, counts=reading.ledger)
            answer, index, calls = reading.choices[chosen.index], chosen.index, chosen.calls
        else:
            reply = await reading.model.generate(
                request, (lambda piece: reading.emit(AnswerToken(text=piece))) if single else None
            )
            reading.saw_reply("manager", reply.completion_tokens)
            answer, index, calls = clean(reply.text), None, 1
            if is_refusal_or_empty(answer):
                reading.warn("The manager's reply was empty; the answer is its notes.")
                answer, index = result["cu"], None
    except LimitReached as error:
        reading.warn(f"{error.message} The answer is the notes as they stood.")
        return {**result, "answer": result["cu"], "closed": False}
    except ModelError as error:
        if not error.retryable or isinstance(error, ModelUnavailable):
            raise
        reading.warn(f"The manager's call failed: {error.message} The answer is its notes.")
        return {**result, "answer": result["cu"], "closed": False}
    reading.step_done()
    return {**result, "answer": answer, "choice": index, "depth": result["depth"] + calls}


def chunks_to_read_again(reading: Reading, path: int) -> list[int]:
    """Unread and failed chunks and those most similar to the question, last ones first."""
    import bm25s

    plan: Plan = reading.plan
    notes = [note for _, _, note in reading.store.notes(reading.run_id, path)]
    missed = {note["chunk"] for note in notes if note["outcome"] != "read"}
    texts = [reading.text(chunk) for chunk in reading.chunks]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    wanted = min(plan.options.second_pass_chunks, len(texts))
    question = bm25s.tokenize([plan.question or "summary"], show_progress=False)
    ranked, _ = index.retrieve(question, k=wanted, show_progress=False)
    return sorted(missed | {int(i) for i in ranked[0]}, reverse=True)


async def select(state: ChainState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """One path: its answer. Several: the vote, or the judge."""
    reading = runtime.context
    plan: Plan = reading.plan
    results = sorted(state["results"], key=lambda r: r["path"])
    depth = max(r["depth"] for r in results)
    if plan.judged:
        return {"winner": {**await judge(reading, results), "depth": depth + 1}}
    if len(results) == 1:
        return {"winner": results[0]}
    choice = vote([r["answer"] for r in results])
    winner = results[choice.index]
    if choice.tie and reading.ledger.stopped_by is None and any(r["cu"] for r in results):
        judged = await judge(reading, results)
        winner, depth = {**winner, **judged}, depth + 1
    return {"winner": {**winner, "depth": depth}}


async def judge(reading: Reading, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The best supported of the last units, and the answer from it (not published; ours)."""
    plan: Plan = reading.plan
    shown = random.Random(plan.options.seed).sample(results, len(results))  # noqa: S311
    labels = {f"S{i}": r for i, r in enumerate(shown, 1)}
    units = "\n\n".join(f"{label}\n{fence(r['cu'], 'summary')}" for label, r in labels.items())
    prompt = PROMPTS["judge"].fill(
        candidates=units, question=plan.question or "Summarise the source text."
    )
    request = ChatRequest(
        messages=(Message("user", f"{prompt}\n{plan.requirement}"),),
        max_tokens=plan.answer_tokens + 200,
        prompt_tokens=plan.manager_tokens + sum(r["size"] for r in results) + 200,
        purpose="judge",
        closing=True,
    )
    try:
        typed = await typed_reply(
            reading.model,
            request,
            Verdict,
            can_enforce=reading.info.json_schema,
            max_reasks=1,
            validate=lambda v: None if v.label.strip() in labels else f"not one of {[*labels]}",
            counts=reading.ledger,
            default=lambda: Verdict(reason="", label="", answer=""),
        )
    except LimitReached as error:
        reading.warn(f"{error.message} No judge chose between the paths.")
        longest = max(results, key=lambda r: len(r["cu"]))
        return {**longest, "answer": longest["answer"] or longest["cu"], "closed": False}
    chosen = labels.get(typed.value.label.strip())
    if chosen is None or not typed.value.answer.strip():
        fallback = results[vote([r["answer"] or r["cu"] for r in results]).index]
        return fallback if fallback["answer"] else await close(reading, fallback, unknown=False)
    reading.step_done()
    if reading.choices:
        best = await close(reading, chosen, unknown=False) if not chosen["answer"] else chosen
        return {**chosen, "answer": best["answer"], "choice": best["choice"]}
    return {**chosen, "answer": clean(typed.value.answer), "closed": True}


def chunk_statuses(
    chunks: Any, notes: list[dict[str, Any]]
) -> tuple[ChunkStatus, ...]:
    """The best that any path or pass made of each chunk."""
    rank = {"read": 3, "unread": 2, "failed": 1}
    best: dict[int, dict[str, Any]] = {}
    for note in notes:
        known = best.get(note["chunk"])
        if known is None or rank[note["outcome"]] > rank[known["outcome"]]:
            best[note["chunk"]] = note
    return tuple(
        ChunkStatus(
            index=c.index,
            start=c.start,
            end=c.end,
            outcome=best[c.index]["outcome"] if c.index in best else "skipped",
            reason=best[c.index]["reason"] if c.index in best else "",
        )
        for c in chunks
    )


def claims(notes: list[dict[str, Any]], cu: str) -> tuple[Claim, ...]:
    """What the workers of the path claim: their checked quotes, and what the last unit says."""
    found = []
    for candidate in candidates(cu):
        home = next((n for n in notes if candidate.text in n["text"]), None)
        within = (home["start"], home["end"]) if home else None
        found.append(Claim(quote=candidate.text, claimed=candidate.claimed, within=within))
    return tuple(found)


def step(path: int, note: dict[str, Any]) -> Step:
    """One worker's call as the trace shows it."""
    return Step(
        purpose="worker",
        chunk=note["chunk"],
        path=path,
        text=note["text"],
        tokens=note["written"],
        finish_reason=note["finish_reason"],
        level=note["level"],
    )
