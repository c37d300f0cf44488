"""Finding a model's retrieval heads, from questions whose passages are known.

After QRHead (Zhang et al., EMNLP 2025, arXiv 2506.09944): a head is good when the question's tokens
look at the gold passages in it. Theirs is the mass of attention on them; ours asks how often the
gold passages come first in the ranking that a head makes alone, since a ranking is what it is for.
Heads are chosen on one half of the questions and reported on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reader.attention.examples import Example, read_examples
from reader.attention.heads import HeadTable
from reader.attention.model import AttentionInfo, AttentionModel, Head
from reader.attention.needles import needle_examples
from reader.attention.windows import WINDOW, Layout, passage_scores, request
from reader.errors import InvalidOption

if TYPE_CHECKING:
    import numpy as np

    from reader.attention.model import FloatArray

HEADS = 8
NEEDLES = 24

OnProgress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """How every head ranks the passages of an example: ``scores`` is ``[heads, passages]``."""

    example: Example
    scores: FloatArray


async def measure(
    model: AttentionModel,
    examples: Sequence[Example],
    *,
    window: int,
    calibrate: bool = True,
    on_progress: OnProgress | None = None,
) -> list[Measured]:
    """Scores of all passages by every head of the model, one example after the other.

    Raises:
        ModelError: the model failed.
        WindowTooSmall: a question leaves no room in a window.
    """
    info = await model.info()
    layout = Layout(await model.tokenizer(), min(window, info.window))
    heads = all_heads(info)
    found = []
    for done, example in enumerate(examples):
        tails = [layout.tail(example.question), *([layout.tail("N/A")] if calibrate else [])]
        windows = layout.windows(example.passages, layout.room(tails))
        scored = await model.score([request(w, tails, heads) for w in windows])
        tokens = [s.tails[0] - s.tails[1] if calibrate else s.tails[0] for s in scored]
        found.append(Measured(example, passage_scores(windows, tokens, len(example.passages))))
        if on_progress:
            on_progress(done + 1, len(examples))
    return found


def all_heads(info: AttentionInfo) -> tuple[Head, ...]:
    """Every head of every layer that has attention."""
    return tuple(Head(layer, head) for layer in info.attending for head in range(info.heads))


def reciprocal_ranks(measured: Sequence[Measured]) -> FloatArray:
    """How near the front each head puts the gold passages: ``[heads]``, 0 to 1.

    The mean over questions and gold passages of 1 / place, places not counting the other gold ones.
    """
    import numpy as np

    total = None
    for one in measured:
        gold = sorted(one.example.gold)
        other = [at for at in range(one.scores.shape[1]) if at not in one.example.gold]
        before = (one.scores[:, other][:, None, :] >= one.scores[:, gold][:, :, None]).sum(-1)
        value = (1.0 / (1.0 + before)).mean(-1)
        total = value if total is None else total + value
    assert total is not None
    return np.asarray(total / len(measured), np.float32)


def recall(scores: Sequence[FloatArray], golds: Sequence[frozenset[int]], first: int) -> float:
    """Share of the gold passages among the first so many, mean over questions."""
    shares = []
    for values, gold in zip(scores, golds, strict=True):
        best = sorted(range(len(values)), key=lambda at: (-values[at], at))[:first]
        shares.append(len(gold & set(best)) / len(gold))
    return sum(shares) / len(shares)


def together(one: Measured, heads: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scores of passages by several heads: the mean over them."""
    import numpy as np

    return np.asarray(one.scores[list(heads)].mean(0), np.float32)


def choose(
    measured: Sequence[Measured],
    info: AttentionInfo,
    *,
    probe: str,
    source: str,
    heads: int = HEADS,
    calibrate: bool = True,
) -> HeadTable:
    """A table of the best heads, chosen on one half of the questions, reported on the other.

    Raises:
        InvalidOption: too few questions to have two halves.
    """
    mine = [one for one in measured if one.example.chooses]
    others = [one for one in measured if not one.example.chooses]
    if not mine or not others:
        raise InvalidOption(
            f"{len(measured)} questions are too few to choose heads with.",
            hint="Pass 20 at least; 50 are better.",
        )
    quality = reciprocal_ranks(mine)
    best = [int(at) for at in quality.argsort()[::-1][:heads]]
    names = all_heads(info)
    scores = [together(one, best) for one in others]
    golds = [one.example.gold for one in others]
    return HeadTable(
        model=info.name,
        shape=info.shape,
        probe=probe,
        source=source,
        heads=tuple((names[at].layer, names[at].head) for at in best),
        scores=tuple(round(float(quality[at]), 3) for at in best),
        measure="mean reciprocal place of the gold passages, this head alone",
        calibrate=calibrate,
        questions=len(mine),
        recall={"1": _at(scores, golds, 1), "2": _at(scores, golds, 2), "5": _at(scores, golds, 5)},
        held_out=len(others),
    )


def _at(scores: Sequence[FloatArray], golds: Sequence[frozenset[int]], first: int) -> float:
    return round(recall(scores, golds, first), 3)


async def calibrate_model(
    model: AttentionModel,
    data: Path | None,
    *,
    limit: int | None = None,
    heads: int = HEADS,
    on_progress: OnProgress | None = None,
) -> HeadTable:
    """A table from questions in a file, or from generated needles.

    Raises:
        InvalidOption: the file does not hold questions with known evidence, or too few.
        ModelError: the model failed.
    """
    if data is None:
        return await calibrate_on_needles(model, on_progress=on_progress)

    examples = read_examples(data, limit)
    measured = await measure(model, examples, window=WINDOW, on_progress=on_progress)
    return choose(
        measured,
        await model.info(),
        probe=data.name.split(".")[0],
        source=f"reader calibrate, {len(examples)} questions of {data.name}",
        heads=heads,
    )


async def calibrate_on_needles(
    model: AttentionModel, *, on_progress: OnProgress | None = None
) -> HeadTable:
    """A table for a model that has none, from needles that the library makes itself.

    Raises:
        ModelError: the model failed.
    """

    measured = await measure(
        model, needle_examples(NEEDLES), window=WINDOW, on_progress=on_progress
    )
    return choose(
        measured,
        await model.info(),
        probe="needles",
        source=f"{NEEDLES} generated needles among passages of a tale",
    )
