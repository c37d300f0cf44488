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
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from reader.errors import InvalidOption, InvalidRow, MissingExtra, SetUnavailable

from .hub_form import HubSet, Row
from .hub_questions import QUESTIONS
from .hub_suites import SUITES
from .item import Item, drawn
from .set_info import SetInfo


def hub_sets() -> Mapping[str, HubSet]:
    """Every hub set by name."""
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
        items = drawn(items, limit, seed)
    if not items:
        raise InvalidRow(f"The set {dataset!r} gave no item.", path=dataset, line=0)
    return items


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
