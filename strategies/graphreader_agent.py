"""An agent of GraphReader: from a node's facts to chunks, from chunks to neighbours.

Li et al. 2024, arXiv 2406.14550, section 3.3.2. Each agent has its own notebook and its own queue
and knows nothing of the others. A LangGraph subgraph, one function call a superstep:

    facts -> chunk | neighbors | end;  chunk -> chunk | neighbors | end;
    neighbors -> facts | neighbors | end
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from reader.coverage import ChunkOutcome
from reader.errors import LimitReached
from reader.events import ChunkRead, NoteChanged
from reader.strategy import Reading

from .fact_graph import FactGraph
from .graphreader_build import graph_of
from .graphreader_functions import ChunkStep, FactsStep, Kind, NeighborsStep, Step, function_of
from .graphreader_plan import Plan
from .graphreader_step import Asked, Taken, as_note, take

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

MAX_FAILURES = 3  # calls of an agent failing one after another
LONGEST_FACT = 600  # characters of a fact that are shown


class AgentState(TypedDict, total=False):
    """One agent. ``nodes`` are those it stands at; chunks are indices from 0."""

    agent: int
    rational_plan_text: str
    nodes: list[str]
    chunk_queue: list[int]
    visited_nodes: list[str]
    visited_chunks: list[int]
    notebook: str
    calls: int
    depth: int
    failures: int
    history: list[str]
    counts: dict[str, int]
    notebooks: Annotated[list[dict[str, Any]], operator.add]


class AgentResult(TypedDict):
    """What an agent hands to the answer."""

    notebooks: Annotated[list[dict[str, Any]], operator.add]


def agent_graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """One agent, from its first nodes (or chunks) to its notebook."""
    graph = StateGraph(AgentState, context_schema=Reading, output_schema=AgentResult)
    graph.add_node("facts", at_facts, destinations=("chunk", "neighbors", END))
    graph.add_node("chunk", at_chunk, destinations=("chunk", "neighbors", END))
    graph.add_node("neighbors", at_neighbors, destinations=("facts", "neighbors", END))
    graph.add_conditional_edges(START, first_place, ["facts", "chunk"])
    return graph.compile()


def first_place(state: AgentState) -> str:
    """An agent begins at facts, one for similar chunks at those."""
    return "facts" if state.get("nodes") else "chunk"


async def at_facts(state: AgentState, runtime: Runtime[Reading]) -> Command[Any]:
    """Explore the atomic facts of the node: open chunks, or go to neighbours."""
    reading = runtime.context
    graph = graph_of(reading)
    nodes = [node for node in state["nodes"] if node in graph.graph]
    visited = state.get("visited_chunks", [])
    shown = await facts_to_show(reading, state, graph, nodes)
    chunks = list(dict.fromkeys(graph.facts[i].chunk for i in shown))
    unread = [chunk for chunk in chunks if chunk not in visited]

    def wrong(step: Step) -> str | None:
        function = function_of("facts", step.chosen_action)
        if function is None:
            return "chosen_action must be read_chunk or stop_and_read_neighbor"
        known = isinstance(step, FactsStep) and any(n - 1 in chunks for n in step.chunk_ids)
        if function == "read_chunk" and not known:
            return f"chunk_ids must name some of {[c + 1 for c in sorted(chunks)]}"
        return None

    names = ", ".join(graph.name(node) for node in nodes)
    default = FactsStep(chosen_action="stop_and_read_neighbor")
    if unread:
        default = FactsStep(chosen_action="read_chunk", chunk_ids=[unread[0] + 1])
    asked = _asked(state, "facts", facts_text(graph, shown, visited), wrong, default, node=names)
    taken = await _take(reading, state, asked, shown=shown, nodes=nodes)
    if taken is None:
        return _end(reading, state, "limit")
    step = taken.step
    history = [*state.get("history", [])]
    queue: list[int] = []
    if function_of("facts", step.chosen_action) == "read_chunk" and isinstance(step, FactsStep):
        wanted = [n - 1 for n in step.chunk_ids if n - 1 in chunks]
        queue = [chunk for chunk in wanted if chunk not in visited]
        history.append(f"Facts of {names}: read_chunk({', '.join(str(c + 1) for c in wanted)}).")
        history += [f"Chunk {c + 1} was opened before." for c in wanted if c in visited]
    else:
        history.append(f"Facts of {names}: stop_and_read_neighbor.")
    return _move(reading, state, taken, history, "chunk" if queue else "neighbors", queue=queue)


async def at_chunk(state: AgentState, runtime: Runtime[Reading]) -> Command[Any]:
    """Read the next chunk of the queue; go on there, beside it, at neighbours, or end."""
    reading = runtime.context
    here, *queue = state["chunk_queue"]
    chunk, last = reading.chunks[here], len(reading.chunks) - 1
    visited = [*state.get("visited_chunks", []), here]

    def wrong(step: Step) -> str | None:
        if function_of("chunk", step.chosen_action) is None:
            return (
                "chosen_action must be search_more, read_previous_chunk, read_subsequent_chunk or"
                " termination"
            )
        return None

    asked = _asked(
        state,
        "chunk",
        reading.text(chunk),
        wrong,
        ChunkStep(chosen_action="search_more"),
        number=str(here + 1),
        count=str(last + 1),
    )
    taken = await _take(reading, state, asked, chunk=here)
    if taken is None:
        return _end(reading, state, "limit")
    function = function_of("chunk", taken.step.chosen_action)
    history = [*state.get("history", []), f"Chunk {here + 1}: {function}."]
    if function == "termination":
        return _move(reading, state, taken, history, END, visited_chunks=visited)
    if function in ("read_previous_chunk", "read_subsequent_chunk"):
        beside = here - 1 if function == "read_previous_chunk" else here + 1
        if not 0 <= beside <= last:
            side = "before" if beside < 0 else "after"
            history.append(f"There is nothing {side} chunk {here + 1}.")
        elif beside in visited:
            history.append(f"Chunk {beside + 1} was opened before.")
        else:
            queue = [beside, *(chunk for chunk in queue if chunk != beside)]
    goto = "chunk" if queue else "neighbors"
    return _move(reading, state, taken, history, goto, queue=queue, visited_chunks=visited)


async def at_neighbors(state: AgentState, runtime: Runtime[Reading]) -> Command[Any]:
    """Go to one of the neighbours, or end."""
    reading = runtime.context
    graph = graph_of(reading)
    nodes = [node for node in state.get("nodes", []) if node in graph.graph]
    around = graph.neighbors(nodes)
    visited = state.get("visited_nodes", [])
    unvisited = [node for node in around if node not in visited]
    if not unvisited:
        return _end(reading, state, "nothing left")
    shown = await neighbors_to_show(reading, state, graph, unvisited)

    def node_of(step: Step) -> str | None:
        name = step.neighbor if isinstance(step, NeighborsStep) else ""
        return graph.find(name, shown) or graph.find(name, around)

    def wrong(step: Step) -> str | None:
        function = function_of("neighbors", step.chosen_action)
        if function is None:
            return "chosen_action must be read_neighbor_node or termination"
        if function == "read_neighbor_node" and node_of(step) is None:
            return "neighbor must be one of the key elements of the list"
        return None

    default = NeighborsStep(chosen_action="termination")
    body = "\n".join(graph.name(node) for node in shown)
    asked = _asked(state, "neighbors", body, wrong, default)
    taken = await _take(reading, state, asked, nodes=nodes, to=node_of)
    if taken is None:
        return _end(reading, state, "limit")
    history = [*state.get("history", [])]
    ends = function_of("neighbors", taken.step.chosen_action) == "termination"
    node = None if ends else node_of(taken.step)
    if node is None:
        return _move(reading, state, taken, history, END)
    if node in visited:
        history.append(f"The facts of {graph.name(node)} were read before; choose another one.")
        return _move(reading, state, taken, history, "neighbors")
    history.append(f"Went to the neighbour {graph.name(node)}.")
    return _move(
        reading, state, taken, history, "facts", nodes=[node], visited_nodes=[*visited, node]
    )


async def facts_to_show(
    reading: Reading, state: AgentState, graph: FactGraph, nodes: Sequence[str]
) -> list[int]:
    """Facts of the nodes, the most relevant first, as many as fit the window."""
    plan: Plan = reading.plan
    relevance = plan.relevance(graph, state["rational_plan_text"])
    found = dict.fromkeys(i for node in nodes for i in graph.facts_of(node))
    ranked = sorted(found, key=lambda i: -relevance.facts.get(i, 0.0))
    texts = [graph.facts[i].text[:LONGEST_FACT] for i in ranked]
    counts = await reading.info.counter.count(texts)
    left, shown = plan.space("facts"), list[int]()
    for index, count in zip(ranked, counts, strict=True):
        left -= count + 8  # with its bullet, and its share of the line that names the chunk
        if left < 0 and shown:
            reading.warn("A key element has more facts than fit: the most relevant were shown.")
            break
        shown.append(index)
    return shown


async def neighbors_to_show(
    reading: Reading, state: AgentState, graph: FactGraph, nodes: list[str]
) -> list[str]:
    """The most relevant neighbours, as many as fit the window and the cap of the list."""
    plan: Plan = reading.plan
    ranked = plan.relevance(graph, state["rational_plan_text"]).ranked(nodes)
    ranked = ranked[: plan.options.shown_neighbors]
    counts = await reading.info.counter.count([graph.name(node) for node in ranked])
    left, shown = plan.space("neighbors"), list[str]()
    for node, count in zip(ranked, counts, strict=True):
        left -= count + 2
        if left < 0 and shown:
            break
        shown.append(node)
    return shown


def facts_text(graph: FactGraph, shown: Sequence[int], visited: Sequence[int]) -> str:
    """Facts below the numbers of their chunks, in the order of the document."""
    lines: list[str] = []
    above: int | None = None
    for index in sorted(shown):
        fact = graph.facts[index]
        if fact.chunk != above:
            above = fact.chunk
            lines.append(f"Chunk {above + 1}{' (opened before)' if above in visited else ''}:")
        lines.append(f"- {fact.text[:LONGEST_FACT]}")
    return "\n".join(lines)


def _asked(
    state: AgentState, kind: Kind, body: str, wrong: Any, default: Step, **places: str
) -> Asked:
    return Asked(
        kind=kind,
        body=body,
        places=places,
        notebook=state.get("notebook", ""),
        plan=state["rational_plan_text"],
        history=tuple(state.get("history", [])),
        wrong=wrong,
        default=default,
    )


async def _take(
    reading: Reading,
    state: AgentState,
    asked: Asked,
    *,
    chunk: int | None = None,
    shown: Sequence[int] = (),
    nodes: Sequence[str] = (),
    to: Callable[[Step], str | None] = lambda step: None,
) -> Taken | None:
    """The step, kept and told; None where a limit was reached.

    ``nodes`` are those at which it is taken, ``to`` says to which one it leads.
    """
    try:
        taken = await take(reading, asked)
    except LimitReached:
        return None
    agent = state["agent"]
    note = as_note(taken, asked, shown=list(shown), nodes=list(nodes), to=to(taken.step))
    if chunk is not None:
        outcome: ChunkOutcome = "failed" if taken.level == "failed" else "read"
        place = reading.chunks[chunk]
        note |= {"chunk": chunk, "start": place.start, "end": place.end, "outcome": outcome}
        reading.emit(
            ChunkRead(chunk=chunk, start=place.start, end=place.end, outcome=outcome, path=agent)
        )
    reading.store.keep_notes(reading.run_id, agent, [(state.get("calls", 0), note)])
    if taken.level == "failed":
        reading.warn(f"A call of agent {agent + 1} failed: {taken.reason}")
    if taken.notebook != asked.notebook:
        first = graph_of(reading).facts[shown[0]].chunk if shown else 0
        at = first if chunk is None else chunk
        reading.emit(NoteChanged(chunk=at, text=taken.notebook, path=agent))
    reading.step_done()
    return taken


def _move(
    reading: Reading,
    state: AgentState,
    taken: Taken,
    history: list[str],
    goto: str,
    *,
    queue: list[int] | None = None,
    **update: Any,
) -> Command[Any]:
    """Where the agent goes, unless its calls are used up or nothing works any more."""
    plan: Plan = reading.plan
    counts = dict(state.get("counts", {}))
    kind = history_kind(taken.step)
    counts[kind] = counts.get(kind, 0) + 1
    update |= {
        "notebook": taken.notebook,
        "history": history,
        "calls": state.get("calls", 0) + 1,
        "depth": state.get("depth", 0) + taken.calls,
        "failures": state.get("failures", 0) + 1 if taken.level == "failed" else 0,
        "chunk_queue": queue or [],
        "counts": counts,
    }
    after: AgentState = {**state, **update}  # type: ignore[typeddict-item]
    if goto == END:
        return _end(reading, after, "terminated")
    if after["failures"] >= MAX_FAILURES:
        return _end(reading, after, "failed")
    if after["calls"] >= plan.calls_of_an_agent:
        return _end(reading, after, "calls used up")
    return Command(goto=goto, update=update)


def history_kind(step: Step) -> Kind:
    """Where the step was taken."""
    if isinstance(step, FactsStep):
        return "facts"
    return "chunk" if isinstance(step, ChunkStep) else "neighbors"


def _end(reading: Reading, state: AgentState, why: str) -> Command[Any]:
    """Hand the notebook over."""
    counts = state.get("counts", {})
    for kind in ("facts", "chunk", "neighbors"):
        reading.saw_reply(f"{kind} steps", counts.get(kind, 0))
    result = {
        "agent": state["agent"],
        "notebook": state.get("notebook", ""),
        "calls": state.get("calls", 0),
        "depth": state.get("depth", 0),
        "ended": why,
    }
    return Command(goto=END, update={"notebooks": [result]})
