"""Finding a quote in a text: exact, nearly exact, elsewhere, or not at all.

Quotes that are not where they should be are looked for in the whole text through an index of
words by block, built on first need: which blocks hold most of what is rare in the quote?
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from math import log2
from typing import NamedTuple
from unicodedata import normalize
from zlib import crc32

from rapidfuzz import fuzz

from reader.citations import MatchKind
from reader.folding import PART, Folded, Range, content_words, same_facts, whole_words

NEAR = 87.0
"""Similarity (0 to 100) from which on a quote counts as near."""

_REGION = 65_536  # characters that are searched directly, without the index
_BLOCK = 8_192  # characters of a block of the index, at least; there are at most 2,048 blocks
_OVERLAP = 2_048  # characters by which a block reaches into the next
_ELLIPSIS_GAP = 1_000  # characters that "..." in a quote may stand for
_TRIED = 8  # blocks in which one quote is looked for with everything we have
_STRETCHES = 12  # stretches of a region searched for another, better near match
_PLACES = 256  # places where the first piece of a quote with an ellipsis may stand
_WORDS = 131_072  # words of the index with a mask of their own; others share
_BUCKETS = 65_536  # so many

_ELLIPSIS = re.compile(r" ?[\[(]? ?\.{3,} ?[\])]? ?")
_EDGES = " -\"'*_"
_CLOSING = ".,;:"


class Match(NamedTuple):
    """Where a quote stands: characters ``start`` to ``end`` of the original text.

    ``score`` is the similarity, 0 to 100; 100 with "near" means that only the case differs.
    """

    start: int
    end: int
    kind: MatchKind
    score: float


class _Index:
    """Which blocks of a text hold a word: a bit for each block."""

    def __init__(self, text: str) -> None:
        self.size = max(_BLOCK, len(text) // 2_048 + 1)
        self.blocks = range(0, len(text), self.size)
        self._masks: dict[str | int, int] = {}
        masks = self._masks
        for number, start in enumerate(self.blocks):
            bit = 1 << number
            for word in _index_words(text[start : start + self.size + _OVERLAP]):
                if word in masks:
                    masks[word] |= bit
                else:
                    key = word if len(masks) < _WORDS else _bucket(word)
                    masks[key] = masks.get(key, 0) | bit

    def likely(self, words: Iterable[str]) -> list[int]:
        """Starts of the blocks that hold at least half of the words by weight, best first.

        Rare words weigh more; words that stand nowhere (misspelt ones?) do not count, unless
        they are most of all.
        """
        masks = [self._masks.get(w) or self._masks.get(_bucket(w), 0) for w in set(words)]
        known = [mask for mask in masks if mask]
        if 2 * len(known) < len(masks):
            return []
        count = len(self.blocks)
        weighted = sorted((1 + log2(count / mask.bit_count()), mask) for mask in known)
        half = sum(weight for weight, _ in weighted) / 2
        # A block that holds none but the lightest words cannot reach half.
        some, light = 0, 0.0
        for weight, mask in weighted:
            light += weight
            if light >= half:
                some |= mask
        scored: list[tuple[float, int]] = []
        for number, start in enumerate(self.blocks):
            if some >> number & 1:
                score = sum(weight for weight, mask in weighted if mask >> number & 1)
                if score >= half:
                    scored.append((-score, start))
        return [start for _, start in sorted(scored)]


class QuoteFinder:
    """Finds quotes in one text. Keeps the text, a few folded regions and, once needed, an index."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._folded = lru_cache(maxsize=8)(lambda start, end: Folded(text[start:end], start))
        self._index: _Index | None = None

    def find(
        self, quote: str, *, within: Range | None = None, at_least: float = NEAR
    ) -> Match | None:
        """Find a quote; None means that the text does not say this.

        A near match never differs from the quote in a number or in the count of its negations.
        Quotes of fewer than 2 content words or 8 characters are only found word for word.
        An ellipsis inside a quote stands for up to 1,000 characters.

        Args:
            quote: What is said to stand in the text; quotation marks around it are ignored.
            within: Where it is said to stand (characters); None is the whole text. What is found
                outside is "elsewhere".
            at_least: Similarity (0 to 100) that makes it near.
        """
        needle = _Needle(quote, at_least)
        if not PART.search(needle.text):
            return None
        if within is not None:
            match = self._search(needle, self._regions(needle, within))
            if match is not None:
                return match
        everywhere = (0, len(self.text))
        if within is not None and within[0] <= 0 and within[1] >= everywhere[1]:
            return None
        match = self._search(needle, self._regions(needle, everywhere))
        if match is None or within is None:
            return match
        return match._replace(kind="elsewhere")

    def _regions(self, needle: _Needle, within: Range) -> Iterator[Range]:
        start, end = max(within[0], 0), min(within[1], len(self.text))
        if end - start <= _REGION:
            yield start, end
            return
        if self._index is None:
            self._index = _Index(self.text)
        reach = self._index.size + max(_OVERLAP, 2 * len(needle.text))
        for tried, block in enumerate(self._index.likely(needle.words)):
            low, high = max(block, start), min(block + reach, end)
            # Common words stand in many blocks: beyond the best, look for their sequence only.
            if low < high and (tried < _TRIED or needle.sequence.search(self.text, low, high)):
                yield low, high

    def _search(self, needle: _Needle, regions: Iterable[Range]) -> Match | None:
        best: Match | None = None
        for start, end in regions:
            match = needle.search(self._folded(start, end))
            if match is not None and match.kind == "exact":
                return match
            if match is not None and (best is None or match.score > best.score):
                best = match
        return best


