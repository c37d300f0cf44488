"""Cutting a document after every so many tokens, wherever that is: MemAgent's segments.

Section 3 of Yu et al., arXiv 2507.02259: no boundary of sentences or paragraphs counts. With
``align`` a segment ends at the nearest end of a sentence in its last 5%.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import Any

from reader.boundaries import Level, level
from reader.chunking import Chunk
from reader.memory.store import Store
from reader.tokens import TokenCounter

SEGMENTS_VERSION = 1
REACH = 0.05  # of a segment, within which an end is moved to a sentence
_STRETCH = 1 << 18  # characters given to a tokenizer at once
_FULL = 0.95  # of a segment, from which on a counted one is full enough
_AIM = 0.98
_TRIES = 8
_BREAK = re.compile(r"\s+|(?<=[\u3002\uff01\uff1f])")


async def segments(
    store: Store, sha256: str, text: str, counter: TokenCounter, tokens: int, *, align: bool
) -> list[Chunk]:
    """Segments of at most ``tokens`` tokens that tile the text, from the store if they are there.

    With a tokenizer in process every segment but the last has exactly so many tokens (fewer with
    ``align``). Where tokens can only be counted, a segment has 95 to 100% of them and ends at a
    word, which keeps the number of counts near one a segment.

    Raises:
        ModelError: the counter asks a server, and that fails.
    """
    key = f"memagent-segments/{SEGMENTS_VERSION}|{sha256}|{tokens}|{align}|{counter.name}"
    known = _read(store.artifact(key), len(text))
    if known is not None:
        return known
    tokenizer = counter.tokenizer()
    if tokenizer is not None:
        from anyio import to_thread

        cuts = await to_thread.run_sync(_sliced, text, tokenizer, tokens, align)
    else:
        cuts = await _counted(text, counter, tokens, align)
    store.keep_artifact(key, "segments", cuts)
    return _chunks(cuts)


def _chunks(cuts: list[tuple[int, int]]) -> list[Chunk]:
    starts = [0, *(end for end, _ in cuts)]
    return [
        Chunk(i, start, end, count, start)
        for i, (start, (end, count)) in enumerate(zip(starts, cuts, strict=False))
    ]


def _read(kept: Any, size: int) -> list[Chunk] | None:
    """The segments of an artifact; None where it is none that tiles the text."""
    try:
        cuts = [(int(end), int(count)) for end, count in kept]
    except (TypeError, ValueError):
        return None
    ends = [0, *(end for end, _ in cuts)]
    if ends[-1] != size or any(a >= b for a, b in pairwise(ends)):
        return None
    return _chunks(cuts)


def _sliced(text: str, tokenizer: Any, tokens: int, align: bool) -> list[tuple[int, int]]:
    """(end, tokens) of each segment, by a tokenizer; a stretch of the text at a time."""
    cuts: list[tuple[int, int]] = []
    start, reach = 0, max(_STRETCH, 16 * tokens)
    while start < len(text):
        base, last = start, start + reach >= len(text)
        ends = _token_ends(tokenizer, text[base : base + reach])
        first = 0
        while len(ends) - first > tokens:
            end = base + ends[first + tokens - 1]
            if align:
                end = aligned(text, start, end)
            end = max(end, start + 1)
            following = max(bisect_right(ends, end - base), first + 1)
            cuts.append((end, following - first))
            start, first = end, following
        if last:
            if start < len(text):
                cuts.append((len(text), len(ends) - first))
            return cuts
        # not one whole segment: almost nothing but blanks
        reach = reach if start > base else 2 * reach
    return cuts


def _token_ends(tokenizer: Any, text: str) -> list[int]:
    """Where each token ends; characters of several tokens end with the first of them."""
    if hasattr(tokenizer, "encode_ordinary"):  # tiktoken
        _, starts = tokenizer.decode_with_offsets(tokenizer.encode_ordinary(text))
        ends = [*starts[1:], len(text)]
    else:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        ends = [end for _, end in encoding.offsets]
    return list(accumulate(ends, max))


async def _counted(
    text: str, counter: TokenCounter, tokens: int, align: bool
) -> list[tuple[int, int]]:
    """(end, tokens) of each segment, by counting guesses: about one count a segment."""
    cuts: list[tuple[int, int]] = []
    start, density = 0, 4.0  # characters a token
    while start < len(text):
        rest = len(text) - start
        size, count = min(max(int(_AIM * tokens * density), 1), rest), tokens + 1
        for _ in range(_TRIES):
            (count,) = await counter.count([text[start : start + size]])
            if count <= tokens and (size == rest or count >= _FULL * tokens):
                break
            size = min(max(int(size * _AIM * tokens / max(count, 1)), 1), rest)
        while count > tokens and size > 1:
            size = size // 2
            (count,) = await counter.count([text[start : start + size]])
        density = max(size / max(count, 1), 0.1)
        end = start + size
        if end < len(text):
            end = aligned(text, start, end) if align else _word_end(text, start, end)
        cuts.append((end, count))
        start = end
    return cuts


def aligned(text: str, start: int, end: int) -> int:
    """The last end of a sentence in the last 5% of a range, else of a word, else its end."""
    low = end - max(int((end - start) * REACH), 1)
    places = [low + m.end() for m in _BREAK.finditer(text[low:end])]
    if end >= len(text) or level(text, end) >= Level.SENTENCE:
        return end
    for place in reversed(places):
        if level(text, place) >= Level.SENTENCE:
            return place
    return places[-1] if places else end


def _word_end(text: str, start: int, end: int) -> int:
    """The end of the word before a place that was only guessed."""
    low = max(start + 1, end - 40)
    blank = next((m for m in re.finditer(r"\s", text[low:end][::-1])), None)
    return end - blank.start() if blank and not text[end].isspace() else end
