"""One pass over a document for several questions, with a memory slot for each of them.

The document's text is what a pass costs; the slots are small. So all questions share the calls that
read, and each has its own last call, which sees its own slot alone. What a method does with one
question (its last call, its citations, its status) is that method's own code.

Half of the window at most is slots, before and after: a slot has at most a (4 k)-th of it. Where
that is too little the questions are divided over several passes.
"""

from __future__ import annotations

import operator
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Generic, TypedDict, TypeVar

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send

from reader.budget import Estimate
from reader.chunking import Chunk, room
from reader.errors import LimitReached, ModelUnavailable, WindowTooSmall
from reader.events import ChunkRead, NoteChanged
from reader.prompts import versions
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions, Together

from .memwalker_tree import balanced
from .slots_read import PROMPTS, TAG_TOKENS, Slot, SlotForm, read_chunk

SLICE_SECONDS = 3.0  # a superstep reads for so long, so that checkpoints never outweigh the calls
MAX_FAILURES = 5  # chunks failing one after another: the server is broken, not the chunks
MIN_SLOT = 64  # tokens; less holds no fact with its names
MIN_SHARE = 4  # a chunk has at least a fourth of the window
FULL = 0.3  # share of its cap that a slot fills, before any was seen
ANSWER = 30

OptionsT = TypeVar("OptionsT", bound=StrategyOptions)


@dataclass(frozen=True, slots=True)
class PassPlan:
    """What is fixed for a pass.

    Attributes:
        form: How the slots are asked for.
        order: Chunks in the order of reading.
        method: The method whose questions these are.
    """

    form: SlotForm
    order: tuple[int, ...]
    method: SlotReader[Any]


class PassState(TypedDict, total=False):
    """The whole pass."""

    pos: int
    slots: list[list[Any]]
    depth: int
    failures: int
    results: Annotated[list[dict[str, Any]], operator.add]


class ClosingState(TypedDict):
    """The end of one question."""

    place: int
    text: str
    tokens: int
    depth: int