class _Needle:
    """A quote made ready for the search in folded texts."""

    def __init__(self, quote: str, at_least: float) -> None:
        self.text = _trim(Folded(quote).text)
        self.at_least = at_least
        self.words = _index_words(quote[:_OVERLAP])
        words = PART.findall(quote[:_OVERLAP])
        self.sequence = re.compile(r"[\W_]*".join(map(re.escape, words)))
        pieces = [_trim(piece) for piece in _ELLIPSIS.split(self.text)]
        self._pieces = [piece for piece in pieces if piece]
        if len(self._pieces) < 2:
            self.text = "".join(self._pieces)

    def search(self, folded: Folded) -> Match | None:
        """The best match in a region."""
        found = next(_exact(self.text, folded, 0, len(folded.text)), None)
        if found is None and self.text[-1] in _CLOSING:
            # Whoever quotes may close with a full stop or comma of their own.
            found = next(_exact(self.text.rstrip(_CLOSING), folded, 0, len(folded.text)), None)
        if found is None and len(self._pieces) > 1:
            found = self._in_order(folded)
        if found is None:
            found = _near(self.text, folded, 0, len(folded.text), self.at_least)
        if found is None:
            return None
        start, end, score = found
        kind: MatchKind = "exact" if score > 100 else "near"
        return Match(*folded.origin(start, end), kind, min(score, 100.0))

    def _in_order(self, folded: Folded) -> _Spot | None:
        """All pieces of a quote with an ellipsis, one after the other."""
        first, *rest = self._pieces
        places = _spots(first, folded, 0, len(folded.text), self.at_least)
        for spot in islice(places, _PLACES):
            spots = [spot]
            for piece in rest:
                low = spots[-1].end
                high = min(low + _ELLIPSIS_GAP + len(piece), len(folded.text))
                following = next(_spots(piece, folded, low, high, self.at_least), None)
                if following is None:
                    break
                spots.append(following)
            else:
                return _Spot(spot.start, spots[-1].end, min(s.score for s in spots))
        return None


class _Spot(NamedTuple):
    """A range of a folded text; a score above 100 is exact."""

    start: int
    end: int
    score: float


_EXACT = 101.0


def _spots(piece: str, folded: Folded, low: int, high: int, at_least: float) -> Iterator[_Spot]:
    found = False
    for spot in _exact(piece, folded, low, high):
        found = True
        yield spot
    if not found:
        near = _near(piece, folded, low, high, at_least)
        if near is not None:
            yield near


def _exact(needle: str, folded: Folded, low: int, high: int) -> Iterator[_Spot]:
    """Places of the needle, those at word boundaries first, and only those if it is short."""
    inside: list[_Spot] = []
    at = folded.text.find(needle, low, high)
    while at >= 0:
        spot = _Spot(at, at + len(needle), _EXACT)
        if whole_words(folded.text, spot.start, spot.end):
            yield spot
        elif len(inside) < 8:
            inside.append(spot)
        at = folded.text.find(needle, at + 1, high)
    if not _short(needle):
        yield from inside


def _near(needle: str, folded: Folded, low: int, high: int, at_least: float) -> _Spot | None:
    """The most similar place, in whole words, with the same numbers and as many negations."""
    lower, hay = needle.lower(), folded.low
    if _short(needle):
        return None
    # The same words may stand again to the left or right, with the right number.
    stretches = [(low, high)]
    for left, right in stretches:
        if right - left < len(lower) or len(stretches) > _STRETCHES:
            continue
        rough = fuzz.partial_ratio_alignment(lower, hay[left:right], score_cutoff=at_least - 8)
        if rough is None:
            continue
        start, end = left + rough.dest_start, left + rough.dest_end
        spot = _fit(lower, hay, start, end, low, high)
        if spot.score >= at_least and same_facts(lower, hay[spot.start : spot.end]):
            return spot
        stretches += ((left, start), (end, right))
    return None


def _fit(needle: str, hay: str, start: int, end: int, low: int, high: int) -> _Spot:
    """Move the ends of a rough alignment to the word boundaries that suit the needle best."""
    slack = 12 + min(len(needle) // 8, 60)
    left, right = max(low, start - slack), min(high, end + slack)
    words = list(PART.finditer(hay, left, right))
    starts = [w.start() for w in words if w.start() <= start + slack]
    ends = [w.end() for w in words if w.end() >= end - slack]
    if not starts or not ends:
        return _Spot(start, end, 0.0)
    best = max(
        (_Spot(s, end, fuzz.ratio(needle, hay[s:end])) for s in starts if s < end), key=_score
    )
    usable = [e for e in ends if e > best.start]
    return max(
        (_Spot(best.start, e, fuzz.ratio(needle, hay[best.start : e])) for e in usable),
        key=_score,
        default=best,
    )


def _score(spot: _Spot) -> float:
    return spot.score


def _short(needle: str) -> bool:
    return len(needle) < 8 or len(content_words(needle)) < 2


def _bucket(word: str) -> int:
    return crc32(word.encode("utf-8", "surrogatepass")) % _BUCKETS


def _trim(folded: str) -> str:
    return folded.strip(_EDGES)


def _index_words(text: str) -> set[str]:
    """The distinct words of a text. Splitting at white space first is several times faster."""
    found: set[str] = set()
    for token in set(text.lower().split()):
        if token.isascii() and token.isalnum():
            found.add(token)
        else:
            found.update(PART.findall(normalize("NFKC", token)))
    return found
