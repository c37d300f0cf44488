"""GraphReader: a graph of atomic facts, and agents that explore it with a notebook each.

Li et al., "GraphReader: Building Graph-based Agent to Enhance Long-Context Abilities of Large
Language Models", EMNLP 2024 Findings, arXiv 2406.14550. The graph is built without the question
(section 3.2) and kept; a rational plan and initial nodes start the search (3.3.1); one agent for
each initial node explores facts, chunks and neighbours (3.3.2), independent of the others; the
notebooks are weighed in the answer (3.4).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send

from reader.budget import Estimate
from reader.coverage import ChunkStatus
from reader.errors import LimitReached
from reader.evidence import Claim, candidates
from reader.folding import content_words
from reader.llm.replies import content_overlap, says_nothing_found
from reader.prompts import versions
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions
from reader.trace import Place, Step

from .fact_graph import FactGraph
from .graphreader_agent import agent_graph
from .graphreader_build import finish_graph, graph_of, kept_graph, missing_facts, take_facts
from .graphreader_closing import close, similar_chunks
from .graphreader_plan import PROMPTS, GraphReaderOptions, Plan
from .graphreader_start import choose_starts, make_plan

SHOWN, SHOWN_FACTS = 160, 3  # characters of a fact, and facts, that the trace keeps of a node
SUPPORTING = 5  # facts that an agent saw and that are looked up as evidence
# Steps of a path before any was seen: 3.5 in all; the paper counts 3.0 to 3.9.
EXPECTED_STEPS = {"facts": 1.2, "chunk": 1.6, "neighbors": 0.7}
EXPECTED_REPLY = {"rational_plan": 80, "initial_nodes": 160, "answer": 120}
EXPECTED_FACTS = 0.4  # of the tokens of a chunk, as facts of it
EXPECTED_STEP = 0.3  # of its cap, a reply of an agent


class GraphState(TypedDict, total=False):
    """The whole run. Chunks are indices from 0."""

    failed: list[list[Any]]
    cut: bool
    build_depth: int
    start_depth: int
    rational_plan_text: str
    notebooks: Annotated[list[dict[str, Any]], operator.add]
    result: dict[str, Any]


class GraphReader(Strategy[GraphReaderOptions]):
    """Independent agents on a graph of atomic facts, then an answer that weighs their notebooks."""

    name: ClassVar[str] = "graphreader"
    title: ClassVar[str] = "GraphReader"
    source: ClassVar[str] = "Li et al., EMNLP 2024 Findings, arXiv 2406.14550"
    Options: ClassVar[type[StrategyOptions]] = GraphReaderOptions

    @classmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts."""
        return versions(PROMPTS)

    async def prepare(self, reading: Reading) -> None:
        """Cut the document, and find its graph if an earlier question built it.

        Raises:
            InvalidOption: there is no question.
            WindowTooSmall: no room for a chunk.
        """
        reading.plan = plan = Plan(reading)
        size = await plan.measure()
        reading.chunks = await reading.cut(size)
        plan.graph = kept_graph(reading)

    def estimate(self, reading: Reading) -> Estimate:
        """n calls to build, unless the graph is there; plan, initial nodes, paths, answer.

        How long paths are only a run can say: until one was seen it is the paper's mean, and the
        basis names the most that there can be.
        """
        plan: Plan = reading.plan
        agents, most = plan.agents, plan.calls_of_an_agent
        new = missing_facts(reading) if plan.graph is None else []
        text = sum(chunk.tokens for chunk in new)
        mean = text / len(new) if new else 0.0
        facts = self._seen(reading, "extract", min(mean * EXPECTED_FACTS, plan.facts_tokens))
        prompt = float(text + len(new) * plan.fixed["extract"])
        completion = len(new) * facts
        prepared = int(prompt), int(completion)
        for kind, guess in EXPECTED_REPLY.items():
            completion += self._seen(reading, kind, min(guess, plan.answer_tokens))
        path_calls, path_prompt, path_completion = self._path(reading)
        noted = agents * plan.notebook_tokens * EXPECTED_STEP
        bodies = {"rational_plan": 0.0, "initial_nodes": plan.window / 8, "answer": noted}
        for kind, body in bodies.items():
            expected = plan.fixed[kind] + plan.asked + body
            prompt += self._seen(reading, f"{kind} prompt", expected)
        paths = self._seen(reading, "agents", float(agents))
        prompt += paths * path_prompt
        completion += paths * path_completion
        deepest = self._seen(reading, "deepest", path_calls)
        caps = len(new) * plan.facts_tokens + plan.plan_tokens + plan.start_tokens
        caps += agents * most * plan.step_tokens + plan.answer_tokens
        price = reading.ledger.price
        seen = reading.store.reply_length(self.length_key(reading, "facts steps"))
        said = f"{seen[0]} paths seen" if seen else "no path of this model seen yet"
        each = "an agent" if plan.options.notebooks == "separate" else "the agent"
        return Estimate(
            calls=len(new) + 3 + round(paths * path_calls),
            prompt_tokens=int(prompt),
            completion_tokens=int(completion),
            depth=3 + round(deepest) + (1 if new else 0),
            cost=price.cost(int(prompt), int(completion)) if price else None,
            max_completion_tokens=max(caps, int(completion)),
            max_cost=price.cost(int(prompt), max(caps, int(completion))) if price else None,
            exact_counts=reading.info.counter.exact,
            basis=f"{said}; {each} makes {path_calls:.1f} calls as a mean and {most} at most, so"
            f" there are at most {len(new) + 3 + agents * most} calls",
            preparation_calls=len(new),
            preparation_prompt_tokens=prepared[0],
            preparation_completion_tokens=prepared[1],
        )

    def _seen(self, reading: Reading, kind: str, guess: float) -> float:
        """The mean seen of a kind, else the guess."""
        seen = reading.store.reply_length(self.length_key(reading, kind))
        return seen[1] if seen else guess

    def _path(self, reading: Reading) -> tuple[float, float, float]:
        """Calls, tokens in and tokens out of one agent."""
        plan: Plan = reading.plan
        chunk = sum(c.tokens for c in reading.chunks) / max(len(reading.chunks), 1)
        body = {"facts": 200.0, "chunk": chunk, "neighbors": 100.0}
        calls = prompt = completion = 0.0
        scale = min(plan.calls_of_an_agent / sum(EXPECTED_STEPS.values()), 1.0)
        for kind, expected in EXPECTED_STEPS.items():
            steps = self._seen(reading, f"{kind} steps", expected * scale)
            around = plan.fixed[kind] + plan.asked + plan.plan_tokens / 3
            around += plan.notebook_tokens * EXPECTED_STEP
            read = self._seen(reading, f"{kind} prompt", around + body[kind])
            said = self._seen(reading, kind, plan.step_tokens * EXPECTED_STEP)
            calls += steps
            prompt += steps * read
            completion += steps * said
        return calls, prompt, completion

    def closing(self, reading: Reading) -> Closing:
        """The answer, from the notebooks or from similar chunks."""
        plan: Plan = reading.plan
        largest = max(chunk.tokens for chunk in reading.chunks)
        return Closing(
            calls=1,
            prompt_tokens=max(plan.window - plan.answer_tokens, 0),
            completion_tokens=plan.answer_tokens,
            read_prompt_tokens=plan.fixed["extract"] + int(largest * 1.03) + 16,
            read_completion_tokens=plan.facts_tokens,
        )

    def length_key(self, reading: Reading, kind: str) -> str:
        """Lengths depend on model, words, caps, and on how the search goes."""
        plan: Plan = reading.plan
        options = plan.options
        search = f"{options.notebooks}/{options.start_nodes}/{options.max_calls}"
        caps = f"{plan.window}/{plan.chunk_tokens}/{plan.notebook_tokens}/{plan.answer_tokens}"
        words = versions(PROMPTS)
        form = f"{search}/{options.similar_chunks}/{plan.requirement}"
        return f"graphreader|{reading.info.identity}|{words}|{form}|{caps}|{kind}"

    def start(self, reading: Reading) -> dict[str, Any]:
        """Nothing is known at the start."""
        return {"notebooks": [], "failed": [], "build_depth": 0, "start_depth": 0}

    def max_supersteps(self, reading: Reading) -> int:
        """The agents run side by side, a call a superstep; the rest is one node after another."""
        plan: Plan = reading.plan
        return plan.calls_of_an_agent + 20

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """atomic_facts -> key_elements -> rational_plan -> initial_nodes -> agent x N -> answer."""
        graph = StateGraph(GraphState, context_schema=Reading)
        graph.add_node("atomic_facts", atomic_facts, destinations=("key_elements", "rational_plan"))
        graph.add_node("key_elements", key_elements, destinations=("rational_plan", "answer"))
        graph.add_node("rational_plan", rational_plan, destinations=("initial_nodes", "answer"))
        graph.add_node("initial_nodes", initial_nodes, destinations=("agent", "answer"))
        graph.add_node("agent", agent_graph())
        graph.add_node("answer", answer)
        graph.add_edge(START, "atomic_facts")
        graph.add_edge("agent", "answer")
        graph.add_edge("answer", END)
        return graph

    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """Citations from notebooks and facts that agents saw; a chunk is read if one opened it."""
        result = state["result"]
        notebooks = sorted(state["notebooks"], key=lambda n: n["agent"])
        notes = reading.store.notes(reading.run_id)
        failed = dict(state["failed"])
        limited = any(n["ended"] == "limit" for n in notebooks) or state.get("cut", False)
        status: Literal["answered", "not_found", "partial"] = "answered"
        if failed or limited or not result["closed"]:
            status = "partial"
        elif says_nothing_found(result["text"]):
            status = "not_found"
        found = [note for _, _, note in notes]
        deepest = max((n["depth"] for n in notebooks), default=0)
        return Outcome(
            text=result["text"],
            status=status,
            chunks=chunk_statuses(reading, found, failed, result["chunks"]),
            claims=claims(reading, found, notebooks, result),
            steps=steps(graph_of(reading), state, notes, result),
            places=places(graph_of(reading), found),
            paths=tuple(n["notebook"] for n in notebooks) if len(notebooks) > 1 else (),
            choice=result["choice"],
            depth=state["build_depth"] + state["start_depth"] + deepest + result["calls"],
        )


