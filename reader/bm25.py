"""Lexical ranking of passages: Okapi BM25 (Robertson and others, 1994), by ``bm25s``.

k1 = 1.5 and b = 0.75, with Lucene's inverse document frequency, which is never negative. Words are
compared without case; there is no stemming and no list of stop words (frequent words weigh next to
nothing anyway). Chinese and Japanese put no blanks between words: there each character is a word.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


def words(text: str) -> list[str]:
    """The words that are compared."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class BM25Index:
    """An index of passages in memory."""

    def __init__(self, passages: Sequence[str]) -> None:
        with warnings.catch_warnings():  # its progress bar warns in notebooks without widgets
            warnings.simplefilter("ignore")
            import bm25s

        self._size = len(passages)
        tokens = [words(passage) for passage in passages]
        self._index = bm25s.BM25() if any(tokens) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def __len__(self) -> int:
        return self._size

    def rank(self, query: str, limit: int | None = None) -> list[tuple[int, float]]:
        """Passages that share a word with the query, as (index, score), the best first.

        Equal scores are in the order of the passages. A passage without a word of the query is
        left out: nothing is known about it.
        """
        asked = words(query)
        if self._index is None or not asked:
            return []
        scores = self._index.get_scores(asked)
        found = [(i, float(score)) for i, score in enumerate(scores) if score > 0]
        found.sort(key=lambda pair: -pair[1])
        return found[:limit]
