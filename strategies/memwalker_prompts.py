"""What MemWalker's model is shown at a node or a leaf, and the form of what it must reply.

The prompts lie summaries or segment first and question last, so that a prefix cache is shared by
all questions. Section 3.2 of Chen et al., arXiv 2310.05029.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, create_model

from reader.llm.schemas import instructions
from reader.prompts import fence
from reader.tokens import estimated

from .memwalker_plan import ENTITY_TOKENS, PROMPTS, Plan

BACK, ANSWER, NOTE = -1, -2, -3
"""Actions; numbers from 0 are children."""

TITLE = 80  # characters of a heading that are shown before a summary

_CAPITAL = r"[^\W\d_a-z][\w'\u2019-]+"
_NAME = re.compile(rf"(?<=[\w,;]\s){_CAPITAL}(?: {_CAPITAL})*")  # not at a sentence's beginning
_NUMBER = re.compile(r"\b\d[\d.,:]*\d\b|\b\d\b")


def triage_prompt(
    plan: Plan, shown: Sequence[int], notes: Sequence[str], two: bool, part: float
) -> str:
    """The prompt of a choice; ``part`` (0 to 1) of each description is shown."""
    options = plan.options
    pieces = [PROMPTS["none_of_these" if options.none_of_these else "must_choose"].fill()]
    if two:
        pieces.append(PROMPTS["second"].fill())
    return PROMPTS["triage" if options.reasoning else "triage_number"].fill(
        summaries=fence(_numbered(plan, shown, part), "summaries"),
        notes=_notes(plan, notes),
        question=plan.question,
        extra="".join(f" {piece}" for piece in pieces),
    )


def triage_form(plan: Plan, legal: Sequence[int], two: int) -> Any:
    """The type of the reply: a bare integer without reasoning; ``two`` is the beam's children."""
    if not plan.options.reasoning and not two:
        return Literal[tuple(legal)]  # a bare integer
    fields: dict[str, Any] = {}
    if plan.options.reasoning:
        most = min(600, 3 * plan.reply_tokens)
        fields["reasoning"] = (str, _text("compares the summaries, briefly", most))
    fields["action"] = (Literal[tuple(legal)], Field(description="the number of the part"))
    if two:
        seconds = tuple(range(BACK, two))
        about = "the number of the next most probable part, -1 for none"
        fields["second"] = (Literal[seconds], Field(default=BACK, description=about))
    return create_model("Triage", **fields)


def leaf_prompt(plan: Plan, text: str, background: str, notes: Sequence[str]) -> str:
    """The prompt of a leaf."""
    pieces = (("take_note", plan.options.notes), ("quote", plan.options.quotes))
    return PROMPTS["leaf" if plan.options.reasoning else "leaf_short"].fill(
        segment=fence(text, "source_text"),
        memory=_piece("memory", fence(background, "summaries")) if background else "",
        notes=_notes(plan, notes),
        question=plan.question,
        requirement=plan.requirement,
        extra="".join(f" {PROMPTS[piece].fill()}" for piece, wanted in pieces if wanted),
    )


def leaf_form(plan: Plan) -> Any:
    """The type of a leaf's reply, reasoning first.

    Its texts fit the cap together: three characters a token, the rest is the form's own.
    """
    options, most = plan.options, plan.reply_tokens
    legal = (BACK, ANSWER, NOTE) if options.notes else (BACK, ANSWER)
    fields: dict[str, Any] = {}
    if options.reasoning:
        about = "what this part tells about the question, briefly"
        fields["reasoning"] = (str, _text(about, min(600, most)))
    if options.quotes:
        about = "sentences of this part that prove it, copied word for word"
        fields["quotes"] = (list[str], Field(default_factory=list, description=about))
    about = "-1 goes back, -2 answers" + (", -3 notes a piece" if options.notes else "")
    fields["action"] = (Literal[legal], Field(description=about))
    fields["answer"] = (str, _text("the answer with -2, else empty", min(1200, 2 * most)))
    if options.notes:
        fields["note"] = (str, _text("the piece with -3, else empty", min(600, most)))
    return create_model("Leaf", **fields)


