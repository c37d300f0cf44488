"""Do two attention scorers agree? Spearman per token, and the five best passages of each question.

    .venv-vllm/bin/python benchmarks/attention_agreement.py \\
        --data hotpotqa.dev.jsonl.gz --one transformers:FOLDER --other vllm:http://127.0.0.1:PORT

Wants scipy, which .venv-vllm has.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from reader.attention.model import AttentionModel, AttentionRequest, AttentionTokenizer, Head, Tail
from reader.attention.resolve import LocalFiles, open_attention
from reader.attention.transformers_model import TransformersAttention

SMOLLM2 = "14.3,17.3,17.4,18.6,18.7"
BEST_TOKENS = 8


def request_of(
    row: dict, tokenizer: AttentionTokenizer, heads: tuple[Head, ...], most: int
) -> tuple[AttentionRequest, list[tuple[int, int]]]:
    """A question and its passages in the model's template, and the token ranges of the passages."""
    shown = tokenizer.chat([{"role": "user", "content": "Read:\n\n@@T@@\nQuestion: @@Q@@"}])
    head, rest = shown.split("@@T@@")
    middle, end = rest.split("@@Q@@")
    before, between, after = (tokenizer.encode(p, template=True).ids for p in (head, middle, end))
    ids: list[int] = []
    passages = []
    for passage in row["documents"]:
        found = tokenizer.encode(f"{passage['title']}\n{passage['text']}\n\n").ids
        if len(ids) + len(found) > most:
            break
        passages.append((len(ids), len(ids) + len(found)))
        ids.extend(found)
    asked = tokenizer.encode(row["question"]).ids
    rows = tuple(range(len(between), len(between) + len(asked)))
    return AttentionRequest(
        prefix=before + tuple(ids),
        tails=(Tail(between + asked + after, rows),),
        columns=(len(before), len(before) + len(ids)),
        heads=heads,
    ), passages


def best(scores: np.ndarray, passages: list[tuple[int, int]], count: int = 5) -> set[int]:
    means = scores.mean(0)
    value = [np.sort(means[a:b])[-BEST_TOKENS:].mean() for a, b in passages]
    return set(np.argsort(value)[::-1][:count].tolist())


async def scored(
    model: AttentionModel, rows: list[dict], heads: tuple[Head, ...], most: int
) -> tuple[list[np.ndarray], list[list[tuple[int, int]]], float]:
    tokenizer = await model.tokenizer()
    made = [request_of(row, tokenizer, heads, most) for row in rows]
    start = time.perf_counter()
    found = await model.score([request for request, _ in made])
    seconds = time.perf_counter() - start
    await model.aclose()
    tokens = sum(one.read_tokens for one in found)
    print(f"{model!r:.80}: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s")
    return [one.tails[0] for one in found], [passages for _, passages in made], seconds


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--one", required=True)
    parser.add_argument("--other", required=True)
    parser.add_argument("--dtype", default="bfloat16", help="of transformers")
    parser.add_argument("--heads", default=SMOLLM2)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=1500)
    given = parser.parse_args()
    with gzip.open(given.data, "rt") as lines:
        rows = [json.loads(line) for line in lines][: given.limit]
    heads = tuple(Head(*map(int, one.split("."))) for one in given.heads.split(","))
    found = []
    for spec in (given.one, given.other):
        kind, _, path = spec.partition(":")
        model = (
            TransformersAttention(LocalFiles(Path(path)), dtype=given.dtype)
            if kind == "transformers"
            else open_attention(spec)
        )
        found.append(await scored(model, rows, heads, given.tokens))
    (ones, passages, _), (others, _, _) = found
    by_token = [
        spearmanr(a.mean(0), b.mean(0)).statistic for a, b in zip(ones, others, strict=True)
    ]
    same = [
        best(a, where) == best(b, where) for a, b, where in zip(ones, others, passages, strict=True)
    ]
    print(
        f"{len(rows)} questions: Spearman per token min {min(by_token):.4f}, median "
        f"{np.median(by_token):.4f}; the same top 5 in {sum(same)} of {len(same)}"
    )


if __name__ == "__main__":
    asyncio.run(main())
