"""The lenient rung of the repair ladder: what a model most likely meant by a reply of poor form.

Nothing here decides whether a value is right: pydantic does that with whatever comes out.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

MOST_TRIES = 40
"""Readings of one reply that are tried; the likeliest come first."""


def readings(text: str, schema: Mapping[str, Any], *, cut: bool = False) -> Iterator[Any]:
    """Values that the reply may stand for, likeliest first, fitted to the schema.

    Args:
        text: The cleaned reply.
        schema: Of the wanted value, from ``plain_schema``.
        cut: The reply ended at its cap: prefer what was complete by then to half a value.
    """
    for value in islice(_values(text, schema, cut), MOST_TRIES):
        with contextlib.suppress(RecursionError):
            fitted = fit(value, schema, schema)
            if not (isinstance(value, dict) and value and fitted == {}):
                yield fitted


def _values(text: str, schema: Mapping[str, Any], cut: bool) -> Iterator[Any]:
    spans = list(_spans(text))
    for start, end in reversed(spans):
        if end is not None:
            yield from _decode(text[start:end])
    for start, end in reversed(spans):
        if end is None:
            if cut:
                for stop in _complete_ends(text[start:]):
                    yield from _decode(text[start : start + stop])
            yield from _decode(text[start:])
    if "properties" in schema:
        if labelled := _labelled_lines(text, schema["properties"]):
            yield labelled
        required = schema.get("required", ())
        if (
            not spans
            and len(required) == 1
            and schema["properties"][required[0]].get("type") != "string"
        ):
            yield {required[0]: text}
    else:
        yield text


def _decode(text: str) -> Iterator[Any]:
    import json_repair  # only wanted when a reply is not in order

    with contextlib.suppress(ValueError, RecursionError, IndexError):
        value = json_repair.loads(text)
        if isinstance(value, (dict, list)):
            yield value


def _spans(text: str) -> Iterator[tuple[int, int | None]]:
    """Ranges of the outermost {...} and [...]; the end is None where the text ends before."""
    depth, start, in_string, escaped = 0, 0, False, False
    for at, char in enumerate(text):
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char in "{[":
            if depth == 0:
                start = at
            depth += 1
        elif depth and char in "}]":
            depth -= 1
            if depth == 0:
                yield start, at + 1
        elif depth and char == '"':
            in_string, escaped = True, False
    if depth:
        yield start, None


def _complete_ends(text: str) -> list[int]:
    """Where a value inside cut JSON was complete, the latest first."""
    ends: list[int] = []
    in_string, escaped = False, False
    for at, char in enumerate(text):
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
            if not in_string and not text[at + 1 :].lstrip().startswith(":"):
                ends.append(at + 1)
        elif char == '"':
            in_string, escaped = True, False
        elif char in "}]":
            ends.append(at + 1)
        elif char == ",":
            ends.append(at)
    return sorted(set(ends), reverse=True)[: MOST_TRIES // 2]


def _labelled_lines(text: str, properties: Mapping[str, Any]) -> dict[str, str]:
    """``name: value`` lines; the last line of a name counts, lines without one go on."""
    found: dict[str, str] = {}
    name: str | None = None
    for line in text.splitlines():
        label = re.match(r"[\s\-*•#_\"'`]*([^\W\d][\w \-]{0,60}?)[\s*_\"'`]*[:=][\s*_]*(.*)", line)
        key = near_name(label[1], properties) if label else None
        if label and key:
            name, found[key] = key, label[2].strip()
        elif name:
            found[name] = f"{found[name]}\n{line}".strip()
    return {key: value.rstrip("*_ ,") for key, value in found.items()}


def near_name(name: str, names: Mapping[str, Any] | list[str]) -> str | None:
    """The one of the names that is meant: ignoring case and spacing, or 10% of it misspelt."""
    folded = _fold(name)
    known = {_fold(n): n for n in names}
    if folded in known:
        return known[folded]
    from rapidfuzz.distance import Levenshtein

    near = [n for f, n in known.items() if Levenshtein.distance(folded, f) <= len(f) // 10]
    return near[0] if len(near) == 1 else None


def _fold(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", name).casefold()


def fit(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """The value bent towards the schema where only one reading is plausible, else as it is."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix("#/$defs/")
        schema = root.get("$defs", {}).get(name, root if name == "" else {})
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if branches:
        return _fit_branch(value, branches, root)
    if "enum" in schema or "const" in schema:
        return _fit_enum(value, schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "object":
            return _fit_object(value, schema, root)
        case "array":
            return _fit_array(value, schema, root)
        case "integer" | "number":
            return _fit_number(value)
        case "boolean":
            return _fit_boolean(value)
        case "string":
            return _fit_string(value)
        case _:
            return value


def _fit_branch(value: Any, branches: list[Mapping[str, Any]], root: Mapping[str, Any]) -> Any:
    kinds = [branch.get("type") for branch in branches]
    empty = isinstance(value, str) and value.strip().casefold() in ("", "null", "none", "n/a")
    if "null" in kinds and (value is None or (empty and "string" not in kinds)):
        return None
    fitted = [fit(value, b, root) for b in branches if b.get("type") != "null"]
    plausible = [
        (_score(f, b), f)
        for f, b in zip(fitted, (b for b in branches if b.get("type") != "null"), strict=True)
    ]
    return max(plausible, key=lambda pair: pair[0])[1] if plausible else value


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "string": (str,),
}


