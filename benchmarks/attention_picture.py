"""Where in a book the heads looked, as a picture.

python benchmarks/attention_picture.py BOOK.txt QUESTION --out docs/looked.png
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from reader.attention.examples import paragraphs
from reader.attention.looking import Looker


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("book", type=Path)
    parser.add_argument("question")
    parser.add_argument("--scorer", default="embedded:tiny")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    passages = paragraphs(asked.book.read_text(encoding="utf-8"), 500)
    looker = await Looker.open(asked.scorer)
    (scores,) = await looker.passages(passages, [asked.question])
    best = [int(at) for at in scores.argsort()[::-1][:5]]
    colours = ["tab:red" if at in best else "tab:gray" for at in range(len(passages))]
    figure, axes = pyplot.subplots(figsize=(9, 3), layout="constrained")
    axes.bar(range(len(passages)), scores, width=1.0, color=colours)
    axes.set_xlabel(f"passages of {asked.book.stem}, in order")
    axes.set_ylabel('attention less that of "N/A"')
    axes.set_title(asked.question)
    figure.savefig(asked.out, dpi=110)
    for at in best:
        print(f"{scores[at]:.5f}  passage {at + 1}: {' '.join(passages[at].split())[:160]}")


if __name__ == "__main__":
    asyncio.run(main())
