"""What a question gets: the answer, where it stands in the document, what was read, what it took.

Ranges are characters of ``document.text``, end exclusive. Everything here is immutable and goes
to JSON and back; the format has a version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import PrivateAttr, ValidationError

from reader.budget import Estimate, Frozen, Usage
from reader.citations import Citation
from reader.coverage import Coverage
from reader.errors import InvalidOption
from reader.trace import Trace

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from rich.console import RenderableType

    from reader.documents import Document, Source
    from reader.html.shown import Shown
    from reader.memory.store import Store

Status: TypeAlias = Literal["answered", "not_found", "partial"]


class Origin:
    """What an answer remembers of its run beside its value: gone in JSON and in pickles.

    Attributes:
        document: What was read.
        store: Folder of the store, None for one in memory.
        run: Id under which the store keeps the run's notes.
        prompts: The prompts of ``trace.calls``, where they were kept.
    """

    __slots__ = ("document", "prompts", "run", "store")

    def __init__(
        self,
        document: Document | None = None,
        store: Path | None = None,
        run: str = "",
        prompts: tuple[str, ...] = (),
    ) -> None:
        self.document = document
        self.store = store
        self.run = run
        self.prompts = prompts

    # No part of the value: two answers are equal whatever they remember.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return 0

    def __reduce__(self) -> tuple[type[Origin], tuple[()]]:
        return Origin, ()


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
        usage: What it took; of a run that went on, what it took since then.
        earlier: What attempts before had taken: they were interrupted, failed or ended at a
            limit. After a ``kill -9`` the last five seconds may be missing.
        estimate: What it was expected to take.
        trace: How it came about.
        strategy: Name of the strategy.
        model: Name of the model.
        run_id: Under which the run is kept; the same call again resumes it.
        choice: Index into the choices of a multiple-choice question.
        document: Title of the document.
        sha256: Content hash of the document; "" in answers of earlier versions.

    An answer that came from a call keeps its document in memory, for ``report``.
    """

    version: Literal[1] = 1
    question: str | None
    text: str
    status: Status
    citations: tuple[Citation, ...] = ()
    coverage: Coverage = Coverage()
    usage: Usage = Usage()
    earlier: Usage = Usage()
    estimate: Estimate | None = None
    trace: Trace = Trace()
    strategy: str = ""
    model: str = ""
    run_id: str = ""
    choice: int | None = None
    document: str = ""
    sha256: str = ""
    _origin: Origin = PrivateAttr(default_factory=Origin)

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        document: Source | None = None,
        store: Store | str | os.PathLike[str] | None = None,
        prompts: bool = False,
    ) -> Path:
        """Write the reading report: one HTML file that needs no network.

        It shows the answer, each citation in the text around it, what was read, the steps with
        replies, time and tokens, the way through a tree or graph, what a memory kept and lost,
        where heads looked, and what went wrong.

        Args:
            path: The file, ".html"; an existing one is replaced.
            document: The document again, where the answer does not remember it: it was read from
                JSON. Without it the report shows the words around the citations only.
            store: Where the run was kept, likewise; for the memory's timeline.
            prompts: Show the prompts in full. They hold the text that was read, so the file may
                get large. Only where they were kept: ``Reader(..., keep_prompts=True)``.

        Returns:
            The file.

        Raises:
            InvalidOption: not an .html file, another document, or prompts that were not kept.
            DocumentError: the document cannot be read.
            NotWritten: the file cannot be written.
        """
        from reader.html.report import write_report

        return write_report(self, path, document=document, store=store, prompts=prompts)

    def show(
        self,
        *parts: str,
        document: Source | None = None,
        store: Store | str | os.PathLike[str] | None = None,
        height: int = 480,
    ) -> Shown:
        """The reading report, or parts of it, in a cell of a notebook.

        Args:
            parts: "answer", "warnings", "citations", "coverage", "attention", "way" (through a
                tree or graph), "memory" (what was added, changed and lost), "steps", "calls",
                "text", "run"; all of them when none is named.
            document: As in ``report``.
            store: As in ``report``.
            height: Pixels.

        Raises:
            InvalidOption: this answer's report has no such part.
        """
        from reader.html.shown import shown

        return shown(self, parts, document=document, store=store, height=height)

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
        from reader.html.card import answer_card

        return answer_card(self)


def remembering(answer: Answer, origin: Origin) -> Answer:
    """The same answer, with what it remembers of its run."""
    same = answer.model_copy()
    same._origin = origin
    return same


def origin_of(answer: Answer) -> Origin:
    """What the answer remembers of its run."""
    return answer._origin
