"""Recall of gold passages: BM25, vectors, last layer, heads, a second look, fused.

    python benchmarks/attention_recall.py DATA.jsonl.gz --scorer embedded:tiny --out results.jsonl

One line a question is appended to --out, so that the same command goes on where it was. Only
questions that heads were not chosen with are used (the other half, by a hash of the id).
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np

from reader.attention.calibration import recall
from reader.attention.examples import Example, read_examples
from reader.attention.looking import Looker
from reader.attention.model import Head
from reader.attention.ranking import by_score, fused, named, second_look
from reader.attention.windows import passage_scores, request
from reader.bm25 import BM25Index
from reader.llm.embedders import open_embedder

LOOKS = ("last layer", "heads", "heads, N/A")
FUSED = ("default", "with vectors")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--scorer", default="embedded:tiny")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--window", type=int, default=1_600)
    parser.add_argument(
        "--all", action="store_true", help="the choosing half too: right for heads from other sets"
    )
    parser.add_argument("--dense", default="minilm", help="an embedder, or none")
    return parser.parse_args()


async def rankings(looker: Looker, example: Example, dense: Any) -> dict[str, list[int]]:
    """One pass of the scorer gives the last layer, the heads, and these less what "N/A" draws."""
    texts, question = list(example.passages), example.question
    last = looker.info.attending[-1]
    tail_heads = tuple(Head(last, head) for head in range(looker.info.heads))
    tails = [looker.layout.tail(question), looker.layout.tail("N/A")]
    windows = looker.layout.windows(texts, looker.layout.room(tails))
    heads = tuple(dict.fromkeys((*looker.heads, *tail_heads)))
    found = await looker.model.score([request(window, tails, heads) for window in windows])
    mine = [heads.index(head) for head in looker.heads]
    ends = [heads.index(head) for head in tail_heads]

    def ranked(values: list[Any]) -> list[int]:
        return by_score(passage_scores(windows, values, len(texts)))

    lists = {
        "last layer": ranked([s.tails[0][ends].mean(0) for s in found]),
        "heads": ranked([s.tails[0][mine].mean(0) for s in found]),
        "heads, N/A": ranked([(s.tails[0] - s.tails[1])[mine].mean(0) for s in found]),
        "bm25": [index for index, _ in BM25Index(texts).rank(question)],
    }
    if dense is not None:
        vectors = await dense.embed([question, *texts])
        lists["dense"] = by_score(vectors[1:] @ vectors[0])
    lists["first"] = lists["heads, N/A" if looker.calibrate else "heads"]
    if len(windows) > 1:
        await look_again(looker, texts, question, lists)
    return lists


async def look_again(
    looker: Looker, texts: list[str], question: str, lists: dict[str, list[int]]
) -> None:
    """Second looks, at the best of the first one's fusion: without vectors, and with them."""
    for name, vectors in (("second look", []), ("second look, vectors", lists.get("dense", []))):
        once = fused(lists["first"], words=lists["bm25"], vectors=vectors)
        if again := await second_look(looker, texts, question, once):
            scores = passage_scores([again[0]], [again[1]], len(texts))
            twice = [n for n in by_score(scores) if np.isfinite(scores[n])]
            lists[name] = list(dict.fromkeys([*twice, *once]))


def with_fusions(lists: dict[str, list[int]], example: Example) -> dict[str, list[int]]:
    """The rankings, and those that are fused of them as the strategy does it."""
    titles = [text.split("\n", 1)[0] if "\n" in text else None for text in example.passages]
    found = dict(lists)
    for name, second, vectors in (
        ("default", "second look", []),
        ("with vectors", "second look, vectors", lists.get("dense", [])),
    ):
        last = lists.get(second, lists["first"])
        found[name] = fused(
            last,
            first=lists["first"] if second in lists else (),
            words=lists["bm25"],
            vectors=vectors,
            titles=named(last, example.passages, titles),
        )
        found.setdefault(second, last)
    return found


async def main() -> None:
    asked = arguments()
    examples = [e for e in read_examples(asked.data) if asked.all or not e.chooses][: asked.limit]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    lines = asked.out.read_text().splitlines() if asked.out.exists() else []
    known = {row["id"]: row for row in map(json.loads, lines) if row["scorer"] == asked.scorer}
    dense = None if asked.dense == "none" else open_embedder(asked.dense)
    looker = None
    for done, example in enumerate(examples, 1):
        if example.id in known:
            continue
        looker = looker or await Looker.open(asked.scorer, window=asked.window)
        lists = await rankings(looker, example, dense)
        row = {
            "id": example.id,
            "scorer": asked.scorer,
            "gold": sorted(example.gold),
            "rankings": lists,
        }
        known[example.id] = row
        with asked.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{done}/{len(examples)}", end="\r", flush=True)
    rows = [known[e.id] | {"rankings": with_fusions(known[e.id]["rankings"], e)} for e in examples]
    print(f"{asked.data.name}, {asked.scorer}, {len(rows)} questions: recall @1 @2 @5")
    for method in ("bm25", "dense", *LOOKS, "second look", "second look, vectors", *FUSED):
        mine = [row for row in rows if method in row["rankings"]]
        if not mine:
            continue
        golds = [frozenset(row["gold"]) for row in mine]
        size = max(max(row["rankings"]["heads"]) for row in mine) + 1
        scores = []
        for row in mine:
            order = row["rankings"][method]
            scores.append([-order.index(n) if n in order else -size for n in range(size)])
        print(f"  {method:25}", *(f"{recall(scores, golds, k):.2f}" for k in (1, 2, 5)))


if __name__ == "__main__":
    asyncio.run(main())