async def atomic_facts(state: GraphState, runtime: Runtime[Reading]) -> Command[Any]:
    """Take the facts of all chunks, in one parallel wave."""
    reading = runtime.context
    if reading.plan.graph is not None:
        return Command(goto="rational_plan")
    failed, depth = await take_facts(reading)
    update = {"failed": [[i, failed[i]] for i in sorted(failed)], "build_depth": depth}
    return Command(goto="key_elements", update=update)


async def key_elements(state: GraphState, runtime: Runtime[Reading]) -> Command[Any]:
    """Merge key elements that mean the same; nodes and edges."""
    reading = runtime.context
    missing = len(missing_facts(reading))
    graph = await finish_graph(reading, complete=not missing)
    cut = missing > len(state["failed"])
    if cut:
        reading.warn(
            f"The limit was reached while the graph was built: {missing} of {len(reading.chunks)}"
            " chunks are not in it."
        )
    goto = "rational_plan" if graph.facts else "answer"
    return Command(goto=goto, update={"cut": cut})


async def rational_plan(state: GraphState, runtime: Runtime[Reading]) -> Command[Any]:
    """Plan which facts are needed."""
    reading = runtime.context
    try:
        text, calls = await make_plan(reading)
    except LimitReached:
        return Command(goto="answer", update={"cut": True})
    reading.step_done()
    update = {"rational_plan_text": text, "start_depth": calls}
    return Command(goto="initial_nodes", update=update)


