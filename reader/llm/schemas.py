"""A pydantic type as a JSON schema that endpoints take, and as words for those that take none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

LONGEST_REPEAT = 2000
"""llama.cpp refuses grammars that repeat something this often; longer caps are left to pydantic."""

_DROPPED = frozenset({"title", "default", "examples", "discriminator", "pattern", "format"})
_CAPS = frozenset({"maxLength", "minLength", "maxItems", "minItems"})


def plain_schema(form: Any) -> dict[str, Any]:
    """The schema without ``$ref`` where that is possible; recursive types keep theirs."""
    schema = TypeAdapter(form).json_schema()
    definitions = schema.pop("$defs", {})
    inlined: dict[str, Any] = _inline(schema, definitions, ())
    if '"$ref"' in json.dumps(inlined):
        inlined["$defs"] = {
            name: _inline(d, definitions, (name,)) for name, d in definitions.items()
        }
    return inlined


def _inline(node: Any, definitions: Mapping[str, Any], inside: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions, inside) for item in node]
    if not isinstance(node, dict):
        return node
    name = str(node.get("$ref", "")).removeprefix("#/$defs/")
    if not name:
        return {key: _inline(value, definitions, inside) for key, value in node.items()}
    if name in inside:
        return node
    beside = {key: value for key, value in node.items() if key != "$ref"}
    target: dict[str, Any] = _inline(definitions[name], definitions, (*inside, name))
    return {**target, **beside}


def endpoint_schema(form: Any) -> dict[str, Any]:
    """The schema that goes with a request.

    Objects are closed and all their fields required, as OpenAI's strict mode wants it. Left out is
    what some endpoint refuses and pydantic checks anyway: patterns, formats and very large caps.
    """
    closed: dict[str, Any] = _close(plain_schema(form))
    return closed


def _close(node: Any) -> Any:
    if isinstance(node, list):
        return [_close(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):  # names of the user's, not keywords
            closed[key] = {name: _close(inner) for name, inner in value.items()}
        elif key == "const":
            closed["enum"] = [value]
        elif key == "oneOf":
            closed["anyOf"] = _close(value)
        elif key in ("enum", "required"):
            closed[key] = value
        elif key not in _DROPPED and not (key in _CAPS and value >= LONGEST_REPEAT):
            closed[key] = _close(value)
    if "properties" in closed:
        closed["additionalProperties"] = False
        closed["required"] = list(closed["properties"])
    return closed


def instructions(form: Any) -> str:
    """The form in words, to be put under a prompt; costs some 15 tokens a field."""
    schema = plain_schema(form)
    if "properties" not in schema:
        lines = [line for inner in _objects(schema) for line in _fields(inner, schema, 0)]
        form = f"Reply with JSON only: {_kind(schema, schema)}."
        return "\n".join([f"{form} Fields of an object:", *lines] if lines else [form])
    lines = _fields(schema, schema, 0)
    return "\n".join(
        ["Reply with one JSON object on one line and nothing else. Its fields:", *lines]
    )


def _fields(node: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> list[str]:
    lines = []
    for name, field in node.get("properties", {}).items():
        optional = "" if name in node.get("required", ()) else ", may be left out"
        about = f": {field['description']}" if "description" in field else ""
        lines.append(f'{"  " * depth}- "{name}" ({_kind(field, root)}{optional}){about}')
        for number, inner in enumerate(_objects(field)):
            lines += ["  " * (depth + 1) + "or"] * (number > 0)
            lines += _fields(inner, root, depth + 1)
    return lines


def _objects(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "properties" in node:
        return [node]
    parts = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    if isinstance(node.get("items"), dict):
        parts.append(node["items"])
    return [found for part in parts for found in _objects(part)]


_KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "object": "object",
}


def _kind(node: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    if "$ref" in node:
        return str(node["$ref"]).removeprefix("#/$defs/") + " object, as above"
    if "enum" in node or "const" in node:
        values = node.get("enum", [node.get("const")])
        listed = ", ".join(json.dumps(value, ensure_ascii=False) for value in values)
        return listed if len(values) == 1 else f"one of {listed}"
    parts = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    if parts:
        return " or ".join(dict.fromkeys(_kind(part, root) for part in parts))
    if node.get("type") == "array":
        items = node.get("items")
        of = _kind(items, root) if isinstance(items, dict) else "values"
        return f"list of {of}{_range(node, 'minItems', 'maxItems', '')}"
    kind = _KINDS.get(str(node.get("type")), "any value")
    return (
        kind
        + _range(node, "minLength", "maxLength", " characters")
        + _range(node, "minimum", "maximum", "")
        + _range(node, "exclusiveMinimum", "exclusiveMaximum", " exclusive")
    )


def _range(node: Mapping[str, Any], low: str, high: str, unit: str) -> str:
    # a length of at least 0 says nothing
    said = node.get(low) or (low in node and low not in _CAPS)
    least = f", at least {node[low]}{unit}" if said else ""
    return least + (f", at most {node[high]}{unit}" if high in node else "")
