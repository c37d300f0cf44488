"""A model, its template and its heads together: where the heads look in passages for a question.

The score of a token is the mean of the attention that it draws from the question's tokens in the
chosen heads; with calibration, less what the question "N/A" draws from it (QRHead, Zhang et al.,
EMNLP 2025, arXiv 2506.09944, after ICR, Chen et al., arXiv 2410.02642). All questions about one
window share the reading of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reader.attention.heads import HeadTable, check_table, find_table, keep_table
from reader.attention.model import AttentionInfo, AttentionModel, AttentionSpec, Head, Tail
from reader.attention.resolve import open_attention
from reader.attention.windows import (
    BEST_TOKENS,
    WINDOW,
    Layout,
    Rows,
    Window,
    passage_scores,
    request,
)
from reader.errors import WindowTooSmall

if TYPE_CHECKING:
    from reader.attention.model import FloatArray
    from reader.memory.store import Store

CONTENT_FREE = "N/A"


@dataclass(frozen=True, slots=True, kw_only=True)
class Looker:
    """Where some heads of a model look.

    Attributes:
        model: The attention model.
        info: What it says of itself.
        layout: Its prompt.
        heads: Those that are believed.
        calibrate: Subtract what a question without content draws.
        rows: Which tokens look.
        table: Where the heads come from; None where the caller named them.
    """

    model: AttentionModel
    info: AttentionInfo
    layout: Layout
    heads: tuple[Head, ...]
    calibrate: bool = True
    rows: Rows = "question_to_end"
    table: HeadTable | None = None

    @classmethod
    async def open(
        cls,
        spec: AttentionSpec = None,
        *,
        window: int | None = None,
        table: HeadTable | None = None,
        store: Store | None = None,
        calibrate: bool | None = None,
    ) -> Looker:
        """The heads of a model: of ``table``, else known ones, else found now on needles.

        Args:
            spec: As in ``open_attention``.
            window: Tokens of a prompt; 1,600 by default, never more than the model's own.
            table: Heads to use.
            store: Where tables of earlier calibrations are, and a new one is kept.
            calibrate: Subtract what "N/A" draws; as the table says when not given.

        Raises:
            ReaderError: the model cannot be had or looked into, or the table is another model's.
            WindowTooSmall: a window was asked for that the model does not have.
        """
        model = open_attention(spec)
        info = await model.info()
        if window is not None and window > info.window:
            raise WindowTooSmall(
                f"A scorer window of {window} tokens is larger than that of {info.name}:"
                f" {info.window}.",
                hint=f"Use at most {info.window}; about {WINDOW} works best.",
            )
        layout = Layout(await model.tokenizer(), min(window or WINDOW, info.window))
        if table is None:
            table = find_table(info, store)
        if table is None:
            from reader.attention.calibration import calibrate_on_needles

            table = await calibrate_on_needles(model)
            if store is not None:
                keep_table(table, info, store)
        check_table(table, info)
        return cls(
            model=model,
            info=info,
            layout=layout,
            heads=table.chosen,
            calibrate=table.calibrate if calibrate is None else calibrate,
            table=table,
        )

    def with_heads(self, heads: Sequence[Head], **changes: Any) -> Looker:
        """The same model with other heads, and other settings."""
        return replace(self, heads=tuple(heads), table=None, **changes)

    def tails(self, questions: Sequence[str]) -> list[Tail]:
        """The tails of one pass: the questions, and the one without content."""
        asked = [*questions, CONTENT_FREE] if self.calibrate else questions
        return [self.layout.tail(question, self.rows) for question in asked]

    def windows(self, passages: Sequence[str], questions: Sequence[str]) -> list[Window]:
        """Windows that hold all passages and leave room for each of the questions.

        Raises:
            WindowTooSmall: a question leaves no room.
        """
        return self.layout.windows(passages, self.layout.room(self.tails(questions)))

    async def tokens(
        self, windows: Sequence[Window], questions: Sequence[str]
    ) -> list[list[FloatArray]]:
        """Scores of tokens: of each question, of each window, ``[columns]``.

        Raises:
            ModelError: the model failed.
        """
        tails = self.tails(questions)
        found = await self.model.score([request(w, tails, self.heads) for w in windows])
        means = [[tail.mean(0) for tail in scores.tails] for scores in found]
        return [
            [mean[at] - mean[-1] if self.calibrate else mean[at] for mean in means]
            for at in range(len(questions))
        ]

    async def passages(
        self, passages: Sequence[str], questions: Sequence[str], best: int = BEST_TOKENS
    ) -> list[FloatArray]:
        """Scores of passages: of each question, ``[passages]``.

        Raises:
            WindowTooSmall: a question leaves no room.
            ModelError: the model failed.
        """
        windows = self.windows(passages, questions)
        scores = await self.tokens(windows, questions)
        return [passage_scores(windows, mine, len(passages), best) for mine in scores]
