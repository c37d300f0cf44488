"""Quote, then answer: pick sentences word for word, check them, answer from them alone.

Li et al., "ALR2: A Retrieve-then-Reason Framework for Long-context Question Answering",
arXiv 2410.03227, which trains a model on both steps and notes that untrained ones invent what they
"retrieve". This is the untrained form: what does not stand in the text is dropped before anybody
answers from it. A long document is quoted from chunk by chunk, side by side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from reader.bm25 import BM25Index
from reader.budget import Estimate
from reader.errors import ContextOverflow, LimitReached
from reader.evidence import Claim
from reader.llm.structured import typed_reply
from reader.llm.types import ChatRequest, Message
from reader.prompts import versions
from reader.sentences import around
from reader.strategy import Closing, Outcome, Reading, Strategy, StrategyOptions
from reader.tokens import estimated

from .final_answer import (
    EXPECTED_ANSWER,
    answer_steps,
    estimate_of,
    give_answer,
    status_of,
    unanswered,
)
from .quotes_plan import (
    NUMBERS,
    PROMPTS,
    SENTENCE_TOKENS,
    Plan,
    QuotesOptions,
    Sentences,
)
from .waves import (
    PIECE_FAILED,
    Piece,
    Waves,
    as_note,
    chunk_notes,
    chunk_statuses,
    chunk_steps,
    wave_size,
)

PARAGRAPH = 200  # characters that a numbered paragraph has at least, so that numbers cost little
EXPECTED_QUOTES = 60  # tokens of a reply, before replies of the model were seen
LONGEST_QUOTE = 600  # characters; a longer one is a copied paragraph, and is cut
INVENTED = "none of these sentences stands in the part, word for word: copy them exactly"
_BREAK = re.compile(r"\n\s*\n")


class QuotesState(TypedDict, total=False):
    """The whole run: how many chunks were visited, whether one was asked again, the answer."""

    pos: int
    again: bool
    depth: int
    result: dict[str, Any]


class QuoteThenAnswer(Strategy[QuotesOptions]):
    """Pick sentences word for word, check them, answer from them alone."""

    name: ClassVar[str] = "quotes"
    title: ClassVar[str] = "Quote, then answer"
    source: ClassVar[str] = "untrained form of ALR2, Li et al., arXiv 2410.03227"
    Options: ClassVar[type[StrategyOptions]] = QuotesOptions

    @classmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts."""
        return versions(PROMPTS)

    async def prepare(self, reading: Reading) -> None:
        """Compute the room for a chunk and cut the document.

        Raises:
            WindowTooSmall: no room for a chunk.
            InvalidOption: no question, or ``chunk_tokens`` does not fit.
        """
        reading.plan = plan = Plan(reading)
        size = await plan.measure()
        reading.chunks = await reading.cut(size)

        async def ask(start: int, end: int, tokens: int) -> Piece:
            return await ask_chunk(reading, start, end)

        plan.waves = Waves(reading, ask)

    def estimate(self, reading: Reading) -> Estimate:
        """n calls side by side and the answer (2 where the document fits one chunk)."""
        plan: Plan = reading.plan
        n = len(reading.chunks)
        seen = reading.store.reply_length(self.length_key(reading, "quote"))
        kept = reading.store.reply_length(self.length_key(reading, "kept"))
        said = reading.store.reply_length(self.length_key(reading, "answer"))
        written = seen[1] if seen else min(EXPECTED_QUOTES, plan.output_tokens)
        quoted = min(n * (kept[1] if kept else written), plan.answer_room)
        answer = min(said[1] if said else EXPECTED_ANSWER, plan.form.output_tokens)
        prompt = sum(c.tokens for c in reading.chunks) + n * plan.quote_tokens
        return estimate_of(
            reading,
            calls=n + 1,
            depth=2,
            prompt=int(prompt + plan.answer_tokens + quoted),
            completion=int(n * written + answer),
            most=n * plan.output_tokens + plan.form.output_tokens,
            seen=seen,
            bound="a chunk whose sentences do not stand in it is asked once more",
        )

    def closing(self, reading: Reading) -> Closing:
        """The answer from as many sentences as a quarter of the window holds."""
        plan: Plan = reading.plan
        largest = max(chunk.tokens for chunk in reading.chunks)
        return Closing(
            1,
            plan.answer_tokens + spare_room(plan) + 16,
            plan.form.output_tokens,
            plan.quote_tokens + int(largest * 1.03 / NUMBERS) + 16,
            plan.output_tokens,
        )

    def length_key(self, reading: Reading, kind: str) -> str:
        """Lengths depend on model, words and caps."""
        plan: Plan = reading.plan
        form = f"{plan.form.requirement()}/{plan.output_tokens}/{plan.form.answer_tokens}"
        return f"quotes|{reading.info.identity}|{versions(PROMPTS)}|{form}|{kind}"

    def start(self, reading: Reading) -> dict[str, Any]:
        """Nothing is known at the start."""
        return {"pos": 0, "again": False, "depth": 0}

    def max_supersteps(self, reading: Reading) -> int:
        """A superstep a wave, a second look, the answer."""
        return len(reading.chunks) // wave_size(reading) + 20

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """quote ... quote -> (again) -> answer."""
        graph = StateGraph(QuotesState, context_schema=Reading)
        graph.add_node("quote", quote_chunks, destinations=("quote", "again", "answer"))
        graph.add_node("again", again)
        graph.add_node("answer", answer)
        graph.add_edge(START, "quote")
        graph.add_edge("again", "answer")
        graph.add_edge("answer", END)
        return graph

    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """Citations are the sentences themselves; invented ones are counted."""
        result, notes = state["result"], chunk_notes(reading)
        chunks = chunk_statuses(reading, notes)
        return Outcome(
            text=result["text"],
            status=status_of(result, chunks),
            chunks=chunks,
            claims=tuple(
                claim(reading.plan, quote, place) for note in notes for quote, place in placed(note)
            ),
            steps=(*chunk_steps(notes, "quote"), *answer_steps(result)),
            choice=result["choice"],
            depth=state["depth"] + result["calls"],
        )


