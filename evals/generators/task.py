"""What all generators share: their options, their haystacks, the shape of their items."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from reader.errors import InvalidOption
from reader.structure import Span
from reader.tokens import TokenCounter

from ..item import Item
from ..set_info import SetInfo
from .haystack import Count, Haystack

TALE = "tales/the_monkeys_paw.txt"
MIN_TOKENS = 32


class GeneratorOptions(BaseModel):
    """Options of every generator.

    Attributes:
        lengths: Of the documents, in tokens of ``counter``; "4k,8k" is understood (k = 1,024).
        items: Of each length.
        haystack: A text file, or a folder of ".txt" files of which each item takes one in turn.
            By default the tale that the library brings, read again from its beginning as often as
            it takes.
        counter: The model's own; by default an estimate from the characters, from above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    lengths: tuple[int, ...] = Field(default=(4_096, 8_192, 16_384, 32_768), min_length=1)
    items: int = Field(default=10, ge=1)
    haystack: Path | None = None
    counter: TokenCounter | None = None

    @field_validator("counter", mode="plain")
    @classmethod
    def _counts(cls, counter: Any) -> Any:
        if counter is not None and not hasattr(counter, "exact"):
            raise ValueError("is no token counter")
        return counter

    @field_validator("lengths", mode="before")
    @classmethod
    def _lengths(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, int | float):
            value = [value]
        return [_tokens(v) if isinstance(v, str) else v for v in value]

    @field_validator("lengths")
    @classmethod
    def _long_enough(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if min(lengths) < MIN_TOKENS:
            raise ValueError(f"a length must be at least {MIN_TOKENS} tokens")
        if len(set(lengths)) < len(lengths):
            raise ValueError("a length occurs twice")
        return lengths


def _tokens(text: str) -> int:
    number, factor = (text[:-1], 1_024) if text[-1:].lower() == "k" else (text, 1)
    try:
        return int(float(number) * factor)
    except ValueError:
        raise ValueError(f"{text!r} is no number of tokens") from None


@dataclass(frozen=True, slots=True)
class Place:
    """One item to be made.

    Attributes:
        name: Of the set.
        length: Tokens of its document.
        index: From 0, within the length.
        seed: Of the set.
        rng: Of this item alone, so that an item does not depend on how many others there are.
        haystack: The text to hide things in.
        count: Counts tokens.
    """

    name: str
    length: int
    index: int
    seed: int
    rng: random.Random
    haystack: Haystack
    count: Count

    def item(
        self,
        text: str,
        question: str,
        answers: Sequence[str],
        *,
        tokens: int,
        spans: Sequence[Span] | None,
        **meta: JsonValue,
    ) -> Item:
        """An item over one text, with the ranges of its evidence where there are some."""
        facts: dict[str, JsonValue] = {
            "length": self.length,
            "tokens": tokens,
            "seed": self.seed,
            "haystack": self.haystack.name,
            **meta,
        }
        if spans is not None:
            facts["evidence_spans"] = [[start, end] for start, end in spans]
        return Item(
            id=self.id,
            dataset=self.name,
            context=text,
            question=question,
            answers=tuple(answers),
            evidence=None if spans is None else tuple(text[a:b] for a, b in spans),
            meta=facts,
        )

    @property
    def id(self) -> str:
        """Tells seeds apart, so that no run takes one seed's answers for another's."""
        return f"{self.name}/{self.length}/{self.seed}-{self.index}"


Make = Callable[[Any, Place], Item]
"""From options and a place to an item."""


@dataclass(frozen=True, slots=True)
class Generator:
    """A set that is made, not loaded: how it is scored, its options, how an item is made."""

    info: SetInfo
    options: type[GeneratorOptions]
    make: Make


def generator(
    name: str,
    about: str,
    options: type[GeneratorOptions],
    make: Make,
    *,
    metric: str,
    requirement: str,
    also: tuple[str, ...] = (),
    fixed: Mapping[str, Any] | None = None,
) -> Generator:
    """Describe a generator; ``fixed`` are values of options that the set itself decides."""
    shown = {
        field: value
        for field, value in options().model_dump(mode="json", exclude={"counter"}).items()
        if field not in (fixed or {})
    }
    info = SetInfo(
        name=name,
        about=about,
        metric=metric,
        requirement=requirement,
        also=also,
        kind="generated",
        options=shown | {"counter": None},
    )
    return Generator(info, options, partial(_with, make, dict(fixed)) if fixed else make)


def _with(make: Make, fixed: dict[str, Any], options: GeneratorOptions, place: Place) -> Item:
    return make(options.model_copy(update=fixed), place)


def places(name: str, options: GeneratorOptions, count: Count, seed: int) -> Iterator[Place]:
    """Every item to be made, with a random generator and a haystack of its own."""
    haystacks = load_haystacks(options.haystack, count)
    for length in options.lengths:
        for index in range(options.items):
            rng = random.Random(f"{name}/{length}/{seed}/{index}")  # noqa: S311
            haystack = haystacks[(index + seed) % len(haystacks)]
            yield Place(name, length, index, seed, rng, haystack, count)


def load_haystacks(path: Path | None, count: Count) -> list[Haystack]:
    """The texts to hide things in.

    Raises:
        InvalidOption: nothing there, or a folder without a ".txt" file.
        DocumentError: a file that is no text.
    """
    if path is None:
        text = (resources.files("reader") / TALE).read_text(encoding="utf-8")
        return [Haystack(text, count, name="the_monkeys_paw")]
    from reader.documents import Document

    path = path.expanduser()
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise InvalidOption(
            f"haystack: there is no text at {str(path)!r}.",
            hint="Pass a text file, or a folder that holds .txt files.",
        )
    return [Haystack(Document.from_path(file).text, count, name=file.stem) for file in files]
