"""MemWalker: a tree of summaries, and a walk from its root to the leaf that answers.

Chen et al., "Walking Down the Memory Maze: Beyond Context Limit through Interactive Reading",
arXiv 2310.05029. The tree is built without the question (section 3.1) and kept. From the root the
model chooses a child by the children's summaries, down to a segment of the text; there it answers
or goes back, with the summaries on its way as working memory (section 3.2).
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send

from reader.budget import Estimate
from reader.errors import LimitReached, ModelUnavailable
from reader.events import ChunkRead, NoteChanged
from reader.llm.replies import says_nothing_found
from reader.prompts import versions
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions

from .memwalker_build import MAX_FAILURES, SURVIVABLE, grow, load
from .memwalker_closing import finish
from .memwalker_navigation import Found, Move, most_similar, read_leaf, triage
from .memwalker_plan import PROMPTS, MemWalkerOptions, Plan
from .memwalker_prompts import ANSWER, BACK, NOTE, measure_walk
from .memwalker_report import chunk_statuses, claims, expected, length_key, places, steps

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

Ending = Literal["answered", "exhausted", "capped", "stopped", "limit"]


class MemWalkerState(TypedDict, total=False):
    """The whole run."""

    made: int
    depth: int
    results: Annotated[list[dict[str, Any]], operator.add]
    winner: dict[str, Any]


class WalkState(TypedDict, total=False):
    """One walk through the tree."""

    walker: int
    node: int
    visited: list[int]
    rejected: list[int]
    steps: int
    leaves: int
    reverts: int
    depth: int
    failures: int
    kept: dict[str, Any] | None
    results: Annotated[list[dict[str, Any]], operator.add]


class WalkResult(TypedDict):
    """What a walk hands back."""

    results: Annotated[list[dict[str, Any]], operator.add]


class MemWalker(Strategy[MemWalkerOptions]):
    """A tree of summaries, walked from its root to the leaf that answers."""

    name: ClassVar[str] = "memwalker"
    title: ClassVar[str] = "MemWalker"
    source: ClassVar[str] = "Chen et al., 2023, arXiv 2310.05029"
    Options: ClassVar[type[StrategyOptions]] = MemWalkerOptions

    @classmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts."""
        return versions(PROMPTS)

    async def prepare(self, reading: Reading) -> None:
        """Cut the document, fix the tree's shape, take from the store what is there of it."""
        reading.plan = plan = Plan(reading)
        await plan.cut(await plan.measure())
        plan.triage_now, plan.read_now = await measure_walk(plan)
        load(plan)

    def estimate(self, reading: Reading) -> Estimate:
        """What is missing of the tree, and a walk that never goes back."""
        return expected(reading)

    def closing(self, reading: Reading) -> Closing:
        """The answer from working memory, should no leaf give one."""
        plan: Plan = reading.plan
        largest = max(chunk.tokens for chunk in reading.chunks)
        prompt = plan.answer_fixed + plan.asked + plan.closing_room + 16
        if reading.question is None:
            prompt = plan.merge_fixed + plan.children * (plan.summary_tokens + 4) + 16
        return Closing(
            calls=1,
            prompt_tokens=prompt,
            completion_tokens=max(plan.reply_tokens, plan.summary_tokens),
            read_prompt_tokens=max(plan.leaf_fixed, plan.read_now) + int(largest * 1.03) + 16,
            read_completion_tokens=max(plan.reply_tokens, plan.summary_tokens),
        )

    def length_key(self, reading: Reading, kind: str) -> str:
        """Lengths depend on model, words, form and cap."""
        return length_key(reading, kind)

    def start(self, reading: Reading) -> dict[str, Any]:
        """Nothing is known at the start."""
        return {"results": []}

    def max_supersteps(self, reading: Reading) -> int:
        """A superstep a call of the walk, and the way up between two of them."""
        plan: Plan = reading.plan
        return 4 * plan.most_steps + 2 * plan.tree.depth + 20

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """grow -> branch -> walk x beam (triage <-> leaf) -> answer."""
        graph = StateGraph(MemWalkerState, context_schema=Reading)
        graph.add_node("grow", grow_tree, destinations=("branch", "answer"))
        graph.add_node("branch", branch, destinations=("walk", "answer"))
        graph.add_node("walk", walk_graph())
        graph.add_node("answer", answer)
        graph.add_edge(START, "grow")
        graph.add_edge("walk", "answer")
        graph.add_edge("answer", END)
        return graph

    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """Citations from the leaves that were read, coverage likewise."""
        winner, results = state["winner"], state["results"]
        notes = [(path, note) for path, _, note in reading.store.notes(reading.run_id)]
        chunks = chunk_statuses(reading, [note for _, note in notes])
        failed = any(c.outcome == "failed" for c in chunks)
        ended = {r["status"] for r in results}
        status: Literal["answered", "not_found", "partial"] = "answered"
        if winner["kind"] == "cut":
            status = "partial"
        elif winner["kind"] == "summary":
            status = "partial" if failed else "answered"
        elif winner["kind"] != "leaf" and (failed or ended != {"exhausted"}):
            status = "partial"
        elif says_nothing_found(winner["text"]):
            status = "not_found"
        depth = max((r["depth"] for r in results), default=0)
        return Outcome(
            text=winner["text"],
            status=status,
            chunks=chunks,
            claims=claims(reading, winner, notes),
            steps=steps(reading, state["made"], winner, notes),
            places=places(reading, notes),
            paths=tuple(r["answer"] for r in results) if len(results) > 1 else (),
            choice=winner["choice"],
            depth=state["depth"] + depth + winner["calls"],
        )


