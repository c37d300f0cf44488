"""The runs behind docs/results.md: every strategy and baseline on real and on generated sets.

    .venv/bin/python benchmarks/results.py --data ../shared/data --model http://127.0.0.1:8000/v1

Hours on a CPU: stop it and start it again as you like, nothing is repeated. ``--only needle`` runs
one table, ``--items 2`` a small trial of it, ``--commands`` only prints. Windows are held to 2,048
tokens, so that documents are several windows long (``summary``: 4,096, so that they fit). Each
table has its own folder of logs, for ``reader eval report``.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

ALL = "coa,evidence=coa,memwalker,graphreader,memagent,revisions=memagent,attention,map_reduce"
VARIANTS = {
    "evidence": "preset=evidence",
    "revisions": "preset=revisions",
    "all_units": "manager_sees=all",
    "no_units": "manager_sees=none",
    "bare": "reasoning=false",
    "one_notebook": "notebooks=shared",
    "sentences": "facts=sentences",
}
LENGTHS = "4k,8k,16k,32k"
BOOK = "thoreau_walden.txt"


@dataclass(frozen=True, slots=True)
class Table:
    """One command of ``reader eval``.

    Attributes:
        set: A file of the data folder, or a generator.
        items: Questions, of each length where it is a generator.
        strategies: As ``--strategy`` takes them.
        baselines: With closed_book, full and rag.
        window: In tokens.
    """

    set: str
    items: int
    strategies: str = f"{ALL},quotes"
    baselines: bool = True
    window: int = 2048


CORE = "coa,memwalker,graphreader,memagent,attention,rag"
TABLES = {
    "hotpotqa": Table("hotpotqa", 40),
    "musique": Table("musique", 30),
    "fairytaleqa": Table("fairytaleqa", 20),
    "needle": Table("needle", 10),
    "babilong": Table("babilong", 10),
    "large": Table("fairytaleqa", 10, CORE, baselines=False),
    # Section 7 of the design: what each part of a method is worth.
    "units": Table("musique", 30, "coa,all_units=coa,no_units=coa", baselines=False),
    "reasoning": Table("musique", 30, "memwalker,bare=memwalker", baselines=False),
    "notebooks": Table("hotpotqa", 40, "graphreader,one_notebook=graphreader", baselines=False),
    "facts": Table("hotpotqa", 40, "graphreader,sentences=graphreader", baselines=False),
    # One worker reads what fits: what is lost by the summary, not by cutting.
    "summary": Table("hotpotqa", 40, "coa,full", baselines=False, window=4096),
}


def arguments(table: Table, data: Path, items: int | None, scorer: str) -> list[str]:
    """Those of ``reader eval``, without model and folders."""
    generated = table.set in ("needle", "babilong")
    made = [
        table.set if generated else str(data / f"{table.set}.dev.jsonl.gz"),
        *("--strategy", table.strategies, "--window", str(table.window)),
    ]
    if not table.baselines:
        made.append("--no-baselines")
    for label, option in VARIANTS.items():
        if f"{label}=" in table.strategies:
            made += ["--option", f"{label}:{option}"]
    if "attention" in table.strategies:
        made += ["--option", f"attention:scorer={scorer}"]
    if not generated:
        return [*made, "--limit", str(items or table.items)]
    options = [f"lengths={LENGTHS if items is None else '4k'}", f"items={items or table.items}"]
    options.append(f"haystack={data / 'haystacks' / BOOK}")
    if table.set == "babilong":
        options.append(f"stories={data / 'babi.dev.jsonl.gz'}")
    return made + [part for option in options for part in ("--set-option", option)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--logs", type=Path, default=Path("results-logs"))
    parser.add_argument("--store", type=Path, default=Path("results-store"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--scorer", default="embedded", help="of the strategy attention")
    parser.add_argument("--items", type=int, help="so many of each set, and 4k only")
    parser.add_argument("--only", action="append", choices=[*TABLES], help="a table; repeatable")
    parser.add_argument("--strategies", help="others than the table's")
    parser.add_argument("--commands", action="store_true", help="print the commands and stop")
    parser.add_argument("more", nargs="*", help="after --: more options of reader eval")
    given = parser.parse_args()
    worst = 0
    for name in given.only or TABLES:
        table = TABLES[name]
        if given.strategies:
            table = replace(table, strategies=given.strategies, baselines=False)
        command = [
            *("reader", "eval", *arguments(table, given.data, given.items, given.scorer)),
            *("--model", given.model, "--log-dir", str(given.logs / name)),
            *("--store", str(given.store), "--yes", *given.more),
        ]
        print(shlex.join(command), flush=True)
        if not given.commands:
            code = "from reader.cli import main; main()"
            run = subprocess.run([sys.executable, "-c", code, *command[1:]], check=False)
            worst = max(worst, abs(run.returncode))  # a signal's is negative
    return worst


if __name__ == "__main__":
    sys.exit(main())
