"""What happens during a run, as typed values; progress bars, traces and tests listen to them.

Times are seconds since the run began, ranges are characters of ``document.text``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from reader.budget import Estimate, Usage
from reader.coverage import ChunkOutcome

if TYPE_CHECKING:
    from reader.answers import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The first event. ``resumed`` says that an earlier, unfinished run goes on."""

    run_id: str
    strategy: str
    model: str
    estimate: Estimate
    resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``done`` of ``total`` steps (model calls); ``seconds_left`` once a speed is known."""

    done: int
    total: int
    seconds: float
    seconds_left: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCalled:
    """One reply arrived, from the model or from the store. The prompt is not in it."""

    purpose: str
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    from_cache: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRetried:
    """A call failed in a way that can succeed again and is repeated after ``wait`` seconds."""

    purpose: str
    attempt: int
    wait: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRead:
    """A worker is done with a chunk. ``path`` counts from 0 where several paths run."""

    chunk: int
    start: int
    end: int
    outcome: ChunkOutcome
    path: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteChanged:
    """The memory that travels from chunk to chunk has a new text."""

    chunk: int
    text: str
    path: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerToken:
    """The next piece of the answer, as the model writes it."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageChanged:
    """What the run has used so far."""

    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the user should know, in one sentence."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The last event."""

    answer: Answer


Event: TypeAlias = (
    RunStarted
    | Progress
    | ModelCalled
    | CallRetried
    | ChunkRead
    | NoteChanged
    | AnswerToken
    | UsageChanged
    | Notice
    | Done
)
Emit: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that nobody asked for."""
