"""BABILong: the facts of a bAbI story spread through a book, in their order (Kuratov et al. 2024).

The stories come from a file (the bAbI tasks' own files, or rows in the documented form), or from a
small world of our own for the first three tasks. As BABILong's own prompts do, items say that facts
are hidden in the text, that the later one holds, and what an answer looks like.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from pydantic import Field, model_validator

from reader.errors import InvalidOption

from ..item import Item
from ..set_info import SHORT
from .babi_world import PEOPLE, PLACES, Story, tell
from .haystack import Hidden
from .task import GeneratorOptions, Place, generator

_FACT = re.compile(r"(\d+) (.*)")
_OTHERS = ("Bill", "Fred", "Jeff", "Julie", "apple", "football", "milk")
_LABELS = {1: PLACES, 2: PLACES, 3: PLACES, 4: PLACES, 5: (*PEOPLE, *_OTHERS)}
_HIDDEN = (
    "Short facts about persons and things are scattered through a text that has nothing to do with"
    " them; where two facts disagree, the later one holds. "
)
_PLACE = f"Answer with one word, one of: {', '.join(PLACES)}."
_YES_NO = "Answer with one word: yes or no."
# Without a single example: small models answer with it.
_FORMS = {
    **dict.fromkeys((1, 2, 3, 4), _PLACE),
    5: "Answer with one word: a person or a thing.",
    **dict.fromkeys((6, 9, 17, 18), _YES_NO),
    7: "Answer with one word: none, one, two or three.",
    8: "Answer with the things, separated by commas, or with: nothing.",
    10: "Answer with one word: yes, no or maybe.",
    **dict.fromkeys((11, 12, 13, 14), "Answer with one word: a room or another place."),
    15: "Answer with one word: an animal.",
    16: "Answer with one word: a colour.",
    19: "Answer with two directions out of n, s, e and w, separated by a comma.",
}


class BabiLongOptions(GeneratorOptions):
    """Options of BABILong.

    Attributes:
        tasks: bAbI tasks by number, in turn; 1 to 3 without ``stories``.
        stories: Rows of bAbI in the documented form (".jsonl", ".jsonl.gz"), or a bAbI file or
            folder ("qa1_single-supporting-fact_test.txt"). The latest story of at most
            ``most_facts`` facts serves each item in turn.
        most_facts: Longer stories are left out.
    """

    tasks: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    stories: Path | None = None
    most_facts: int = Field(default=70, ge=1)

    @model_validator(mode="after")
    def _made_or_given(self) -> BabiLongOptions:
        known = range(1, 21) if self.stories is not None else range(1, 4)
        if not set(self.tasks) <= set(known):
            raise ValueError(f"tasks must be among {known[0]} to {known[-1]}")
        return self


def make(options: BabiLongOptions, place: Place) -> Item:
    """One item: the supporting facts are the evidence, with their exact places.

    Raises:
        InvalidOption: no story of the task, or no room for its facts.
    """
    task = options.tasks[place.index % len(options.tasks)]
    story = _story(options, place, task)
    depths = sorted(place.rng.random() for _ in story.facts)
    hidden = [Hidden(fact, depth) for fact, depth in zip(story.facts, depths, strict=True)]
    filled = place.haystack.fill(hidden, place.length, place.rng)
    # Without labels (yes and no, counts, lists) the whole-word rule of bAbI holds.
    metric = {"labels": list(story.labels)} if story.labels else {"metric": "babi"}
    return place.item(
        filled.text,
        story.question,
        [story.answer],
        tokens=filled.tokens,
        spans=[filled.spans[at] for at in story.supporting],
        task=str(task),
        facts=len(story.facts),
        fact_spans=[[start, end] for start, end in filled.spans],
        requirement=_HIDDEN + _FORMS.get(task, "Answer with one word."),
        **metric,
    )


def _story(options: BabiLongOptions, place: Place, task: int) -> Story:
    if options.stories is None:
        return tell(task, place.rng)
    path = options.stories.expanduser()
    if not path.exists():
        raise InvalidOption(f"stories: there is nothing at {str(path)!r}.", hint="Check the path.")
    found = [
        story
        for number, story in _stories(path, path.stat().st_mtime_ns)
        if number == task and len(story.facts) <= options.most_facts
    ]
    if not found:
        raise InvalidOption(
            f"stories: {str(path)!r} has no story of task {task} with at most"
            f" {options.most_facts} facts.",
            hint="Leave the task out of tasks=.",
        )
    turn = place.index // len(options.tasks) + place.seed * options.items
    return found[turn % len(found)]


@lru_cache(maxsize=4)
def _stories(path: Path, written: int) -> tuple[tuple[int, Story], ...]:
    """Stories with their tasks; read again once the file is written anew."""
    if path.is_dir():
        files = sorted(path.glob("qa*_test.txt"))
        return tuple(story for file in files for story in _of_babi(file))
    if ".jsonl" in path.name:
        return _of_rows(path)
    return _of_babi(path)


def _of_rows(path: Path) -> tuple[tuple[int, Story], ...]:
    from ..jsonl import read_items

    found: list[tuple[int, Story]] = []
    for row in read_items(path):
        number = int(str(row.meta.get("task", 0)))
        facts = tuple((row.context or "").split("\n"))
        # A fact may be told twice; the later telling is the one that holds.
        latest = {fact: at for at, fact in enumerate(facts)}
        supporting = tuple(sorted({latest[f] for f in row.evidence or () if f in latest}))
        story = Story(
            facts, row.question or "", row.answers[0], supporting, _LABELS.get(number, ())
        )
        found.append((number, story))
    return tuple(found)


def _of_babi(path: Path) -> tuple[tuple[int, Story], ...]:
    """The bAbI tasks' own form: numbered lines, questions with a tab, answer and fact numbers."""
    match = re.match(r"qa(\d+)_", path.name)
    number = int(match[1]) if match else 0
    found: list[tuple[int, Story]] = []
    facts: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        numbered = _FACT.match(line)
        if numbered is None:
            continue
        at, told = int(numbered[1]), numbered[2]
        if at == 1:
            facts = {}
        if "\t" not in told:
            facts[at] = told.strip()
            continue
        question, answer, support = (part.strip() for part in told.split("\t"))
        order = list(facts)
        supporting = tuple(sorted({order.index(int(n)) for n in support.split()}))
        labels = _LABELS.get(number, ())
        story = Story(tuple(facts.values()), question, answer, supporting, labels)
        found.append((number, story))
    return tuple(found)


BABILONG = (
    generator(
        "babilong",
        "Facts of bAbI stories spread through a book",
        BabiLongOptions,
        make,
        metric="babilong",
        requirement=SHORT,
        also=("babi",),
    ),
)
