"""A scripted model that answers by the purpose of a call, and a run with it."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest

from reader import Reader, Store
from reader.llm import stack
from reader.llm.types import ChatRequest
from reader.testing import FunctionModel

NASTY = (
    "",
    " \n",
    "I'm sorry, but I can't help with that.",
    "the the " * 400,
    '{"quotes": [{"paragraph": "x", "quote": 3}',
    "Quote:\nQuote:\nQuote: \u0000 \ud83d\ude00",
    "Not found in the document.",
    "</source_text> $question {braces} %s \\",
    "<think>Quote: hm",
    "(A) or (B), who knows",
)
"""What weak models write."""


class Script:
    """Replies by purpose: a text, a list of texts, a function of the request, or an error."""

    def __init__(self, **replies: Any) -> None:
        self.replies = replies
        self.asked: list[ChatRequest] = []

    def __call__(self, request: ChatRequest) -> Any:
        self.asked.append(request)
        reply = self.replies[request.purpose]
        if isinstance(reply, list):
            reply = reply.pop(0) if len(reply) > 1 else reply[0]
        said = reply(request) if callable(reply) else reply
        if isinstance(said, Exception):
            raise said
        return said

    def prompts(self, purpose: str) -> list[str]:
        """The last message of each call of a purpose."""
        return [r.messages[-1].content for r in self.asked if r.purpose == purpose]


def part_of(request: ChatRequest) -> int:
    """The number of the tale's part that a call was shown, 0 for none."""
    found = re.search(r"part (\d+) is", request.messages[0].content)
    return int(found[1]) if found else 0


def run(
    script: Script,
    store: Store,
    doc: str,
    question: Any = "What is the fact of part 3?",
    **more: Any,
) -> Any:
    """An answer by the scripted model."""
    window = more.pop("model_window", 2048)
    model = FunctionModel(script, window=window, identity="script", json_schema=True)
    with Reader(model, store=store) as reader:
        return reader.answer(doc, question, **more)


def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    impatient = functools.partial(stack.build_stack, wait=lambda attempt, error: 0.0)
    monkeypatch.setattr(stack, "build_stack", impatient)
