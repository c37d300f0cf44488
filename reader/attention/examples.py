"""Questions whose passages are known, for finding a model's retrieval heads."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reader.errors import InvalidOption

PASSAGE_CHARACTERS = 600
MOST_CHARACTERS = 24_000  # of one example: more passages say little more about the heads


@dataclass(frozen=True, slots=True)
class Example:
    """A question and the passages among which its answer stands.

    Attributes:
        id: Tells examples apart; decides the half.
        question: The question.
        passages: In order.
        gold: Numbers of those that hold the answer.
    """

    id: str
    question: str
    passages: tuple[str, ...]
    gold: frozenset[int]

    @property
    def chooses(self) -> bool:
        """Whether heads are chosen with it; else it is held out."""
        return hashlib.sha256(self.id.encode()).digest()[0] % 2 == 0


def read_examples(path: Path, limit: int | None = None) -> list[Example]:
    """Examples from JSON lines, plain or gzip.

    A row has ``question`` and either ``documents`` (``title``, ``text``) with their gold numbers in
    ``meta.gold_positions``, or ``context`` with the gold texts in ``evidence``.

    Raises:
        InvalidOption: no such file, or no row of that form in it.
    """
    found: list[Example] = []
    try:
        for number, row in enumerate(_rows(path)):
            example = _example(row, f"{path.name}/{number}")
            if example is not None:
                found.append(example)
            if len(found) == limit:
                break
    except OSError as error:
        raise InvalidOption(f"{path} cannot be read ({error}).", hint="Pass JSON lines.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidOption(
            f"{path} is not as expected: {error!r}.",
            hint="A row needs question, and documents with meta.gold_positions, or context with "
            "evidence.",
        ) from None
    if not found:
        raise InvalidOption(
            f"{path} holds no question with known evidence.",
            hint="A row needs documents with meta.gold_positions, or context with evidence.",
        )
    return found


def _rows(path: Path) -> Iterator[Any]:
    opening = gzip.open if path.suffix == ".gz" else open
    with opening(path.expanduser(), "rt", encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _example(row: dict[str, Any], name: str) -> Example | None:
    if row.get("documents"):
        passages = [f"{d.get('title') or ''}\n{d['text']}".strip() for d in row["documents"]]
        gold = frozenset((row.get("meta") or {}).get("gold_positions") or ())
    elif row.get("context") and row.get("evidence"):
        passages = paragraphs(row["context"][:MOST_CHARACTERS])
        gold = frozenset(
            at
            for at, passage in enumerate(passages)
            for text in row["evidence"]
            if passage.strip() and (passage.strip() in text or text.strip() in passage)
        )
    else:
        return None
    if not gold or len(gold) == len(passages):
        return None
    return Example(str(row.get("id") or name), row["question"], tuple(passages), gold)


def paragraphs(text: str, size: int = PASSAGE_CHARACTERS) -> list[str]:
    """Paragraphs of a text; short ones go with the next, long ones are cut at sentences."""
    from reader.llm.cleaning import sentences

    found: list[str] = []
    for block in text.split("\n\n"):
        for start, end in sentences(block):
            if found and len(found[-1]) + end - start < size:
                found[-1] += f" {block[start:end]}"
            else:
                found.append(block[start:end])
    return found
