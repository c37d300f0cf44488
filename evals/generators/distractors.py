"""Questions over passages, made longer with passages of other questions.

RULER's question answering tasks (Hsieh et al. 2024, section 3.4). A passage is added only if it
holds no accepted answer and bears no title of the question's own passages.
"""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from reader.errors import InvalidOption

from ..item import Item, PassageText
from ..set_info import SHORT
from .haystack import TOLERANCE, WORD_END
from .task import GeneratorOptions, Place, generator

_ROUNDS = 8


class DistractorOptions(GeneratorOptions):
    """Options of question answering with distractors.

    Attributes:
        questions: Where the questions come from: a JSONL file in the ``documents`` form, or the
            name of a hub set of that form ("hotpotqa", "musique", "2wikimultihopqa"). Needed.
        keep: The distractors that the questions come with are the first to be added.
    """

    questions: Path | str = Field(default="")
    keep: bool = True


def make(options: DistractorOptions, place: Place) -> Item:
    """One item: a question's own passages and others, shuffled; evidence as in its row.

    Raises:
        InvalidOption: no questions, or too few passages for the length.
    """
    source = str(options.questions)
    if not source:
        raise InvalidOption(
            f"The set {place.name!r} needs questions.",
            hint="Pass questions=PATH, a JSONL file whose rows have documents.",
        )
    file = Path(source).expanduser()
    rows = _rows(source, file.stat().st_mtime_ns if file.exists() else 0)
    number = (place.index + place.seed * options.items) % len(rows)
    row = rows[number]
    came = list(row.documents or ())
    golden = _gold(row, came)
    own = [came[at] for at in golden]
    others = _others(rows, number, row)
    place.rng.shuffle(others)
    if options.keep:  # they come first, so that a long document holds all of them
        others = [passage for at, passage in enumerate(came) if at not in golden] + others
    document, tokens = _fit(row, own, others, place)
    documents = list(document)
    gold = {passage.title for passage in own}
    positions = [at for at, passage in enumerate(documents) if passage.title in gold]
    return row.model_copy(
        update={
            "id": place.id,
            "dataset": place.name,
            "documents": tuple(documents),
            "meta": {
                **row.meta,
                "question_id": row.id,
                "length": place.length,
                "tokens": tokens,
                "seed": place.seed,
                "gold_titles": sorted(gold),
                "gold_positions": positions,
            },
        }
    )


def _fit(
    row: Item, own: list[PassageText], others: list[PassageText], place: Place
) -> tuple[list[PassageText], int]:
    """Passages of the length asked for, the last one added cut at a word, all shuffled."""
    weights = place.count([_as_text(passage) for passage in others])
    room = place.length - place.count(["\n\n".join(map(_as_text, own))])[0]
    order = place.rng.random()
    best: tuple[list[PassageText], int] | None = None
    for _ in range(_ROUNDS):
        added: list[PassageText] = []
        left = room
        for passage, weight in zip(others, weights, strict=True):
            if left <= 0:
                break
            added.append(passage if weight <= left else _shortened(passage, left / weight))
            left -= weight
        documents = [*own, *(passage for passage in added if passage.text)]
        random.Random(order).shuffle(documents)  # noqa: S311 - the same order in every round
        made = row.model_copy(update={"documents": tuple(documents)})
        tokens = place.count([made.document().text])[0]
        if best is None or abs(tokens - place.length) < abs(best[1] - place.length):
            best = documents, tokens
        if tokens == place.length:
            break
        room += place.length - tokens
    if best is None or abs(best[1] - place.length) > TOLERANCE * place.length:
        raise InvalidOption(
            f"The passages of {row.id!r} and the others do not make {place.length} tokens.",
            hint="Ask for another length, or pass a file with more questions.",
        )
    return best


def _gold(row: Item, documents: list[PassageText]) -> list[int]:
    given: Any = row.meta.get("gold_titles")
    titles = set(given) if isinstance(given, list) else set()
    return [at for at, passage in enumerate(documents) if passage.title in titles]


def _others(rows: tuple[Item, ...], number: int, row: Item) -> list[PassageText]:
    answers = [answer.lower() for answer in row.answers if answer.lower() not in ("yes", "no")]
    seen = {passage.title for passage in row.documents or ()}
    found: list[PassageText] = []
    for at, other in enumerate(rows):
        if at == number:
            continue
        for passage in other.documents or ():
            text = f"{passage.title} {passage.text}".lower()
            if passage.title not in seen and not any(answer in text for answer in answers):
                seen.add(passage.title)
                found.append(passage)
    return found


def _as_text(passage: PassageText) -> str:
    return f"# {passage.title}\n\n{passage.text}"


def _shortened(passage: PassageText, share: float) -> PassageText:
    words = WORD_END.findall(passage.text)
    text = "".join(words[: round(len(words) * share)]).rstrip()
    return passage.model_copy(update={"text": text})


@lru_cache(maxsize=4)
def _rows(source: str, written: int) -> tuple[Item, ...]:
    """Answerable questions over passages with known gold ones; read again once written anew."""
    from ..sets import load

    rows = tuple(
        row
        for row in load(source)
        if row.documents is not None and row.answerable and _gold(row, list(row.documents))
    )
    if not rows:
        raise InvalidOption(
            f"{source!r} holds no question over passages with known gold passages.",
            hint="Rows need documents, and meta.gold_titles.",
        )
    return rows


DISTRACTORS = (
    generator(
        "distractor_qa",
        "Questions over passages, among passages of other questions",
        DistractorOptions,
        make,
        metric="subspan",
        requirement=SHORT,
        also=("f1", "exact_match"),
    ),
)
