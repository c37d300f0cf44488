"""Attention on a book: one vLLM on this machine finds the passages and answers from them.

    make vllm
    .venv-vllm/bin/python examples/attention_vllm.py BOOK QUESTION --report report.html

Starts a server for the time of the question, or takes the one at ``--url``, which was started as
docs/attention_vllm.md says. The book is read once, by a few attention heads that write nothing;
the passages they looked at most are what the same model then sees: one chat call for any length.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from reader import Reader
from reader.attention.vllm_served import root_of
from reader.errors import ReaderError
from reader.progress import TerminalProgress

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from vllm_server import MODELS, model_folder, quick_dtype, vllm_server

WINDOW = "4096"  # tokens; a longer one needs more memory for keys and looks no better


@contextmanager
def server(url: str | None, model: str) -> Iterator[str]:
    """Address of the server named, or of one that runs as long as it is needed."""
    if url is not None:
        yield root_of(url)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"Starting vLLM with {model} ...", flush=True)
        log = Path(folder) / "vllm.log"
        window = ("--max-model-len", WINDOW)
        with vllm_server(model_folder(model), log, dtype=quick_dtype(), options=window) as started:
            yield started.url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("book", type=Path)
    parser.add_argument("question")
    parser.add_argument("--url", help="a server with the attention extension")
    parser.add_argument("--model", choices=MODELS, default="qwen0.5b", help="for a server started")
    parser.add_argument("--report", type=Path, default=Path("report.html"))
    asked = parser.parse_args()
    try:
        with (
            server(asked.url, asked.model) as url,
            TerminalProgress() as progress,
            Reader(f"{url}/v1", keep_prompts=True) as reader,
        ):
            answer = reader.answer(
                asked.book, asked.question, "attention", scorer=f"vllm:{url}", on_event=progress
            )
    except ReaderError as error:
        parser.error(str(error))
    Console().print(answer)
    print(f"{sum(c.score is not None for c in answer.coverage.chunks)} passages looked at.")
    print(f"Report: {answer.report(asked.report, prompts=True)}")


if __name__ == "__main__":
    main()
