"""Against infini-retri 0.0.3: same model, same text, same process, tokens per second and recall.

    pip install infini-retri==0.0.3
    python benchmarks/attention_infini.py --folder MODEL_FOLDER --tokens 8000

MODEL_FOLDER is a folder of transformers (``dequantized/`` in the models' cache has those that the
scorer made). The other side runs as its own README says, with its defaults: eager attention,
windows of 1,024 tokens, the best 300 tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from pathlib import Path
from typing import Any

from attention_needles import QUESTIONS, haystack
from reader.attention.looking import Looker


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


async def ours(folder: Path, passages: list[str], needles: list[str]) -> None:
    looker = await Looker.open(f"transformers:{folder}")
    await looker.passages(passages[:8], QUESTIONS[:1])  # warms up, for the other side too
    windows = looker.windows(passages, QUESTIONS[:1])
    tokens = sum(len(window.prefix) for window in windows)
    began = time.perf_counter()
    (scores,) = await looker.passages(passages, QUESTIONS[:1])
    took = time.perf_counter() - began
    best = scores.argsort()[::-1][:5]
    hit = any(needles[0] in passages[at] for at in best)
    print(f"reader       {tokens:>7} tokens {took:7.1f} s {tokens / took:7.1f} tokens/s", end="")
    print(f"  peak {peak():.2f} GB  needle found: {hit}", flush=True)


def theirs(folder: Path, passages: list[str], needles: list[str]) -> None:
    from infini_retri import InfiniRetri
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    method: Any = InfiniRetri(model, tokenizer)
    context = "\n\n".join(passages)
    tokens = len(tokenizer(context)["input_ids"])
    kept: list[str] = []
    generate = model.generate

    def watched(*args: Any, **kwargs: Any) -> Any:
        ids = kwargs.get("input_ids", args[0] if args else None)
        kept.append(tokenizer.decode(ids[0]))
        return generate(*args, **{**kwargs, "max_new_tokens": 1})

    model.generate = watched
    began = time.perf_counter()
    method.generate(
        context=context,
        question=QUESTIONS[0],
        prompt="Read the text and answer. Text:\n\n{context}\n\nQuestion:\n\n{question}\n\nAnswer:",
    )
    took = time.perf_counter() - began
    hit = bool(kept) and needles[0] in " ".join(kept[-1].split())
    print(f"infini-retri {tokens:>7} tokens {took:7.1f} s {tokens / took:7.1f} tokens/s", end="")
    print(f"  peak {peak():.2f} GB  needle kept: {hit}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=8_000)
    parser.add_argument("--books", type=Path, default=Path("/work/shared/data/haystacks"))
    parser.add_argument("--only", choices=("ours", "theirs"))
    asked = parser.parse_args()
    passages, needles = haystack(asked.books, asked.tokens * 4)
    if asked.only != "theirs":
        asyncio.run(ours(asked.folder, passages, needles))
    if asked.only != "ours":
        theirs(asked.folder, passages, needles)


if __name__ == "__main__":
    main()