def walk_graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """One walk: triage down to a leaf, back up where it does not answer."""
    graph = StateGraph(WalkState, context_schema=Reading, output_schema=WalkResult)
    graph.add_node("triage", choose_child, destinations=("triage", "leaf", END))
    graph.add_node("leaf", read, destinations=("triage", END))
    graph.add_edge(START, "triage")
    return graph.compile()


async def grow_tree(state: MemWalkerState, runtime: Runtime[Reading]) -> Command[Any]:
    """Make the summaries that the store does not hold; all of them at once, bottom-up.

    One superstep: every summary is kept as it comes, so a checkpoint would hold nothing more.
    """
    reading = runtime.context
    plan: Plan = reading.plan
    for hint in plan.hints:
        reading.warn(hint)
    if not plan.needs_tree:
        return Command(goto="branch", update={"made": 0, "depth": 0})
    growth = await grow(plan)
    update: dict[str, Any] = {"made": growth.made, "depth": max(growth.depths.values(), default=0)}
    if growth.stopped is not None:
        reading.warn(f"{growth.stopped.message} The tree is not finished.")
        update["results"] = [_result({"walker": 0}, "limit")]
    go_on = growth.stopped is None and reading.question is not None
    return Command(goto="branch" if go_on else "answer", update=update)


async def branch(state: MemWalkerState, runtime: Runtime[Reading]) -> Command[Any]:
    """Send one walker to the root, or with a beam of two one to each of the best children."""
    reading = runtime.context
    plan: Plan = reading.plan
    root = plan.tree[plan.tree.root]
    alone = Send("walk", {"walker": 0, "node": root.id, "visited": [root.id]})
    if plan.options.beam == 1 or len(root.children) < 2:
        return Command(goto=[alone])
    try:
        move = await _triage(reading, list(root.children), [], two=True)
    except LimitReached as error:
        reading.warn(error.message)
        result = _result({"walker": 0, "visited": [root.id]}, "limit")
        return Command(goto="answer", update={"results": [result]})
    _keep(reading, 0, 0, _triage_note(root.id, root.children, move))
    depth = state["depth"] + move.calls
    if move.stop or move.child is None:
        ending: Ending = "stopped" if move.stop else "exhausted"
        result = _result({"walker": 0, "visited": [root.id]}, ending)
        return Command(goto="answer", update={"results": [result], "depth": depth})
    walks = [c for c in (move.child, move.second) if c is not None]
    sends = []
    for walker, child in enumerate(walks):
        # The second keeps to its own child; the first may go on with all the others.
        others = [c for c in root.children if c in walks and c != child]
        if walker:
            others = [c for c in root.children if c != child]
        sends.append(
            Send(
                "walk",
                {
                    "walker": walker,
                    "node": child,
                    "visited": [root.id, child],
                    "rejected": others,
                    "steps": 1,
                },
            )
        )
    return Command(goto=sends, update={"depth": depth})


