"""One row of a question set: what is read, what is asked, what is right, where it stands.

The fields are those of the JSONL form, see ``evals/README.md``. A row is data: nothing here asks
a model or touches the network.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from pydantic import ConfigDict, Field, JsonValue, field_validator, model_validator

from reader.budget import Frozen
from reader.documents import Document, Section, Span
from reader.structure import normalised

_BETWEEN = "\n\n"


class PassageText(Frozen):
    """A passage of a many-passage set; other fields of the row's passage are kept."""

    model_config = ConfigDict(extra="allow")

    title: str = ""
    text: str


class Passage(NamedTuple):
    """Where a passage stands in ``Item.document().text``; the title's line is not part of it."""

    title: str
    start: int
    end: int


class Item(Frozen):
    """One question about one document.

    Attributes:
        id: Unique within its set.
        dataset: Name of the set.
        documents: The passages in the order to be read; None where there is one text.
        context: The one text; exactly one of ``documents`` and ``context`` is given.
        question: None for a plain summary. Holds no options.
        answers: Every accepted reference. Empty only where ``meta["answerable"]`` is false.
        evidence: Gold supporting texts; None where the source has none.
        choices: The options of a multiple-choice question; the reference is the right one's text.
        meta: Extras of the set. Known here: ``title``; ``doc_id`` (rows with the same one share
            the document); ``gold`` (index of the right choice); ``gold_positions`` (indices of the
            gold passages); ``answerable``; ``evidence_spans`` (exact ranges of the evidence in
            ``context``, as generators give them); ``markdown`` (``context`` has headings marked
            as Markdown does); ``metric`` and ``requirement`` (of this row
            instead of its set's).
    """

    id: str = Field(min_length=1)
    dataset: str = Field(min_length=1)
    documents: tuple[PassageText, ...] | None = None
    context: str | None = None
    question: str | None
    answers: tuple[str, ...]
    evidence: tuple[str, ...] | None = None
    choices: tuple[str, ...] | None = None
    meta: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("question")
    @classmethod
    def _question_has_words(cls, question: str | None) -> str | None:
        if question is not None and not question.strip():
            raise ValueError("has no word; a plain summary has null here")
        return question

    @field_validator("choices")
    @classmethod
    def _two_choices(cls, choices: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if choices is not None and len(choices) < 2:
            raise ValueError("needs two options at least")
        return choices

    @model_validator(mode="after")
    def _one_text(self) -> Item:
        if (self.documents is None) == (self.context is None):
            raise ValueError("exactly one of 'documents' and 'context' must be given")
        texts = [d.text for d in self.documents] if self.documents is not None else [self.context]
        if not any(text and text.strip() for text in texts):
            raise ValueError("the document has no text")
        if self.answerable and not self.answers:
            raise ValueError("'answers' is empty, and meta.answerable is not false")
        if self.choices is not None and self.gold_choice is None:
            raise ValueError("'answers' must hold one of 'choices', or meta.gold its index")
        return self

    @property
    def answerable(self) -> bool:
        """False where the right thing is to say that the document does not tell."""
        return self.meta.get("answerable") is not False

    @property
    def gold_choice(self) -> int | None:
        """Index of the right choice."""
        if self.choices is None:
            return None
        gold = self.meta.get("gold")
        if isinstance(gold, int) and 0 <= gold < len(self.choices):
            return gold
        found = [i for i, choice in enumerate(self.choices) if choice in self.answers]
        return found[0] if found else None

    @property
    def title(self) -> str | None:
        """Title of the document, where the row gives one."""
        title = self.meta.get("title")
        return title if isinstance(title, str) and title.strip() else None

    def document(self) -> Document:
        """What is read. Passages become sections under their titles, a blank line between them.

        Two rows with the same text give equal documents, so work on one serves the other.
        """
        if self.documents is None:
            name = "document.md" if self.meta.get("markdown") is True else None
            return Document.from_text(self.context or "", title=self.title, name=name)
        text, passages, starts = self._layout
        document = Document.from_text(text, title=self.title or "Passages", name="passages.md")
        # What the passages are is known: a "#" or a code fence within one must not change it.
        ends = [*starts[1:], len(text)]
        sections = tuple(
            Section(passage.title, 1, start, end)
            for passage, start, end in zip(passages, starts, ends, strict=True)
            if passage.title
        )
        return replace(document, sections=sections)

    @property
    def passages(self) -> tuple[Passage, ...]:
        """Character ranges of the passages in ``document().text``; empty for a single text."""
        return self._layout[1] if self.documents is not None else ()

    def gold_spans(self, document: Document | None = None) -> tuple[Span, ...]:
        """Character ranges of the gold evidence in the document, matched loosely.

        In the order of the document, without those that overlap; see ``evidence.locate``.
        Empty where the row has no evidence or none of it is found.
        """
        from .evidence import locate

        return locate(self, document or self.document()).spans

    @cached_property
    def _layout(self) -> tuple[str, tuple[Passage, ...], list[int]]:
        pieces: list[str] = []
        passages: list[Passage] = []
        starts: list[int] = []
        at = 0
        for given in self.documents or ():
            title = " ".join(given.title.split())
            heading = f"# {title}\n\n" if title else ""
            text = normalised(given.text)
            starts.append(at)
            passages.append(Passage(title, at + len(heading), at + len(heading) + len(text)))
            pieces.append(heading + text)
            at += len(heading) + len(text) + len(_BETWEEN)
        return _BETWEEN.join(pieces), tuple(passages), starts


def drawn(items: list[Item], limit: int | None, seed: int) -> list[Item]:
    """So many of the items, in their order."""
    if limit is None or limit >= len(items):
        return items
    chosen = sorted(random.Random(seed).sample(range(len(items)), limit))  # noqa: S311
    return [items[index] for index in chosen]
