"""What `make demo` runs: one question about a shipped tale, read in 2k windows.

The tale is W. W. Jacobs' "The Monkey's Paw" (1902, public domain). The window is held to 2,048
tokens, so that the tale is several windows long and the chain has several workers.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from rich.console import Console

from reader import Reader
from reader.progress import TerminalProgress

QUESTION = "What is the sergeant-major's name?"
OPTIONS = {"window": 2048, "preset": "evidence"}


def main() -> None:
    console = Console()
    with (
        as_file(files("reader") / "tales" / "the_monkeys_paw.txt") as tale,
        TerminalProgress() as progress,
        Reader("embedded", on_download=progress.download) as reader,
    ):
        console.print(f"Document: {tale.name}. Question: {QUESTION}")
        expected = reader.estimate(tale, QUESTION, "coa", **OPTIONS)
        console.print(
            f"Expected: {expected.calls} calls, {expected.prompt_tokens:,} tokens in, "
            f"about {expected.completion_tokens:,} out."
        )
        answer = reader.answer(tale, QUESTION, "coa", on_event=progress, **OPTIONS)
    console.print(answer)


if __name__ == "__main__":
    main()
