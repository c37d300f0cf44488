"""What the library adds to the model's own time, as ratios measured side by side in one run.

    python benchmarks/speed.py [--rounds 5] [--json]

A local server in a process of its own answers every chat call after a fixed delay. Each figure is
the median of several rounds in which the bare openai client and the library take turns, so that a
machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reader import Document, Reader
from reader.llm.served import ServedModel
from reader.testing import WordCounter

SERVER = Path(__file__).parent.parent / "tests" / "servers.py"
SENTENCE = "The road went on over the hill and the wind blew from the sea all day long. "
REPLY_TOKENS = 200


def document(chunks: int, seed: str) -> Document:
    """A text of about so many chunks of 1,000 words."""
    paragraphs = [f"{seed} part {i}. {SENTENCE * 62}" for i in range(chunks)]
    return Document.from_text("\n\n".join(paragraphs))


class Server:
    """The fixed-delay server, in a process of its own."""

    def __init__(self, delay: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._process = subprocess.Popen([sys.executable, str(SERVER), str(port), str(delay)])
        self.url = f"http://127.0.0.1:{port}/v1"
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise SystemExit("the benchmark's server did not start")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


async def bare(url: str, prompts: list[list[str]]) -> float:
    """Chains of calls through the openai client alone; returns seconds."""
    import openai

    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def chain(texts: list[str]) -> None:
            for text in texts:
                await client.chat.completions.create(
                    model="m",
                    messages=[{"role": "user", "content": text}],
                    max_tokens=REPLY_TOKENS,
                    temperature=0,
                )

        await chain(["warm up"])
        began = time.perf_counter()
        await asyncio.gather(*(chain(texts) for texts in prompts))
        return time.perf_counter() - began


async def ours(url: str, doc: Document, questions: int) -> tuple[float, int]:
    """The same calls as chain-of-agents; returns seconds and calls made per question."""
    with tempfile.TemporaryDirectory() as folder:
        model = ServedModel(url, "m", window=4096, counter=WordCounter())
        async with Reader(model, store=folder) as reader:
            options = {"chunk_tokens": 1125, "cu_tokens": REPLY_TOKENS, "concurrency": questions}
            await reader.aanswer(document(1, "Warm up"), "Warm up?", **options)
            began = time.perf_counter()
            answers = await asyncio.gather(
                *(reader.aanswer(doc, f"Question {i}?", **options) for i in range(questions))
            )
            seconds = time.perf_counter() - began
        await model.aclose()
        assert all(a.coverage.share == 1.0 for a in answers)
        calls = {a.usage.calls for a in answers}
        assert len(calls) == 1
        return seconds, calls.pop()


async def compare(delay: float, questions: int, chunks: int, rounds: int) -> tuple[float, float]:
    """Median seconds of both, taking turns."""
    doc = document(chunks, "Bench")
    prompt = "x" * 400 + SENTENCE * 62
    theirs, mine = [], []
    with Server(delay) as server:
        for _ in range(rounds):
            seconds, calls = await ours(server.url, doc, questions)
            mine.append(seconds)
            theirs.append(await bare(server.url, [[prompt] * calls] * questions))
    return statistics.median(theirs), statistics.median(mine)


def again(rounds: int) -> tuple[float, float]:
    """Seconds of a fresh process that asks an answered question again, and of its imports."""
    with tempfile.TemporaryDirectory() as folder, Server(0.0) as server:
        imports = "import time; from reader import Reader, Document; import reader.run"
        ask = (
            f"{imports}, reader.llm.served, reader.answers, reader.chunking, reader.strategy\n"
            "reader.strategy.find_strategy('coa')\n"
            "began = time.perf_counter()\n"
            f"with Reader({server.url + '#m'!r}, store={folder!r}) as r:\n"
            f"    a = r.answer({'A tale. ' + SENTENCE * 900!r}, 'Q?', chunk_tokens=1000)\n"
            "print(time.perf_counter() - began, a.usage.calls)\n"
        )
        times = []
        for number in range(rounds + 1):
            out = subprocess.run(
                [sys.executable, "-c", ask], check=True, capture_output=True, text=True
            ).stdout.split()
            if number:
                assert out[1] == "0"
                times.append(float(out[0]))
    return statistics.median(times), max(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    rows = []
    for name, delay, questions, chunks, target in (
        ("CoA, 200 chunks, 50 ms a call", 0.05, 1, 200, 1.05),
        ("CoA, 200 chunks, 0 ms a call", 0.0, 1, 200, 1.5),
        ("64 questions of 20 chunks, 50 ms a call", 0.05, 64, 20, 1.2),
    ):
        theirs, mine = asyncio.run(compare(delay, questions, chunks, rounds))
        rows.append((name, f"{theirs:.2f} s", f"{mine:.2f} s", f"{mine / theirs:.2f}", f"{target}"))
    median, worst = again(rounds)
    rows.append(
        ("the same question again", "", f"{median * 1e3:.0f} ms", f"max {worst * 1e3:.0f} ms", "50")
    )
    if arguments.json:
        print(json.dumps(rows))
        return
    print("| | openai client, bare | reader | ratio | target |\n|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
