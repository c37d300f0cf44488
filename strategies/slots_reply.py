"""The reply of a call that reads for several questions: a text for each, by the repair ladder.

Where the endpoint enforces a JSON schema the reply is an object with a capped field for each
question; else it is tagged sections, which small models keep to better than to JSON, and which are
read leniently: tags that are not closed, JSON after all, numbered lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model

from reader.errors import ContextOverflow, LimitReached, RequestRefused
from reader.llm.lenient import readings
from reader.llm.replies import clean
from reader.llm.schemas import plain_schema
from reader.llm.structured import SHOWN_OUTPUT, Level, typed_reply
from reader.llm.types import ChatReply, ChatRequest, Message
from reader.strategy import Reading

CHARACTERS = 4  # of a token, for caps that endpoints count in characters
LONGEST_FIELD = 1900  # characters; longer caps are left out of schemas
NAMES = "summary|memory|question|problem|slot|answer"
_TAG = re.compile(rf"<\s*(/?)\s*({NAMES}|q|)[_ #-]*(\d{{1,3}})_*\s*>", re.IGNORECASE)
_LINE = re.compile(
    rf"^[\s*#>-]*(?:(?:updated\s+)?(?:{NAMES}|q)[ _#-]*)?"
    r"[\[(]?(\d{1,3})[\])]?\**\s*[.:)]\**\s*",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReply:
    """What a reply holds.

    Attributes:
        texts: By the number of the slot, from 0; slots that the reply does not hold are missing.
        cut: The last of them may be incomplete.
        level: The rung of the ladder.
        calls: Calls made, in series.
        tokens: Of the last reply.
    """

    texts: dict[int, str]
    cut: bool
    level: Level
    calls: int
    tokens: int


def object_of(count: int, name: str, cap: int) -> type[BaseModel]:
    """The reply's type: a text for each slot; one left out is an empty one."""
    characters = min(cap * CHARACTERS, LONGEST_FIELD)
    fields: dict[str, Any] = {
        f"{name}_{i}": (str, Field(default="", json_schema_extra={"maxLength": characters}))
        for i in range(1, count + 1)
    }
    made: type[BaseModel] = create_model("SlotTexts", **fields)
    return made


async def ask_for_slots(
    reading: Reading, request: ChatRequest, *, count: int, name: str, cap: int, tagged: ChatRequest
) -> SlotReply:
    """Ask for a text for each slot; once more where the reply holds none.

    Args:
        reading: The pass.
        request: The prompt for an endpoint that enforces a schema.
        count: Number of slots.
        name: Of the fields and tags, before their numbers.
        cap: Tokens of a slot.
        tagged: The prompt for one that does not.

    Raises:
        ModelError: the call failed.
        LimitReached: budget or deadline.
    """
    if reading.info.json_schema:
        try:
            return await _object(reading, request, count, name, cap)
        except RequestRefused:
            reading.warn("The endpoint refused the schema of the reply; sections were asked for.")
    return await _sections(reading, tagged, count, name, cap)


async def _object(
    reading: Reading, request: ChatRequest, count: int, name: str, cap: int
) -> SlotReply:
    form = object_of(count, name, cap)
    names = list(form.model_fields)

    def texts(value: BaseModel) -> dict[int, str]:
        said = (str(getattr(value, field)).strip() for field in names)
        return {i: text for i, text in enumerate(said) if text}

    typed = await typed_reply(
        reading.model,
        request,
        form,
        can_enforce=True,
        told=True,
        max_reasks=1,
        validate=lambda value: None if texts(value) else "every field is empty",
        counts=reading.ledger,
        default=form,
    )
    reply = typed.reply
    return SlotReply(
        texts=texts(typed.value),
        cut=reply.finish_reason == "length",
        level=typed.level,
        calls=typed.calls,
        tokens=reply.completion_tokens,
    )


async def _sections(
    reading: Reading, request: ChatRequest, count: int, name: str, cap: int
) -> SlotReply:
    counts, calls = reading.ledger, 1
    reply = await reading.model.generate(request)
    counts.structured += 1
    level: Level
    level, texts = sections(reply, count, name, cap)
    if not texts:
        try:
            reply = await reading.model.generate(_again(request, reply))
        except (ContextOverflow, LimitReached, RequestRefused):
            pass
        else:
            calls = 2
            counts.reasked += 1
            level, texts = sections(reply, count, name, cap)
            level = "reasked" if texts else level
    counts.repaired += level == "repaired"
    counts.forced += level == "forced"
    return SlotReply(
        texts=texts,
        cut=reply.finish_reason == "length",
        level=level,
        calls=calls,
        tokens=reply.completion_tokens,
    )


def _again(request: ChatRequest, reply: ChatReply) -> ChatRequest:
    said = clean(reply.text).strip()[:SHOWN_OUTPUT] or "(nothing)"
    ask = Message("user", "That reply cannot be used: no block of the form asked for is in it.")
    return replace(
        request,
        messages=(*request.messages, Message("assistant", said), ask),
        prompt_tokens=None,
        temperature=max(request.temperature, 0.3),  # the same words would get the same reply
    )


def sections(
    reply: ChatReply, count: int, name: str, cap: int
) -> tuple[Literal["strict", "repaired", "forced"], dict[int, str]]:
    """The rung, and the texts of a reply in sections; the first one of a number counts."""
    said = clean(reply.text)
    found = _tagged(said, count, name)
    if found:
        return "strict" if len(found) == count else "repaired", found
    form = object_of(count, name, cap)
    for candidate in readings(said, plain_schema(form), cut=reply.finish_reason == "length"):
        if isinstance(candidate, dict):
            texts = {
                i: str(candidate[f"{name}_{i + 1}"]).strip()
                for i in range(count)
                if isinstance(candidate.get(f"{name}_{i + 1}"), str)
            }
            texts = {i: text for i, text in texts.items() if text}
            if texts:
                return "repaired", texts
    found = _numbered(said, count)
    return ("repaired", found) if found else ("forced", {})


def _tagged(said: str, count: int, name: str) -> dict[int, str]:
    tags = list(_TAG.finditer(said))
    # A model that repeats the questions, tagged too, has not answered with them.
    right = [tag for tag in tags if tag[2].casefold() == name]
    found: dict[int, str] = {}
    for at, tag in enumerate(tags):
        if tag[1] or (right and tag not in right):
            continue
        end = tags[at + 1].start() if at + 1 < len(tags) else len(said)
        number, text = int(tag[3]) - 1, said[tag.end() : end].strip()
        if 0 <= number < count and text:
            found.setdefault(number, text)
    return found


def _numbered(said: str, count: int) -> dict[int, str]:
    """Lines that begin with 1, 2, ... in order, each with what follows it."""
    places: list[re.Match[str]] = []
    for line in _LINE.finditer(said):
        if int(line[1]) == len(places) + 1 and len(places) < count:
            places.append(line)
    if len(places) < min(count, 2):
        return {}
    ends = [*(p.start() for p in places[1:]), len(said)]
    texts = {
        i: said[p.end() : end].strip() for i, (p, end) in enumerate(zip(places, ends, strict=True))
    }
    return {i: text for i, text in texts.items() if text}
