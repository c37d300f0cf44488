"""Where a set of the hub lies, how its rows become items, and how its tasks are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import JsonValue

from .set_info import SetInfo

Row: TypeAlias = Mapping[str, Any]
Fields: TypeAlias = dict[str, Any]
"""Fields of an ``Item``, without ``dataset``; ``id`` without the name of the set."""

Form: TypeAlias = Literal["lines", "array", "parquet"]


class Task(NamedTuple):
    """How a task of a set is scored."""

    metric: str
    requirement: str | None
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSet:
    """Where a set lies and how its rows become items.

    Attributes:
        name: Of the set.
        about: One line for people.
        root: Address of its files; None where it must be given as ``source``.
        path: Of a file below the root, or a chained address with "{root}"; other names in braces
            are options.
        form: "lines" of JSON, one JSON "array", or "parquet".
        tasks: By name; a set without tasks has one named "".
        choices: Values that an option may have, the first being the default.
        convert: From a row and the options to items.
        fan_out: A row may become several items or none, so a draw needs all of them.
        advice: What to do where ``root`` is None.
    """

    name: str
    about: str
    root: str | None
    path: str
    form: Form
    tasks: Mapping[str, Task]
    convert: Callable[[Row, Mapping[str, str]], Iterable[Fields]]
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fan_out: bool = False
    advice: str = ""

    @property
    def info(self) -> SetInfo:
        """Of its first task."""
        task = next(iter(self.tasks.values()))
        options: dict[str, JsonValue] = {n: values[0] for n, values in self.allowed().items()}
        return SetInfo(
            name=self.name,
            about=self.about,
            metric=task.metric,
            requirement=task.requirement,
            also=task.also,
            kind="hub",
            options={**options, "source": None},
        )

    def allowed(self) -> dict[str, tuple[str, ...]]:
        """The values that each option may have."""
        tasks = {"task": tuple(self.tasks)} if "" not in self.tasks else {}
        return {**tasks, **self.choices}

    def dataset(self, options: Mapping[str, str]) -> str:
        """Under which name items carry it."""
        return f"{self.name}/{options['task']}" if "task" in options else self.name


def records(value: Any) -> list[dict[str, Any]]:
    """A list of records, also where it came as one record of lists, as ``datasets`` keeps it."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        columns = list(value)
        return [
            dict(zip(columns, cells, strict=True)) for cells in zip(*value.values(), strict=True)
        ]
    return [dict(record) for record in value]


def texts(value: Any) -> list[str]:
    """A list of texts, also where it came as one value, or as numbers; blank ones left out."""
    values = value if isinstance(value, list | tuple) else [value]
    return [text for v in values if v is not None and (text := str(v).strip())]
