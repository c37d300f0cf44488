"""Documents of LangChain: into what is read, and back as evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document as LangChainDocument

from reader.answers import Answer
from reader.documents import Document
from reader.errors import EmptyDocument
from reader.integrations.passages import passages

_OURS = ("start", "end", "match", "run_id", "quote")


def as_document(documents: Sequence[LangChainDocument]) -> Document:
    """LangChain documents as one document to read, each a part named by its ``source``.

    Blank ones are left out; a name that occurs twice gets a number.

    Raises:
        EmptyDocument: no text in any of them.
    """
    return joined(documents).document


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is read, and the metadata that its parts came with; repr shows none of it."""

    document: Document
    metadata: tuple[Mapping[str, Any], ...] = ()

    def __repr__(self) -> str:
        return repr(self.document)


def joined(documents: Sequence[LangChainDocument]) -> Loaded:
    """See ``as_document``; with the metadata that they came with."""
    kept = [d for d in documents if d.page_content.strip()]
    if not kept:
        raise EmptyDocument("There is no text in the documents.", hint="Check their loader.")
    made = [
        Document.from_text(
            d.page_content,
            name=str(d.metadata.get("source") or "text"),
            title=str(d.metadata["title"]) if d.metadata.get("title") else None,
        )
        for d in kept
    ]
    return Loaded(Document.collection(made), tuple(d.metadata for d in kept))


def load(source: Any) -> Loaded:
    """What a user passes as ``document``: LangChain documents, or what ``reader.answer`` takes."""
    if isinstance(source, Loaded):
        return source
    if isinstance(source, LangChainDocument):
        source = [source]
    if isinstance(source, list | tuple) and source and isinstance(source[0], LangChainDocument):
        return joined(source)
    return Loaded(Document.load(source))


def evidence(answer: Answer, loaded: Loaded, k: int | None, around: int) -> list[LangChainDocument]:
    """The citations of an answer as LangChain documents, the best first."""
    found = []
    for passage in passages(answer, loaded.document, k=k, around=around):
        theirs = loaded.metadata[passage.part] if loaded.metadata else {}
        ours = {name: passage.metadata[name] for name in _OURS if name in passage.metadata}
        place = f"{loaded.document.sha256[:16]}:{passage.part}:{ours['start']}-{ours['end']}"
        found.append(
            LangChainDocument(
                id=place,
                page_content=passage.text,
                metadata={**passage.metadata, **theirs, **ours},
            )
        )
    return found