async def choose_child(state: WalkState, runtime: Runtime[Reading]) -> Command[Any]:
    """Triage: the child that most probably holds the answer, of those not tried yet."""
    reading = runtime.context
    plan: Plan = reading.plan
    node = plan.tree[state["node"]]
    if node.kind == "leaf":
        return Command(goto="leaf")
    shown = [c for c in node.children if c not in state.get("rejected", [])]
    if not shown:
        return _up(state, plan)
    if state.get("steps", 0) >= plan.most_steps:
        return _end(state, "capped")
    walker, done = state["walker"], state.get("steps", 0) + 1
    try:
        move = await _triage(reading, shown, _notes(reading, walker))
    except LimitReached as error:
        reading.warn(error.message)
        return _end(state, "limit")
    _keep(reading, walker, done, _triage_note(node.id, shown, move))
    spent = _spent(reading, state, move.calls, failed=move.level == "failed")
    if move.stop:
        return _end({**state, **spent}, "stopped")
    if move.child is None:
        return _up({**state, **spent}, plan)
    visited = [*state["visited"], move.child]
    return Command(goto="triage", update={**spent, "node": move.child, "visited": visited})


async def read(state: WalkState, runtime: Runtime[Reading]) -> Command[Any]:
    """Read the segment: answer, or note something, or go back."""
    reading = runtime.context
    plan: Plan = reading.plan
    leaf, walker, done = state["node"], state["walker"], state.get("steps", 0) + 1
    chunk = reading.chunks[leaf]
    outcome: Literal["read", "unread", "failed"] = "read"
    try:
        found = await read_leaf(reading, leaf, state["visited"], _notes(reading, walker))
    except LimitReached as error:
        reading.warn(error.message)
        return _end(state, "limit")
    except SURVIVABLE as error:
        found = Found(action=BACK, calls=1, level="failed", reasoning=error.message, usable=False)
        outcome = "failed"
    if outcome == "read" and not found.usable:
        outcome = "unread"
    standing = [plan.finder.find(q, within=(chunk.start, chunk.end)) for q in found.quotes]
    unproven = found.action == ANSWER and plan.options.quotes and not any(standing)
    back = unproven and state.get("kept") is None
    note = {
        "node": leaf,
        "chunk": leaf,
        "start": chunk.start,
        "end": chunk.end,
        "outcome": outcome,
        "action": found.action,
        "text": found.text,
        "quotes": list(found.quotes),
        "reasoning": found.reasoning,
        "level": found.level,
        "tokens": found.tokens,
        "sent_back": back,
    }
    _keep(reading, walker, done, note)
    reading.emit(
        ChunkRead(chunk=leaf, start=chunk.start, end=chunk.end, outcome=outcome, path=walker)
    )
    if found.action == NOTE:
        reading.emit(NoteChanged(chunk=leaf, text=found.text, path=walker))
    if outcome != "read":
        reading.warn(f"Chunk {leaf + 1} is {outcome}: {found.reasoning}")
    after: dict[str, Any] = {
        **state,
        **_spent(reading, state, found.calls, failed=outcome == "failed"),
        "leaves": state.get("leaves", 0) + 1,
    }
    if found.stop:
        return _end(after, "stopped")
    if found.action == ANSWER and not back:
        said = {"answer": found.text, "choice": found.choice, "reasoning": found.reasoning}
        return _end(after, "answered", **said)
    if back:
        after["kept"] = {"text": found.text, "choice": found.choice}
    after["reverts"] = state.get("reverts", 0) + (found.action != NOTE)
    after["rejected"] = [*state.get("rejected", []), leaf]
    if after["leaves"] >= plan.options.max_leaves and not _all_tried(plan, after["rejected"]):
        return _end(after, "capped")
    # With a note in hand the next piece may be anywhere; else it is most probably near.
    return _up(after, plan, mark=False, to=plan.tree.root if found.action == NOTE else None)


