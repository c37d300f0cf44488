"""A document of a million tokens, read to the end: calls, seconds, peak memory, checkpoint size.

    python benchmarks/million.py BOOKS [--tokens 1000000] [--strategies coa,memagent]

BOOKS is a folder of plain texts. One sentence is planted in them. The model is a scripted server
in a process of its own that carries that sentence in its memory once it has seen it, so the answer
is right only where every chunk was shown and no memory was lost. Tokens are words and marks.
Each strategy runs in a fresh process, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

FACT = "The harbour master of Port Ellery keeps key number 48213 in a blue tin."
QUESTION = "Which key does the harbour master of Port Ellery keep?"
DEPTH = 0.37
OPTIONS: dict[str, dict[str, object]] = {
    "coa": {"window": 8192},
    "memagent": {"window": 8192},
}


def document(folder: Path, tokens: int) -> str:
    """The books one after another, from the first again where they are too short."""
    from reader.testing import _TOKEN

    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))]
    if not texts:
        raise SystemExit(f"No .txt files in {folder}.")
    parts, missing = [], tokens
    while missing > 0:
        for text in texts:
            ends = [m.end() for m in _TOKEN.finditer(text)][:missing]
            parts.append(text[: ends[-1]])
            missing -= len(ends)
            if missing <= 0:
                break
    whole = "\n\n".join(parts)
    at = whole.index(". ", int(len(whole) * DEPTH)) + 2
    return whole[:at] + FACT + " " + whole[at:]


def serve(port: int) -> None:
    """The scripted server."""
    from servers import LocalServer, Reply, ok

    found = ok(f"So far: {FACT}")
    nothing = ok("So far nothing about it.")
    answer = ok("The answer is (key number 48213).")
    unknown = ok("Not found in the document.")

    def script(body: dict[str, object]) -> Reply:
        server.requests.clear()
        server.completed.clear()
        text = str(body["messages"])
        told = "key number 48213" in text.lower()
        if "<source_text>" in text or "<section>" in text:
            return found if told else nothing
        return answer if told else unknown

    server = LocalServer(script, port=port, dialect="vllm", window=131_072)
    asyncio.run(server.serve())


def run(strategy: str, folder: Path, tokens: int, port: int) -> dict[str, object]:
    """One strategy in this process."""
    from reader import Document, Reader
    from reader.llm.served import ServedModel
    from reader.testing import WordCounter

    doc = Document.from_text(document(folder, tokens))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest, done = 0, threading.Event()
    with tempfile.TemporaryDirectory() as store:
        model = ServedModel(
            f"http://127.0.0.1:{port}/v1", "m", window=131_072, counter=WordCounter()
        )

        def watch() -> None:
            nonlocal largest
            while not done.wait(0.05):
                sizes = (f.stat().st_size for f in Path(store).glob("checkpoints.sqlite*"))
                largest = max(largest, sum(sizes))

        watcher = threading.Thread(target=watch)
        watcher.start()
        began = time.perf_counter()
        with Reader(model, store=store) as reader:
            answer = reader.answer(doc, QUESTION, strategy, **OPTIONS.get(strategy, {}))
        seconds = time.perf_counter() - began
        done.set()
        watcher.join()
        kept = sum(f.stat().st_size for f in Path(store).iterdir())
    return {
        "strategy": strategy,
        "characters": len(doc.text),
        "chunks": len(answer.coverage.chunks),
        "read": answer.coverage.share,
        "calls": answer.usage.calls,
        "right": "48213" in answer.text,
        "cited": any("48213" in c.text for c in answer.citations),
        "seconds": round(seconds, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "document_mb": round(before / 1024),
        "checkpoint_mb": round(largest / 1e6, 2),
        "store_mb": round(kept / 1e6, 2),
    }


def main() -> None:
    """Print one JSON line a strategy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("books", type=Path, nargs="?")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--strategies", default="coa,memagent")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.serve)
        return
    if arguments.books is None:
        parser.error("a folder of books is needed")
    if arguments.port is not None:
        print(
            json.dumps(run(arguments.strategies, arguments.books, arguments.tokens, arguments.port))
        )
        return
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    try:
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        for strategy in arguments.strategies.split(","):
            command = [sys.executable, __file__, str(arguments.books), "--port", str(port)]
            command += ["--tokens", str(arguments.tokens), "--strategies", strategy]
            subprocess.run(command, check=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
