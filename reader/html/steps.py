"""The steps of a run as a report shows them, each with the call that made it where that is sure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from reader.answers import Answer
from reader.budget import CallRecord
from reader.trace import Step

MOST_STEPS = 1_500
MOST_CHARACTERS = 500_000  # of all replies together
LEAST_CHARACTERS = 160  # of a reply
LANES = 12

HELPED = {
    "repaired": "its form was repaired",
    "reasked": "asked again",
    "forced": "unusable, replaced by the default",
    "trimmed": "cut back to its last whole sentence",
    "compressed": "compressed to its cap",
    "joined": "joined to the note before",
    "split": "read in parts",
    "unchanged": "nothing new",
    "invented": "made up, nothing of it stands there: left out",
    "kept": "the note before was kept",
    "direct": "answered directly",
    "failed": "the call failed",
}
TROUBLE = ("forced", "failed", "reasked", "repaired", "split")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ShownStep:
    """A step for the page.

    Attributes:
        number: From 1.
        step: As the trace has it.
        text: Its reply, shortened if need be.
        left_out: Characters of it that are not shown.
        helped: What had to be done to use the reply, in words.
        trouble: That was more than housekeeping.
        call: Index of its call in ``trace.calls``; None where it is not certain which one it was.
    """

    number: int
    step: Step
    text: str
    left_out: int
    helped: str
    trouble: bool
    call: int | None


@dataclass(frozen=True, slots=True)
class Sum:
    """The calls of one purpose."""

    purpose: str
    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Lane:
    """A call in the picture of time: percentages of the whole, and the line it is drawn on."""

    left: float
    width: float
    row: int
    call: CallRecord


def shown_steps(answer: Answer) -> list[ShownStep]:
    """The first steps of a run, at most 1,500; the answer's JSON has them all."""
    steps = answer.trace.steps[:MOST_STEPS]
    share = max(MOST_CHARACTERS // max(len(steps), 1), LEAST_CHARACTERS)
    whole = sum(len(step.text) for step in steps) <= MOST_CHARACTERS
    calls = calls_of(answer)
    found = []
    for number, step in enumerate(steps, 1):
        text = step.text if whole else step.text[:share]
        helped = [HELPED.get(step.level, "")]
        helped += ["cut off at its cap"] if step.finish_reason == "length" else []
        found.append(
            ShownStep(
                number=number,
                step=step,
                text=text,
                left_out=len(step.text) - len(text),
                helped="; ".join(filter(None, helped)),
                trouble=step.level in TROUBLE,
                call=calls[number - 1],
            )
        )
    return found


def calls_of(answer: Answer) -> list[int | None]:
    """For each step the call whose reply it is, where purpose and tokens leave no doubt.

    Several of a kind are told apart by their order only if they are of one path and all calls
    were made one after another.
    """
    calls = answer.trace.calls
    serial = all(a.began + a.seconds <= b.began + 0.01 for a, b in pairwise(calls))
    found: list[int | None] = [None] * len(answer.trace.steps)
    steps = list(enumerate(answer.trace.steps))

    def match(
        of_step: Callable[[Step], Hashable], of_call: Callable[[CallRecord], Hashable]
    ) -> None:
        waiting = _grouped([(at, s) for at, s in steps if found[at] is None], of_step)
        taken = set(found)
        free = [(at, c) for at, c in enumerate(calls) if at not in taken]
        offered = _grouped(free, of_call)
        for key, places in waiting.items():
            same = offered.get(key, [])
            ordered = serial and len({answer.trace.steps[at].path for at in places}) == 1
            if len(same) == len(places) and (ordered or len(same) == 1):
                for at, call in zip(places, same, strict=True):
                    found[at] = call

    match(
        lambda s: (s.purpose, s.tokens) if s.tokens else None,
        lambda c: (c.purpose, c.completion_tokens),
    )
    match(lambda s: s.purpose if not s.tokens else None, lambda c: c.purpose)
    return found


def _grouped(
    items: Sequence[tuple[int, T]], key: Callable[[T], Hashable]
) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for at, item in items:
        if (of := key(item)) is not None:
            groups[of].append(at)
    return groups


def sums(calls: Sequence[CallRecord]) -> list[Sum]:
    """The calls by purpose, in the order in which the purposes first came up."""
    groups: dict[str, list[CallRecord]] = {}
    for call in calls:
        groups.setdefault(call.purpose, []).append(call)
    return [
        Sum(
            purpose=purpose or "(no purpose named)",
            calls=len(made),
            cached=sum(c.cached for c in made),
            prompt_tokens=sum(c.prompt_tokens for c in made),
            completion_tokens=sum(c.completion_tokens for c in made),
            seconds=sum(c.seconds for c in made),
        )
        for purpose, made in groups.items()
    ]


def lanes(calls: Sequence[CallRecord]) -> list[Lane]:
    """Calls along the time of the run, those at once on lines of their own."""
    made = [c for c in calls if not c.cached][:MOST_STEPS]
    whole = max((c.began + c.seconds for c in made), default=0.0)
    if whole <= 0:
        return []
    free = [0.0] * LANES
    found = []
    for call in made:
        row = next((r for r in range(LANES) if free[r] <= call.began + 1e-9), LANES - 1)
        free[row] = call.began + call.seconds
        width = max(100 * call.seconds / whole, 0.15)
        found.append(Lane(100 * call.began / whole, width, row, call))
    return found
