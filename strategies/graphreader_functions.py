"""The forms of GraphReader's replies: above all the functions that an agent may call.

Li et al. 2024, arXiv 2406.14550, section 3.3: ``read_chunk`` and ``stop_and_read_neighbor`` at
the facts of a node; ``search_more``, ``read_previous_chunk``, ``read_subsequent_chunk`` and
``termination`` at a chunk; ``read_neighbor_node`` and ``termination`` at the neighbours. Replies
are JSON; a call written as in the paper, ``read_chunk([3, 4])``, is understood too.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from reader.llm.lenient import near_name

Kind: TypeAlias = Literal["facts", "chunk", "neighbors"]
FUNCTIONS: dict[Kind, tuple[str, ...]] = {
    "facts": ("read_chunk", "stop_and_read_neighbor"),
    "chunk": ("search_more", "read_previous_chunk", "read_subsequent_chunk", "termination"),
    "neighbors": ("read_neighbor_node", "termination"),
}
MOST_CHUNKS = 20  # numbers of chunks in one call
LONGEST_LINE = 300  # characters of a call or of a scored name
_CALL = re.compile(r"\A\W*([A-Za-z][\w ]*?)\s*\((.*)\)\W*\Z", re.DOTALL)


def numbers(value: Any) -> Any:
    """Numbers of chunks, however they are written: ``3``, ``"3, 4"``, ``["3", "chunk 4"]``."""
    if value is None:
        return []
    found = [int(n) for n in re.findall(r"\d{1,9}", str(value))]
    return list(dict.fromkeys(found))[:MOST_CHUNKS]


def _all_required(schema: dict[str, Any]) -> None:
    """A model is asked for every field; a reply that was cut off is understood all the same."""
    schema["required"] = list(schema["properties"])


class _Step(BaseModel):
    model_config = ConfigDict(json_schema_extra=_all_required)

    @model_validator(mode="before")
    @classmethod
    def _call(cls, data: Any) -> Any:
        """``name(arguments)`` as a name and its arguments."""
        if not isinstance(data, dict) or not isinstance(data.get("chosen_action"), str):
            return data
        call = _CALL.match(data["chosen_action"][:LONGEST_LINE])
        if not call:
            return data
        split = {**data, "chosen_action": call[1]}
        for argument in ("chunk_ids", "neighbor"):
            if argument in cls.model_fields and not split.get(argument):
                split[argument] = call[2].strip(" \"'[]") if argument == "neighbor" else call[2]
        return split


class FactsStep(_Step):
    """A reply at the facts of a node."""

    updated_notebook: str = Field(default="", description="the whole updated notebook")
    rationale: str = Field(default="", description="why this action, in one sentence")
    chosen_action: str = Field(default="", description="read_chunk or stop_and_read_neighbor")
    chunk_ids: Annotated[list[int], BeforeValidator(numbers)] = Field(
        default_factory=list, description="for read_chunk, the numbers of the chunks; else empty"
    )


class ChunkStep(_Step):
    """A reply at a chunk."""

    updated_notebook: str = Field(default="", description="the whole updated notebook")
    rationale: str = Field(default="", description="why this action, in one sentence")
    chosen_action: str = Field(
        default="",
        description="search_more, read_previous_chunk, read_subsequent_chunk or termination",
    )


class NeighborsStep(_Step):
    """A reply at the neighbours of a node."""

    rationale: str = Field(default="", description="why this action, in one sentence")
    chosen_action: str = Field(default="", description="read_neighbor_node or termination")
    neighbor: str = Field(
        default="", description="for read_neighbor_node, the key element from the list; else empty"
    )


Step: TypeAlias = FactsStep | ChunkStep | NeighborsStep


FORMS: dict[Kind, type[Step]] = {
    "facts": FactsStep,
    "chunk": ChunkStep,
    "neighbors": NeighborsStep,
}
LONGEST_RATIONALE = 240  # characters


@lru_cache(maxsize=16)
def enforced(kind: Kind, notebook_characters: int) -> type[Step]:
    """The form for an endpoint that enforces schemas: legal actions only, and texts that end.

    A small model that writes on in its notebook meets the cap of the reply before its action.
    """
    texts = {"updated_notebook": notebook_characters, "rationale": LONGEST_RATIONALE}
    extras: dict[str, dict[str, Any]] = {"chosen_action": {"enum": [*FUNCTIONS[kind]]}}
    extras |= {name: {"maxLength": most} for name, most in texts.items()}
    fields: dict[str, Any] = {
        name: (str, Field(default="", description=field.description, json_schema_extra=extra))
        for name, extra in extras.items()
        if (field := FORMS[kind].model_fields.get(name)) is not None
    }
    made: type[Step] = create_model(f"Enforced{kind}", __base__=FORMS[kind], **fields)
    return made


def _scored_lines(value: Any) -> Any:
    """``name: 90`` or ``name (90)`` on lines of their own, as weak models write a list."""
    if not isinstance(value, str):
        return value
    found = []
    for line in value.splitlines():
        scored = re.match(
            r"\W*(?:\d+[.)]\s*)?(?:node:?\s*)?(.+?)\W+(?:score\W*)?(\d{1,3})\W*\Z",
            line[:LONGEST_LINE],
            re.IGNORECASE,
        )
        if scored:
            found.append({"key_element": scored[1].strip(" \"'`*"), "score": int(scored[2])})
    return found


class Start(BaseModel):
    """A key element to start from."""

    key_element: str = Field(description="exactly as in the list")
    score: float = Field(default=50, description="0 to 100")


class Starts(BaseModel):
    """The reply that chooses initial nodes."""

    nodes: Annotated[list[Start], BeforeValidator(_scored_lines)] = Field(
        description="the chosen key elements"
    )


class Weighed(BaseModel):
    """The reply that weighs the notebooks."""

    model_config = ConfigDict(json_schema_extra=_all_required)

    analysis: str = Field(default="", description="what each notebook contributes, in short")
    final_answer: str = Field(description="the final answer alone")


def function_of(kind: Kind, said: str) -> str | None:
    """The function that a reply names, None where it names none or several."""
    names = FUNCTIONS[kind]
    name = near_name(said.strip(" .\"'`*()"), list(names))
    if name is not None:
        return name
    spoken_of = [n for n in names if re.search(rf"(?<!\w){n}(?!\w)", said, re.IGNORECASE)]
    return spoken_of[0] if len(spoken_of) == 1 else None
