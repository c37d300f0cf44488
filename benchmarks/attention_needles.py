"""Needles in a haystack of real books: which are among the five top sentences, as a heat map.

    python benchmarks/attention_needles.py --lengths 4000,16000 --out needles.jsonl

All needles of one length share a pass: a needle a depth, each with its own question. A window is
scored and forgotten, so memory does not grow; lines in --out (one a window) let the same command go
on where it was. --books names the folder of the books.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from pathlib import Path
from typing import Any

from reader.attention.examples import paragraphs
from reader.attention.looking import Looker
from reader.attention.ranking import second_look
from reader.attention.windows import BEST_TOKENS, Window, top_mean
from reader.llm.cleaning import sentences

TOP = 5  # sentences
KEPT = 64  # sentences of all windows, a question
DEPTHS = [n / 9 for n in range(10)]
NEEDLES = [
    ("The locksmith of Aldmoor keeps the spare key under a {0} flowerpot.", "green"),
    ("The ferry to Brisling was painted {0} in the spring.", "violet"),
    ("The choir of Carrow sings every Tuesday in the {0} barn.", "northern"),
    ("The baker of Dunmere puts {0} into the bread for the harvest feast.", "fennel"),
    ("The clock of Eastvale has been {0} minutes slow since the storm.", "seven"),
    ("The schoolmaster of Farnholt collects {0} from every port.", "thimbles"),
    ("The bridge at Greywick may be crossed by {0} carts at once.", "four"),
    ("The widow Hollin left her house to the {0} society.", "beekeeping"),
    ("The well of Ister was dug by a {0} from the south.", "tinker"),
    ("The mayor of Jessop rides a {0} to the council.", "donkey"),
]
QUESTIONS = [
    "Where does the locksmith of Aldmoor keep the spare key?",
    "In which colour was the ferry to Brisling painted?",
    "In which barn does the choir of Carrow sing?",
    "What does the baker of Dunmere put into the bread?",
    "How slow is the clock of Eastvale?",
    "What does the schoolmaster of Farnholt collect?",
    "How many carts may cross the bridge at Greywick at once?",
    "To whom did the widow Hollin leave her house?",
    "Who dug the well of Ister?",
    "On what does the mayor of Jessop ride to the council?",
]


def haystack(books: Path, characters: int) -> tuple[list[str], list[str]]:
    """Passages of so many characters with ten needles at ten depths, and the needles."""
    text = ""
    for file in sorted(books.glob("*.txt")):
        text += file.read_text(encoding="utf-8")
        if len(text) >= characters:
            break
    passages = paragraphs(text[:characters])
    needles = [form.format(word) for form, word in NEEDLES]
    for needle, depth in zip(needles, DEPTHS, strict=True):
        passages[round(depth * (len(passages) - 1))] += f" {needle}"
    return passages, needles


def best_sentences(window: Window, values: Any, passages: list[str]) -> list[list[Any]]:
    """The five best sentences of a window: mean of the best tokens, words, passage."""
    found = []
    for piece, (first, _) in zip(window.pieces, window.spans, strict=True):
        offsets, text = piece.encoding.offsets, passages[piece.passage]
        for start, end in sentences(text):
            at = [n for n, (a, b) in enumerate(offsets) if a < end and b > start]
            if at:
                part = values[first + at[0] : first + at[-1] + 1]
                found.append([float(top_mean(part, BEST_TOKENS)), text[start:end], piece.passage])
    return sorted(found, reverse=True)[:TOP]


async def scan(looker: Looker, tokens: int, books: Path, out: Path, known: dict[Any, Any]) -> Any:
    """Whether each needle is among the five best sentences: after one look, and after the second.

    The second look reads the passages of the best sentences of all windows side by side in one.
    """
    passages, needles = haystack(books, tokens * 4)
    windows = looker.windows(passages, QUESTIONS)
    best: list[list[list[Any]]] = [[] for _ in QUESTIONS]
    seconds, peak = 0.0, 0.0

    async def looked(key: str, look: Any) -> Any:
        if key not in known:
            began = time.perf_counter()
            row = {"key": key, "tops": await look(), "seconds": time.perf_counter() - began}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            known[key] = row | {"peak_gb": round(peak, 2)}
            with out.open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
        return known[key]

    for number, window in enumerate(windows):

        async def first(window: Window = window) -> Any:
            scores = await looker.tokens([window], QUESTIONS)
            return [best_sentences(window, values, passages) for (values,) in scores]

        row = await looked(f"{looker.info.identity}/{tokens}/{number}", first)
        seconds += row["seconds"]
        peak = max(peak, row["peak_gb"])
        for mine, more in zip(best, row["tops"], strict=True):
            mine[:] = sorted([*mine, *more], reverse=True)[:KEPT]

    async def second() -> Any:
        tops = []
        for question, mine in zip(QUESTIONS, best, strict=True):
            ranked = list(dict.fromkeys(passage for _, _, passage in mine))
            again = await second_look(looker, passages, question, ranked)
            tops.append(best_sentences(again[0], again[1], passages) if again else [])
        return tops

    again = best
    if len(windows) > 1:
        row = await looked(f"{looker.info.identity}/{tokens}/second", second)
        again = row["tops"]
        seconds += row["seconds"]
    hits = [
        [
            any(needle in text for _, text, _ in mine[:TOP])
            for needle, mine in zip(needles, found, strict=True)
        ]
        for found in (best, again)
    ]
    print(
        f"{tokens:>9,} tokens, {len(windows)} windows: {sum(hits[0])} of {len(needles)} after one"
        f" look, {sum(hits[1])} after the second, {seconds:.0f} s, peak {peak:.2f} GB",
        flush=True,
    )
    return hits[1]


def draw(found: dict[int, list[bool]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(1 + len(found), 4), layout="constrained")
    rows = [[float(hits[d]) for hits in found.values()] for d in range(len(DEPTHS))]
    axes.imshow(rows, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(found)), [f"{tokens:,}" for tokens in found], rotation=45)
    axes.set_yticks(range(len(DEPTHS)), [f"{depth:.0%}" for depth in DEPTHS])
    axes.set_xticks([at - 0.5 for at in range(1, len(found))], minor=True)
    axes.set_yticks([at - 0.5 for at in range(1, len(DEPTHS))], minor=True)
    axes.grid(which="minor", color="white")
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("tokens (characters / 4)")
    axes.set_ylabel("depth of the needle")
    axes.set_title("Needle among the five top sentences")
    figure.savefig(path, dpi=120)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scorer", default="embedded:tiny")
    parser.add_argument("--lengths", default="4000,8000,16000,32000,64000,128000,256000,1000000")
    parser.add_argument("--books", type=Path, default=Path("/work/shared/data/haystacks"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--window", type=int, default=1_600)
    asked = parser.parse_args()
    lines = asked.out.read_text().splitlines() if asked.out.exists() else []
    known = {row["key"]: row for row in map(json.loads, lines)}
    looker = await Looker.open(asked.scorer, window=asked.window)
    found = {}
    for tokens in map(int, asked.lengths.split(",")):
        found[tokens] = await scan(looker, tokens, asked.books, asked.out, known)
        if asked.plot:
            draw(found, asked.plot)


if __name__ == "__main__":
    asyncio.run(main())
