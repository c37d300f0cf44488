"""The reading report: one file to look an answer over, without a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reader.answers import origin_of
from reader.documents import Document
from reader.errors import InvalidOption, NotWritten
from reader.html import memory, passages, steps, strip, ways
from reader.html.page import UNCITED, asset, environment, fingerprint
from reader.render import MATCH, STATUS, cost_line, coverage_line, warnings_of

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.citations import Citation
    from reader.coverage import ChunkStatus
    from reader.documents import Source
    from reader.memory.store import Store

ENDINGS = (".html", ".htm")
MOST_NAMED = 40  # failed chunks that are named one by one


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that went wrong, and where: indices of chunks, or numbers of steps."""

    text: str
    chunks: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()


def check_path(path: str | os.PathLike[str]) -> Path:
    """The path of a report, before anything was spent on it.

    Raises:
        InvalidOption: it does not end like an HTML file.
        NotWritten: there is no such folder, or it is one.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() not in ENDINGS:
        raise InvalidOption(f"{str(path)!r} is not an .html file.", hint="Like report.html.")
    if not file.parent.is_dir():
        raise NotWritten(f"There is no folder {str(file.parent)!r}.", hint="Make it first.")
    if file.is_dir():
        raise NotWritten(f"{str(file)!r} is a folder.", hint="Name a file.")
    return file


def write_report(
    answer: Answer,
    path: str | os.PathLike[str],
    *,
    document: Source | None = None,
    store: Store | str | os.PathLike[str] | None = None,
    prompts: bool = False,
) -> Path:
    """See ``Answer.report``."""
    file = check_path(path)
    return write_page(report_page(answer, document=document, store=store, prompts=prompts), file)


def write_page(page: str, file: Path) -> Path:
    """Write a page.

    Raises:
        NotWritten: the file cannot be written.
    """
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise NotWritten(
            f"{str(file)!r} cannot be written: {error.strerror}.",
            hint="Check the folder and its permissions, or name another file.",
        ) from None
    return file


def report_page(
    answer: Answer,
    *,
    document: Source | None = None,
    store: Store | str | os.PathLike[str] | None = None,
    prompts: bool = False,
) -> str:
    """The page as a text; arguments and errors as for ``Answer.report``."""
    origin = origin_of(answer)
    if prompts and not origin.prompts:
        raise InvalidOption(
            "The prompts of this answer were not kept.",
            hint="Ask again with Reader(..., keep_prompts=True), or `reader ask --prompts`: from"
            " the kept replies that costs nothing.",
        )
    read = origin.document if document is None else the_same(answer, Document.load(document))
    length = len(read.text) if read is not None else strip.length_of(answer)
    text = None
    if read is not None:
        text = passages.shown(read, answer.citations, answer.coverage.chunks)
    script = asset("report.js")
    return (
        environment()
        .get_template("report.html")
        .render(
            answer=answer,
            status=STATUS[answer.status],
            coverage=coverage_line(answer.coverage),
            cost=cost_line(answer),
            warnings=list(what_went_wrong(answer)),
            where=place_in_words,
            match=MATCH,
            strip=strip.strip_of(answer),
            looks=strip.looks_of(answer.coverage.chunks, length),
            best=most_looked_at(answer),
            text=text,
            linked=text.chunks if text is not None else frozenset(),
            length=length,
            steps=steps.shown_steps(answer),
            sums=steps.sums(answer.trace.calls),
            lanes=steps.lanes(answer.trace.calls),
            tree=ways.tree_of(answer, length),
            graph=ways.graph_of(answer),
            timelines=memory.timelines(answer, store),
            prompts=origin.prompts if prompts else (),
            style=asset("report.css"),
            script=script,
            fingerprint=fingerprint(script),
        )
    )


def the_same(answer: Answer, document: Document) -> Document:
    """The document, if it is the one that was read.

    Raises:
        InvalidOption: it is another one, or its text has changed.
    """
    same = (
        document.sha256 == answer.sha256
        if answer.sha256
        else all(document.text[c.start : c.end] == c.text for c in answer.citations)
    )
    if not same:
        raise InvalidOption(
            f"{document.name!r} is not the document of this answer, or it has changed since.",
            hint="Pass the document as it was when it was read.",
        )
    return document


def place_in_words(citation: Citation) -> str:
    """Part, page and section of a citation."""
    words = [
        citation.document or "",
        f"page {citation.page}" if citation.page is not None else "",
        " ".join(citation.section.split()) if citation.section else "",
    ]
    return " · ".join(filter(None, words))


def most_looked_at(answer: Answer, most: int = 5) -> list[ChunkStatus]:
    """The passages at which heads looked most, the first one first."""
    known = [c for c in answer.coverage.chunks if c.score is not None]
    return sorted(known, key=lambda c: (-(c.score or 0.0), c.index))[:most]


def what_went_wrong(answer: Answer) -> Sequence[Trouble]:
    """The answer's warnings; then replies that were unusable or cut off, and missed chunks."""
    found = [Trouble(text) for text in warnings_of(answer)]
    if not answer.citations and answer.status != "not_found":
        found.insert(0, Trouble(UNCITED))
    numbered = list(enumerate(answer.trace.steps, 1))
    for level, words in (
        ("forced", "replies were unusable and replaced by the strategy's default"),
        ("failed", "calls of the steps failed"),
    ):
        at = tuple(number for number, step in numbered if step.level == level)
        if at:
            found.append(Trouble(f"{len(at)} {words}.", steps=at[:MOST_NAMED]))
    cut = tuple(number for number, step in numbered if step.finish_reason == "length")
    if cut:
        found.append(
            Trouble(f"{len(cut)} replies were cut off at their cap.", steps=cut[:MOST_NAMED])
        )
    for outcome, words in (("failed", "could not be read"), ("unread", "gave nothing usable")):
        missed = [c for c in answer.coverage.chunks if c.outcome == outcome]
        if missed:
            reasons = "; ".join(dict.fromkeys(c.reason for c in missed if c.reason))
            said = f"{len(missed)} chunk{'s' if len(missed) > 1 else ''} {words}"
            text = f"{said}: {reasons[:300]}" if reasons else f"{said}."
            found.append(Trouble(text, chunks=tuple(c.index for c in missed[:MOST_NAMED])))
    return found