class SlotReader(Together[OptionsT], Generic[OptionsT]):
    """A method that reads once for several questions; a subclass says what is its own."""

    single: ClassVar[type[Strategy[Any]]]
    """The method for one question."""
    final: ClassVar[str]
    """The purpose of its last call."""

    # What a method says ------------------------------------------------------------------

    @abstractmethod
    def plan_of(self, part: Reading) -> Any:
        """The single method's plan for a part, not yet measured."""

    @abstractmethod
    def cap_of(self, plan: Any) -> int:
        """Tokens that the method gives a memory, where there is but one."""

    @abstractmethod
    def form(self, plans: Sequence[Any], cap: int) -> SlotForm:
        """How the slots are asked for, not yet measured."""

    @abstractmethod
    async def measured(self, plan: Any, cap: int) -> int:
        """Measure a part's plan for a memory of so many tokens; the tokens of its last prompt."""

    @abstractmethod
    async def cut(self, reading: Reading, plan: Any, most: int) -> Sequence[Chunk]:
        """The document's chunks, of at most so many tokens."""

    def order(self, plan: Any, chunks: Sequence[Chunk]) -> tuple[int, ...]:
        """The order of reading."""
        return tuple(range(len(chunks)))

    def rewind(self, part: Reading, pos: int) -> None:
        """Forget what was written down from a position on."""

    def write(
        self, part: Reading, pos: int, before: Slot, after: Slot, chunk: Chunk
    ) -> dict[str, Any]:
        """Write down what changed; returns the note for the store."""
        return after.note(chunk, after.text)

    @abstractmethod
    async def close(self, part: Reading, state: ClosingState) -> dict[str, Any]:
        """The last call of a question; the state of which ``single`` makes the outcome."""

    # The contract of a strategy ----------------------------------------------------------

    @classmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts."""
        return f"{cls.single.prompt_versions()},{versions(PROMPTS)}"

    async def divide(self, reading: Reading) -> list[Sequence[Reading]]:
        """As few passes as the questions fit into, as equal as possible."""
        parts = list(reading.parts)
        for part in parts:
            part.plan = self.plan_of(part)
        plan = parts[0].plan
        least = min(self.cap_of(plan), MIN_SLOT)
        for most in range(min(len(parts), plan.window // (4 * least)), 1, -1):
            groups = [[parts[i] for i in g] for g in balanced(range(len(parts)), most)]
            if all([await self._fits(group) for group in groups if len(group) > 1]):
                return [*groups]
        return [[part] for part in parts]

    async def _fits(self, parts: Sequence[Reading]) -> bool:
        try:
            await self._measured(parts)
        except WindowTooSmall:
            return False
        return True

    async def _measured(self, parts: Sequence[Reading]) -> tuple[SlotForm, int]:
        """The form of a pass, and the tokens of a chunk.

        Raises:
            WindowTooSmall: the slots, or a chunk beside them, have too little room.
        """
        plans = [part.plan for part in parts]
        window, k = plans[0].window, len(parts)
        own = self.cap_of(plans[0])
        cap = min(own, window // (4 * k))
        if cap < min(own, MIN_SLOT):
            raise WindowTooSmall(f"{k} questions have too little room in {window} tokens.")
        form = self.form(plans, cap)
        tagged = not parts[0].info.json_schema
        empty = form.filled("", [""] * k, tagged=tagged)
        fixed = await parts[0].info.counter.count_messages([("user", empty)])
        # A field of the reply may be described to the model once more in words.
        fixed += 0 if tagged else TAG_TOKENS
        form = replace(form, fixed_tokens=fixed)
        left = room(
            window, fixed_tokens=fixed, memory_tokens=k * cap, output_tokens=form.reply_tokens
        )
        wanted = plans[0].options.chunk_tokens
        if left < (wanted or window // MIN_SHARE):
            raise WindowTooSmall(f"{k} questions leave {left} tokens for a chunk.")
        return form, wanted or left

    async def prepare(self, reading: Reading) -> None:
        """Measure the slots and the last prompts, cut the document."""
        for part in reading.parts:
            part.plan = self.plan_of(part)
        form, size = await self._measured(reading.parts)
        for part in reading.parts:
            await self.measured(part.plan, form.cap)
        plan = reading.parts[0].plan
        reading.chunks = await self.cut(reading, plan, size)
        for part in reading.parts:
            part.chunks = reading.chunks
        reading.plan = PassPlan(form, self.order(plan, reading.chunks), self)

    def estimate(self, reading: Reading) -> Estimate:
        """n calls for all, and a last one for each; lengths from the replies of earlier passes."""
        form: SlotForm = reading.plan.form
        n, k = len(reading.chunks), form.count
        seen = reading.store.reply_length(self.length_key(reading, "slots"))
        held = reading.store.reply_length(self.length_key(reading, "memory"))
        memory = held[1] if held else k * form.cap * FULL
        reply = seen[1] if seen else memory + k * TAG_TOKENS / 2
        prompt = sum(c.tokens for c in reading.chunks) + n * form.fixed_tokens + (n - 1) * memory
        completion = n * reply
        most = n * form.reply_tokens
        for part, end in zip(reading.parts, self.closings(reading), strict=True):
            said = reading.store.reply_length(self.length_key(part, self.final))
            prompt += self.final_tokens(part) + memory / k
            completion += said[1] if said else min(ANSWER, end.completion_tokens)
            most += end.completion_tokens
        price = reading.ledger.price
        tokens_in, tokens_out = int(prompt), int(completion)
        full = tokens_in + int(n * (k * form.cap - memory))
        guessed = f"no reply of this model seen yet; {full:,} tokens in if every slot fills up"
        return Estimate(
            calls=n + k,
            prompt_tokens=tokens_in,
            completion_tokens=tokens_out,
            depth=n + 1,
            cost=price.cost(tokens_in, tokens_out) if price else None,
            max_completion_tokens=most,
            max_cost=price.cost(tokens_in, most) if price else None,
            exact_counts=reading.info.counter.exact,
            basis=f"{seen[0]} replies seen" if seen else guessed,
        )

    @abstractmethod
    def final_tokens(self, part: Reading) -> int:
        """Tokens of a part's last prompt without its memory."""

    def closing(self, reading: Reading) -> Closing:
        """The end of one question (a part)."""
        return self.single().closing(reading)

    def closings(self, reading: Reading) -> tuple[Closing, ...]:
        """The ends of all questions, and one call that reads for all of them."""
        form: SlotForm = reading.plan.form
        largest = max(chunk.tokens for chunk in reading.chunks)
        return tuple(
            replace(
                self.closing(part),
                read_prompt_tokens=form.fixed_tokens + int(largest * 1.03) + 16,
                read_completion_tokens=form.reply_tokens,
            )
            for part in reading.parts
        )

    def length_key(self, reading: Reading, kind: str) -> str:
        """Lengths of a pass depend on the number of slots and their cap; of a part, on its own."""
        if not reading.parts:
            return self.single().length_key(reading, kind)
        form: SlotForm = reading.plan.form
        shape = f"{form.count}/{form.cap}/{form.gate}/{reading.info.json_schema}"
        return f"{self.name} together|{reading.info.identity}|{versions(PROMPTS)}|{shape}|{kind}"

    def start(self, reading: Reading) -> dict[str, Any]:
        """Nothing is known at the start."""
        empty: list[list[Any]] = [["", 0] for _ in reading.parts]
        return {"pos": 0, "slots": empty, "depth": 0, "failures": 0, "results": []}

    def max_supersteps(self, reading: Reading) -> int:
        """A superstep a chunk at most."""
        return len(reading.chunks) + 20

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """read (loop) -> close x k."""
        graph = StateGraph(PassState, context_schema=Reading)
        graph.add_node("read", read_on, destinations=("read", "close"))
        graph.add_node("close", close_one)
        graph.add_edge(START, "read")
        graph.add_edge("close", END)
        return graph

    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """A part's result, as the single method makes it."""
        [result] = [r for r in state["results"] if r["run"] == reading.run_id]
        return self.single().outcome(result["state"], reading)