async def initial_nodes(state: GraphState, runtime: Runtime[Reading]) -> Command[Any]:
    """Choose the initial nodes, and send an agent to each."""
    reading = runtime.context
    plan: Plan = reading.plan
    graph_of(reading)
    text = state["rational_plan_text"]
    try:
        starts, calls = await choose_starts(reading, text)
    except LimitReached:
        return Command(goto="answer", update={"cut": True})
    reading.step_done()
    groups = [starts] if plan.options.notebooks == "shared" else [[node] for node in starts]
    first: list[dict[str, Any]] = [
        {"nodes": nodes, "visited_nodes": nodes, "chunk_queue": []} for nodes in groups if nodes
    ]
    if plan.options.similar_chunks:
        queue = [i for i, _ in similar_chunks(reading)[: plan.options.similar_chunks]]
        if queue:
            first.append({"nodes": [], "visited_nodes": [], "chunk_queue": queue})
    reading.saw_reply("agents", len(first))
    sends = [
        Send("agent", {"agent": number, "rational_plan_text": text, **places})
        for number, places in enumerate(first)
    ]
    return Command(
        goto=sends or "answer", update={"start_depth": state.get("start_depth", 0) + calls}
    )


async def answer(state: GraphState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """Weigh the notebooks and answer."""
    reading = runtime.context
    notebooks = sorted(state["notebooks"], key=lambda n: n["agent"])
    if notebooks:
        reading.saw_reply("deepest", max(n["calls"] for n in notebooks))
    return {"result": await close(reading, [n["notebook"] for n in notebooks])}


def chunk_statuses(
    reading: Reading,
    notes: Sequence[dict[str, Any]],
    failed: dict[int, str],
    also: Sequence[int],
) -> tuple[ChunkStatus, ...]:
    """Read is what an agent opened; of the rest the agents knew the facts at most."""
    graph = graph_of(reading)
    opened = {note["chunk"] for note in notes if note.get("outcome") == "read"} | set(also)
    broken = {n["chunk"]: n["reason"] for n in notes if n.get("outcome") == "failed"} | failed
    shown = {graph.facts[i].chunk for note in notes for i in note["shown"] if i < len(graph.facts)}
    known = {fact.chunk for fact in graph.facts}

    def status(index: int) -> tuple[Literal["read", "failed", "skipped"], str]:
        if index in opened:
            return "read", ""
        if index in broken:
            return "failed", broken[index]
        if index in shown:
            return "skipped", "its atomic facts were read, it was not opened"
        if index in known:
            return "skipped", "its atomic facts are in the graph, no agent came there"
        return "skipped", "it is not in the graph"

    return tuple(
        ChunkStatus(
            index=c.index,
            start=c.start,
            end=c.end,
            outcome=status(c.index)[0],
            reason=status(c.index)[1],
        )
        for c in reading.chunks
    )


def claims(
    reading: Reading,
    notes: Sequence[dict[str, Any]],
    notebooks: Sequence[dict[str, Any]],
    result: dict[str, Any],
) -> tuple[Claim, ...]:
    """What notebooks quote and say, each looked for in the chunk at which it was first noted; then
    the facts that agents saw and that share words with the answer.
    """
    graph = graph_of(reading)
    found: list[Claim] = []
    for notebook in notebooks:
        for candidate in candidates(notebook["notebook"]):
            home = next((n for n in notes if candidate.text in n["text"]), None)
            opened = home is not None and home.get("chunk") is not None
            within = (home["start"], home["end"]) if home and opened else None
            found.append(Claim(candidate.text, candidate.claimed, within))
    for index in result["chunks"]:
        chunk = reading.chunks[index]
        found += [
            Claim(c.text, c.claimed, (chunk.start, chunk.end)) for c in candidates(result["text"])
        ]
    shown = {i for note in notes for i in note["shown"] if i < len(graph.facts)}
    said = " ".join(content_words(result["text"]))
    likeness = {i: content_overlap(said, graph.facts[i].text) for i in shown} if said else {}
    best = sorted((i for i in likeness if likeness[i] > 0), key=lambda i: (-likeness[i], i))
    for i in best[:SUPPORTING]:
        chunk = reading.chunks[graph.facts[i].chunk]
        found.append(Claim(graph.facts[i].text, False, (chunk.start, chunk.end)))
    return tuple(found)


def places(graph: FactGraph, notes: Sequence[dict[str, Any]]) -> tuple[Place, ...]:
    """The nodes at which agents stood, with their first facts and their neighbours of these."""
    seen = dict.fromkeys(n for note in notes for n in note.get("nodes", ()) if n in graph.graph)
    return tuple(
        Place(
            name=graph.name(node),
            text=" ".join(graph.facts[i].text[:SHOWN] for i in graph.facts_of(node)[:SHOWN_FACTS]),
            beside=tuple(graph.name(n) for n in seen if n in graph.graph[node]),
        )
        for node in seen
    )


def steps(
    graph: FactGraph,
    state: dict[str, Any],
    notes: Sequence[tuple[int, int, dict[str, Any]]],
    result: dict[str, Any],
) -> tuple[Step, ...]:
    """The calls of the search as the trace shows them; those of the build are in no trace."""
    made = []
    if state.get("rational_plan_text"):
        made.append(Step(purpose="rational_plan", text=state["rational_plan_text"]))
    for agent, _, note in notes:
        said = "\n".join(part for part in (note["action"], note["rationale"], note["text"]) if part)
        made.append(
            Step(
                purpose=note["kind"],
                chunk=note.get("chunk"),
                path=agent,
                text=said,
                tokens=note["written"],
                finish_reason=note["finish_reason"],
                level=note["level"],
                places=tuple(graph.name(n) for n in note.get("nodes", ()) if n in graph.graph),
                to=(graph.name(note["to"]),) if note.get("to") in graph.graph else (),
            )
        )
    if result["closed"]:
        text = "\n\n".join(part for part in (result["analysis"], result["text"]) if part)
        made.append(Step(purpose="answer", text=text))
    return tuple(made)
