"""The runs behind docs/results.md: every strategy and baseline on real and on generated sets.

    .venv/bin/python benchmarks/results.py --data ../shared/data --logs results-logs

Hours on a CPU: stop it and start it again as you like, nothing is repeated. ``--items 2`` is a
small trial of everything, ``--only needle`` one set, ``--commands`` only prints. In the end:
seconds a question for each strategy, and ``reader eval report`` for the page.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

STRATEGIES = "coa,memwalker,graphreader,memagent,map_reduce,quotes"
CORE = "coa,memwalker,graphreader,memagent,map_reduce"
LENGTHS = "4k,8k,16k,32k"
BOOK = "thoreau_walden.txt"
REAL = {"hotpotqa": 40, "musique": 30, "fairytaleqa": 20}


def runs(data: Path, items: int | None, model: str) -> dict[str, list[str]]:
    """Arguments of ``reader eval`` by name of the set."""
    window = ["--window", "2048"]
    if model == "embedded:large":  # slow: the core strategies on ten questions
        file = str(data / "fairytaleqa.dev.jsonl.gz")
        limit = ["--limit", str(items or 10)]
        return {"fairytaleqa": [file, "-s", f"{CORE},rag", "--no-baselines", *window, *limit]}
    made = {
        name: [
            str(data / f"{name}.dev.jsonl.gz"),
            *("-s", STRATEGIES, *window, "--limit", str(items or limit)),
        ]
        for name, limit in REAL.items()
    }
    book = str(data / "haystacks" / BOOK)
    for name in ("needle", "babilong"):
        lengths = LENGTHS if items is None else "4k"
        options = [f"lengths={lengths}", f"items={items or 10}", f"haystack={book}"]
        if name == "babilong":
            options.append(f"stories={data / 'babi.dev.jsonl.gz'}")
        given = [part for option in options for part in ("--set-option", option)]
        made[name] = [name, "-s", STRATEGIES, *window, *given]
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--logs", type=Path, default=Path("results-logs"))
    parser.add_argument("--store", type=Path, default=Path("results-store"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--items", type=int, help="so many of each set, and 4k only")
    parser.add_argument("--only", action="append", help="one set; repeatable")
    parser.add_argument("--strategies", help="others than the usual")
    parser.add_argument("--commands", action="store_true", help="print the commands and stop")
    given = parser.parse_args()
    common = ["--model", given.model, "--log-dir", str(given.logs), "--store", str(given.store)]
    worst = 0
    for name, arguments in runs(given.data, given.items, given.model).items():
        if given.only and name not in given.only:
            continue
        if given.strategies:
            arguments[arguments.index("-s") + 1] = given.strategies
        command = ["reader", "eval", *arguments, *common, "--yes"]
        print(shlex.join(command), flush=True)
        if not given.commands:
            code = "from reader.cli import main; main()"
            worst = max(
                worst, subprocess.run([sys.executable, "-c", code, *command[1:]]).returncode
            )
    if not given.commands:
        seconds(given.logs)
    return worst


def seconds(logs: Path) -> None:
    """Print seconds a question by set and strategy, and how they ended."""
    from reader.evals.results import read_rows
    from reader.evals.summary import summarised

    print(f"\n{'set':14} {'strategy':14} {'items':>5} {'seconds':>9} {'calls':>7}  outcomes")
    for one in summarised(read_rows(logs)):
        kinds = ", ".join(f"{n} {kind}" for kind, n in one.kinds.items())
        line = f"{one.set:14} {one.label:14} {one.quality.n:5} {one.seconds:9.1f}"
        print(f"{line} {one.calls:7.1f}  {kinds}")


if __name__ == "__main__":
    sys.exit(main())