async def measure_walk(plan: Plan) -> tuple[int, int]:
    """Tokens of the two prompts of the walk as they are asked, without what they show."""
    count = plan.reading.info.counter.count_messages
    legal = [*([BACK] if plan.options.none_of_these else []), *range(plan.children)]
    filled = (
        (triage_prompt(plan, (), (), False, 1.0), triage_form(plan, legal, 0)),
        (leaf_prompt(plan, "", "", ()), leaf_form(plan)),
    )
    sizes = []
    for prompt, form in filled:
        sizes.append(await count([("user", f"{prompt}\n\n{instructions(form)}")]))
    return sizes[0], sizes[1]


def memory(plan: Plan, leaf: int, visited: Sequence[int]) -> str:
    """Working memory: the root's summary and the newest others that fit, in order of the walk."""
    if not plan.options.memory:
        return ""
    return remembered(plan, [v for v in visited if v != leaf], plan.memory_room(leaf))


def remembered(plan: Plan, visited: Sequence[int], room: int) -> str:
    """The first of the nodes and the newest others whose descriptions fit."""
    kept: list[int] = []
    for node in [*visited[:1], *reversed(visited[1:])]:
        room -= plan.sizes[node] + 6
        if room < 0:
            break
        kept.append(node)
    return "\n\n".join(plan.texts[node] for node in visited if node in kept)


def entity_lines(plan: Plan, shown: Sequence[int]) -> list[str]:
    """For each node, the names and numbers of its own text that its neighbours have least of.

    Taken from the text itself, so none is invented. A name is a capitalised word inside a
    sentence; in scripts without capitals only numbers are found.
    """
    counts = [_names(plan, node) for node in shown]
    lines = []
    for own in counts:
        others = Counter(name for other in counts if other is not own for name in other)
        best = sorted(own, key=lambda name: (others[name], -own[name]))
        line = ""
        for name in best:
            longer = f"{line}, {name}" if line else name
            if len(longer) > 3 * ENTITY_TOKENS:
                break
            line = longer
        lines.append(line)
    return lines


def _names(plan: Plan, node: int) -> Counter[str]:
    """How often each name and number stands in the node's text; counted once a run."""
    if node not in plan.names:
        chunks, here = plan.reading.chunks, plan.tree[node]
        text = plan.reading.document.text[chunks[here.first].start : chunks[here.last].end]
        names = (name for name in _NAME.findall(text) if name[0].isupper())
        plan.names[node] = Counter([*names, *_NUMBER.findall(text)])
    return plan.names[node]


def _numbered(plan: Plan, shown: Sequence[int], part: float) -> str:
    names = entity_lines(plan, shown) if plan.options.entities else [""] * len(shown)
    lines = []
    for number, (node, line) in enumerate(zip(shown, names, strict=True)):
        title, text = plan.tree[node].title[:TITLE], plan.texts[node]
        text = text[: int(len(text) * part)]
        heading = f"{title}: " if title and not text.startswith(title) else ""
        lines.append(f"[{number}] {heading}{text}" + (f"\nNames and numbers: {line}" * bool(line)))
    return "\n\n".join(lines)


def _notes(plan: Plan, notes: Sequence[str]) -> str:
    if not notes:
        return ""
    room, kept = plan.note_tokens, list[str]()
    for note in reversed(notes):
        room -= estimated(note) + 3
        if room >= 0 or not kept:
            kept.append(note)
    lines = "\n".join(f"- {note}" for note in reversed(kept))
    return _piece("notes", fence(lines, "notes"))


def _piece(kind: str, text: str) -> str:
    """A piece of a prompt with a blank line around it."""
    return f"\n{PROMPTS[kind].fill(**{kind: text})}\n"


def _text(about: str, most: int) -> Any:
    # The cap is for endpoints that enforce it; a longer reply is as good.
    return Field(default="", description=about, json_schema_extra={"maxLength": most})
