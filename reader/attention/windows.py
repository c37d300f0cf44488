"""Windows: passages side by side in the model's own chat template, and the way back to the text.

The template decides whether heads retrieve at all (QRHead, and our own figures): the instruction
stands first, then the passages, the question last, and the assistant's turn is opened. Everything
before the question is the same for all questions, so its keys are made once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from reader.attention.model import (
    AttentionRequest,
    AttentionTokenizer,
    Encoding,
    Head,
    Kind,
    Tail,
)
from reader.errors import UnsupportedModel, WindowTooSmall
from reader.prompts import load_prompts, versions

if TYPE_CHECKING:
    import numpy as np

    from reader.attention.model import FloatArray

PROMPTS = load_prompts("reader.attention", "window")
PROMPT_VERSIONS = versions(PROMPTS)
SEPARATOR = "\n\n"
LEAST_ROOM = 64  # tokens; a smaller window holds no passage worth the name
WINDOW = 1_600
"""Tokens of a window: with more passages side by side, heads begin to miss some."""
BEST_TOKENS = 8
"""Tokens of a passage whose mean is its score; sums let long passages win."""

Range: TypeAlias = tuple[int, int]
Rows: TypeAlias = Literal["question", "question_to_end", "last"]
"""Which tokens look: the question's, these and the template's end, or the very last one."""

_PASSAGES, _QUESTION = "\ue000passages\ue001", "\ue000question\ue001"


class Piece(NamedTuple):
    """A passage, or a part of one that is too long for a window.

    Attributes:
        passage: Its number among the passages.
        start: Where it begins in the passage's own text, in characters.
        encoding: Its tokens; the offsets count from the beginning of the passage.
    """

    passage: int
    start: int
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class Window:
    """Pieces that a model reads at once.

    Attributes:
        prefix: Token ids: the template's beginning, the instruction, the pieces.
        first: Position of the first piece's first token.
        pieces: In order.
        spans: Of each piece, its columns: tokens counted from ``first``.
    """

    prefix: tuple[int, ...]
    first: int
    pieces: tuple[Piece, ...]
    spans: tuple[Range, ...]

    @property
    def columns(self) -> Range:
        """Of all pieces, for a request."""
        return self.first, self.first + self.spans[-1][1]

    def place(self, column: int) -> tuple[int, Range] | None:
        """A column's passage and its characters there; None between two pieces."""
        at = bisect_right(self.spans, (column, 1 << 60)) - 1
        start, end = self.spans[at]
        if not start <= column < end:
            return None
        piece = self.pieces[at]
        return piece.passage, piece.encoding.offsets[column - start]