async def answer(state: MemWalkerState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """The answer of a leaf, or the best effort without one."""
    results = sorted(state["results"], key=lambda r: r["walker"])
    return {"winner": await finish(runtime.context, results)}


async def _triage(
    reading: Reading, shown: list[int], notes: list[str], *, two: bool = False
) -> Move:
    """Triage; where the call fails, the child most like the question."""
    try:
        return await triage(reading, shown, notes, two=two)
    except SURVIVABLE as error:
        reading.warn(f"A choice between parts failed: {error.message}")
        child = most_similar(reading.plan, shown)
        return Move(
            child=child,
            action=shown.index(child),
            reasoning="The call failed: the part most like the question.",
            calls=1,
            level="failed",
        )


def _spent(reading: Reading, state: WalkState, calls: int, *, failed: bool) -> dict[str, Any]:
    """Counters after a step of the walk.

    Raises:
        ModelUnavailable: so many calls failed one after another that the server is broken.
    """
    failures = state.get("failures", 0) + 1 if failed else 0
    if failures >= MAX_FAILURES:
        raise ModelUnavailable(f"{failures} calls of the walk failed one after another.")
    if calls:
        reading.step_done()
    return {
        "steps": state.get("steps", 0) + 1,
        "depth": state.get("depth", 0) + calls,
        "failures": failures,
    }


def _up(state: Any, plan: Plan, *, mark: bool = True, to: int | None = None) -> Command[Any]:
    """To the parent; what was left for good is not shown again. Above the root is the end."""
    node = state["node"]
    rejected = [*state.get("rejected", []), *([node] if mark else [])]
    after = {**state, "rejected": rejected}
    parent = plan.tree.parents.get(node)
    if parent is None:
        return _end(after, "exhausted")
    changed = ("steps", "depth", "failures", "leaves", "reverts", "kept", "rejected")
    update = {key: after[key] for key in changed if key in after}
    return Command(goto="triage", update={**update, "node": parent if to is None else to})


def _end(state: Any, status: Ending, **said: Any) -> Command[Any]:
    return Command(goto=END, update={"results": [_result(state, status, **said)]})


def _result(state: Any, status: Ending, **said: Any) -> dict[str, Any]:
    return {
        "walker": state["walker"],
        "status": status,
        "answer": "",
        "choice": None,
        "reasoning": "",
        "kept": state.get("kept"),
        "visited": state.get("visited", []),
        "reverts": state.get("reverts", 0),
        "depth": state.get("depth", 0),
        **said,
    }


def _all_tried(plan: Plan, rejected: list[int]) -> bool:
    """No leaf is left that was neither read nor left out with a node above it."""
    tried = {leaf for n in rejected for leaf in range(plan.tree[n].first, plan.tree[n].last + 1)}
    return len(tried) == len(plan.reading.chunks)


def _notes(reading: Reading, walker: int) -> list[str]:
    notes = reading.store.notes(reading.run_id, walker) if reading.plan.options.notes else []
    return [note["text"] for _, _, note in notes if note["action"] == NOTE and "chunk" in note]


def _triage_note(node: int, shown: Any, move: Move) -> dict[str, Any]:
    return {
        "node": node,
        "shown": list(shown),
        "to": move.child,
        "second": move.second,
        "action": move.action,
        "reasoning": move.reasoning,
        "level": move.level,
        "tokens": move.tokens,
    }


def _keep(reading: Reading, walker: int, step: int, note: dict[str, Any]) -> None:
    reading.store.keep_notes(reading.run_id, walker, [(step, note)])