async def quote_chunks(state: QuotesState, runtime: Runtime[Reading]) -> Command[Any]:
    """Pick sentences from the next wave of chunks."""
    reading = runtime.context
    plan: Plan = reading.plan
    pos = await plan.waves.read(state["pos"])
    stopped = reading.ledger.stopped_by is not None
    if pos < len(reading.chunks) and not stopped:
        return Command(goto="quote", update={"pos": pos})
    notes = chunk_notes(reading)
    depth = max((note["calls"] for note in notes), default=0)
    unread = all(note["outcome"] != "read" for note in notes)
    found = stopped or unread or standing(plan, notes)
    return Command(goto="answer" if found else "again", update={"pos": pos, "depth": depth})


async def again(state: QuotesState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """No sentence at all: the chunk most like the question is asked once more."""
    reading = runtime.context
    plan: Plan = reading.plan
    ranked = BM25Index([reading.text(chunk) for chunk in reading.chunks]).rank(plan.query, 1)
    chunk = reading.chunks[ranked[0][0] if ranked else 0]
    try:
        piece = await ask_chunk(reading, chunk.start, chunk.end, second=True)
    except (*PIECE_FAILED, ContextOverflow, LimitReached) as error:
        reading.warn(f"The second look failed: {error.message}")
        return {"again": True}
    if piece.outcome == "read" and piece.quotes:
        reading.store.keep_notes(reading.run_id, 0, [(chunk.index, as_note(chunk, piece))])
    return {"again": True, "depth": state["depth"] + piece.calls}


async def ask_chunk(reading: Reading, start: int, end: int, *, second: bool = False) -> Piece:
    """Sentences of a chunk; asked once more where none of them stands in it."""
    plan: Plan = reading.plan
    paragraphs = numbered(reading.document.text, start, end)
    text = "\n\n".join(
        f"[{i}] {reading.document.text[a:b].strip()}" for i, (a, b) in enumerate(paragraphs, 1)
    )
    prompt = plan.quote_prompt(text)
    if second:
        prompt += " Give at least the one sentence that comes nearest."
    said: list[Sentences] = []

    def stands(value: Sentences) -> str | None:
        said.append(value)
        quotes = [s.quote for s in value.quotes if s.quote.strip()]
        if not quotes or any(_range(plan, quote, start, end) for quote in quotes):
            return None
        return INVENTED

    request = ChatRequest(
        messages=(Message("user", prompt),),
        max_tokens=plan.output_tokens,
        prompt_tokens=plan.quote_tokens + int((await _count(reading, text)) * 1.03) + 24,
        purpose="quote",
    )
    typed = await typed_reply(
        reading.model,
        request,
        plan.reply,
        can_enforce=reading.info.json_schema,
        max_reasks=1,
        validate=stands,
        counts=reading.ledger,
        default=lambda: said[-1] if said else Sentences(quotes=[]),
    )
    written = typed.reply.completion_tokens
    if typed.level == "forced" and not said:
        why = "the reply could not be understood"
        return Piece(
            outcome="unread", level="forced", calls=typed.calls, written=written, reason=why
        )
    reading.saw_reply("quote", written)
    picked = [s for s in typed.value.quotes if s.quote.strip()][: plan.options.most_quotes]
    quotes = [s.quote.strip() for s in picked]
    places = []
    for s in picked:
        named = paragraphs[s.paragraph - 1] if 0 < s.paragraph <= len(paragraphs) else (start, end)
        places.append(named if _range(plan, s.quote, *named) else (start, end))
    kept = [r for q, p in zip(quotes, places, strict=True) if (r := _range(plan, q, *p))]
    tokens = sum(estimated(reading.document.text[a:b]) for a, b in kept)
    reading.saw_reply("kept", tokens)
    return Piece(
        quotes=tuple(quotes),
        places=tuple(places),
        tokens=tokens,
        calls=typed.calls,
        level="ok" if typed.level == "strict" else typed.level,
        written=written,
        finish_reason=typed.reply.finish_reason,
    )


async def _count(reading: Reading, text: str) -> int:
    return (await reading.info.counter.count([text]))[0]


def numbered(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Ranges of the paragraphs of a chunk; short ones go with the next."""
    ranges, first = [], start
    for match in _BREAK.finditer(text, start, end):
        if match.start() - first >= PARAGRAPH:
            ranges.append((first, match.end()))
            first = match.end()
    if first < end:
        ranges.append((first, end))
    return ranges


def _range(plan: Plan, quote: str, start: int, end: int) -> tuple[int, int] | None:
    """The sentences of a chunk that a quote stands in, None where it does not stand there."""
    match = plan.finder.find(quote, within=(start, end))
    if match is None or match.kind == "elsewhere":
        return None
    upto = min(match.end, match.start + LONGEST_QUOTE)
    first, last = around(plan.reading.document.text, match.start, upto)
    return max(first, start), min(last, end)


def standing(plan: Plan, notes: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Ranges of all sentences that stand in their chunk, in order, none within another."""
    looked_up = (_range(plan, quote, *place) for note in notes for quote, place in placed(note))
    found = {place for place in looked_up if place}
    ranges: list[tuple[int, int]] = []
    for start, end in sorted(found, key=lambda r: (r[0], -r[1])):
        if not ranges or end > ranges[-1][1]:
            ranges.append((start, end))
    return ranges


def claim(plan: Plan, quote: str, place: tuple[int, int]) -> Claim:
    """What is cited: the whole sentences, of which a reply may hold the beginning only."""
    found = _range(plan, quote, *place)
    text = plan.reading.document.text
    return Claim(text[found[0] : found[1]] if found else quote, within=place)


def placed(note: dict[str, Any]) -> list[tuple[str, tuple[int, int]]]:
    """The quotes of a note with the ranges that they are said to stand in."""
    places = [(place[0], place[1]) for place in note["places"]]
    return list(zip(note["quotes"], places, strict=True))


def spare_room(plan: Plan) -> int:
    """Tokens of sentences for which the last call is paid beforehand."""
    return min(plan.answer_room, max(plan.window // 4, 2 * SENTENCE_TOKENS))


async def answer(state: QuotesState, runtime: Runtime[Reading]) -> dict[str, Any]:
    """Answer from the sentences that stand in the text."""
    reading = runtime.context
    plan: Plan = reading.plan
    notes = chunk_notes(reading)
    ranges = standing(plan, notes)
    if not ranges and not reading.choices:
        if any(note["outcome"] == "read" for note in notes):
            return {"result": unanswered(reading)}
        reading.warn("No chunk gave anything to answer from.")
        return {"result": {**unanswered(reading), "text": "", "closed": False}}
    limited = reading.ledger.stopped_by is not None
    shown, size = fitting(plan, ranges, spare_room(plan) if limited else plan.answer_room)
    if len(shown) < len(ranges):
        left = len(ranges) - len(shown)
        reading.warn(f"{left} of {len(ranges)} sentences did not fit the last call.")
    text = reading.document.text
    fallback = "\n".join(text[start:end] for start, end in shown)
    prompt, bound = plan.answer_prompt(shown), plan.answer_tokens + size + 16
    return {"result": await give_answer(reading, plan.form, prompt, bound, fallback=fallback)}


def fitting(
    plan: Plan, ranges: Sequence[tuple[int, int]], tokens: int
) -> tuple[list[tuple[int, int]], int]:
    """Sentences that fit so many tokens, in order, and their size; the likest to the question."""
    texts = [plan.reading.document.text[start:end] for start, end in ranges]
    sizes = [estimated(text) + 4 for text in texts]
    if sum(sizes) <= tokens:
        return list(ranges), sum(sizes)
    ranked = [i for i, _ in BM25Index(texts).rank(plan.query)]
    kept: set[int] = set()
    left = tokens
    for i in dict.fromkeys([*ranked, *range(len(ranges))]):
        if sizes[i] <= left:
            left -= sizes[i]
            kept.add(i)
    return [r for i, r in enumerate(ranges) if i in kept], tokens - left