async def read_on(state: PassState, runtime: Runtime[Reading]) -> Command[Any]:
    """Read one chunk after the other for all questions, for about a second."""
    reading = runtime.context
    plan: PassPlan = reading.plan
    pos, depth, failures = state["pos"], state["depth"], state["failures"]
    slots = [Slot(text=text, tokens=tokens) for text, tokens in state["slots"]]
    for part in reading.parts:  # a crash leaves what was written ahead of the checkpoint
        plan.method.rewind(part, pos)
    notes: list[list[tuple[int, dict[str, Any]]]] = [[] for _ in slots]
    until = time.monotonic() + SLICE_SECONDS
    try:
        while pos < len(plan.order) and reading.ledger.stopped_by is None:
            chunk = reading.chunks[plan.order[pos]]
            try:
                after, calls = await read_chunk(reading, plan.form, slots, chunk)
            except LimitReached:
                break
            reading.saw_reply("memory", sum(slot.tokens for slot in after))
            for i, part in enumerate(reading.parts):
                notes[i].append((pos, plan.method.write(part, pos, slots[i], after[i], chunk)))
                tell(part, chunk, slots[i], after[i])
            reading.step_done(calls)
            failed = all(slot.outcome == "failed" for slot in after)
            failures = failures + 1 if failed else 0
            if failures >= MAX_FAILURES:
                raise ModelUnavailable(
                    f"{failures} chunks failed one after another, the last one so:"
                    f" {after[0].reason}"
                )
            slots, depth, pos = after, depth + calls, pos + 1
            if time.monotonic() > until:
                break
    finally:
        for part, kept in zip(reading.parts, notes, strict=True):
            reading.store.keep_notes(part.run_id, 0, kept)
    update = {
        "pos": pos,
        "slots": [[slot.text, slot.tokens] for slot in slots],
        "depth": depth,
        "failures": failures,
    }
    if pos < len(plan.order) and reading.ledger.stopped_by is None:
        return Command(goto="read", update=update)
    ends = [
        Send("close", {"place": i, "text": slot.text, "tokens": slot.tokens, "depth": depth})
        for i, slot in enumerate(slots)
    ]
    return Command(goto=ends, update=update)


async def close_one(state: ClosingState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """The last call of one question."""
    reading = runtime.context
    part = reading.parts[state["place"]]
    result = await reading.plan.method.close(part, state)
    part.ledger.keep_for_closing(0, 0, 0)
    reading.step_done()
    return {"results": [{"run": part.run_id, "state": result}]}


def tell(part: Reading, chunk: Chunk, before: Slot, after: Slot) -> None:
    """What the listeners hear about one chunk and one question."""
    part.emit(ChunkRead(chunk=chunk.index, start=chunk.start, end=chunk.end, outcome=after.outcome))
    if after.text != before.text:
        part.emit(NoteChanged(chunk=chunk.index, text=after.text))
    if after.outcome in ("failed", "unread"):
        part.warn(f"Chunk {chunk.index + 1} is {after.outcome}: {after.reason}.")
