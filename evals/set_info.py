"""What a question set is, how it is scored, and what its answers must look like."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from reader.budget import Frozen

SHORT = (
    "Answer with a short phrase, such as a name, a date or a number, without a sentence around it"
    " and without an explanation."
)
SENTENCE = "Answer in one short sentence, or in a phrase where that is enough."
PARAGRAPH = "Answer in one paragraph of at most 200 words."
SUMMARY = "Write a summary of 300 to 500 words."
SPAN = "Answer with the passage itself, word for word as it stands in the text."
VALUE = "Answer with the value alone."


class SetInfo(Frozen):
    """What a set is and how it is scored.

    Attributes:
        name: Under which items carry it in ``dataset``, and ``load`` knows it.
        about: One line for people.
        metric: The one that the table shows.
        requirement: What an answer must look like; for the option ``requirement`` of the
            strategies. None: the strategy's own rule (multiple choice, plain summaries).
        also: Further metrics worth showing.
        kind: "file": rows come from a JSONL file only; "hub"; "generated".
        options: Options of ``load`` for this set with their defaults.
    """

    name: str
    about: str = ""
    metric: str = "f1"
    requirement: str | None = None
    also: tuple[str, ...] = ()
    kind: Literal["file", "hub", "generated"] = "file"
    options: dict[str, JsonValue] = Field(default_factory=dict)
