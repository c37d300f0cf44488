"""Map and reduce: every chunk answers on its own, side by side, then the answers are combined.

The oldest way around a window (Dean and Ghemawat, OSDI 2004, gave it the name; the form with a
language model is LangChain's "map_reduce" chain). The reduce is bounded: while the notes do not fit
one prompt, groups of them are combined into shorter ones, side by side again, so no prompt exceeds
the window and every round at least halves the notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from reader.bm25 import BM25Index
from reader.budget import Estimate
from reader.errors import ContextOverflow, LimitReached
from reader.evidence import Claim, candidates
from reader.llm.replies import clean, is_refusal_or_empty, says_nothing_found, trim_to_sentence
from reader.llm.types import ChatReply, ChatRequest, Message
from reader.prompts import fence, versions
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions
from reader.tokens import estimated
from reader.trace import Step

from .final_answer import (
    EXPECTED_ANSWER,
    answer_steps,
    estimate_of,
    give_answer,
    split_quotes,
    status_of,
    unanswered,
)
from .invention import is_invented
from .map_reduce_plan import LABEL_TOKENS, NOTHING, PROMPTS, MapReduceOptions, Plan
from .waves import (
    PIECE_FAILED,
    Piece,
    Waves,
    calls_at_once,
    chunk_notes,
    chunk_statuses,
    chunk_steps,
    side_by_side,
    wave_size,
)

EXPECTED_NOTE = 0.3  # share of its cap that a note fills, before replies of the model were seen
CITED_NOTES = 20  # notes most like the answer, whose plain sentences are looked up too


class MapReduceState(TypedDict, total=False):
    """The whole run: how many chunks were visited, which round of notes is the last whole one."""

    pos: int
    level: int
    depth: int
    result: dict[str, Any]


class MapReduce(Strategy[MapReduceOptions]):
    """Every chunk answers on its own, then the answers are combined."""

    name: ClassVar[str] = "map_reduce"
    title: ClassVar[str] = "Map and reduce"
    source: ClassVar[str] = "baseline; the usual map-reduce chain, with a bounded reduce"
    Options: ClassVar[type[StrategyOptions]] = MapReduceOptions

    @classmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts."""
        return versions(PROMPTS)

    async def prepare(self, reading: Reading) -> None:
        """Compute the room for a chunk and cut the document.

        Raises:
            WindowTooSmall: no room for a chunk or for two notes.
            InvalidOption: ``chunk_tokens`` does not fit.
        """
        reading.plan = plan = Plan(reading)
        size = await plan.measure()
        reading.chunks = await reading.cut(size)

        async def ask(start: int, end: int, tokens: int) -> Piece:
            return await ask_chunk(reading, start, end, tokens)

        plan.waves = Waves(reading, ask)

    def estimate(self, reading: Reading) -> Estimate:
        """n calls side by side, rounds of combining where the notes do not fit, one answer."""
        plan: Plan = reading.plan
        n = len(reading.chunks)
        seen = reading.store.reply_length(self.length_key(reading, "map"))
        noted = reading.store.reply_length(self.length_key(reading, "note"))
        merged = reading.store.reply_length(self.length_key(reading, "combine"))
        said = reading.store.reply_length(self.length_key(reading, "answer"))
        written = seen[1] if seen else plan.output_tokens * EXPECTED_NOTE
        note = noted[1] if noted else written + LABEL_TOKENS
        shorter = merged[1] if merged else plan.note_tokens * EXPECTED_NOTE
        guess = plan.form.output_tokens // 2 if plan.form.summary else EXPECTED_ANSWER
        answer = min(said[1] if said else guess, plan.form.output_tokens)
        calls, depth = n, 1
        prompt = sum(c.tokens for c in reading.chunks) + n * plan.map_tokens
        completion, most = n * written, n * plan.output_tokens
        count, each = n, note
        while count * each > plan.reduce_room:
            per_group = max(int(plan.combine_room // max(each, 1)), 2)
            groups = -(-count // per_group)
            calls, depth = calls + groups, depth + 1
            prompt += int(count * each) + groups * plan.combine_tokens
            completion, most = completion + groups * shorter, most + groups * plan.note_tokens
            count, each = groups, shorter + LABEL_TOKENS
        return estimate_of(
            reading,
            calls=calls + 1,
            depth=depth + 1,
            prompt=prompt + int(count * each) + plan.reduce_tokens,
            completion=int(completion + answer),
            most=most + plan.form.output_tokens,
            seen=seen,
            bound="" if seen else "rounds of the reduce depend on the length of the notes",
        )

    def closing(self, reading: Reading) -> Closing:
        """The answer from as many notes as a quarter of the window holds."""
        plan: Plan = reading.plan
        largest = max(chunk.tokens for chunk in reading.chunks)
        return Closing(
            1,
            plan.reduce_tokens + plan.spare_room + 16,
            plan.form.output_tokens,
            plan.map_tokens + int(largest * 1.03) + 16,
            plan.output_tokens,
        )

    def length_key(self, reading: Reading, kind: str) -> str:
        """Lengths depend on model, words and caps."""
        plan: Plan = reading.plan
        form = (
            f"{plan.quotes}/{plan.form.requirement()}/{plan.note_tokens}/{plan.form.answer_tokens}"
        )
        return f"map_reduce|{reading.info.identity}|{versions(PROMPTS)}|{form}|{kind}"

    def start(self, reading: Reading) -> dict[str, Any]:
        """Nothing is known at the start."""
        return {"pos": 0, "level": 0, "depth": 0}

    def max_supersteps(self, reading: Reading) -> int:
        """A superstep a wave, a round each halving of the notes, the answer."""
        n = len(reading.chunks)
        return n // wave_size(reading) + n.bit_length() + 20

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """map ... map -> combine ... combine -> answer."""
        graph = StateGraph(MapReduceState, context_schema=Reading)
        graph.add_node("map", map_chunks, destinations=("map", "combine"))
        graph.add_node("combine", combine, destinations=("combine", "answer"))
        graph.add_node("answer", answer)
        graph.add_edge(START, "map")
        graph.add_edge("answer", END)
        return graph

    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """Citations and coverage from the notes of the chunks."""
        result, notes = state["result"], chunk_notes(reading)
        chunks = chunk_statuses(reading, notes)
        rounds = [(path, note) for path, _, note in reading.store.notes(reading.run_id) if path > 0]
        return Outcome(
            text=result["text"],
            status=status_of(result, chunks),
            chunks=chunks,
            claims=claims(notes, result["text"]),
            steps=(
                *chunk_steps(notes, "map"),
                *(
                    Step(purpose="combine", path=path, text=note["text"], tokens=note["written"])
                    for path, note in rounds
                    if note["written"]
                ),
                *answer_steps(result),
            ),
            choice=result["choice"],
            depth=state["depth"] + result["calls"],
        )


async def map_chunks(state: MapReduceState, runtime: Runtime[Reading]) -> Command[Any]:
    """Read the next wave of chunks."""
    reading = runtime.context
    plan: Plan = reading.plan
    pos = await plan.waves.read(state["pos"])
    more = pos < len(reading.chunks) and reading.ledger.stopped_by is None
    if more:
        return Command(goto="map", update={"pos": pos})
    depth = max((note["calls"] for note in chunk_notes(reading)), default=0)
    return Command(goto="combine", update={"pos": pos, "depth": depth})


async def ask_chunk(reading: Reading, start: int, end: int, tokens: int) -> Piece:
    """What one chunk alone says."""
    plan: Plan = reading.plan
    request = ChatRequest(
        messages=(Message("user", plan.map_prompt(reading.document.text[start:end])),),
        max_tokens=plan.output_tokens,
        prompt_tokens=plan.map_tokens + int(tokens * 1.03) + 16,
        purpose="map",
    )
    reply = await reading.model.generate(request)
    said, quotes = split_quotes(clean(reply.text)) if plan.quotes else (clean(reply.text), [])
    written = reply.completion_tokens
    if is_refusal_or_empty(said):
        why = "the reply was empty or a refusal"
        return Piece(outcome="unread", level="kept", written=written, reason=why)
    reading.saw_reply("map", written)
    if says_nothing_found(said):
        reading.saw_reply("note", 0)
        return Piece(written=written, finish_reason=reply.finish_reason)
    text = reading.document.text[start:end]
    invented = is_invented(said, plan.form.question, text)
    if invented and not plan.standing(quotes, start, end):
        reading.saw_reply("note", 0)
        return Piece(written=written, level="invented", finish_reason=reply.finish_reason)
    cut = reply.finish_reason == "length" and not quotes
    said = (trim_to_sentence(said)[0] or said) if cut else said
    tokens_noted = _tokens(said, quotes, reply)
    reading.saw_reply("note", tokens_noted)
    return Piece(
        text=said,
        quotes=tuple(quotes),
        tokens=tokens_noted,
        level="trimmed" if cut else "ok",
        written=written,
        finish_reason=reply.finish_reason,
    )


def _tokens(said: str, quotes: Sequence[str], reply: ChatReply) -> int:
    """Upper bound of a note in a later prompt: what the server counted, or the text's own size."""
    size = estimated("\n".join([said, *quotes]))
    return min(reply.completion_tokens or size, size) + LABEL_TOKENS


def items(reading: Reading, level: int) -> list[dict[str, Any]]:
    """The notes of a round that say something: those of the chunks, or the combined ones."""
    notes = [note for _, _, note in reading.store.notes(reading.run_id, level)]
    return [note for note in notes if note["text"] or note["quotes"]]


def rendered(reading: Reading, notes: Sequence[dict[str, Any]]) -> str:
    """Notes for a prompt, each fenced, with those of its quotes that stand in its chunk."""
    plan: Plan = reading.plan
    lines = []
    for number, note in enumerate(notes, start=1):
        quotes = plan.standing(note["quotes"], note["start"], note["end"])
        said = [note["text"], *(f'"{quote}"' for quote in quotes)]
        lines.append(f"Note {number}:\n{fence(chr(10).join(said), 'note')}")
    return "\n".join(lines)


async def combine(state: MapReduceState, runtime: Runtime[Reading]) -> Command[Any]:
    """One round: combine groups of notes, where all of them do not fit the last prompt."""
    reading = runtime.context
    plan: Plan = reading.plan
    level = state["level"]
    notes = items(reading, level)
    fits = sum(note["tokens"] for note in notes) <= plan.reduce_room
    if fits or reading.ledger.stopped_by is not None:
        return Command(goto="answer")
    groups = grouped(notes, plan.combine_room)
    try:
        combined = await side_by_side(
            lambda group: one_note(reading, group), groups, calls_at_once(reading)
        )
    except LimitReached:
        return Command(goto="answer")  # from the notes of the round before
    # Kept at once: a round is whole or it is not there.
    reading.store.keep_notes(reading.run_id, level + 1, enumerate(combined))
    return Command(goto="combine", update={"level": level + 1, "depth": state["depth"] + 1})


def grouped(notes: Sequence[dict[str, Any]], tokens: int) -> list[list[dict[str, Any]]]:
    """Neighbours in groups of at most so many tokens, of two at least: so a round always helps."""
    groups: list[list[dict[str, Any]]] = []
    filled = 0
    for note in notes:
        if groups and (filled + note["tokens"] <= tokens or len(groups[-1]) < 2):
            groups[-1].append(note)
            filled += note["tokens"]
        else:
            groups.append([note])
            filled = note["tokens"]
    return groups


async def one_note(reading: Reading, group: list[dict[str, Any]]) -> dict[str, Any]:
    """One note of a group; where the call gives nothing, the notes' own beginnings."""
    plan: Plan = reading.plan
    span = {"start": group[0]["start"], "end": group[-1]["end"], "quotes": []}
    size = sum(note["tokens"] for note in group)
    if len(group) == 1 and size <= plan.output_tokens + LABEL_TOKENS:
        same = {name: group[0][name] for name in ("text", "tokens", "quotes")}
        return span | same | {"written": 0}
    if size > plan.combine_room or len(group) == 1:  # a chunk that was read in many parts
        return shortened(plan, group) | span
    request = ChatRequest(
        messages=(Message("user", plan.combine_prompt(rendered(reading, group))),),
        max_tokens=plan.note_tokens,
        prompt_tokens=plan.combine_tokens + size + 16,
        purpose="combine",
    )
    try:
        reply = await reading.model.generate(request)
    except (*PIECE_FAILED, ContextOverflow) as error:
        reading.warn(f"Notes could not be combined ({error.message}) and were shortened instead.")
        return shortened(plan, group) | span
    said = clean(reply.text)
    if is_refusal_or_empty(said):
        reading.warn("Notes could not be combined (an empty reply) and were shortened instead.")
        return shortened(plan, group) | span
    reading.saw_reply("combine", reply.completion_tokens)
    reading.step_done()
    if reply.finish_reason == "length":
        said = trim_to_sentence(said)[0] or said
    written = reply.completion_tokens
    return {"text": said, "tokens": _tokens(said, (), reply), "written": written} | span


def shortened(plan: Plan, group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The beginnings of notes, an equal share each of what one note may have."""
    # A token is at least one character, so this keeps to the cap in any language.
    share = max(plan.note_tokens // len(group), 1)
    text = "\n".join(note["text"][:share] for note in group)
    return {"text": text, "tokens": plan.note_tokens + LABEL_TOKENS, "written": 0}


async def answer(state: MapReduceState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """Answer from the notes of the last whole round."""
    reading = runtime.context
    plan: Plan = reading.plan
    notes = items(reading, state["level"])
    if not notes and not reading.choices:
        if any(note["outcome"] == "read" for note in chunk_notes(reading)):
            return {"result": unanswered(reading)}
        reading.warn("No chunk gave anything to answer from.")
        return {"result": {**unanswered(reading), "text": "", "closed": False}}
    limited = reading.ledger.stopped_by is not None
    space = plan.spare_room if limited else plan.reduce_room
    while True:
        shown = fitting(plan, notes, space)
        if len(shown) < len(notes):
            left = len(notes) - len(shown)
            reading.warn(f"{left} of {len(notes)} notes did not fit the last call.")
        text = rendered(reading, shown) or NOTHING
        size = plan.reduce_tokens + sum(note["tokens"] for note in shown) + 16
        fallback = "\n".join(note["text"] for note in shown)
        try:
            asked = plan.reduce_prompt(text)
            result = await give_answer(reading, plan.form, asked, size, fallback=fallback)
        except ContextOverflow:
            if len(shown) < 2:
                raise
            # The count was wrong (an estimate, or a template that grew).
            space = sum(note["tokens"] for note in shown) * 2 // 3
        else:
            return {"result": result}


def fitting(plan: Plan, notes: Sequence[dict[str, Any]], tokens: int) -> list[dict[str, Any]]:
    """Notes that fit so many tokens, in order; where not all do, those most like the question."""
    if sum(note["tokens"] for note in notes) <= tokens:
        return list(notes)
    ranked = [i for i, _ in BM25Index([n["text"] for n in notes]).rank(plan.form.question)]
    kept: set[int] = set()
    for i in dict.fromkeys([*ranked, *range(len(notes))]):
        if notes[i]["tokens"] <= tokens:
            tokens -= notes[i]["tokens"]
            kept.add(i)
    return [note for i, note in enumerate(notes) if i in kept]


def claims(notes: Sequence[dict[str, Any]], answer: str) -> tuple[Claim, ...]:
    """What the notes of the chunks quote, and what those most like the answer say."""
    found = [
        Claim(quote, within=(note["start"], note["end"]))
        for note in notes
        for quote in note["quotes"]
    ]
    ranked = BM25Index([note["text"] for note in notes]).rank(answer, CITED_NOTES)
    for note in [notes[i] for i, _ in ranked]:
        within = (note["start"], note["end"])
        found += [Claim(c.text, c.claimed, within) for c in candidates(note["text"])]
    return tuple(found)
