"""The attention model: how much some tokens of a prompt look at others, in chosen heads.

``AttentionModel`` is the sibling of ``ChatModel`` for the strategies that read by attention. A
request is a prefix (instruction and passages) with one or several tails (a question and the end of
the template). All tails share the prefix, which a model reads once. What comes back is small: the
rows of the question over the columns of the passages, in the wanted heads, never tokens x tokens.

Positions are token positions from 0; the tokens of a tail follow those of the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeGuard,
    runtime_checkable,
)

from reader.errors import InvalidOption, WindowTooSmall

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray: TypeAlias = NDArray[np.float32]

Kind: TypeAlias = Literal["softmax", "logits"]


class Head(NamedTuple):
    """A query head of a layer, both counted from 0."""

    layer: int
    head: int


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows the prefix: one question.

    Attributes:
        ids: Its token ids, the end of the chat template included.
        rows: The tokens that look, as indices into ``ids``; at least one.
        weights: Of each row in the mean over rows; equal when not given.
    """

    ids: tuple[int, ...]
    rows: tuple[int, ...]
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRequest:
    """One window and the questions that are asked of it.

    Attributes:
        prefix: Token ids of what all tails share; may be empty.
        tails: At least one.
        columns: The tokens that are looked at: first position, and one past the last. They may
            reach into the tails, as far as the shortest tail does.
        heads: In which heads; at least one.
        per_row: Give each row of its own, averaged over the heads, instead of each head, averaged
            over the rows.
        kind: "softmax": shares of attention, over all tokens that the row can see, so the columns
            of a row sum to at most 1. "logits": the scaled products before the softmax, as
            GemFilter takes them; 0 where a row cannot see a column.
    """

    prefix: tuple[int, ...]
    tails: tuple[Tail, ...]
    columns: tuple[int, int]
    heads: tuple[Head, ...]
    per_row: bool = False
    kind: Kind = "softmax"

    @property
    def tokens(self) -> int:
        """Tokens of the prefix and its longest tail."""
        return len(self.prefix) + max((len(tail.ids) for tail in self.tails), default=0)


@dataclass(frozen=True, slots=True)
class AttentionScores:
    """What came of a request.

    Attributes:
        tails: One array of float32 a tail, in the order of the request: ``[heads, columns]``, the
            mean over the rows; with ``per_row`` ``[rows, columns]``, the mean over the heads.
        read_tokens: Tokens that the model computed for it (a prefix counts once).
    """

    tails: tuple[FloatArray, ...]
    read_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionInfo:
    """What the library must know about an attention model.

    Attributes:
        name: For people.
        identity: For keys and head tables: equal only where the same weights are meant.
        window: Tokens that it can read at once.
        layers: Layers, of which some may have no attention (see ``attending``).
        heads: Query heads of a layer.
        attending: Layers that have attention, in order: all but in hybrid models.
        shape: What fine-tunings of one base model share (see ``model_shape``): tables of heads are
            found by it.
    """

    name: str
    identity: str
    window: int
    layers: int
    heads: int
    attending: tuple[int, ...]
    shape: str = ""


def model_shape(kind: str, *, layers: int, heads: int, hidden: int, vocabulary: int) -> str:
    """One text out of a model's configuration, as in "qwen2/24x14/896/151936".

    Args:
        kind: ``model_type`` of the configuration.
        layers: ``num_hidden_layers``.
        heads: ``num_attention_heads``.
        hidden: ``hidden_size``.
        vocabulary: ``vocab_size``.
    """
    return f"{kind}/{layers}x{heads}/{hidden}/{vocabulary}"


