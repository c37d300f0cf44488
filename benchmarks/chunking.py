"""Chunking a million tokens: this library against the splitting library alone.

Both get the same text, tokenizer and budget, in one run, in turn; the median counts. The ratio
must stay under 1.3. Without ``--tokenizer`` a byte-level BPE is learnt from the text itself.

    python benchmarks/chunking.py [TEXT_FILE] [--tokenizer TOKENIZER_JSON] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

LIMIT = 1.3
TALE = Path(__file__).parent.parent / "reader" / "tales" / "the_monkeys_paw.txt"


def learnt_tokenizer(text: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=16_000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text[:2_000_000]], trainer)
    return tokenizer


def of_length(text: str, tokens: int, tokenizer: Any) -> str:
    """The text, repeated and cut, so that it has about so many tokens."""
    sample = text[:400_000]
    size = tokens * len(sample) // len(tokenizer.encode(sample))
    return (text * (size // len(text) + 1))[:size]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def measure(text: str, tokenizer: Any, budget: int, rounds: int) -> dict[str, float | int]:
    from semantic_text_splitter import TextSplitter

    from reader.chunking import chunk
    from reader.tokens import HuggingFaceCounter

    counter = HuggingFaceCounter(tokenizer)
    splitter = TextSplitter.from_huggingface_tokenizer(tokenizer, budget, trim=False)
    ours, alone = [], []
    for _ in range(rounds):
        seconds, theirs = timed(lambda: splitter.chunk_indices(text))
        alone.append(seconds)
        seconds, chunks = timed(
            lambda: asyncio.run(chunk(text, counter=counter, chunk_tokens=budget))
        )
        ours.append(seconds)
    tokens = sum(c.tokens for c in chunks)
    return {
        "characters": len(text),
        "tokens": tokens,
        "budget": budget,
        "rounds": rounds,
        "chunks": len(chunks),
        "chunks_library": len(theirs),
        "fill": round(tokens / len(chunks) / budget, 3),
        "seconds": round(median(ours), 3),
        "seconds_library": round(median(alone), 3),
        "ratio": round(median(ours) / median(alone), 3),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", type=Path, default=TALE)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--budget", type=int, default=1_500)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(argv)
    text = given.text.read_text(encoding="utf-8")
    if given.tokenizer:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(given.tokenizer))
    else:
        tokenizer = learnt_tokenizer(text)
    result = measure(
        of_length(text, given.tokens, tokenizer), tokenizer, given.budget, given.rounds
    )
    print(f"{'':>16} {'seconds':>8} {'chunks':>7}")
    print(f"{'library alone':>16} {result['seconds_library']:8.2f} {result['chunks_library']:7}")
    print(f"{'reader.chunking':>16} {result['seconds']:8.2f} {result['chunks']:7}")
    print(f"{'ratio':>16} {result['ratio']:8.2f}   (limit {LIMIT})")
    print(json.dumps(result))
    return int(result["ratio"] > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
