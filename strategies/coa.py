"""Chain of agents: workers read chunk after chunk and hand on a message, a manager answers.

Zhang et al., "Chain of Agents: Large Language Models Collaborating on Long-Context Tasks",
NeurIPS 2024, arXiv 2406.02818. A worker reads a chunk, the question and the communication unit
before it, and writes the next unit; the manager reads the last unit alone (section 3). Several
paths over the chunks, with a vote or a judge, are those of the paper's section 5.
"""

from __future__ import annotations

import operator
import time
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send

from reader.bm25 import BM25Index
from reader.budget import Estimate
from reader.chunking import Chunk
from reader.coverage import ChunkStatus
from reader.errors import LimitReached, ModelUnavailable
from reader.events import ChunkRead, NoteChanged
from reader.evidence import Claim, QuoteFinder, candidates
from reader.llm.replies import says_nothing_found
from reader.prompts import versions
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions, Together
from reader.trace import Step

from .coa_closing import choose_path, close
from .coa_plan import PROMPTS, CoAOptions, Plan
from .communication_unit import QUOTE_TOKENS, Unit, as_note, read_chunk

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

SLICE_SECONDS = 3.0  # a superstep reads for so long, so that checkpoints never outweigh the calls
MAX_FAILURES = 5  # chunks failing one after another: the server is broken, not the chunks
EXPECTED_UNIT = 0.45  # share of the cap that a unit fills, before replies of the model were seen
EXPECTED_QUOTES = 80  # tokens of the quotes beside a unit
EXPECTED_ANSWER = 30


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
        reading.plan = plan = Plan(reading)
        size = await plan.measure()
        reading.chunks = await reading.cut(size, code=plan.options.task == "code")

    def estimate(self, reading: Reading) -> Estimate:
        """n + 1 calls a path (section 3.3 of the paper); expected lengths from replies seen."""
        plan: Plan = reading.plan
        n, paths = len(reading.chunks), plan.options.number_of_paths
        seen = reading.store.reply_length(self.length_key(reading, "worker"))
        quotes = EXPECTED_QUOTES if plan.form.quotes else 0
        reply = int(seen[1]) if seen else int(plan.cu_tokens * EXPECTED_UNIT) + quotes
        unit = max(reply - quotes, 0)  # the quotes do not travel
        said = reading.store.reply_length(self.length_key(reading, "manager"))
        long = plan.summary or plan.judged
        guess = int(plan.answer_tokens * EXPECTED_UNIT) if long else EXPECTED_ANSWER
        answer = int(said[1]) if said else min(guess, plan.answer_tokens)
        if plan.options.direct_when_fits and n == 1:
            n, unit, reply = 0, reading.chunks[0].tokens, 0
        closers = 1 if plan.judged else paths
        seen_by_manager = {"last": 1, "all": n, "none": 0}[plan.options.manager_sees] * unit
        closing_in = plan.manager_tokens + min(seen_by_manager, plan.room_for_units)
        if plan.judged:
            closing_in = plan.manager_tokens + paths * unit
        text = sum(chunk.tokens for chunk in reading.chunks) if n else 0
        prompt = paths * (text + n * plan.form.fixed_tokens + max(n - 1, 0) * unit)
        prompt += closers * closing_in
        price = reading.ledger.price
        completion = paths * n * reply + closers * answer
        cap = plan.form.cu_tokens + (QUOTE_TOKENS if plan.form.quotes else 0)
        most = paths * n * cap + closers * plan.answer_tokens
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
        units = paths if plan.judged else 1
        prompt = plan.manager_tokens + plan.cu_tokens * units + 200
        if plan.options.manager_sees == "all":
            prompt = max(prompt, plan.manager_tokens + plan.room_for_units)
        prompt += 600 if plan.options.quotes else 0
        largest = max(chunk.tokens for chunk in reading.chunks)
        return Closing(
            calls=calls,
            prompt_tokens=calls * prompt,
            completion_tokens=calls * plan.answer_tokens,
            read_prompt_tokens=plan.form.fixed_tokens + int(largest * 1.03) + 16,
            read_completion_tokens=plan.cu_tokens + (QUOTE_TOKENS if plan.options.quotes else 0),
        )

    def length_key(self, reading: Reading, kind: str) -> str:
        """Lengths depend on model, words and cap."""
        plan: Plan = reading.plan
        cap = plan.cu_tokens if kind == "worker" else plan.answer_tokens
        form = f"{plan.form.worker.name}/{plan.form.quotes}/{plan.requirement}"
        return f"coa|{reading.info.identity}|{versions(PROMPTS)}|{form}|{kind}|{cap}"

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

    @classmethod
    def together(cls, options: CoAOptions) -> type[Together[Any]] | None:
        """A single chain that keeps units alone reads once for several questions."""
        from .coa_many import ChainForMany

        more = options.quotes or options.second_pass or options.direct_when_fits
        usual = options.task == "qa" and options.manager_sees == "last"
        plain = options.number_of_paths == 1 and usual and not more
        return ChainForMany if plain else None


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
    if direct:
        notes.append((0, as_note(reading.chunks[0], Unit(level="direct"))))
    until = time.monotonic() + SLICE_SECONDS
    try:
        while pos < len(order) and reading.ledger.stopped_by is None and not direct:
            chunk = reading.chunks[order[pos]]
            try:
                after = await read_chunk(reading, plan.form, unit, chunk, seed)
            except LimitReached:
                break
            found = standing(plan.finder, after.quotes, chunk)
            quotes = (quotes + [q for q in found if q not in quotes])[-12:]
            notes.append((pos, as_note(chunk, after)))
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


def standing(finder: QuoteFinder, quotes: tuple[str, ...], chunk: Chunk) -> list[list[int]]:
    """Ranges of the quotes that stand in the document; the others never reach the manager."""
    matches = [finder.find(quote, within=(chunk.start, chunk.end)) for quote in quotes]
    return [[m.start, m.end] for m in matches if m]


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


def chunks_to_read_again(reading: Reading, path: int) -> list[int]:
    """Unread and failed chunks and those most similar to the question, last ones first."""
    plan: Plan = reading.plan
    notes = [note for _, _, note in reading.store.notes(reading.run_id, path)]
    missed = {note["chunk"] for note in notes if note["outcome"] != "read"}
    index = BM25Index([reading.text(chunk) for chunk in reading.chunks])
    ranked = index.rank(plan.question or "summary", plan.options.second_pass_chunks)
    return sorted(missed | {i for i, _ in ranked}, reverse=True)


async def select(state: ChainState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """The one path, or the chosen one."""
    results = sorted(state["results"], key=lambda r: r["path"])
    return {"winner": await choose_path(runtime.context, results)}


def chunk_statuses(chunks: Any, notes: list[dict[str, Any]]) -> tuple[ChunkStatus, ...]:
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
    """What the workers of the path quote, and what the last unit says.

    A sentence of the last unit is looked for in the chunk at which it was first written.
    """
    found = [
        Claim(quote=quote, within=(note["start"], note["end"]))
        for note in notes
        for quote in note["quotes"]
    ]
    for candidate in candidates(cu):
        home = next((n for n in notes if candidate.text in n["text"]), None)
        within = (home["start"], home["end"]) if home else None
        found.append(Claim(candidate.text, candidate.claimed, within))
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
