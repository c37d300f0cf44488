"""One function call of an agent: prompt, reply, notebook, and what is kept of it.

Li et al. 2024, arXiv 2406.14550, section 3.3.2. Whatever the reply is, a function comes out: an
unusable one becomes the default of its kind, and the call is marked as forced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from reader.errors import ContextOverflow
from reader.llm.replies import trim_to_sentence
from reader.llm.schemas import LONGEST_REPEAT
from reader.llm.structured import typed_reply
from reader.llm.types import ChatRequest, Message
from reader.prompts import fence
from reader.strategy import Reading

from .graphreader_functions import FORMS, ChunkStep, FactsStep, Kind, NeighborsStep, Step, enforced
from .graphreader_notebook import repeats_task, updated, within_cap
from .graphreader_plan import CALL_FAILED, PROMPTS, Plan

MIN_SPLIT = 100  # characters; a shorter text that does not fit is not the text's fault
CHARACTERS = 3  # of a token, from below: a notebook that is enforced to end leaves room for more
EMPTY_NOTEBOOK = "(Nothing yet.)"
ECHOED = "updated_notebook repeats the task. Write there what the text says towards an answer."
NO_HISTORY = "(Nothing: this is the first step.)"
FENCES: dict[Kind, tuple[str, str]] = {
    "facts": ("facts", "atomic_facts"),
    "chunk": ("chunk", "source_text"),
    "neighbors": ("neighbors", "key_elements"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What an agent is asked.

    Attributes:
        kind: Where the agent stands: at the facts of a node, a chunk, or neighbours.
        body: What it reads there.
        places: Values of the prompt's other places.
        notebook: So far.
        plan: The rational plan.
        history: What was done before, a line each.
        wrong: Says what is wrong with a reply, for the model to read, None if nothing is.
        default: The reply in place of an unusable one.
    """

    kind: Kind
    body: str
    places: dict[str, str]
    notebook: str
    plan: str
    history: tuple[str, ...]
    wrong: Callable[[Step], str | None]
    default: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A step that was taken.

    Attributes:
        step: The reply, or its default.
        notebook: After it.
        level: "ok", or what had to be done.
        calls: Calls in series.
        written: Tokens of the reply.
        finish_reason: Of the last reply.
        reason: Why the call failed, in words.
    """

    step: Step
    notebook: str
    level: str = "ok"
    calls: int = 1
    written: int = 0
    finish_reason: str = "stop"
    reason: str = ""


async def take(reading: Reading, asked: Asked) -> Taken:
    """Make the call; a failed one takes the default.

    Raises:
        LimitReached: budget or deadline.
        ModelError: one that no other call would survive either.
    """
    try:
        taken = await _whole_or_halves(reading, asked)
    except CALL_FAILED as error:
        return Taken(
            step=asked.default, notebook=asked.notebook, level="failed", reason=error.message
        )
    shorter, calls = await within_cap(reading, taken.notebook)
    if shorter == taken.notebook:
        return taken
    return replace(taken, notebook=shorter, calls=taken.calls + calls, level="compressed")


async def _whole_or_halves(reading: Reading, asked: Asked) -> Taken:
    try:
        return await _ask(reading, asked)
    except ContextOverflow:
        if len(asked.body) < MIN_SPLIT:
            raise
    # The count was wrong (an estimate, or a template that grew): read the halves in turn.
    reading.warn("A prompt did not fit the model's window and was read in two halves.")
    middle = len(asked.body) // 2
    cut = max(asked.body.rfind("\n", 0, middle), asked.body.rfind(" ", 0, middle)) + 1 or middle
    first = await _whole_or_halves(reading, replace(asked, body=asked.body[:cut]))
    rest = replace(asked, body=asked.body[cut:], notebook=first.notebook)
    second = await _whole_or_halves(reading, rest)
    step = second.step
    if isinstance(step, FactsStep) and isinstance(first.step, FactsStep):
        both = dict.fromkeys([*first.step.chunk_ids, *step.chunk_ids])
        step = step.model_copy(update={"chunk_ids": list(both)})
        if both:
            step.chosen_action = "read_chunk"
    return replace(second, step=step, calls=first.calls + second.calls, level="split")


async def _ask(reading: Reading, asked: Asked) -> Taken:
    plan: Plan = reading.plan
    kind = asked.kind
    request = ChatRequest(
        messages=(Message("user", prompt_of(plan, asked)),),
        max_tokens=plan.step_tokens,
        temperature=plan.options.temperature,
        seed=plan.seed,
        purpose=kind,
    )
    last: list[Step] = []  # an unusable action may come with a notebook worth keeping

    def echo(step: Step) -> bool:
        return isinstance(step, FactsStep | ChunkStep) and repeats_task(step.updated_notebook, kind)

    def wrong(step: Step) -> str | None:
        last.append(step)
        return asked.wrong(step) or (ECHOED if echo(step) else None)

    def default() -> Step:
        """The last action that was legal, if its notebook alone was unusable."""
        return next((step for step in reversed(last) if not asked.wrong(step)), asked.default)

    can_enforce = reading.info.json_schema
    characters = min(plan.notebook_tokens * CHARACTERS, LONGEST_REPEAT - 1)
    typed = await typed_reply(
        reading.model,
        request,
        enforced(kind, characters) if can_enforce else FORMS[kind],
        can_enforce=can_enforce,
        max_reasks=1,
        validate=wrong,
        counts=reading.ledger,
        default=default,
    )
    reply = typed.reply
    reading.saw_reply(kind, reply.completion_tokens)
    reading.saw_reply(f"{kind} prompt", reply.prompt_tokens)
    level: str = "ok" if typed.level == "strict" else typed.level
    said = ""
    for step in (typed.value, *reversed(last)):
        if echo(step):
            continue
        if isinstance(step, FactsStep | ChunkStep) and step.updated_notebook.strip():
            said = step.updated_notebook
            break
    if said and reply.finish_reason == "length":
        said = trim_to_sentence(said)[0]
    notebook = asked.notebook
    if kind != "neighbors":
        notebook, how = updated(asked.notebook, said)
        level = how if level == "ok" else level
    return Taken(
        step=typed.value,
        notebook=notebook,
        level=level,
        calls=typed.calls,
        written=reply.completion_tokens,
        finish_reason=reply.finish_reason,
    )


def prompt_of(plan: Plan, asked: Asked) -> str:
    """What is read first, the notebook last: what agents share is a common prefix."""
    place, tag = FENCES[asked.kind]
    values = {
        place: fence(asked.body, tag),
        "question": plan.question,
        "plan": asked.plan,
        "history": history_text(asked.history, plan.history_tokens) or NO_HISTORY,
        "notebook": fence(asked.notebook or EMPTY_NOTEBOOK, "notebook"),
        **asked.places,
    }
    if asked.kind != "neighbors":
        values["words"] = str(max(int(plan.notebook_tokens * 0.5), 20))
    return PROMPTS[asked.kind].fill(**values)


def history_text(history: tuple[str, ...], tokens: int) -> str:
    """The newest lines that fit."""
    lines: list[str] = []
    left = tokens * 3  # characters
    for line in reversed(history):
        left -= len(line) + 1
        if left < 0:
            break
        lines.append(f"- {line}")
    return "\n".join(reversed(lines))


def as_note(taken: Taken, asked: Asked, **places: Any) -> dict[str, Any]:
    """The step as the store keeps it."""
    step = taken.step
    action = step.chosen_action
    if isinstance(step, FactsStep) and step.chunk_ids:
        action += f"({', '.join(map(str, step.chunk_ids))})"
    if isinstance(step, NeighborsStep) and step.neighbor:
        action += f"({step.neighbor})"
    return {
        "kind": asked.kind,
        "action": action,
        "rationale": step.rationale,
        "text": taken.notebook,
        "written": taken.written,
        "finish_reason": taken.finish_reason,
        "level": taken.level,
        "reason": taken.reason,
        **places,
    }
