"""A passage that an answer rests on."""

from __future__ import annotations

from typing import Literal, TypeAlias

from reader.budget import Frozen, NonNegative

MatchKind: TypeAlias = Literal["exact", "near", "elsewhere", "answer"]


class Citation(Frozen):
    """A passage that the answer rests on.

    Attributes:
        start: First character.
        end: One past the last character.
        text: ``document.text[start:end]``.
        match: How the model's quote compares: "exact"; "near" (a few characters differ, no number
            and no negation); "elsewhere" (in the document, but not where the model read it).
            "answer": the model quoted nothing that holds its answer of a few words; this sentence
            of what it read does, beside words of the question.
        document: Name of the document within a collection.
        page: Page on which it starts, counted from 1, where the format has pages.
        section: Heading above its start.
        before: Up to 160 characters of the document before it, whole words.
        after: Up to 160 characters after it.
    """

    start: NonNegative
    end: NonNegative
    text: str
    match: MatchKind
    document: str | None = None
    page: int | None = None
    section: str | None = None
    before: str = ""
    after: str = ""
