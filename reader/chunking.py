"""Cutting a text into chunks that fit a token budget and tile the text.

1. ``semantic-text-splitter`` cuts the text into *pieces*, about eight a chunk, at headings,
   paragraphs, lines, sentences, words, characters, whichever is the highest that will do.
   Sections begin a piece; a fenced code block or a table that fits into a chunk is one piece.
2. All pieces are counted; those too heavy are cut again.
3. Pieces are packed into chunks. A chunk ends at the highest boundary in reach: at a section or a
   paragraph if it is then at least 70% full, at a sentence or line if at least half full, else
   after the last piece that fits. Then the chunks are counted as a whole.

The library could pack by a tokenizer itself. But then it counts every text about six times,
leaves half of the chunks of a Markdown text with many headings half empty, and cannot know the
sections of a plain text.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

from pydantic import Field, model_validator

from reader.boundaries import Level, Range, blocks, cut, definitions, halves, level, slices
from reader.budget import Frozen
from reader.errors import InvalidOption, WindowTooSmall
from reader.tokens import TokenCounter, estimated

if TYPE_CHECKING:
    from reader.documents import Document

CHUNKER_VERSION = 2
MIN_CHUNK = 16
"""Tokens of the smallest chunk budget; one character may weigh several."""
MIN_ROOM = 64
"""Tokens; a smaller chunk is not worth a call."""

OnProgress: TypeAlias = Callable[[int, int], None]

_STRETCH = 1 << 20  # characters counted in one batch
_PIECES = 8  # of a chunk
_CHARACTERS = 16  # of a token, at most: a block of more characters cannot fit
_FULL_ENOUGH = {Level.SECTION: 0.7, Level.PARAGRAPH: 0.7, Level.SENTENCE: 0.5, Level.LINE: 0.5}
_LAST = 0.25  # of a chunk, which the last one should have at least
_REMOTE_MARGIN = 0.97  # of the budget, where pieces are not counted one by one


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the document. The text is ``document.text[overlap_start:end]``.

    Attributes:
        index: Position among the chunks, from 0.
        start: First character; the ranges ``start`` to ``end`` of all chunks tile the text.
        end: One past the last character.
        tokens: Length by the counter, the overlap included.
        overlap_start: Where the text to show begins; before ``start`` where chunks overlap.
    """

    index: int
    start: int
    end: int
    tokens: int
    overlap_start: int


class ChunkOptions(Frozen):
    """How a document is cut.

    Attributes:
        chunk_tokens: Most tokens of a chunk, its overlap included.
        overlap_tokens: Most tokens shown again of the text before; at most half a chunk.
        code: The text is source code: chunks prefer to begin at top-level definitions.
    """

    chunk_tokens: int = Field(ge=MIN_CHUNK)
    overlap_tokens: int = Field(default=0, ge=0)
    code: bool = False

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Self:
        if 2 * self.overlap_tokens > self.chunk_tokens:
            raise ValueError("overlap_tokens must be at most half of chunk_tokens")
        return self


def chunk_key(sha256: str, options: ChunkOptions, counter_name: str) -> str:
    """Equal only where the same chunks come out: for caches."""
    from importlib.metadata import version

    splitter = version("semantic-text-splitter")
    parts = (sha256, options.model_dump_json(), counter_name, splitter)
    return "|".join((f"chunks/{CHUNKER_VERSION}", *parts))


