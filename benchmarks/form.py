"""What telling a model the form of its reply is worth, where the endpoint enforces it anyway.

    python benchmarks/form.py SET.jsonl --model http://127.0.0.1:8000/v1 [--items 8]

Each method with structured replies answers the same questions twice: as the library asks, and with
the words about the form taken out of every prompt that goes with a schema. Counted are those
replies, the ones that were cut off at their cap, the ones with a run of blanks (a schema allows
any number of them), their tokens, and the score. Windows are held to 2,048 tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from reader import Reader, ReaderError, Store
from reader.evals import metrics, sets
from reader.evals.item import Item
from reader.llm.resolve import open_model
from reader.llm.types import ChatModel, ChatReply, ChatRequest, ModelInfo, OnToken

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "coa evidence": ("coa", {"preset": "evidence"}),
    "graphreader": ("graphreader", {}),
    "memagent revisions": ("memagent", {"preset": "revisions"}),
    "memwalker": ("memwalker", {}),
    "quotes": ("quotes", {}),
}
WINDOW = 2048
BLANKS = re.compile(r"\s{40,}")
WORDS = re.compile(r"\n\nReply with (?:one JSON object|JSON only)\b.*\Z", re.DOTALL)


@dataclass
class Watched:
    """A model that counts its structured replies, and may not be told their form.

    Attributes:
        model: The model.
        told: False takes the words about the form out of the prompts.
        replies: With a schema.
    """

    model: ChatModel
    told: bool
    replies: list[ChatReply] = field(default_factory=list)

    async def info(self) -> ModelInfo:
        """The model's; runs of the two kinds are kept apart."""
        info = await self.model.info()
        return replace(info, identity=f"{info.identity}, told={self.told}")

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """The model's reply."""
        if request.json_schema is None:
            return await self.model.generate(request, on_token)
        if not self.told and len(request.messages) == 1:  # asked again, the form is the error
            *before, last = request.messages
            without, found = WORDS.subn("", last.content)
            if not found:
                raise SystemExit("A prompt does not end in the words about its form.")
            last = last._replace(content=without)
            request = replace(request, messages=(*before, last))
        reply = await self.model.generate(request, on_token)
        self.replies.append(reply)
        return reply

    async def aclose(self) -> None:
        """The model belongs to the caller."""


async def answer_all(model: Watched, method: str, items: Sequence[Item]) -> list[float]:
    """Scores, 0 for what failed."""
    strategy, options = METHODS[method]
    async with Reader(model, store=Store.in_memory()) as reader:

        async def one(item: Item) -> float:
            try:
                answer = await reader.aanswer(
                    item.document(), item.question, strategy, window=WINDOW, **options
                )
            except ReaderError:
                return 0.0
            return metrics.score(item, answer).value

        return list(await asyncio.gather(*map(one, items)))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set")
    parser.add_argument("--model", required=True)
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--methods", default=",".join(METHODS))
    given = parser.parse_args()
    methods = given.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(
            f"no such method: {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}"
        )
    try:
        items = list(islice(sets.load(given.set), given.items))
    except ReaderError as error:
        parser.error(str(error))
    model = open_model(given.model)
    print("| method | form told | replies | cut | blanks | tokens a reply | score |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for method in methods:
        for told in (False, True):
            watched = Watched(model, told)
            scores = await answer_all(watched, method, items)
            replies = watched.replies
            cut = sum(r.finish_reason == "length" for r in replies)
            blanks = sum(BLANKS.search(r.text) is not None for r in replies)
            tokens = sum(r.completion_tokens for r in replies) / max(len(replies), 1)
            print(
                f"| {method} | {'yes' if told else 'no'} | {len(replies)} | {cut} | {blanks}"
                f" | {tokens:.0f} | {sum(scores) / len(scores):.3f} |",
                flush=True,
            )
    await model.aclose()


if __name__ == "__main__":
    asyncio.run(main())
