"""Where the gold evidence stands, and how citations compare with it. Everything is characters."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from reader.budget import Frozen
from reader.structure import Span

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.documents import Document
    from .item import Item


class Located(NamedTuple):
    """Gold evidence in a document: ranges found, and texts that were not."""

    spans: tuple[Span, ...]
    missing: tuple[str, ...]


class EvidenceScore(Frozen):
    """Citations against gold spans; see ``compare``. None: there is nothing to compare with.

    Attributes:
        recall: Share of the gold spans that were cited.
        coverage: Share of the characters of gold spans that were cited.
        precision: Share of the cited characters that lie in gold spans; None without a citation.
        gold: Gold spans found in the document.
        missing: Gold texts that the document does not hold; not counted against anybody.
        invented: Share of the model's quotes that are not in the document; None without a quote.
    """

    recall: float | None
    coverage: float | None
    precision: float | None
    gold: int
    missing: int
    invented: float | None


def locate(item: Item, document: Document) -> Located:
    """Find the gold evidence of a row in its document."""
    raise NotImplementedError


def evidence_score(item: Item, answer: Answer, document: Document | None = None) -> EvidenceScore:
    """Compare an answer's citations with the gold evidence of its row."""
    raise NotImplementedError
