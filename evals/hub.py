"""Question sets of the Hugging Face hub (and two of GitHub), loaded through ``datasets``.

The files of a set are addressed by themselves, not by a loading script: ``datasets`` runs none
since its version 4. Lines of JSON are read as text and parsed here, because the types of a column
that differ from row to row (InfiniteBench's answers) break its tables. Everything is kept in the
cache of ``datasets``; ``source`` reads the same files from a folder or another address instead.

Which columns and files there are was looked up in public code that loads them, cited with each
set (``hub_suites``, ``hub_questions``). No set was loaded from its hub on the machine that this
was written on: the tests load small files of the same shape.
"""

from __future__ import annotations

import difflib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import JsonValue, ValidationError

from reader.errors import InvalidOption, InvalidRow, MissingExtra, SetUnavailable

from .item import Item
from .sets import SetInfo

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


def hub_sets() -> Mapping[str, HubSet]:
    """Every hub set by name."""
    from .hub_questions import QUESTIONS
    from .hub_suites import SUITES

    return {hub.name: hub for hub in (*SUITES, *QUESTIONS)}


def task_info(dataset: str) -> SetInfo | None:
    """How items of "NAME/TASK" are scored; None if that is no task of a hub set."""
    name, _, task = dataset.partition("/")
    hub = hub_sets().get(name)
    if hub is None or task not in hub.tasks:
        return None
    metric, requirement, also = hub.tasks[task]
    return hub.info.model_copy(
        update={"name": dataset, "metric": metric, "requirement": requirement, "also": also}
    )


def load_hub(
    name: str, *, limit: int | None = None, seed: int = 0, options: Mapping[str, Any] | None = None
) -> list[Item]:
    """Items of a hub set; see ``sets.load``.

    Raises:
        InvalidOption: an option that the set does not have, or a value that it cannot take.
        InvalidRow: a row of another shape than this was written for.
        SetUnavailable: the files cannot be had.
        MissingExtra: ``datasets`` is not installed.
    """
    hub = hub_sets()[name]
    chosen, source = _chosen(hub, options or {})
    rows = _rows(hub, _address(hub, chosen, source))
    numbers = range(len(rows))
    if limit is not None and not hub.fan_out and limit < len(rows):
        numbers = sorted(random.Random(seed).sample(numbers, limit))  # type: ignore[assignment] # noqa: S311
    dataset = hub.dataset(chosen)
    items = list(_unique(_converted(hub, rows, numbers, chosen, dataset)))
    if hub.fan_out:
        from .sets import drawn

        items = drawn(items, limit, seed)
    if not items:
        raise InvalidRow(f"The set {dataset!r} gave no item.", path=dataset, line=0)
    return items


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


def _converted(
    hub: HubSet, rows: Any, numbers: Iterable[int], options: Mapping[str, str], dataset: str
) -> Iterator[Item]:
    for number in numbers:
        row = rows[number]
        if hub.form == "lines":
            if not row["text"].strip():
                continue
            row = _parsed(row["text"], dataset, number)
        try:
            found = list(hub.convert(row, options))
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise InvalidRow(
                f"{dataset}, row {number + 1}: not of the expected shape ({error!r}).",
                path=dataset,
                line=number + 1,
                hint="The set may have changed at its source; pass source= with the old files.",
            ) from error
        for part, fields in enumerate(found):
            own = fields.pop("id", None) or (f"{number}-{part}" if hub.fan_out else str(number))
            try:
                yield Item(id=f"{dataset}/{own}", dataset=dataset, **fields)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise InvalidRow(
                    f"{dataset}, row {number + 1}: {where}: {first['msg']}.",
                    path=dataset,
                    line=number + 1,
                    field=where,
                    hint="The set may have changed at its source.",
                ) from None


def _parsed(line: str, dataset: str, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidRow(
            f"{dataset}, line {number + 1}: not JSON ({error}).", path=dataset, line=number + 1
        ) from None
    if not isinstance(row, dict):
        raise InvalidRow(
            f"{dataset}, line {number + 1}: no JSON object.", path=dataset, line=number + 1
        )
    return row


def _unique(items: Iterable[Item]) -> Iterator[Item]:
    """Ids of some sets occur several times (HELMET asks a question at several depths)."""
    seen: dict[str, int] = {}
    for item in items:
        count = seen[item.id] = seen.get(item.id, 0) + 1
        yield item if count == 1 else item.model_copy(update={"id": f"{item.id}-{count}"})


def _chosen(hub: HubSet, options: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    allowed = hub.allowed()
    for name, value in options.items():
        if name == "source":
            continue
        if name not in allowed:
            near = difflib.get_close_matches(name, [*allowed, "source"], n=1, cutoff=0.5)
            raise InvalidOption(
                f"The set {hub.name!r} has no option {name!r}.",
                hint=f"Did you mean {near[0]!r}?"
                if near
                else f"There are: {', '.join([*allowed, 'source'])}.",
            )
        if str(value) not in allowed[name]:
            raise InvalidOption(
                f"Option {name} of {hub.name!r} cannot be {value!r}.",
                hint=f"It can be: {', '.join(repr(v) for v in allowed[name])}.",
            )
    chosen = {name: str(options.get(name, values[0])) for name, values in allowed.items()}
    source = options.get("source")
    return chosen, None if source is None else str(source).rstrip("/")


def _address(hub: HubSet, options: Mapping[str, str], source: str | None) -> str:
    root = source or hub.root
    if root is None:
        raise InvalidOption(f"The set {hub.name!r} needs source=.", hint=hub.advice)
    path = hub.path.format(root=root, **options)
    return path if "{root}" in hub.path else f"{root}/{path}"


def whole_file(name: str, address: str) -> str:
    """The text of one file of a set.

    Raises:
        SetUnavailable, MissingExtra: as with ``load_hub``.
    """
    return str(_loaded(name, address, "text", sample_by="document")[0]["text"])


def _rows(hub: HubSet, address: str) -> Any:
    """Rows by number: a ``datasets.Dataset``."""
    builder = {"lines": "text", "array": "json", "parquet": "parquet"}[hub.form]
    return _loaded(hub.name, address, builder)


def _loaded(name: str, address: str, builder: str, **options: Any) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra(
            "Sets of the hub need the package datasets.",
            hint="pip install 'longdoc-reader[evals]'",
        ) from error
    try:
        return datasets.load_dataset(builder, data_files={"rows": address}, split="rows", **options)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise SetUnavailable(
            f"The set {name!r} cannot be loaded from {address}: {error}",
            hint="Check the network and try again, or pass source= with a folder of its files.",
        ) from error
