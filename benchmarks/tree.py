"""MemWalker's tree of 100 chunks against a server of 200 ms a call, 16 calls in flight.

    python benchmarks/tree.py [--rounds 3]

The ideal is waves times delay: with 8 children a node, 100 + 13 + 2 + 1 summaries are 7, 1, 1 and 1
waves of 16. A build that does not wait for the end of a wave can be faster. Printed is the time
from the start of the run, cutting included, to the end of the last summary.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import tempfile
import time

from speed import Server, document

from reader import Reader
from reader.events import Event, ModelCalled
from reader.llm.served import ServedModel
from reader.testing import WordCounter

CHILDREN, DELAY, IN_FLIGHT = 8, 0.2, 16


def ideal(chunks: int) -> tuple[int, float]:
    """Calls and seconds of a build in whole waves."""
    level, calls, waves = chunks, chunks, math.ceil(chunks / IN_FLIGHT)
    while level > 1:
        level = math.ceil(level / CHILDREN)
        calls += level
        waves += math.ceil(level / IN_FLIGHT)
    return calls, waves * DELAY


async def build(url: str) -> tuple[int, int, float]:
    """Chunks, summaries made, and seconds from the start of the run to the last of them."""
    last, made = 0.0, 0

    def listen(event: Event) -> None:
        nonlocal last, made
        if isinstance(event, ModelCalled) and event.purpose in ("summary", "merge"):
            last, made = time.perf_counter(), made + 1

    with tempfile.TemporaryDirectory() as folder:
        model = ServedModel(url, "m", window=8192, counter=WordCounter())
        async with Reader(model, store=folder) as reader:
            options = {"chunk_tokens": 1125, "children": CHILDREN, "window": 8192}
            await reader.aanswer(document(1, "Warm up"), "Warm up?", "memwalker", **options)
            made, began = 0, time.perf_counter()
            answer = await reader.aanswer(
                document(88, "Bench"),
                "Where does the road go?",
                "memwalker",
                on_event=listen,
                concurrency=IN_FLIGHT,
                **options,
            )
        await model.aclose()
    return len(answer.coverage.chunks), made, last - began


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    times = []
    with Server(DELAY) as server:
        for _ in range(parser.parse_args().rounds):
            chunks, made, seconds = asyncio.run(build(server.url))
            times.append(seconds)
    calls, best = ideal(chunks)
    assert made == calls, f"{made} summaries instead of {calls}"
    median = statistics.median(times)
    print(
        f"{chunks} chunks, {made} summaries: {median:.2f} s; in whole waves {best:.2f} s; "
        f"ratio {median / best:.2f} (target 1.3)"
    )


if __name__ == "__main__":
    main()