def _score(value: Any, schema: Mapping[str, Any]) -> float:
    """How well a value fits one branch of a union; ties go to the first branch."""
    if "enum" in schema or "const" in schema:
        return 3.0 if value in schema.get("enum", [schema.get("const")]) else 0.0
    if not isinstance(value, _TYPES.get(str(schema.get("type")), (object,))):
        return 0.0
    if not isinstance(value, dict):
        return 2.0
    properties = schema.get("properties", {})
    wrong = any(
        "const" in p and name in value and value[name] != p["const"]
        for name, p in properties.items()
    )
    missing = sum(name not in value for name in schema.get("required", ()))
    return 0.0 if wrong else 1.0 + len(value) / (1 + len(properties)) - missing


def _fit_enum(value: Any, options: list[Any]) -> Any:
    if value in options and not isinstance(value, bool):
        return value
    texts = {str(option): option for option in options}
    said = " ".join(str(value).split()).strip(" .\"'`*")
    name = near_name(said, list(texts))
    if name is not None:
        return texts[name]
    named = [
        o
        for t, o in texts.items()
        if re.search(rf"(?<!\w){re.escape(t)}(?!\w)", said, re.IGNORECASE)
    ]
    return named[0] if len(named) == 1 else value


def _fit_object(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    properties: Mapping[str, Any] = schema.get("properties", {})
    if not properties:
        return value
    if isinstance(value, list):
        lists = [name for name, p in properties.items() if p.get("type") == "array"]
        last = value[-1] if value else None
        if isinstance(last, dict) and any(near_name(str(key), properties) for key in last):
            value = last
        elif len(lists) == 1:
            value = {lists[0]: value}
    if not isinstance(value, dict):
        return value
    fitted = {
        name: fit(inner, properties[name], root)
        for key, inner in value.items()
        if (name := near_name(str(key), properties)) is not None
    }
    inner = next(iter(value.values())) if len(value) == 1 else None
    if not fitted and isinstance(inner, dict):
        return _fit_object(inner, schema, root)  # {"result": {...}}
    return fitted


def _fit_array(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    if value is None or value == "":
        return []
    items = schema.get("items", {})
    if isinstance(value, dict) and len(value) == 1:
        ((name, inner),) = value.items()
        if isinstance(inner, list) and name not in items.get("properties", ()):
            value = inner  # {"items": [...]}
    if not isinstance(value, list):
        value = [value]
    fitted = [fit(item, items, root) for item in value]
    return fitted[: schema.get("maxItems", len(fitted))]


def _fit_number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    numbers = re.findall(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?![\w])", value)
    if len(set(numbers)) != 1:
        return value
    with contextlib.suppress(ValueError):
        return json.loads(numbers[0].replace(",", ""))
    return value


def _fit_boolean(value: Any) -> Any:
    word = re.match(r"\W*(\w+)", str(value))
    said = word[1].casefold() if word else ""
    if said in ("true", "yes", "y", "1"):
        return True
    return False if said in ("false", "no", "n", "0") else value


def _fit_string(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return value
