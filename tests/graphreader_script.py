"""A scripted model for GraphReader: sensible replies by purpose, any of which a test replaces."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import pytest

from conftest import tale
from reader import Reader, Store
from reader.llm import stack
from reader.llm.types import ChatRequest
from reader.testing import FunctionModel

CHUNK = 60
QUESTION = "What is the fact of part 3?"


def said(request: ChatRequest) -> str:
    return request.messages[0].content


def part_of(request: ChatRequest) -> int:
    """The part that a call was shown, 0 for none."""
    found = re.search(r"part (\d+) is number", said(request))
    return int(found[1]) if found else 0


def facts_of_part(request: ChatRequest) -> str:
    n = part_of(request)
    return (
        f"1. The fact of part {n} is number {n * 111}. | part {n} | number {n * 111} | fact\n"
        f"2. The road of part {n} went on over the hill. | part {n} | road"
    )


def starts(*names: str) -> str:
    nodes = [{"key_element": name, "score": 99 - i} for i, name in enumerate(names)]
    return json.dumps({"nodes": nodes})


def facts(action: str = "read_chunk", ids: Any = (), notebook: str = "") -> str:
    ids = list(ids) if isinstance(ids, tuple | range) else ids
    fields = {"updated_notebook": notebook, "rationale": "r", "chosen_action": action}
    return json.dumps({**fields, "chunk_ids": ids})


def chunk(action: str = "termination", notebook: str = "Something noted.") -> str:
    fields = {"updated_notebook": notebook, "rationale": "r", "chosen_action": action}
    return json.dumps(fields)


def neighbor(name: str = "", action: str = "read_neighbor_node") -> str:
    return json.dumps({"rationale": "r", "chosen_action": action, "neighbor": name})


def open_first(request: ChatRequest) -> str:
    """Open the first chunk whose facts are shown and that was not opened."""
    ids = re.findall(r"^Chunk (\d+):", said(request), re.MULTILINE)
    return facts("read_chunk", tuple(int(i) for i in ids[:1]))


def note_of_chunk(request: ChatRequest) -> str:
    n = part_of(request)
    return chunk("termination", f'Chunk {n} says "The fact of part {n} is number {n * 111}."')


class Script:
    """Replies by purpose: a text, a list of texts, a function of the request, or an error."""

    def __init__(self, **replies: Any) -> None:
        self.replies: dict[str, Any] = {
            "extract": facts_of_part,
            "rational_plan": "Find the fact of part 3.",
            "initial_nodes": starts("part 3"),
            "facts": open_first,
            "chunk": note_of_chunk,
            "neighbors": neighbor("", "termination"),
            "compress": "Short notes.",
            "answer": json.dumps({"analysis": "they agree", "final_answer": "number 333"}),
            **replies,
        }
        self.asked: list[ChatRequest] = []

    def __call__(self, request: ChatRequest) -> Any:
        self.asked.append(request)
        reply = self.replies[request.purpose]
        if isinstance(reply, list):
            reply = reply.pop(0) if len(reply) > 1 else reply[0]
        given = reply(request) if callable(reply) else reply
        if isinstance(given, Exception):
            raise given
        return given

    def prompts(self, *purposes: str) -> list[str]:
        return [said(r) for r in self.asked if r.purpose in purposes]

    def purposes(self) -> list[str]:
        return [r.purpose for r in self.asked]


def run(
    script: Script, store: Store, doc: str | None = None, question: Any = QUESTION, **more: Any
) -> Any:
    model = FunctionModel(
        script,
        window=more.pop("model_window", 4096),
        identity="script",
        json_schema=more.pop("json_schema", True),
        concurrency=4,
    )
    more.setdefault("chunk_tokens", CHUNK)
    with Reader(model, store=store) as reader:
        return reader.answer(doc or tale(), question, strategy="graphreader", **more)


def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = functools.partial(stack.build_stack, wait=lambda attempt, error: 0.0)
    monkeypatch.setattr(stack, "build_stack", impatient)
