"""Typed replies: a pydantic type in, a value of it out, by the repair ladder.

The rungs: strict JSON; lenient reading; asking again with the model's own output, the error and
the legal values; the caller's default. How far down a reply went is counted in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from reader.budget import Ledger
from reader.errors import BadReply, ContextOverflow, LimitReached, RequestRefused
from reader.llm.cleaning import well_formed
from reader.llm.lenient import readings
from reader.llm.replies import clean
from reader.llm.schemas import endpoint_schema, instructions, plain_schema
from reader.llm.types import ChatModel, ChatReply, ChatRequest, Message

T = TypeVar("T")
Level: TypeAlias = Literal["strict", "repaired", "reasked", "forced"]

SHOWN_OUTPUT = 1200
"""Characters of its own output that a model is shown when it is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedReply(Generic[T]):
    """A value and how it was come by.

    Attributes:
        value: What the model said, as the wanted type.
        level: The lowest rung of the ladder that was needed.
        reply: The last call's.
        calls: Calls made, all in series.
    """

    value: T
    level: Level
    reply: ChatReply
    calls: int


async def typed_reply(
    model: ChatModel,
    request: ChatRequest,
    form: type[T],
    *,
    can_enforce: bool,
    told: bool = False,
    max_reasks: int = 3,
    validate: Callable[[T], str | None] | None = None,
    counts: Ledger,
    default: Callable[[], T] | None = None,
) -> TypedReply[T]:
    """Ask for a value of a pydantic type.

    Args:
        model: The model to ask.
        request: The prompt; what the reply must look like is added here, in ``instructions``.
            Its ``prompt_tokens``, where the caller knows them, are those with the form.
        form: A pydantic model, or any type that pydantic can validate.
        can_enforce: The endpoint enforces a JSON schema. It is asked for in words all the same:
            a model that does not know of the form writes blanks up to its cap, which a schema
            allows. Should the endpoint refuse schemas, the words are all there is.
        told: The prompt says already what the reply must look like.
        max_reasks: Times that the model is asked again after a reply that cannot be understood.
        validate: Says what is wrong with a value, for the model to read, None if nothing is.
        counts: Where the reply is counted as structured, repaired, reasked, forced.
        default: The value when everything fails.

    Raises:
        BadReply: everything failed and there is no default.
        ModelError: the first call failed, or a later one in a way that says nothing about the
            form. Where asking again does not fit the window or the budget, it is left out.
    """
    parser = _Parser(form, validate)
    schema = endpoint_schema(form) if can_enforce else None
    asked = request if told else _with_words(request, instructions(form))
    try:
        reply = await model.generate(replace(asked, json_schema=schema))
    except RequestRefused:
        if schema is None:
            raise
        schema = None
        reply = await model.generate(asked)
    bare = replace(request, json_schema=schema)  # asked again, the words stand at the end
    counts.structured += 1
    calls = 1
    while True:
        level, value, error = parser.parse(reply)
        if level is not None:
            counts.repaired += level == "repaired"
            return TypedReply(
                value=value, level="reasked" if calls > 1 else level, reply=reply, calls=calls
            )
        if calls > max_reasks:
            break
        again = _ask_again(bare, reply.text, error, instructions(form), calls)
        try:
            reply = await model.generate(again)
        except (ContextOverflow, LimitReached, RequestRefused):
            if default is None:
                raise
            break
        counts.reasked += calls == 1
        calls += 1
    if default is None:
        raise BadReply(
            f"The model's reply does not have the form asked for: {error}",
            hint="A larger model, or an endpoint that enforces a JSON schema, would.",
        )
    counts.forced += 1
    return TypedReply(value=default(), level="forced", reply=reply, calls=calls)


def _with_words(request: ChatRequest, words: str) -> ChatRequest:
    *before, last = request.messages
    last = last._replace(content=f"{last.content}\n\n{words}")
    return replace(request, messages=(*before, last))


def _ask_again(
    request: ChatRequest, output: str, error: str, legal: str, attempt: int
) -> ChatRequest:
    output = clean(output).strip()
    if len(output) > SHOWN_OUTPUT:
        output = f"{output[: SHOWN_OUTPUT // 2]}\n[...]\n{output[-SHOWN_OUTPUT // 2 :]}"
    return replace(
        request,
        messages=(
            *request.messages,
            Message("assistant", output or "(nothing)"),
            Message("user", f"That reply cannot be used: {error}\n\n{legal}"),
        ),
        prompt_tokens=None,
        # the same words again would get the same reply again
        temperature=max(request.temperature, 0.3 * (attempt - 1)),
    )


class _Parser(Generic[T]):
    def __init__(self, form: type[T], validate: Callable[[T], str | None] | None) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(form)
        self._schema = plain_schema(form)
        self._validate = validate

    def parse(
        self, reply: ChatReply
    ) -> tuple[Literal["strict", "repaired"], T, str] | tuple[None, Any, str]:
        """The rung and the value, or None and what is wrong, for the model to read."""
        text = clean(reply.text)
        cut = reply.finish_reason == "length"
        if not text.strip():
            return None, None, "it is empty" + (": it was cut off at its cap." if cut else ".")
        try:
            value = self._adapter.validate_json(text, strict=True)
        except ValidationError as failure:
            error = _in_words(failure)
        else:
            wrong = self._validate(value) if self._validate else None
            if wrong is None:
                # what an endpoint enforced can still be cut off, a bare number for instance
                return "repaired" if cut else "strict", value, ""
            error = wrong
        told = False
        for candidate in readings(text, self._schema, cut=cut):
            try:
                value = self._adapter.validate_python(well_formed(candidate))
            except ValidationError as failure:
                if not told:
                    error, told = _in_words(failure), True
                continue
            wrong = self._validate(value) if self._validate else None
            if wrong is None:
                return "repaired", value, ""
            error, told = wrong, True
        return None, None, error + (" It was cut off at its cap: be shorter." if cut else "")


def _in_words(failure: ValidationError) -> str:
    """At most five faults, each with its place; never the input itself."""
    faults = failure.errors(include_url=False, include_context=False, include_input=False)
    if any(fault["type"] == "json_invalid" for fault in faults):
        return "it is not valid JSON."
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'value'}: {fault['msg'].lower()}"
        for fault in faults[:5]
    )
