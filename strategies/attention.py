"""Attention-guided retrieval: a small model's heads point at the passages, any model answers.

Two models: the *scorer* reads everything, window by window, and nothing of it is generated; the
answering model reads what the scorer's heads looked at. The methods stand in files of their own,
each beside its paper; what they share is in ``attention_plan``. The default is calibrated retrieval
heads (QRHead, arXiv 2506.09944) fused with BM25. ``replay`` shows the best sentences once more
before the question (ReContext, arXiv 2607.02509, untrained and with one round).
"""

from __future__ import annotations

import time
from typing import Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from reader.attention.windows import PROMPT_VERSIONS
from reader.budget import Estimate
from reader.coverage import ChunkStatus
from reader.errors import LimitReached, ModelError
from reader.events import ChunkRead, Progress
from reader.evidence import Claim
from reader.llm.cleaning import clean
from reader.llm.replies import says_nothing_found
from reader.llm.types import ChatRequest, Message
from reader.prompts import fence, versions
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions
from reader.trace import Step

from .attention_attrieval import DRAFT_TOKENS, Attrieval
from .attention_gemfilter import GemFilter
from .attention_heads import CalibratedHeads
from .attention_infiniretri import InfiniRetri
from .attention_plan import PROMPTS, AttentionOptions, Looking, Plan
from .attention_scores import looked_at
from .attention_sorting import AttentionSorting
from .final_answer import (
    EXPECTED_ANSWER,
    WHY,
    answer_claims,
    answer_steps,
    estimate_of,
    give_answer,
    outcome_of,
    status_of,
)

METHODS: dict[str, type[Looking]] = {
    "heads": CalibratedHeads,
    "infiniretri": InfiniRetri,
    "attrieval": Attrieval,
    "gemfilter": GemFilter,
    "sorting": AttentionSorting,
}
NOT_SHOWN = "the scorer's heads looked elsewhere"
NOT_LOOKED_AT = "the deadline was too near for the scorer"
CITED = 3  # sentences of the selection that are cited beside the answer's own quotes
REPLAYED = 8
FAST, SLOW = 1.0, 6.0  # seconds of a superstep: windows are doubled below, halved above
MOST_WINDOWS = 64  # of a superstep


class AttentionState(TypedDict, total=False):
    """The whole run: windows looked at, what a method carries, what is shown, the answer."""

    pos: int
    carried: list[list[int]]
    weights: list[float]
    draft: str
    shown: list[list[int]]
    evidence: list[list[int]]
    passages: list[int]
    note: str
    result: dict[str, Any]


