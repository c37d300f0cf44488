"""What a question gets: the answer, where it stands in the document, what was read, what it took.

Ranges are characters of ``document.text``, end exclusive. Everything here is immutable and goes
to JSON and back; the format has a version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field, JsonValue, ValidationError, computed_field, model_validator

from reader.budget import Estimate, Frozen, NonNegative, Usage
from reader.errors import InvalidOption
from reader.events import ChunkOutcome
from reader.llm.types import FinishReason

if TYPE_CHECKING:
    from rich.console import RenderableType

Status: TypeAlias = Literal["answered", "not_found", "partial"]
MatchKind: TypeAlias = Literal["exact", "near", "elsewhere"]
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
    "kept",
    "direct",
    "failed",
]


class Citation(Frozen):
    """A passage that the answer rests on.

    Attributes:
        start: First character.
        end: One past the last character.
        text: ``document.text[start:end]``.
        match: How the model's quote compares: "exact"; "near" (a few characters differ, no number
            and no negation); "elsewhere" (in the document, but not where the model read it).
        document: Name of the document within a collection.
        page: Page on which it starts, counted from 1, where the format has pages.
        section: Heading above its start.
    """

    start: NonNegative
    end: NonNegative
    text: str
    match: MatchKind
    document: str | None = None
    page: int | None = None
    section: str | None = None


class ChunkStatus(Frozen):
    """What became of one chunk.

    Attributes:
        index: Position in the document, from 0.
        start: First character.
        end: One past the last character.
        outcome: "read"; "skipped" (not visited); "unread" (visited, nothing usable came back);
            "failed" (the call failed).
        reason: Why, unless it was read.
    """

    index: NonNegative
    start: NonNegative
    end: NonNegative
    outcome: ChunkOutcome
    reason: str = ""


class Coverage(Frozen):
    """Which parts of the document were read. The counts and the share are in the JSON too."""

    chunks: tuple[ChunkStatus, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _recompute(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {k: v for k, v in data.items() if k not in cls.model_computed_fields}
        return data

    def count(self, outcome: ChunkOutcome) -> int:
        """Chunks with that outcome."""
        return sum(chunk.outcome == outcome for chunk in self.chunks)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def read(self) -> int:
        """Chunks read."""
        return self.count("read")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def skipped(self) -> int:
        """Chunks not visited."""
        return self.count("skipped")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def unread(self) -> int:
        """Chunks visited without a usable reply."""
        return self.count("unread")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def failed(self) -> int:
        """Chunks whose call failed."""
        return self.count("failed")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def share(self) -> float:
        """Characters read, of all characters: 0 to 1. Overlaps of chunks count once."""
        whole = _covered(self.chunks)
        return _covered([c for c in self.chunks if c.outcome == "read"]) / whole if whole else 0.0


def _covered(chunks: tuple[ChunkStatus, ...] | list[ChunkStatus]) -> int:
    total = reached = 0
    for chunk in sorted(chunks, key=lambda c: c.start):
        total += max(chunk.end - max(chunk.start, reached), 0)
        reached = max(reached, chunk.end)
    return total


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
    """

    purpose: str
    chunk: int | None = None
    path: int = 0
    text: str = ""
    tokens: NonNegative = 0
    finish_reason: FinishReason = "stop"
    level: StepLevel = "ok"
    cached: bool = False


class Trace(Frozen):
    """How the answer came about.

    Attributes:
        steps: The calls, in the order of the document or of the paths.
        warnings: What the user should know, a sentence each.
        checked_quotes: Quotes by the model that were looked up in the document.
        invented_quotes: Of those, not in the document; none of them is cited.
        options: The strategy's options, defaults included.
        paths: The answers of the single paths, where there were several.
    """

    steps: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()
    checked_quotes: NonNegative = 0
    invented_quotes: NonNegative = 0
    options: dict[str, JsonValue] = Field(default_factory=dict)
    paths: tuple[str, ...] = ()


class Answer(Frozen):
    """The answer to one question about one document.

    ``print(answer)`` gives the text alone; rich, IPython and notebooks show the evidence too.

    Attributes:
        question: None where a summary was asked for.
        text: The answer.
        status: "answered"; "not_found" (everything was read, it is not there); "partial" (a
            limit or failed chunks left something unread: see ``coverage``).
        citations: Passages that support it, the best first.
        coverage: Which parts of the document were read.
        usage: What it took.
        estimate: What it was expected to take.
        trace: How it came about.
        strategy: Name of the strategy.
        model: Name of the model.
        run_id: Under which the run is kept; the same call again resumes it.
        choice: Index into the choices of a multiple-choice question.
        document: Title of the document.
    """

    version: Literal[1] = 1
    question: str | None
    text: str
    status: Status
    citations: tuple[Citation, ...] = ()
    coverage: Coverage = Coverage()
    usage: Usage = Usage()
    estimate: Estimate | None = None
    trace: Trace = Trace()
    strategy: str = ""
    model: str = ""
    run_id: str = ""
    choice: int | None = None
    document: str = ""

    def to_json(self, *, indent: int | None = 2) -> str:
        """The whole answer as JSON; ``from_json`` reads it back."""
        return self.model_dump_json(indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Answer:
        """Read what ``to_json`` wrote.

        Raises:
            InvalidOption: not an answer, or one of a format that this version does not know.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            about_version = [e for e in error.errors() if e["loc"] == ("version",)]
            if about_version:
                raise InvalidOption(
                    f"This answer has format {about_version[0]['input']!r}; format 1 is known.",
                    hint="Read it with a newer version of the library.",
                ) from error
            raise InvalidOption(
                "This is not the JSON of an answer.", hint="Pass what answer.to_json() gave."
            ) from error

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 80 else self.text[:79] + "…"
        return f"<Answer {text!r}: {self.status}, {len(self.citations)} citations>"

    def __rich__(self) -> RenderableType:
        from reader.render import answer_panel

        return answer_panel(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        from reader.render import answer_text

        printer.text(repr(self) if cycle else answer_text(self))

    def _repr_html_(self) -> str:
        from reader.render import answer_html

        return answer_html(self)