def room(
    window: int,
    *,
    fixed_tokens: int,
    memory_tokens: int,
    output_tokens: int,
    question_tokens: int = 0,
    safety: float = 0.03,
) -> int:
    """Tokens left for a chunk: window minus prompt, memory, reply and a safety margin.

    Nearly all questions get the same room, and with it the same chunks: only then does a server's
    prefix cache, or the store, serve the second question. So what a question takes is rounded up to
    a whole 64th of the window.

    Args:
        window: Tokens of prompt and reply together.
        fixed_tokens: The rendered prompt without chunk and memory: template, instructions,
            question.
        memory_tokens: Cap of what travels from chunk to chunk.
        output_tokens: Cap of the reply.
        question_tokens: Of the fixed tokens, the question's.
        safety: Part of the window that stays empty.

    Raises:
        WindowTooSmall: fewer than 64 are left.
    """
    step = max(window // 64, 1)
    fixed_tokens += -question_tokens % step
    left = int(window * (1 - safety)) - fixed_tokens - memory_tokens - output_tokens
    if left < MIN_ROOM:
        raise WindowTooSmall(
            f"A window of {window} tokens leaves {max(left, 0)} for a chunk, and {MIN_ROOM} are "
            f"needed: the prompt takes {fixed_tokens}, the memory {memory_tokens}, the reply "
            f"{output_tokens}, safety {window - int(window * (1 - safety))}.",
            hint="Use a larger window=, a shorter question or smaller caps.",
        )
    return left


async def chunk_document(
    document: Document,
    *,
    counter: TokenCounter,
    chunk_tokens: int,
    overlap_tokens: int = 0,
    code: bool = False,
    on_progress: OnProgress | None = None,
) -> list[Chunk]:
    """``chunk`` for a document: its sections, and the parts of a collection, are boundaries."""
    return await chunk(
        document.text,
        counter=counter,
        chunk_tokens=chunk_tokens,
        overlap_tokens=overlap_tokens,
        markdown=document.media == "markdown",
        sections=[*(s.start for s in document.sections), *(p.start for p in document.parts)],
        code=code,
        on_progress=on_progress,
    )


async def chunk(
    text: str,
    *,
    counter: TokenCounter,
    chunk_tokens: int,
    overlap_tokens: int = 0,
    markdown: bool = False,
    sections: Iterable[int] = (),
    code: bool = False,
    on_progress: OnProgress | None = None,
) -> list[Chunk]:
    """Cut a text into chunks of at most ``chunk_tokens`` by the counter, in order.

    Args:
        text: Any text without lone surrogates. An empty one has no chunks.
        counter: Counts as the model does. If its counts are exact and it has no tokenizer to
            hand out, a count is taken to be a request to a server, and few are made.
        chunk_tokens: Most tokens of a chunk, overlap included; at least 16.
        overlap_tokens: Most tokens shown again of the text before; at most half of a chunk.
        markdown: Headings, list items and the like are boundaries.
        sections: First characters of the text's sections, which are preferred as boundaries.
        code: The text is source code: top-level definitions are preferred as boundaries.
        on_progress: Called with the characters done so far and in all.

    Raises:
        InvalidOption: a budget or an overlap out of its range, or smaller than one character.
        ModelError: the counter asks a server, and that fails.
    """
    if chunk_tokens < MIN_CHUNK:
        raise InvalidOption(
            f"chunk_tokens={chunk_tokens} is too small.", hint=f"{MIN_CHUNK} is the least."
        )
    if not 0 <= overlap_tokens <= chunk_tokens // 2:
        raise InvalidOption(
            f"overlap_tokens={overlap_tokens} is out of range.",
            hint=f"0 to {chunk_tokens // 2}, half of chunk_tokens, are possible.",
        )
    starts = [*sections, *(definitions(text) if code else ())]
    cutter = _Cutter(text, counter, chunk_tokens - overlap_tokens, markdown, code, starts)
    if overlap_tokens:
        cutter.piece_tokens = min(cutter.piece_tokens, max(overlap_tokens // 2, 16))
    pieces = await cutter.pieces(on_progress)
    ranges = await cutter.fitting(await _aside(len(text), _packed, pieces, cutter.pack_budget))
    if not overlap_tokens:
        return [Chunk(i, start, end, n, start) for i, ((start, end), n) in enumerate(ranges)]
    shown = await cutter.overlaps([span for span, _ in ranges], pieces, overlap_tokens)
    counts = await cutter.count([(a, end) for a, ((_, end), _) in zip(shown, ranges, strict=True)])
    return [
        # Counts of parts do not always add up; where they do not, there is no overlap.
        Chunk(i, start, end, n, a) if n <= chunk_tokens else Chunk(i, start, end, alone, start)
        for i, (a, n, ((start, end), alone)) in enumerate(zip(shown, counts, ranges, strict=True))
    ]


class _Pieces(NamedTuple):
    bounds: list[int]
    weights: list[float]
    levels: list[Level]


@dataclass(slots=True)
class _Cutter:
    """One text on its way to chunks of ``budget`` tokens, overlap not included."""

    text: str
    counter: TokenCounter
    budget: int
    markdown: bool
    code: bool
    section_starts: list[int]
    piece_tokens: int = field(init=False)
    remote: bool = field(init=False)

    def __post_init__(self) -> None:
        self.section_starts = sorted(set(self.section_starts))
        self.piece_tokens = max(self.budget // _PIECES, min(self.budget // 3, 32))
        self.remote = self.counter.exact and self.counter.tokenizer() is None

    @property
    def pack_budget(self) -> float:
        return self.budget * _REMOTE_MARGIN if self.remote else self.budget

    async def pieces(self, on_progress: OnProgress | None) -> _Pieces:
        """Cut and count everything, a stretch at a time so that memory stays bounded."""
        text, size = self.text, await self._piece_characters()
        longest = self.budget * _CHARACTERS
        whole = await _aside(len(text), blocks, text, longest)
        weighed: list[tuple[Range, float]] = []
        batch: list[Range] = []
        for start, end in slices(text, whole, size):
            batch.append((start, end))
            if end - batch[0][0] >= _STRETCH or end == len(text):
                spans = await _aside(end - batch[0][0], self._cut, batch, size, whole)
                weighed += await self._weighed(spans, frozenset(whole))
                batch = []
                if on_progress:
                    on_progress(end, len(text))
        bounds = [0, *(end for (_, end), _ in weighed)]
        starts = frozenset(self.section_starts)
        levels = [Level.SECTION if p in starts else level(text, p) for p in bounds]
        return _Pieces(bounds, [weight for _, weight in weighed], levels)

    async def fitting(self, ranges: list[Range]) -> list[tuple[Range, int]]:
        """The ranges with their counts; those over the budget after all are cut in halves."""
        done: list[tuple[Range, int]] = []
        while ranges:
            counts = await self.count(ranges)
            over = []
            for (start, end), n in zip(ranges, counts, strict=True):
                if n <= self.budget:
                    done.append(((start, end), n))
                elif end - start == 1:
                    raise InvalidOption(
                        f"One character counts {n} tokens, and a chunk may have {self.budget}.",
                        hint="Pass larger chunk_tokens.",
                    )
                else:
                    over.append((start, end))
            ranges = [half for span in over for half in halves(self.text, span, code=self.code)]
        return sorted(done)

    async def overlaps(self, ranges: Sequence[Range], pieces: _Pieces, most: int) -> list[int]:
        """Where the text to show of each chunk begins: at a sentence, if there is one."""
        sums = list(accumulate(pieces.weights, initial=0.0))
        begins: list[int] = []
        for start, _ in ranges:
            at = bisect_left(pieces.bounds, start)
            low = bisect_left(sums, sums[at] - most)
            best = next((k for k in range(low, at) if pieces.levels[k] > Level.LINE), low)
            begins.append(min(pieces.bounds[best], start))
        counts = await self.count(
            [(a, start) for a, (start, _) in zip(begins, ranges, strict=True)]
        )
        return [
            a if n <= most else start
            for a, n, (start, _) in zip(begins, counts, ranges, strict=True)
        ]

    async def count(self, ranges: Sequence[Range]) -> list[int]:
        """Count in batches of bounded size."""
        counts: list[int] = []
        for _, group in groupby(ranges, key=lambda span: span[0] // _STRETCH):
            counts += await self.counter.count([self.text[a:b] for a, b in group])
        return counts

    async def _piece_characters(self) -> int:
        """How many characters a piece should have, from samples all over the text."""
        step = max(len(self.text) // 16, 1000)
        samples = [self.text[i : i + 1000] for i in range(0, len(self.text), step)]
        tokens = sum(await self.counter.count(["".join(samples)]))
        return max(self.piece_tokens * sum(map(len, samples)) // max(tokens, 1), 1)

    def _cut(self, batch: list[Range], size: int, whole: list[Range]) -> list[Range]:
        spans: list[Range] = []
        for first, last in batch:
            low = bisect_left(self.section_starts, first)
            high = bisect_left(self.section_starts, last)
            spans += cut(
                self.text,
                (first, last),
                size,
                markdown=self.markdown,
                code=self.code,
                whole=whole,
                sections=self.section_starts[low:high],
            )
        return spans

    async def _weighed(
        self, spans: list[Range], whole: frozenset[Range]
    ) -> list[tuple[Range, float]]:
        """The pieces with their weights; heavy ones are cut until they are light or one letter."""
        done: list[tuple[Range, float]] = []
        while spans:
            weights = await self._weigh(spans)
            heavy = []
            for span, weight in zip(spans, weights, strict=True):
                most = self.budget if span in whole else 2 * self.piece_tokens
                if weight <= most or span[1] - span[0] == 1:
                    done.append((span, weight))
                else:
                    heavy.append((span, weight))
            spans = [part for span, weight in heavy for part in self._cut_again(span, weight)]
        return sorted(done)

    async def _weigh(self, spans: list[Range]) -> Sequence[float]:
        """Tokens of each piece; from a server only of groups, shared out by the estimate."""
        texts = [self.text[a:b] for a, b in spans]
        if not self.remote:
            return await self.counter.count(texts)
        guesses = [estimated(text) for text in texts]
        group = [int(total // self.budget) for total in accumulate(guesses)]
        joined: dict[int, list[str]] = {}
        guessed: dict[int, int] = {}
        for number, text, guess in zip(group, texts, guesses, strict=True):
            joined.setdefault(number, []).append(text)
            guessed[number] = guessed.get(number, 0) + guess
        counts = await self.counter.count(["".join(parts) for parts in joined.values()])
        ratio = {k: n / max(guessed[k], 1) for k, n in zip(joined, counts, strict=True)}
        return [guess * ratio[number] for guess, number in zip(guesses, group, strict=True)]

    def _cut_again(self, span: Range, weight: float) -> list[Range]:
        length = span[1] - span[0]
        size = max(min(int(length * self.piece_tokens / weight), length // 2), 1)
        return cut(self.text, span, size, markdown=False, code=True, whole=(), sections=())


def _packed(pieces: _Pieces, budget: float) -> list[Range]:
    """Ranges of chunks; each ends at the highest boundary in reach."""
    bounds, weights, levels = pieces
    sums = list(accumulate(weights, initial=0.0))
    ranges: list[Range] = []
    first, last = 0, len(weights)
    while first < last:
        rest = sums[-1] - sums[first]
        end = last
        if rest > budget:
            most = max(min(budget, rest - _LAST * budget), budget / 2)
            end = max(bisect_right(sums, sums[first] + most) - 1, first + 1)
            end = _best_end(levels, sums, first, end, budget)
        ranges.append((bounds[first], bounds[end]))
        first = end
    return ranges


def _best_end(
    levels: Sequence[Level], sums: Sequence[float], first: int, end: int, budget: float
) -> int:
    best, reached = end, Level.WORD
    for place in range(end, first, -1):
        full = (sums[place] - sums[first]) / budget
        found = levels[place]
        if found > reached and full >= _FULL_ENOUGH[found]:
            best, reached = place, found
        if reached is Level.SECTION or full < min(_FULL_ENOUGH.values()):
            break
    return best


async def _aside(size: int, work: Callable[..., Any], *args: Any) -> Any:
    """Do the work in a thread if it is about more than a few thousand characters."""
    if size <= 1 << 16:
        return work(*args)
    from anyio import to_thread

    return await to_thread.run_sync(work, *args)
