"""Rankings of passages by heads: a first look at all of them, a second one at the best, fusion.

Attention is shared out among what stands in a window, so scores of two windows compare badly. The
second look puts the best passages of all windows side by side in one and asks again; it costs one
window, whatever the length of the document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reader.attention.heads import HeadTable
from reader.attention.looking import Looker
from reader.attention.model import AttentionSpec
from reader.attention.windows import Window, passage_scores
from reader.errors import EmptyQuestion
from reader.fusion import reciprocal_rank_fusion

if TYPE_CHECKING:
    from reader.attention.model import FloatArray
    from reader.memory.store import Store

FIRST_LOOK, VECTORS, WORDS, TITLES = 0.5, 0.5, 0.25, 0.25
"""Weights of the rankings beside that of the last look; from recall on three sets, as is the next
constant."""
FUSION_K = 10
"""Of the fusion; with the usual 60, words and vectors overrule the heads' first places."""
NAMING = 3
"""Passages whose words name others."""
SHORTEST_TITLE = 4  # characters; shorter ones are words like others


async def second_look(
    looker: Looker, passages: Sequence[str], question: str, ranked: Sequence[int]
) -> tuple[Window, FloatArray] | None:
    """Read the best passages of a ranking again, side by side in one window.

    Returns:
        The window, whose pieces have the passages' numbers, and the scores of its tokens; None
        where no passage fits a window whole.

    Raises:
        WindowTooSmall: the question leaves no room.
        ModelError: the model failed.
    """
    room = looker.layout.room(looker.tails([question]))
    window = looker.layout.best_window(passages, ranked, room)
    if window is None:
        return None
    ((values,),) = await looker.tokens([window], [question])
    return window, values


def fused(
    by_heads: Sequence[int],
    *,
    first: Sequence[int] = (),
    words: Sequence[int] = (),
    vectors: Sequence[int] = (),
    titles: Sequence[int] = (),
) -> list[int]:
    """Rankings as one, by reciprocal rank; that of the heads' last look weighs most.

    Args:
        by_heads: By the last look.
        first: By the first look, where there was a second.
        words: By BM25.
        vectors: By an embedder.
        titles: By ``named``.
    """
    rankings = [by_heads, first, words, vectors, titles]
    weights = (1.0, FIRST_LOOK, WORDS, VECTORS, TITLES)
    return [n for n, _ in reciprocal_rank_fusion(rankings, k=FUSION_K, weights=weights)]


def named(ranked: Sequence[int], texts: Sequence[str], titles: Sequence[str | None]) -> list[int]:
    """Passages whose title the best ones name: where a question of several steps goes on.

    Args:
        ranked: Passages, the best first; the first three may name others.
        texts: Of all passages.
        titles: Of all passages; None for none. A passage names no other of its own title.

    Returns:
        Those named by the best passage first, each passage's own in the order of the ranking.
    """
    plainly = [plain(title) for title in titles]
    patterns = {
        title: re.compile(rf"(?<!\w){re.escape(title)}(?!\w)")
        for title in set(plainly)
        if len(title) >= SHORTEST_TITLE
    }
    found: dict[int, None] = {}
    for best in ranked[:NAMING]:
        text, own = " ".join(texts[best].split()).casefold(), plainly[best]
        said = {title for title, words in patterns.items() if title != own and words.search(text)}
        found |= dict.fromkeys(n for n in ranked if plainly[n] in said)
    return list(found)


def plain(title: str | None) -> str:
    """A title as texts name it: without what stands in brackets behind it, in small letters."""
    return " ".join((title or "").split(" (", 1)[0].split()).casefold()


def by_score(scores: FloatArray) -> list[int]:
    """Numbers of passages, the best score first; of equals, the first."""
    return sorted(range(len(scores)), key=lambda at: (-scores[at], at))


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage in a ranking.

    Attributes:
        index: Its number among the passages.
        score: Mean attention to its best tokens, of the second look where there was one; passages
            that were looked at once stand below those. Comparable within one call only.
    """

    index: int
    score: float


async def arank(
    question: str,
    passages: Sequence[str],
    *,
    model: AttentionSpec = None,
    window: int | None = None,
    table: HeadTable | None = None,
    store: Store | None = None,
    calibrate: bool | None = None,
    twice: bool = True,
    limit: int | None = None,
) -> list[Ranked]:
    """The asynchronous twin of ``rank``."""
    if not question.strip():
        raise EmptyQuestion("The question is empty.", hint="Pass a question.")
    texts = [passage if passage.strip() else "-" for passage in passages]
    if not texts:
        return []
    looker = await Looker.open(model, window=window, table=table, store=store, calibrate=calibrate)
    windows = looker.windows(texts, [question])
    (tokens,) = await looker.tokens(windows, [question])
    scores = passage_scores(windows, tokens, len(texts))
    if twice and len(windows) > 1:
        again = await second_look(looker, texts, question, by_score(scores))
        if again is not None:
            scores = _above(passage_scores([again[0]], [again[1]], len(texts)), scores)
    return [Ranked(at, float(scores[at])) for at in by_score(scores)[:limit]]


def _above(second: FloatArray, first: FloatArray) -> FloatArray:
    """Scores of the second look, and those of the first look for the rest, moved below them."""
    import numpy as np

    twice = np.isfinite(second)
    if twice.all():
        return second
    gap = max(float(first[~twice].max() - second[twice].min()), 0.0)
    return np.asarray(np.where(twice, second, first - gap), np.float32)


def rank(
    question: str,
    passages: Sequence[str],
    *,
    model: AttentionSpec = None,
    window: int | None = None,
    table: HeadTable | None = None,
    store: Store | None = None,
    calibrate: bool | None = None,
    twice: bool = True,
    limit: int | None = None,
) -> list[Ranked]:
    """Rank passages by where a small model's heads look: a reranker without training.

    Args:
        question: The question or query.
        passages: Any number, of any length; each is read with its neighbours in windows.
        model: "transformers:PATH", "embedded", "embedded:tiny", "embedded:large", "vllm:URL", or an
            ``AttentionModel``; None is "embedded".
        window: Tokens that are read at once.
        table: Heads; the model's own table by default. A model without one is calibrated on
            generated needles first, in a minute or so, once where ``store`` is given.
        store: Where such a calibration is kept.
        calibrate: Subtract what a question without content draws; as the table says by default.
        twice: Read the best passages once more, side by side, where they stood in several windows.
        limit: So many at most.

    Returns:
        The best first.

    Raises:
        ReaderError: the question is empty or too long, the model cannot be had or looked into.
    """
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        return portal.call(
            lambda: arank(
                question,
                passages,
                model=model,
                window=window,
                table=table,
                store=store,
                calibrate=calibrate,
                twice=twice,
                limit=limit,
            )
        )
