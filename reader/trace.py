"""How an answer came about: the calls, and the places at which a search stood."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, JsonValue

from reader.budget import CallRecord, Frozen, NonNegative
from reader.llm.types import FinishReason

StepLevel: TypeAlias = Literal[
    "ok",
    "repaired",
    "reasked",
    "forced",
    "trimmed",
    "compressed",
    "joined",
    "split",
    "unchanged",
    "invented",
    "kept",
    "direct",
    "failed",
]


class Step(Frozen):
    """One model call of the run, with what was kept of its reply.

    Attributes:
        purpose: "worker", "manager", ...
        chunk: Index of the chunk it read.
        path: From 0, where several paths run.
        text: The reply as it was kept.
        tokens: Tokens of the reply.
        finish_reason: "length" means that the reply was cut off at its cap.
        level: "ok", or what had to be done to use the reply.
        cached: The reply came from the store.
        places: Names of the places of the trace at which it was made.
        to: Names of those to which it led.
    """

    purpose: str
    chunk: int | None = None
    path: int = 0
    text: str = ""
    tokens: NonNegative = 0
    finish_reason: FinishReason = "stop"
    level: StepLevel = "ok"
    cached: bool = False
    places: tuple[str, ...] = ()
    to: tuple[str, ...] = ()


class Place(Frozen):
    """A node of a tree or graph that the run stood at, or saw from there.

    Attributes:
        name: As steps name it.
        text: Its summary or heading, or its facts; shortened.
        level: In a tree: 0 for a leaf, one more for each level above; None in a graph.
        parent: In a tree, name of the node above; None for the root.
        beside: In a graph, names of its neighbours among the places of the trace.
        start: In a tree, the first character that it stands for.
        end: One past the last one.
    """

    name: str
    text: str = ""
    level: NonNegative | None = None
    parent: str | None = None
    beside: tuple[str, ...] = ()
    start: NonNegative | None = None
    end: NonNegative | None = None


class Trace(Frozen):
    """How the answer came about.

    Attributes:
        steps: The calls, in the order of the document or of the paths.
        warnings: What the user should know, a sentence each.
        checked_quotes: Quotes by the model that were looked up in the document.
        invented_quotes: Of those, not in the document; none of them is cited.
        options: The strategy's options, defaults included.
        paths: The answers of the single paths, where there were several.
        calls: Every reply of the last attempt, by the time it was asked for; also those of a
            preparation or of a pass for several questions, which are in no step.
        places: Where a search in a tree or a graph stood, and what it saw from there.
    """

    steps: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()
    checked_quotes: NonNegative = 0
    invented_quotes: NonNegative = 0
    options: dict[str, JsonValue] = Field(default_factory=dict)
    paths: tuple[str, ...] = ()
    calls: tuple[CallRecord, ...] = ()
    places: tuple[Place, ...] = ()
