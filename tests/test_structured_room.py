"""The words about a reply's form are counted where the plan divides the window."""

from __future__ import annotations

import asyncio

import pytest

from reader import Reader, Store
from reader.llm.schemas import instructions
from reader.llm.types import ChatRequest
from reader.strategies.coa_plan import WorkerNote
from reader.strategies.memagent_revisions import Patches
from reader.strategies.quotes_plan import capped
from reader.testing import FunctionModel, WordCounter

TALE = " ".join(f"In part {n} the miller told the carter about fact {n * 111}." for n in range(900))
WINDOW = 1500
QUESTION = "What was told in part 7?"


def structured_requests(strategy: str, **options: str) -> list[ChatRequest]:
    """Those with a schema, of a whole run at an endpoint that enforces it."""
    requests: list[ChatRequest] = []

    def reply(request: ChatRequest) -> str:
        requests.append(request)
        return "{}"

    model = FunctionModel(reply, window=WINDOW, json_schema=True)
    with Reader(model, store=Store.in_memory()) as reader:
        reader.answer(TALE, QUESTION, strategy=strategy, **options)
    return [r for r in requests if r.json_schema is not None and len(r.messages) == 1]


@pytest.mark.parametrize(
    ("strategy", "options", "form"),
    [
        ("coa", {"preset": "evidence"}, WorkerNote),
        ("memagent", {"preset": "revisions"}, Patches),
        ("quotes", {}, capped(4, 78)),
    ],
)
def test_a_full_chunk_and_the_words_of_the_form_fit_what_was_counted(strategy, options, form):
    requests = structured_requests(strategy, **options)
    said = [[(m.role, m.content) for m in r.messages] for r in requests]
    sizes = [asyncio.run(WordCounter().count_messages(turns)) for turns in said]
    assert all(r.messages[-1].content.endswith(instructions(form)) for r in requests)
    assert max(sizes) > WINDOW // 3
    for request, size in zip(requests, sizes, strict=True):
        assert size <= request.prompt_tokens
        assert size + request.max_tokens <= WINDOW
