"""An answer's citations as passages for a RAG pipeline, and as a text for an agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.citations import Citation
    from reader.documents import Document

_STATUS = {
    "answered": "",
    "not_found": "Everything was read; the document does not say it.",
    "partial": "Not everything was read: a limit was reached or calls failed.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A stretch of a source that holds evidence.

    Attributes:
        part: Place of its source among the parts of the document, from 0.
        text: The characters.
        metadata: ``source`` (path or name), ``start`` and ``end`` (characters of that source, end
            exclusive), ``match``, ``run_id``; ``page`` (from 1) and ``section`` where there are
            such; ``quote`` where words around the evidence were asked for.
    """

    part: int
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


def passages(
    answer: Answer, document: Document, *, k: int | None = None, around: int = 0
) -> list[Passage]:
    """The citations of an answer, the best first.

    Args:
        answer: The answer.
        document: What was read for it.
        k: So many at most.
        around: Characters of the source on each side of the evidence, cut at white space.
    """
    return [_passage(c, answer, document, around) for c in answer.citations[:k]]


def widened(document: Document, start: int, end: int, around: int) -> tuple[int, int]:
    """A range of the document with so many characters more on each side, cut at white space.

    Never beyond the part in which it starts.
    """
    part = document.part_at(start) or document.parts[-1]
    end = min(end, part.end)
    if around <= 0:
        return start, end
    text = document.text
    first, last = max(start - around, part.start), min(end + around, part.end)
    while part.start < first < start and not text[first - 1].isspace():
        first += 1
    while end < last < part.end and not text[last].isspace():
        last -= 1
    return first, last


def _passage(citation: Citation, answer: Answer, document: Document, around: int) -> Passage:
    first, last = widened(document, citation.start, citation.end, around)
    number = next((n for n, part in enumerate(document.parts) if part.start <= first < part.end), 0)
    part = document.parts[number]
    metadata: dict[str, Any] = {
        "source": _source(document, number),
        "start": first - part.start,
        "end": last - part.start,
        "match": citation.match,
        "run_id": answer.run_id,
    }
    if citation.page is not None:
        metadata["page"] = citation.page
    if citation.section is not None:
        metadata["section"] = citation.section
    if around > 0:
        metadata["quote"] = citation.text
    return Passage(part=number, text=document.text[first:last], metadata=metadata)


def _source(document: Document, part: int) -> str:
    paths = document.source.split("\n") if document.source is not None else []
    return paths[part] if len(paths) == len(document.parts) else document.parts[part].name


def told(answer: Answer) -> str:
    """Answer and evidence as a text that a model can read."""
    lines = [answer.text or "No answer.", _STATUS[answer.status]]
    for number, citation in enumerate(answer.citations, 1):
        place = [f"characters {citation.start}-{citation.end}"]
        if citation.page is not None:
            place.insert(0, f"page {citation.page}")
        if citation.section is not None:
            place.insert(0, citation.section)
        if citation.document is not None:
            place.insert(0, citation.document)
        lines.append(f"[{number}] {', '.join(place)}: \u201c{citation.text}\u201d")
    return "\n".join(line for line in lines if line)
