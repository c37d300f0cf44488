"""Cutting a document into chunks that fit a token budget and tile the text.

The splitting is done by ``semantic-text-splitter``: boundaries in the order section, paragraph,
sentence, word, character, with code blocks and tables of Markdown kept whole where they fit.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reader.errors import InvalidOption, WindowTooSmall
from reader.tokens import EstimateCounter, TokenCounter, estimated

if TYPE_CHECKING:
    from reader.documents import Document

CHUNKER_VERSION = 1
MIN_CHUNK = 16  # tokens; a single character may weigh several
MIN_ROOM = 64  # tokens; less is not worth a call
_SLICE = 1_000_000  # characters split at once, so that memory stays bounded
_BREAK = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the document.

    Attributes:
        index: Position among the chunks, from 0.
        start: First character; the ranges of all chunks tile the text.
        end: One past the last character.
        tokens: Length by the counter, the overlap included.
        overlap_start: Where the text to show begins; before ``start`` when chunks overlap.
    """

    index: int
    start: int
    end: int
    tokens: int
    overlap_start: int


def room(
    window: int,
    *,
    fixed_tokens: int,
    memory_tokens: int,
    output_tokens: int,
    safety: float = 0.03,
) -> int:
    """Tokens left for a chunk: window minus prompt, memory, reply and a safety margin.

    Raises:
        WindowTooSmall: fewer than 64 are left.
    """
    left = int(window * (1 - safety)) - fixed_tokens - memory_tokens - output_tokens
    if left < MIN_ROOM:
        raise WindowTooSmall(
            f"A window of {window} tokens leaves {max(left, 0)} for a chunk: the prompt takes "
            f"{fixed_tokens}, the memory {memory_tokens}, the reply {output_tokens}.",
            hint="Use a larger window= or a shorter question.",
        )
    return left


async def chunk_document(
    document: Document, *, counter: TokenCounter, chunk_tokens: int, overlap_tokens: int = 0
) -> list[Chunk]:
    """The chunks of a document, in order.

    Args:
        document: The document; its sections are preferred as boundaries.
        counter: Counts as the model does.
        chunk_tokens: Most tokens of a chunk, overlap included; at least 16.
        overlap_tokens: Most tokens shown again of the chunk before.

    Raises:
        InvalidOption: a budget under 16, or an overlap that is not smaller than half of it.
    """
    if chunk_tokens < MIN_CHUNK:
        raise InvalidOption(f"chunk_tokens={chunk_tokens} is too small.", hint="16 is the least.")
    if not 0 <= overlap_tokens <= chunk_tokens // 2:
        raise InvalidOption("overlap_tokens must be at most half of chunk_tokens.", hint="")
    text, budget = document.text, chunk_tokens - overlap_tokens
    markdown = document.media == "markdown"
    native = _native(counter, budget, markdown)
    starts = [section.start for section in document.sections]
    slices = list(_slices(text, starts))
    if native is not None:
        ranges = await asyncio.to_thread(_split_all, native, text, slices)
    else:
        ranges = await _split_by_counting(text, slices, counter, budget, markdown)
    ranges = ranges or [(0, len(text))]
    shown = ranges
    if overlap_tokens:
        shown = await _overlapped(text, ranges, counter, overlap_tokens, markdown)
    counts = await _count(counter, text, shown)
    return [
        Chunk(i, start, end, tokens, first)
        for i, ((start, end), (first, _), tokens) in enumerate(zip(ranges, shown, counts))
    ]


def _slices(text: str, section_starts: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Stretches of about a million characters that end at a section or a paragraph."""
    start = 0
    while len(text) - start > _SLICE * 3 // 2:
        near = [s for s in section_starts if start + _SLICE // 2 < s <= start + _SLICE]
        if near:
            end = near[-1]
        else:
            found = [m.end() for m in _BREAK.finditer(text, start + _SLICE // 2, start + _SLICE)]
            end = found[-1] if found else start + _SLICE
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)


def _native(counter: TokenCounter, capacity: int, markdown: bool) -> Any | None:
    """The library's splitter on a tokenizer it can count with itself."""
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    kind: Any = MarkdownSplitter if markdown else TextSplitter
    tokenizer = counter.tokenizer()
    if isinstance(counter, EstimateCounter):
        return kind.from_callback(estimated, capacity, trim=False)
    if tokenizer is None:
        return None
    if hasattr(tokenizer, "encode_ordinary"):
        return kind.from_callback(lambda t: len(tokenizer.encode_ordinary(t)), capacity, trim=False)
    return kind.from_huggingface_tokenizer(tokenizer, capacity, trim=False)


def _split_all(
    splitter: Any, text: str, slices: Iterable[tuple[int, int]]
) -> list[tuple[int, int]]:
    ranges = []
    for first, last in slices:
        for start, piece in splitter.chunk_indices(text[first:last]):
            ranges.append((first + start, first + start + len(piece)))
    return ranges


async def _split_by_counting(
    text: str,
    slices: Sequence[tuple[int, int]],
    counter: TokenCounter,
    budget: int,
    markdown: bool,
) -> list[tuple[int, int]]:
    """Split by characters at a measured density, count, and split again what is over."""
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    kind: Any = MarkdownSplitter if markdown else TextSplitter
    step = max(len(text) // 8, 1)
    samples = [text[i : i + 4000] for i in range(0, len(text), step)][:8]
    counts = await counter.count(samples)
    density = max(sum(map(len, samples)) / max(sum(counts), 1), 0.25)
    size = max(int(budget * density * 0.95), 1)
    done: dict[int, int] = {}
    waiting = list(slices)
    while waiting:
        splitter = kind(size, trim=False)
        pieces = await asyncio.to_thread(_split_all, splitter, text, waiting)
        counts = await _count(counter, text, pieces)
        waiting = []
        for (start, end), tokens in zip(pieces, counts):
            if tokens <= budget or end - start == 1:
                done[start] = end
            else:
                waiting.append((start, end))
        size = max(size * 3 // 4, 1)
    return sorted(done.items())


async def _overlapped(
    text: str,
    ranges: list[tuple[int, int]],
    counter: TokenCounter,
    overlap: int,
    markdown: bool,
) -> list[tuple[int, int]]:
    """The ranges with the end of the range before, as much as fits in whole sentences."""
    tails = [(max(start, end - overlap * 8), end) for start, end in ranges[:-1]]
    shown = [ranges[0]]
    for (first, last), (_, end) in zip(tails, ranges[1:]):
        begin = last
        cuts = sorted({first, *(first + m.end() for m in _TAIL.finditer(text[first:last]))})
        for cut in reversed([c for c in cuts if c < last]):
            if (await counter.count([text[cut:last]]))[0] > overlap:
                break
            begin = cut
        shown.append((begin, end))
    return shown


_TAIL = re.compile(r"[.!?]\s+|\n+")


async def _count(
    counter: TokenCounter, text: str, ranges: Sequence[tuple[int, int]]
) -> list[int]:
    counts: list[int] = []
    for i in range(0, len(ranges), 256):
        counts += await counter.count([text[start:end] for start, end in ranges[i : i + 256]])
    return counts