class AttentionGuided(Strategy[AttentionOptions]):
    """A scorer's heads find the passages, a model answers from them."""

    name: ClassVar[str] = "attention"
    title: ClassVar[str] = "Attention-guided retrieval"
    source: ClassVar[str] = (
        "QRHead, arXiv 2506.09944; InfiniRetri, 2502.12962; Attrieval, 2503.09819;"
        " GemFilter, 2409.17422; Attention Sorting, 2310.01427; ReContext, 2607.02509"
    )
    Options: ClassVar[type[StrategyOptions]] = AttentionOptions

    @classmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts, the scorer's too."""
        return f"{versions(PROMPTS)},{PROMPT_VERSIONS}"

    async def prepare(self, reading: Reading) -> None:
        """Open the scorer, cut the document into passages, lay them out in windows.

        Raises:
            InvalidOption: no question, a table of another model, passages that do not fit.
            WindowTooSmall: no room for passages, in the answerer's window or in the scorer's.
            MissingExtra: the scorer needs a part that is not installed.
            ModelError: the scorer cannot be had or looked into.
        """
        reading.plan = await Plan.make(reading)

    def estimate(self, reading: Reading) -> Estimate:
        """One call (two with a draft); what the scorer reads is said in words.

        How much text the heads pick only a run can say: until one was seen it is a guess, and the
        basis names the most that there can be.
        """
        plan: Plan = reading.plan
        seen = reading.store.reply_length(self.length_key(reading, "answer"))
        drafts = METHODS[plan.options.method].drafts
        calls = 2 if drafts else 1
        whole = plan.fixed_tokens + sum(chunk.tokens for chunk in reading.chunks)
        guess = plan.fixed_tokens + min(self._shown(plan), plan.room)
        prompt = self._seen(reading, "answer prompt", guess, whole)
        draft = self._seen(reading, "draft", DRAFT_TOKENS, DRAFT_TOKENS) if drafts else 0
        prompt += self._seen(reading, "draft prompt", guess, whole) if drafts else 0
        sizes = [len(window.prefix) for window in plan.windows]
        looks = len(sizes) + (plan.options.method == "heads" and plan.twice)
        tokens = sum(sizes) + max(sizes) * (looks - len(sizes))
        most = calls * (plan.fixed_tokens + plan.room)
        return estimate_of(
            reading,
            calls=calls,
            depth=calls,
            prompt=prompt,
            completion=min(int(seen[1]) if seen else EXPECTED_ANSWER, plan.form.output_tokens)
            + draft,
            most=plan.form.output_tokens + DRAFT_TOKENS * drafts,
            seen=seen,
            bound=f"at most {most:,} tokens in; the scorer reads {tokens:,} tokens in"
            f" {looks} windows besides",
        )

    def _seen(self, reading: Reading, kind: str, guess: int, most: int) -> int:
        """The mean seen of a kind, else the guess; never more than there is."""
        seen = reading.store.reply_length(self.length_key(reading, kind))
        return min(int(seen[1]) if seen else guess, most)

    @staticmethod
    def _shown(plan: Plan) -> int:
        """Tokens of the text that will be shown, expected."""
        chunks, options = plan.reading.chunks, plan.options
        whole = sum(chunk.tokens for chunk in chunks)
        if options.method == "heads":
            most = options.k * (1 + 2 * options.neighbours)
            return whole * min(most, len(chunks)) // len(chunks)
        return whole if options.method in ("attrieval", "sorting") else min(whole, plan.room // 2)

    def closing(self, reading: Reading) -> Closing:
        """The one call is the last one; a draft before it is left out when the budget is short."""
        plan: Plan = reading.plan
        prompt = plan.fixed_tokens + plan.room
        return Closing(0, 0, 0, prompt, plan.form.output_tokens)

    def length_key(self, reading: Reading, kind: str) -> str:
        """Lengths depend on model, words and cap; those of prompts on what is picked too."""
        plan: Plan = reading.plan
        form, options = plan.form, plan.options
        words = f"{form.requirement()}|{form.output_tokens}"
        if kind.endswith("prompt"):
            kept = f"{options.k}/{options.neighbours}/{options.keep_tokens}/{options.replay}"
            words += f"|{options.method}/{options.preset}/{kept}/{plan.window}"
        return f"attention|{reading.info.identity}|{versions(PROMPTS)}|{words}|{kind}"

    def start(self, reading: Reading) -> dict[str, Any]:
        """Nothing has been looked at."""
        return {"pos": 0, "carried": [], "weights": [], "draft": ""}

    def max_supersteps(self, reading: Reading) -> int:
        """At worst a superstep a window, and the calls."""
        return len(reading.plan.windows) + 20

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """(draft) -> look ... look -> select -> answer."""
        graph = StateGraph(AttentionState, context_schema=Reading)
        graph.add_node("draft", draft)
        graph.add_node("look", look, destinations=("look", "select"))
        graph.add_node("select", select)
        graph.add_node("answer", answer)
        graph.add_edge(START, "draft")
        graph.add_edge("draft", "look")
        graph.add_edge("select", "answer")
        graph.add_edge("answer", END)
        return graph

    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """Passages that were shown are read, the others skipped: by design, so not "partial"."""
        plan: Plan = reading.plan
        result, shown = state["result"], set(state["passages"])
        looked = {
            piece.passage for window in plan.windows[: state["pos"]] for piece in window.pieces
        }
        whole = state["pos"] >= len(plan.windows)
        outcome = outcome_of(result)
        notes = [note for _, _, note in reading.store.notes(reading.run_id, 0)]
        scores = looked_at(plan, notes, state["carried"])

        def status(index: int, start: int, end: int) -> ChunkStatus:
            if index in shown:
                what, why = outcome, WHY[outcome]
            else:
                what, why = "skipped", NOT_SHOWN if index in looked else NOT_LOOKED_AT
            return ChunkStatus(
                index=index,
                start=start,
                end=end,
                outcome=what,
                reason=why,
                score=scores.get(index),
            )

        chunks = tuple(status(c.index, c.start, c.end) for c in reading.chunks)
        ranges = [(a, b) for a, b in state["shown"]]
        claims = list(answer_claims(reading, result, ranges))
        if not says_nothing_found(result["text"]):
            text = reading.document.text
            claims += [
                Claim(text[a:b], claimed=False, within=(a, b)) for a, b in state["evidence"][:CITED]
            ]
        return Outcome(
            text=result["text"],
            status=status_of(result, chunks, by_design=whole),
            chunks=chunks,
            claims=tuple(claims),
            steps=(
                Step(purpose="look", text=f"{plan.options.method}: {state['note']}"),
                *answer_steps(result),
            ),
            choice=result["choice"],
            depth=result["calls"] + bool(state["draft"]),
        )


def method_of(plan: Plan) -> Looking:
    """The chosen method."""
    return METHODS[plan.options.method]()


async def draft(state: AttentionState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """Attrieval's first answer, from what of the document fits; other methods have none."""
    reading = runtime.context
    plan: Plan = reading.plan
    if not METHODS[plan.options.method].drafts:
        return {}
    shown = plan.fitting(plan.whole_or_likeliest(), plan.room - DRAFT_TOKENS)
    text = reading.document.text
    prompt = PROMPTS["draft"].fill(
        passages="\n\n".join(fence(text[a:b].strip(), "passage") for a, b in sorted(shown)),
        question=plan.form.question,
    )
    request = ChatRequest(
        messages=(Message("user", prompt),), max_tokens=DRAFT_TOKENS, purpose="draft"
    )
    try:
        reply = await reading.model.generate(request)
    except (LimitReached, ModelError) as error:
        if isinstance(error, ModelError) and not error.retryable:
            raise
        reading.warn(f"There is no draft: {error.message} The question's tokens look instead.")
        return {}
    reading.saw_reply("draft", reply.completion_tokens)
    reading.saw_reply("draft prompt", reply.prompt_tokens)
    reading.step_done()
    return {"draft": clean(reply.text)}


async def look(state: AttentionState, runtime: Runtime[Reading]) -> Command[Any]:
    """Look at the next windows; those that an interrupted run has looked at are not read again."""
    reading = runtime.context
    plan: Plan = reading.plan
    method, pos = method_of(plan), state["pos"]
    left, deadline = reading.ledger.seconds_left(), reading.ledger.deadline
    if pos and left is not None and deadline is not None and left < deadline / 2:
        reading.warn(f"The deadline is near: {pos} of {len(plan.windows)} windows were looked at.")
        return Command(goto="select")
    end = min(pos + (1 if method.serial else plan.batch), len(plan.windows))
    kept = {at for _, at, _ in reading.store.notes(reading.run_id, 0)}
    todo = [at for at in range(pos, end) if method.serial or at not in kept]
    update: dict[str, Any] = {"pos": end}
    if todo:
        began = time.monotonic()
        carried = dict(state)
        notes = await method.look(plan, todo, carried)
        reading.store.keep_notes(reading.run_id, 0, sorted(notes.items()))
        took = time.monotonic() - began
        plan.batch = min(plan.batch * 2, MOST_WINDOWS) if took < FAST else plan.batch
        plan.batch = max(plan.batch // 2, 1) if took > SLOW else plan.batch
        update |= {key: carried[key] for key in ("carried", "weights")}
    seconds = reading.ledger.seconds
    reading.emit(
        Progress(
            done=end,
            total=len(plan.windows),
            seconds=seconds,
            seconds_left=seconds / end * (len(plan.windows) - end),
        )
    )
    return Command(goto="look" if end < len(plan.windows) else "select", update=update)


async def select(state: AttentionState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """What the answering model is shown."""
    reading = runtime.context
    plan: Plan = reading.plan
    notes = {at: note for _, at, note in reading.store.notes(reading.run_id, 0)}
    found = await method_of(plan).select(plan, notes, dict(state))
    return {
        "shown": [list(one) for one in found.shown],
        "evidence": [list(one) for one in found.evidence],
        "passages": sorted(found.passages),
        "note": found.note,
    }


async def answer(state: AttentionState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """Ask, with the best sentences once more before the question where that is wanted."""
    reading = runtime.context
    plan: Plan = reading.plan
    shown = [(a, b) for a, b in state["shown"]]
    repeated = [(a, b) for a, b in state["evidence"][:REPLAYED]]
    replays = plan.options.replay or plan.options.method == "attrieval"
    room = plan.room - plan.size(shown)
    repeated = plan.fitting(repeated, room) if replays and repeated and room > 0 else []
    size = plan.fixed_tokens + plan.size([*shown, *repeated]) + 16
    result = await give_answer(reading, plan.form, plan.prompt(shown, repeated), size)
    for number in state["passages"]:
        chunk = reading.chunks[number]
        reading.emit(
            ChunkRead(
                chunk=chunk.index, start=chunk.start, end=chunk.end, outcome=outcome_of(result)
            )
        )
    return {"result": result}