class Encoding(NamedTuple):
    """Tokens of a text.

    Attributes:
        ids: Token ids.
        offsets: Character range of each in the text, ``(start, end)``.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


class AttentionTokenizer(Protocol):
    """The model's own tokenizer and chat template. Works without the weights, and blocks."""

    @property
    def name(self) -> str:
        """For keys: equal only where the same tokens come out."""
        ...

    def encode(self, text: str, *, template: bool = False) -> Encoding:
        """Tokens of a text as it stands: none is added.

        Args:
            text: A part of the prompt.
            template: The text is a part of what ``chat`` gave, in which the names of special tokens
                mean these tokens. In any other text, a document's above all, they are plain text.
        """
        ...

    def chat(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The turns in the model's chat template, with the assistant's turn opened.

        The plain contents, a blank line between them, where the model has no template.
        """
        ...


@runtime_checkable
class AttentionModel(Protocol):
    """Anything that tells where tokens look. Own implementations need these four methods only."""

    async def info(self) -> AttentionInfo:
        """Describe it; may load weights or ask a server.

        Raises:
            ReaderError: it cannot be had, or its attention cannot be read.
        """
        ...

    async def tokenizer(self) -> AttentionTokenizer:
        """Its tokenizer and chat template.

        Raises:
            ReaderError: it cannot be had.
        """
        ...

    async def score(self, requests: Sequence[AttentionRequest]) -> list[AttentionScores]:
        """Scores of each request, in order. The model batches as it sees fit.

        Raises:
            InvalidOption: a request names heads, rows or columns that are not there.
            WindowTooSmall: a request is longer than the model's window.
            ModelError: the model failed; each kind says whether trying again helps.
        """
        ...

    async def aclose(self) -> None:
        """Free what it holds (connections, memory)."""
        ...


@runtime_checkable
class TellsWords(Protocol):
    """An attention model that can also tell how its next words change; optional."""

    async def divergences(
        self, ids: tuple[int, ...], without: tuple[int, ...], last: int
    ) -> FloatArray:
        """How much the last tokens' next words change when a text loses its beginning.

        Args:
            ids: A text.
            without: Its end alone.
            last: Of how many last tokens.

        Returns:
            ``[last]``: the Kullback-Leibler divergence in nats, from the distribution of the next
            token after ``without`` to that after ``ids``.

        Raises:
            WindowTooSmall: the text is longer than the model's window.
            ModelError: the model failed.
        """
        ...


def tells_words(model: AttentionModel) -> TypeGuard[TellsWords]:
    """Whether a model has ``divergences``."""
    return isinstance(model, TellsWords)


AttentionSpec: TypeAlias = Any
"""What users write: a name ("transformers:PATH"), or an ``AttentionModel``."""


def check_request(request: AttentionRequest, info: AttentionInfo) -> None:
    """Refuse a request that the model cannot answer; for implementations of the protocol.

    Raises:
        InvalidOption: names what is wrong with it.
        WindowTooSmall: it is longer than the model's window.
    """
    if not request.tails or not request.heads:
        raise InvalidOption("An attention request needs a tail and a head at least.")
    if request.tokens > info.window:
        raise WindowTooSmall(
            f"{request.tokens} tokens do not fit the window of {info.name}: {info.window}.",
            hint="Use smaller windows, or a shorter question.",
        )
    for tail in request.tails:
        if not tail.rows or not all(0 <= row < len(tail.ids) for row in tail.rows):
            raise InvalidOption("The rows of a tail must be tokens of it, one at least.")
        if tail.weights is not None and (
            len(tail.weights) != len(tail.rows) or sum(tail.weights) <= 0
        ):
            raise InvalidOption("A tail needs one weight a row, and a sum above 0.")
    first, last = request.columns
    shortest = len(request.prefix) + min(len(tail.ids) for tail in request.tails)
    if not 0 <= first < last <= shortest:
        raise InvalidOption(f"Columns {first} to {last} are not tokens of the prompt.")
    for head in request.heads:
        if head.layer not in info.attending or not 0 <= head.head < info.heads:
            raise InvalidOption(
                f"{info.name} has no attention head {tuple(head)}.",
                hint=f"It has layers 0 to {info.layers - 1} with {info.heads} heads"
                + (
                    "."
                    if len(info.attending) == info.layers
                    else f"; with attention: {', '.join(map(str, info.attending))}."
                ),
            )
