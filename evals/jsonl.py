"""Question sets in files: JSON lines, plain or gzip. The form is described in README.md."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reader.errors import InvalidRow, UnknownSet

from .item import Item

_REQUIRED = ("question", "answers")


def read_items(path: str | os.PathLike[str]) -> list[Item]:
    """All rows of a file, in its order. Empty lines are passed over.

    ``id`` and ``dataset`` may be left out: they become NAME/LINE and NAME, with NAME the file's
    name up to its first dot.

    Raises:
        UnknownSet: no such file, or one that cannot be opened.
        InvalidRow: no row at all, a line that is no JSON object, a field that is missing, unknown
            or of the wrong kind, or an id that occurs twice; names file, line and field.
    """
    file = Path(path).expanduser()
    name = file.name.split(".")[0] or file.name
    items: list[Item] = []
    lines: dict[str, int] = {}
    for number, line in _lines(file):
        item = parse_row(_as_object(line, file, number), path=str(file), line=number, name=name)
        if item.id in lines:
            raise InvalidRow(
                f"{file}, line {number}: the id {item.id!r} stands in line {lines[item.id]} too.",
                path=str(file),
                line=number,
                field="id",
                hint="Give every row an id of its own, or none has one.",
            )
        lines[item.id] = number
        items.append(item)
    if not items:
        raise InvalidRow(f"{file} holds no row.", path=str(file), line=0)
    return items


def write_items(items: list[Item], path: str | os.PathLike[str]) -> None:
    """Write rows in the form that ``read_items`` reads; gzip if the name ends in ".gz"."""
    file = Path(path)
    text = "".join(item.model_dump_json() + "\n" for item in items)
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        file.write_text(text, encoding="utf-8")


def parse_row(row: dict[str, Any], *, path: str, line: int, name: str) -> Item:
    """One row as an item.

    Args:
        row: The JSON object.
        path: Of the file or the name of the set, for messages.
        line: Likewise, counted from 1.
        name: Of the set, where the row gives none.

    Raises:
        InvalidRow: as with ``read_items``.
    """
    filled = {"id": f"{name}/{line}", "dataset": name, **row}
    for field in _REQUIRED:
        if field not in row:
            raise InvalidRow(
                f"{path}, line {line}: the field {field!r} is missing.",
                path=path,
                line=line,
                field=field,
            )
    try:
        # The strict rules of JSON: a number is not a text.
        return Item.model_validate_json(json.dumps(filled), strict=True)
    except ValidationError as error:
        raise _invalid(error, path, line) from None


def _invalid(error: ValidationError, path: str, line: int) -> InvalidRow:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    where = f"{path}, line {line}"
    hint = None
    if first["type"] == "extra_forbidden":
        what = "no such field; extras of a set go into 'meta'"
        hint = f"Fields are: {', '.join(Item.model_fields)}."
    return InvalidRow(
        f"{where}: {field}: {what}." if field else f"{where}: {what}.",
        path=path,
        line=line,
        field=field,
        hint=hint,
    )


def _as_object(line: str, file: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidRow(
            f"{file}, line {number}: not JSON ({error}).", path=str(file), line=number
        ) from None
    if not isinstance(row, dict):
        raise InvalidRow(
            f"{file}, line {number}: a {type(row).__name__} where an object should be.",
            path=str(file),
            line=number,
        )
    return row


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with something in them. Only newlines end a line, as JSON lines wants it."""
    number = 0
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise UnknownSet(f"No file at {str(file)!r}.", hint="Check the path.") from None
    except UnicodeDecodeError:
        raise InvalidRow(
            f"{file}, line {number}: not UTF-8.", path=str(file), line=number
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InvalidRow(
            f"{file} is not a whole gzip file; it breaks off after line {number}.",
            path=str(file),
            line=number,
            hint="Fetch or write the file again.",
        ) from None
    except OSError as error:
        raise UnknownSet(
            f"{str(file)!r} cannot be read: {error.strerror or error}.", hint="Check the path."
        ) from None
