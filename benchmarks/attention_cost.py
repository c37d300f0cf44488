"""What looking costs beyond the forward pass of the same layers, and beyond one question.

    python benchmarks/attention_cost.py --scorer embedded:tiny --rounds 5
    python benchmarks/attention_cost.py --scorer embedded:tiny --characters 200000

All sides in one process, in turns, medians. Of one window: (a) the model's own layers up to the
last wanted one, bare, over prefix and question; (b) the scorer with the table's heads and the "N/A"
question; (c) the scorer with eight questions. With --characters, of so much of the book: the whole
strategy with one question and with eight, second looks included; the answers are not a model's.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reader import Reader
from reader.attention.looking import Looker
from reader.attention.windows import request
from reader.testing import FunctionModel

BOOK = Path("/work/shared/data/haystacks/stoker_dracula.txt")


def questions(count: int) -> list[str]:
    return [f"What does chapter {n} say about the castle?" for n in range(count)]


def whole(asked: argparse.Namespace) -> None:
    """One question against eight, by the strategy as users call it; in seconds of the processor."""
    text = asked.book.read_text(encoding="utf-8")[20_000:]
    times: dict[int, list[float]] = {1: [], 8: []}
    for number in range(asked.rounds + 1):
        # The first round warms up, on a piece.
        document = text[: asked.characters if number else 10_000]
        for count, taken in times.items():
            asyncio.run(forget_keys(asked.scorer))
            model = FunctionModel(lambda _: "Not found in the document.", window=8_192)
            with (
                tempfile.TemporaryDirectory() as store,
                Reader(model, store=store) as reader,
                reader.open(document) as book,
            ):
                began = time.process_time()
                book.ask_many(
                    questions(count),
                    "attention",
                    scorer=asked.scorer,
                    scorer_window=asked.window,
                )
                if number:
                    taken.append(time.process_time() - began)
    one, eight = (statistics.median(taken) for taken in times.values())
    print(
        f"{asked.scorer}, {asked.characters} characters, processor: one question {one:.1f} s, eight"
        f" {eight:.1f} s, {eight / one:.2f} of one"
    )


async def forget_keys(scorer: str) -> None:
    """The model stays loaded; what it keeps of windows goes."""
    looker = await Looker.open(scorer)
    model: Any = looker.model
    (await model._loaded()).kept.clear()


async def main(asked: argparse.Namespace) -> None:
    import torch

    looker = await Looker.open(asked.scorer, window=asked.window)
    model: Any = looker.model
    loaded = await model._loaded()
    text = asked.book.read_text(encoding="utf-8")
    passages = [text[at : at + 500] for at in range(20_000, 20_000 + 500 * 40, 500)]
    window = looker.windows(passages, questions(8))[0]
    last = max(head.layer for head in looker.heads)
    plain = window.prefix + looker.layout.tail(questions(1)[0]).ids
    saved = loaded.body.config.num_hidden_layers

    def bare() -> None:
        loaded.body.config.num_hidden_layers = last + 1
        try:
            with torch.inference_mode():
                loaded.body(input_ids=torch.tensor([plain]), use_cache=False)
        finally:
            loaded.body.config.num_hidden_layers = saved

    def looks(count: int) -> Callable[[], None]:
        def run() -> None:
            loaded.kept.clear()
            tails = looker.tails(questions(count))
            asyncio.run_coroutine_threadsafe(
                model.score([request(window, tails, looker.heads)]), loop
            ).result()

        return run

    loop = asyncio.get_running_loop()
    sides = {"bare layers": bare, "one question": looks(1), "eight questions": looks(8)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(asked.rounds + 1):
        for name, run in sides.items():
            began = time.perf_counter()
            await asyncio.to_thread(run)
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{looker.info.name}, window of {len(plain)} tokens, layers 0 to {last}")
    for name, value in medians.items():
        print(f"  {name:16} {value:7.3f} s  {value / medians['bare layers']:.2f} of bare", end="")
        print(f"  {value / medians['one question']:.2f} of one question")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scorer", default="embedded:tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=int, default=1_600)
    parser.add_argument("--book", type=Path, default=BOOK)
    parser.add_argument("--characters", type=int, help="the whole strategy, on so much of the book")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    if given.characters:
        whole(given)
    else:
        asyncio.run(main(given))
