"""One step of a walk through MemWalker's tree: choosing a child, and reading a leaf.

Section 3.2 of Chen et al., arXiv 2310.05029. An action is an integer: the number of a child, -1 to
go back, -2 to answer, -3 (ours) to note something and go on. What cannot be understood after the
paper's three re-asks gets a default here, so that nothing a model writes ends a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reader.errors import ContextOverflow
from reader.folding import content_words
from reader.llm.choice import parse_choice
from reader.llm.replies import (
    clean,
    content_overlap,
    is_refusal_or_empty,
    says_nothing_found,
)
from reader.llm.structured import TypedReply, typed_reply
from reader.llm.types import ChatRequest, Message
from reader.strategy import Reading
from reader.trace import StepLevel

from .memwalker_build import shortened
from .memwalker_plan import Plan
from .memwalker_prompts import (
    ANSWER,
    BACK,
    NOTE,
    leaf_form,
    leaf_prompt,
    memory,
    triage_form,
    triage_prompt,
)

BARE_TOKENS = 16
GROUNDED = 0.5  # share of a reply's words that must stand in the leaf, where it has no form
MIN_SPLIT = 100  # characters; a shorter text that does not fit is not the text's fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What triage came to.

    Attributes:
        child: Where to go; None is back.
        second: The next best child, with a beam of two.
        stop: Nothing could be understood, and the options say to stop then.
    """

    child: int | None
    second: int | None = None
    stop: bool = False
    reasoning: str = ""
    action: int = BACK
    calls: int = 0
    level: StepLevel = "ok"
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What reading a leaf came to.

    Attributes:
        action: BACK, ANSWER or NOTE.
        text: The answer or the note.
        choice: Index of the chosen option.
        usable: False where the reply could not be understood.
        stop: As with ``Move``.
    """

    action: int
    text: str = ""
    choice: int | None = None
    quotes: tuple[str, ...] = ()
    reasoning: str = ""
    usable: bool = True
    stop: bool = False
    calls: int = 0
    level: StepLevel = "ok"
    tokens: int = 0


# Triage ----------------------------------------------------------------------------------


async def triage(
    reading: Reading, shown: Sequence[int], notes: Sequence[str], *, two: bool = False
) -> Move:
    """Which of the children to walk to. They are numbered from 0 as they are shown.

    Raises:
        LimitReached, ModelError: from the call.
    """
    plan: Plan = reading.plan
    options = plan.options
    if len(shown) == 1 and not options.none_of_these:
        return Move(child=shown[0], action=0, level="direct", reasoning="The only one left.")
    legal = [*([BACK] if options.none_of_these else []), *range(len(shown))]
    two = two and len(shown) > 1
    form = triage_form(plan, legal, len(shown) if two else 0)
    typed: TypedReply[Any] = await _fitting(
        lambda part: typed_reply(
            reading.model,
            _request(plan, "triage", triage_prompt(plan, shown, notes, two, part), form),
            form,
            can_enforce=reading.info.json_schema,
            max_reasks=options.max_invalid,
            counts=reading.ledger,
            default=lambda: None,
        )
    )
    reading.saw_reply("triage", typed.reply.completion_tokens)
    spent = _spent(typed)
    said = typed.value
    if said is None:
        if options.on_invalid == "stop":
            return Move(child=None, stop=True, reasoning="No valid action.", **spent)
        child = most_similar(plan, shown)
        return Move(
            child=child,
            action=shown.index(child),
            reasoning="No valid action: the part most like the question.",
            **spent,
        )
    action = said if isinstance(said, int) else said.action
    second = getattr(said, "second", BACK)
    return Move(
        child=None if action == BACK else shown[action],
        second=shown[second] if two and second not in (BACK, action) else None,
        reasoning=clean(getattr(said, "reasoning", "")).strip(),
        action=action,
        **spent,
    )


def most_similar(plan: Plan, nodes: Sequence[int]) -> int:
    """The node whose description shares most words with the question, the first of equals."""
    asked = set(content_words(plan.question))
    return max(nodes, key=lambda n: (len(asked & set(content_words(plan.texts[n]))), -n))


# A leaf ----------------------------------------------------------------------------------


async def read_leaf(
    reading: Reading, leaf: int, visited: Sequence[int], notes: Sequence[str]
) -> Found:
    """Read a segment with what was read before as background.

    Raises:
        LimitReached, ModelError: from the call.
    """
    chunk = reading.chunks[leaf]
    return await _read(reading, leaf, chunk.start, chunk.end, visited, notes)


async def _read(
    reading: Reading, leaf: int, start: int, end: int, visited: Sequence[int], notes: Sequence[str]
) -> Found:
    plan: Plan = reading.plan
    try:
        return await _ask_leaf(reading, start, end, memory(plan, leaf, visited), notes)
    except ContextOverflow:
        if visited:
            reading.warn("A segment did not fit beside the working memory and was read without.")
            return await _read(reading, leaf, start, end, (), notes)
        if end - start < MIN_SPLIT:
            raise
    # The count was wrong (an estimate, or a template that grew): read the halves in turn.
    reading.warn("A segment did not fit the model's window and was read in two halves.")
    text = reading.document.text[start:end]
    middle = text.rfind(" ", 0, len(text) // 2 + 1)
    cut = start + (middle + 1 if middle > 0 else len(text) // 2)
    first = await _read(reading, leaf, start, cut, (), notes)
    if first.action != BACK or first.stop:
        return first
    return await _read(reading, leaf, cut, end, (), notes)


async def _ask_leaf(
    reading: Reading, start: int, end: int, background: str, notes: Sequence[str]
) -> Found:
    plan: Plan = reading.plan
    text = reading.document.text[start:end]
    form = leaf_form(plan)
    prompt = leaf_prompt(plan, text, background, notes)
    typed: TypedReply[Any] = await typed_reply(
        reading.model,
        _request(plan, "leaf", prompt, form),
        form,
        can_enforce=reading.info.json_schema,
        max_reasks=plan.options.max_invalid,
        validate=lambda said: _wrong(reading, said),
        counts=reading.ledger,
        default=lambda: None,
    )
    reading.saw_reply("read", typed.reply.completion_tokens)
    spent = _spent(typed)
    return _found(reading, typed, text, spent)


def _found(reading: Reading, typed: TypedReply[Any], text: str, spent: dict[str, Any]) -> Found:
    plan: Plan = reading.plan
    said = typed.value
    if said is None:
        return _formless(plan, reading, clean(typed.reply.text).strip(), text, spent)
    reasoning = clean(getattr(said, "reasoning", "")).strip()
    quotes = tuple(q for q in getattr(said, "quotes", ()) if q.strip())
    answer = clean(said.answer).strip()
    # Small models answer in the same breath as they say that nothing is told.
    if said.action == ANSWER and (says_nothing_found(answer) or says_nothing_found(reasoning)):
        return Found(action=BACK, reasoning=reasoning or answer, **spent)
    if said.action == ANSWER:
        choice = parse_choice(answer, reading.choices) if reading.choices else None
        shown = answer if choice is None else reading.choices[choice]
        return Found(
            action=ANSWER, text=shown, choice=choice, quotes=quotes, reasoning=reasoning, **spent
        )
    if said.action == NOTE:
        note = shortened(clean(said.note).strip(), plan.share // 4)
        return Found(action=NOTE, text=note, quotes=quotes, reasoning=reasoning, **spent)
    return Found(action=BACK, reasoning=reasoning, **spent)


def _formless(plan: Plan, reading: Reading, said: str, text: str, spent: dict[str, Any]) -> Found:
    """No valid action: plain words that rest on the leaf are the answer, anything else is back."""
    if plan.options.on_invalid == "stop":
        return Found(action=BACK, usable=False, stop=True, reasoning="No valid action.", **spent)
    prose = "{" not in said and not is_refusal_or_empty(said) and not says_nothing_found(said)
    if prose and reading.choices:
        choice = parse_choice(said, reading.choices)
        if choice is not None:
            return Found(action=ANSWER, text=reading.choices[choice], choice=choice, **spent)
    elif prose and content_words(said) and content_overlap(said, text) >= GROUNDED:
        return Found(action=ANSWER, text=said, **spent)
    return Found(action=BACK, usable=False, reasoning="No valid action.", **spent)


def _wrong(reading: Reading, said: Any) -> str | None:
    """What the model must mend in a reply of the right form."""
    if said.action == NOTE and not said.note.strip():
        return "action -3 needs a note."
    if said.action != ANSWER:
        return None
    answer = clean(said.answer)
    if is_refusal_or_empty(answer) and not says_nothing_found(getattr(said, "reasoning", "")):
        return "action -2 needs an answer; use -1 if this part does not tell it."
    nothing = says_nothing_found(answer)
    if reading.choices and not nothing and parse_choice(answer, reading.choices) is None:
        return "the answer must be the letter of one option."
    return None


# Both ------------------------------------------------------------------------------------


def _request(plan: Plan, purpose: str, prompt: str, form: Any) -> ChatRequest:
    bare = purpose == "triage" and not isinstance(form, type)
    return ChatRequest(
        messages=(Message("user", prompt),),
        max_tokens=min(BARE_TOKENS, plan.reply_tokens) if bare else plan.reply_tokens,
        purpose=purpose,
    )


def _spent(typed: TypedReply[Any]) -> dict[str, Any]:
    return {
        "calls": typed.calls,
        "level": "ok" if typed.level == "strict" else typed.level,
        "tokens": typed.reply.completion_tokens,
    }


async def _fitting(ask: Any) -> Any:
    """A prompt that does not fit after all, with shorter descriptions."""
    for part in (1.0, 0.5):
        try:
            return await ask(part)
        except ContextOverflow:
            continue
    return await ask(0.2)
