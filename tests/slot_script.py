"""A scripted model that keeps a slot for each question, and knows nothing but what it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from reader.llm.types import ChatRequest
from reader.testing import FunctionModel

READING = ("worker", "update")
LONG = "It stands in the text word for word, and nothing else in this part speaks of it at all. "


def question(part: int) -> str:
    return f"What is the fact of part {part}?"


def tagged(prompt: str, name: str) -> dict[int, str]:
    """The texts between numbered tags; the form that is shown at the end is none of them."""
    found = re.findall(rf"<{name}_(\d+)>\n(.*?)\n</{name}_\1>", prompt, re.DOTALL)
    return {int(number): text for number, text in found if text != "..."}


def name_of(request: ChatRequest) -> str:
    return "summary" if request.purpose == "worker" else "memory"


def slots(request: ChatRequest, padding: str = "") -> dict[int, str]:
    """What a good reader would write: each fact into the slot of its own question."""
    prompt, name = request.messages[0].content, name_of(request)
    memories = tagged(prompt, name)
    chunk = prompt.split("<question_1>")[0]
    written = {}
    for number, asked in tagged(prompt, "question").items():
        part = re.search(r"part (\d+)\?", asked)
        old = memories[number]
        old = "" if old.startswith(("(Nothing", "No previous", "Nothing")) else old
        hit = re.search(rf"The fact of part {part[1]} is number (\d+)", chunk) if part else None
        new = f" Part {part[1]} has number {hit[1]}. {padding}" if part and hit else ""
        written[number] = (old + new).strip() or "Nothing about it was found in this part."
    return written


def reply_of(request: ChatRequest, written: dict[int, str]) -> str:
    """The slots in the form that was asked for."""
    name = name_of(request)
    if request.json_schema is not None:
        return json.dumps({f"{name}_{n}": text for n, text in written.items()})
    return "\n".join(f"<{name}_{n}>\n{text}\n</{name}_{n}>" for n, text in written.items())


def single(request: ChatRequest) -> str:
    """The unit or memory of one question, or the last call."""
    prompt = request.messages[0].content
    if request.purpose in READING:
        part = re.search(r"part (\d+)\?", prompt)
        hit = re.search(rf"The fact of part {part[1]} is number (\d+)", prompt) if part else None
        old = re.search(r"Part \d+ has number \d+\.", prompt)
        if part and hit:
            return f"Part {part[1]} has number {hit[1]}. {LONG * 3}"
        return f"{old[0]} {LONG * 3}" if old else "Nothing about it was found in this part."
    facts = re.findall(r"Part (\d+) has number (\d+)", prompt)
    if not facts:
        return "Not found in the document."
    said = " and ".join(f"{part} has {number}" for part, number in dict.fromkeys(facts))
    return f"The answer is {said}." if request.purpose == "final" else said


class SlotScript:
    """Replies like a good reader; ``change`` may alter the slots of a reading call, or raise.

    Attributes:
        asked: All requests, in order.
    """

    def __init__(
        self, change: Callable[[ChatRequest, dict[int, str]], Any] | None = None, padding: str = ""
    ) -> None:
        self.asked: list[ChatRequest] = []
        self._change = change
        self._padding = padding

    def __call__(self, request: ChatRequest) -> Any:
        self.asked.append(request)
        if request.purpose not in READING or "<question_1>" not in request.messages[0].content:
            return single(request)
        written = slots(request, self._padding)
        changed = self._change(request, written) if self._change else written
        if isinstance(changed, Exception):
            raise changed
        return changed if isinstance(changed, str) else reply_of(request, changed)

    def readings(self) -> list[ChatRequest]:
        """The calls that read a chunk."""
        return [r for r in self.asked if r.purpose in READING]


def model(script: Any, **options: Any) -> FunctionModel:
    options.setdefault("window", 8192)
    options.setdefault("identity", "slots")
    options.setdefault("json_schema", True)
    return FunctionModel(script, **options)