class Layout:
    """The prompt of windows in one model's template.

    Args:
        tokenizer: The model's.
        window: Tokens of a whole prompt; at most the model's own.

    Raises:
        UnsupportedModel: the model's chat template does not leave the user's words as they are.
    """

    def __init__(self, tokenizer: AttentionTokenizer, window: int) -> None:
        self.tokenizer = tokenizer
        self.window = window
        prompt = PROMPTS["passages"].fill(passages=_PASSAGES, question=_QUESTION)
        rendered = tokenizer.chat([{"role": "user", "content": prompt}])
        if rendered.count(_PASSAGES) != 1 or rendered.count(_QUESTION) != 1:
            raise UnsupportedModel(
                "The model's chat template changes what the user says.",
                hint="Use a model with an ordinary chat template, or with none.",
            )
        before, rest = rendered.split(_PASSAGES)
        between, after = rest.split(_QUESTION)
        self._before = tokenizer.encode(before, template=True).ids
        self._between = tokenizer.encode(between.removeprefix(SEPARATOR), template=True).ids
        self._after = tokenizer.encode(after, template=True).ids

    @cached_property
    def separator(self) -> tuple[int, ...]:
        """Between two passages, and after the last one."""
        return self.tokenizer.encode(SEPARATOR).ids

    def tail(self, question: str, rows: Rows = "question_to_end") -> Tail:
        """A question, and the opened turn of the assistant."""
        asked = self.tokenizer.encode(question).ids
        ids = self._between + asked + self._after
        start, end = len(self._between), len(self._between) + len(asked)
        if rows == "last":
            return Tail(ids, (len(ids) - 1,))
        return Tail(ids, tuple(range(start, end if rows == "question" else len(ids))))

    def continued(self, question: str, reply: str) -> Tail:
        """A question and the beginning of a reply, whose tokens look."""
        asked = self.tail(question).ids
        said = self.tokenizer.encode(reply).ids
        return Tail(asked + said, tuple(range(len(asked), len(asked) + len(said))))

    def room(self, tails: Sequence[Tail]) -> int:
        """Tokens left for passages beside the template and the longest of the questions.

        Raises:
            WindowTooSmall: too few.
        """
        longest = max((len(tail.ids) for tail in tails), default=0)
        left = self.window - len(self._before) - longest
        if left < LEAST_ROOM:
            raise WindowTooSmall(
                f"A window of {self.window} tokens leaves {max(left, 0)} for passages: the question"
                f" takes {longest}, the template {len(self._before)}.",
                hint="Use a larger window, or a shorter question.",
            )
        return left

    def windows(self, passages: Sequence[str], room: int) -> list[Window]:
        """Windows of at most ``room`` tokens of passages, about equally full, in order.

        Every passage is in one window, and one longer than a window in several, a part in each.
        """
        pieces = self._pieces(passages, room)
        weights = [len(piece.encoding.ids) + len(self.separator) for piece in pieces]
        fill = sum(weights) / max(-(-sum(weights) // room), 1)
        groups: list[list[Piece]] = []
        size = done = 0
        for piece, weight in zip(pieces, weights, strict=True):
            # The next window begins where an equal share is reached, or the room is used up.
            if not groups or size + weight > room or done + weight / 2 > fill * len(groups):
                groups.append([])
                size = 0
            groups[-1].append(piece)
            size += weight
            done += weight
        return [self._window(group) for group in groups]

    def best_window(
        self, passages: Sequence[str], ranked: Sequence[int], room: int
    ) -> Window | None:
        """One window of the passages that come first in a ranking, as many as fit, in their order.

        Args:
            passages: All passages.
            ranked: Their numbers, the best first.
            room: Tokens of passages.

        Returns:
            None where no passage fits whole.
        """
        chosen: list[int] = []
        left = room
        for number in ranked:
            size = len(self.tokenizer.encode(passages[number]).ids) + len(self.separator)
            if len(self.separator) < size <= left:
                chosen.append(number)
                left -= size
            if left < LEAST_ROOM:
                break
        if not chosen:
            return None
        chosen.sort()
        (window,) = self.windows([passages[number] for number in chosen], room)
        pieces = tuple(piece._replace(passage=chosen[piece.passage]) for piece in window.pieces)
        return replace(window, pieces=pieces)

    def _pieces(self, passages: Sequence[str], room: int) -> list[Piece]:
        most = room - len(self.separator)
        pieces = []
        for number, text in enumerate(passages):
            whole = self.tokenizer.encode(text)
            for at in range(0, len(whole.ids), most):
                part = Encoding(whole.ids[at : at + most], whole.offsets[at : at + most])
                pieces.append(Piece(number, part.offsets[0][0], part))
        return pieces

    def _window(self, pieces: Sequence[Piece]) -> Window:
        ids = list(self._before)
        spans = []
        for piece in pieces:
            start = len(ids) - len(self._before)
            ids += piece.encoding.ids
            spans.append((start, len(ids) - len(self._before)))
            ids += self.separator
        return Window(tuple(ids), len(self._before), tuple(pieces), tuple(spans))


def request(
    window: Window,
    tails: Sequence[Tail],
    heads: Sequence[Head],
    *,
    per_row: bool = False,
    kind: Kind = "softmax",
) -> AttentionRequest:
    """Where the tails look in a window."""
    return AttentionRequest(
        prefix=window.prefix,
        tails=tuple(tails),
        columns=window.columns,
        heads=tuple(heads),
        per_row=per_row,
        kind=kind,
    )


def passage_scores(
    windows: Sequence[Window],
    scores: Sequence[FloatArray],
    passages: int,
    best: int = BEST_TOKENS,
) -> FloatArray:
    """One score a passage from the scores of tokens: the mean of its ``best`` best tokens.

    Args:
        windows: All windows of the passages.
        scores: Of each window, ``[..., columns]``.
        passages: Their number.
        best: Of a passage cut into pieces, the best piece counts.

    Returns:
        ``[..., passages]``; minus infinity for a passage without a token.
    """
    import numpy as np

    lead = scores[0].shape[:-1]
    found = np.full((*lead, passages), -np.inf, np.float32)
    for window, columns in zip(windows, scores, strict=True):
        for piece, (start, end) in zip(window.pieces, window.spans, strict=True):
            mean = top_mean(columns[..., start:end], best)
            found[..., piece.passage] = np.maximum(found[..., piece.passage], mean)
    return found


def top_mean(values: FloatArray, best: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Mean of the largest of the last dimension."""
    import numpy as np

    if values.shape[-1] > best:
        values = np.partition(values, values.shape[-1] - best, axis=-1)[..., -best:]
    return np.asarray(values.mean(-1), np.float32)
