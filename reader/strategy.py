"""The contract of a strategy, and what every strategy shares.

A strategy is found by its entry point in the group ``reader.strategies``; one from another package
works just like a built-in one.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reader.budget import Budget, Estimate, Ledger
from reader.chunk_cache import ChunkCache, KeyedLocks
from reader.chunking import Chunk
from reader.coverage import ChunkStatus
from reader.documents import Document
from reader.errors import InvalidOption, UnknownStrategy
from reader.events import Emit, Notice, Progress, ignore
from reader.llm.types import ChatModel, ModelInfo
from reader.memory.store import Store
from reader.quotes import QuoteFinder
from reader.trace import Place, Step

if TYPE_CHECKING:
    from langgraph.graph.state import StateGraph

    from reader.evidence import Claim


class StrategyOptions(BaseModel):
    """Options that all strategies share.

    Attributes:
        window: Tokens of prompt and reply together that a call may use; at most the model's own.
        chunk_tokens: Tokens of a chunk; computed from the window when not given.
        concurrency: Model calls in flight at once; the model's own recommendation by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int | None = Field(default=None, gt=0, description="tokens of prompt and reply")
    chunk_tokens: int | None = Field(default=None, ge=16, description="tokens of a chunk")
    concurrency: int | None = Field(default=None, ge=1, description="calls in flight at once")


OptionsT = TypeVar("OptionsT", bound=StrategyOptions)


@dataclass(slots=True, kw_only=True)
class Reading:
    """What one run shares: handed to every node as LangGraph's runtime context.

    ``model`` is the whole stack (reply cache, retries, budget, limiter, transport); ``plan`` is
    the strategy's own: what it computed in ``prepare`` for the rest of the run. Where one pass
    reads for several questions, ``parts`` holds a reading for each of them, with its own run,
    ledger and plan, and ``question`` is None.
    """

    run_id: str
    document: Document
    question: str | None
    choices: tuple[str, ...]
    options: Any
    model: ChatModel
    info: ModelInfo
    store: Store
    ledger: Ledger
    emit: Emit
    chunk_cache: ChunkCache = field(default_factory=ChunkCache)
    chunks: Sequence[Chunk] = ()
    plan: Any = None
    estimate: Estimate | None = None
    done: int = 0
    replayed: int = 0
    warnings: list[str] = field(default_factory=list)
    lengths: dict[str, tuple[int, int]] = field(default_factory=dict)
    parts: tuple[Reading, ...] = ()
    alone: KeyedLocks = field(default_factory=KeyedLocks)
    _finder: QuoteFinder | None = None

    @property
    def finder(self) -> QuoteFinder:
        """Finds quotes in the document; one for the whole run, since its index is dear."""
        if self._finder is None:
            self._finder = QuoteFinder(self.document.text)
        return self._finder

    @property
    def listened(self) -> bool:
        """Whether anybody hears the events; nobody gains from a streamed reply otherwise."""
        return self.emit is not ignore

    async def cut(
        self, chunk_tokens: int, *, overlap_tokens: int = 0, code: bool = False
    ) -> Sequence[Chunk]:
        """The document's chunks; cut once for all questions about it.

        Raises:
            ModelError: the server that counts tokens does not answer.
        """
        return await self.chunk_cache.chunks(
            self.document,
            counter=self.info.counter,
            chunk_tokens=chunk_tokens,
            overlap_tokens=overlap_tokens,
            code=code,
        )

    def text(self, chunk: Chunk) -> str:
        """The chunk's characters."""
        return self.document.text[chunk.start : chunk.end]

    def warn(self, text: str) -> None:
        """Tell the listeners and the answer's trace, once."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.emit(Notice(text=text))

    def step_done(self, steps: int = 1) -> None:
        """Move the progress on; the total never shrinks below what is done."""
        self.done += steps
        total = max(self.estimate.calls if self.estimate else 0, self.done)
        seconds, fresh = self.ledger.seconds, self.done - self.replayed
        left = seconds / fresh * (total - self.done) if self.ledger.calls and fresh else None
        self.emit(Progress(done=self.done, total=total, seconds=seconds, seconds_left=left))

    def saw_reply(self, kind: str, tokens: int) -> None:
        """Remember how long a reply of that kind was, for the estimates of later runs."""
        replies, total = self.lengths.get(kind, (0, 0))
        self.lengths[kind] = (replies + 1, total + tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a strategy hands back; the run makes an ``Answer`` of it."""

    text: str
    status: Literal["answered", "not_found", "partial"]
    chunks: tuple[ChunkStatus, ...]
    claims: tuple[Claim, ...] = ()
    steps: tuple[Step, ...] = ()
    paths: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    choice: int | None = None
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Closing:
    """What must stay in the budget for the last calls, and what one reading call needs."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    read_prompt_tokens: int
    read_completion_tokens: int


class Strategy(ABC, Generic[OptionsT]):
    """One reading method: its options, its preparation, its state machine."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    Options: ClassVar[type[StrategyOptions]]

    @classmethod
    @abstractmethod
    def prompt_versions(cls) -> str:
        """Versions of all prompts, as part of keys."""

    @abstractmethod
    async def prepare(self, reading: Reading) -> None:
        """Do the question-free work (at least ``reading.chunks``), from the store if it is there.

        Raises:
            WindowTooSmall: no room for a chunk.
        """

    @abstractmethod
    def estimate(self, reading: Reading) -> Estimate:
        """What the run will use; called after ``prepare``, before any call."""

    @abstractmethod
    def closing(self, reading: Reading) -> Closing:
        """What the budget must keep for the end."""

    def closings(self, reading: Reading) -> tuple[Closing, ...]:
        """The same for each question of the reading; asked after ``prepare``."""
        return (self.closing(reading),)

    @abstractmethod
    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """The state machine. Its runtime context is the ``Reading``."""

    @abstractmethod
    def start(self, reading: Reading) -> dict[str, Any]:
        """The first state: ids, numbers and short notes only."""

    @abstractmethod
    def max_supersteps(self, reading: Reading) -> int:
        """An upper bound of the machine's steps."""

    @abstractmethod
    def length_key(self, reading: Reading, kind: str) -> str:
        """Under which the lengths of replies of a kind are remembered for estimates."""

    @abstractmethod
    def outcome(self, state: dict[str, Any], reading: Reading) -> Outcome:
        """The result, from the last state and the notes in the store."""

    @classmethod
    def together(cls, options: OptionsT) -> type[Together[Any]] | None:
        """The form of the method that reads once for several questions.

        None where there is none, or none that goes with the options: then each question is read
        by itself, side by side.
        """
        return None


class Together(Strategy[OptionsT]):
    """A method that reads once for several questions.

    ``prepare`` gets a reading with ``parts``, and plans the parts too; ``outcome`` is asked of each
    part, with the last state of the whole.
    """

    @abstractmethod
    async def divide(self, reading: Reading) -> list[Sequence[Reading]]:
        """The reading's parts, as few passes as they fit into; a pass of one is a plain run.

        Raises:
            WindowTooSmall: a question that fits no window.
        """


def strategies() -> dict[str, type[Strategy[Any]]]:
    """All installed strategies by name."""
    return {e.name: e.load() for e in sorted(entry_points(group="reader.strategies"))}


@cache  # reading the metadata of all installed packages takes 16 ms
def find_strategy(name: str) -> type[Strategy[Any]]:
    """The strategy of that name.

    Raises:
        UnknownStrategy: there is none; names the nearest.
    """
    for entry in entry_points(group="reader.strategies"):
        if entry.name == name:
            found: type[Strategy[Any]] = entry.load()
            return found
    names = sorted({e.name for e in entry_points(group="reader.strategies")})
    raise UnknownStrategy(f"There is no strategy {name!r}.", hint=_nearest(name, names))


def read_options(strategy: type[Strategy[Any]], options: dict[str, Any]) -> StrategyOptions:
    """The strategy's options from keywords.

    Raises:
        InvalidOption: names the option, what is wrong with it, and the nearest one that exists.
    """
    try:
        return strategy.Options.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = sorted(strategy.Options.model_fields)
            raise InvalidOption(
                f"Strategy {strategy.name!r} has no option {name!r}.", hint=_nearest(name, known)
            ) from None
        said = f"Option {name}: {first['msg']}." if name else f"{first['msg']}."
        raise InvalidOption(said, hint=f"See `reader strategies show {strategy.name}`.") from None


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"There are: {', '.join(known)}."


def check_budget(budget: Budget | None, closing: Closing, reading: Reading) -> None:
    """Refuse a budget that cannot cover one reading call and the closing calls.

    Raises:
        BudgetTooSmall: says what is needed at least.
        UnknownPrice: a money limit for a model without a price.
    """
    from reader.errors import BudgetTooSmall, UnknownPrice

    if budget is None:
        return
    calls = closing.calls + 1
    prompt = closing.prompt_tokens + closing.read_prompt_tokens
    completion = closing.completion_tokens + closing.read_completion_tokens
    price = reading.ledger.price
    if budget.usd is not None and price is None:
        raise UnknownPrice(
            f"The price of {reading.info.name} is not known, so a money budget cannot be kept.",
            hint="Limit calls or tokens instead, or pass Reader(..., price=Price(...)).",
        )
    if budget.calls is not None and budget.calls < calls:
        raise BudgetTooSmall(
            f"The budget (calls={budget.calls}) is too small to start.",
            hint=f"This run needs at least {calls}.",
        )
    if budget.tokens is not None and budget.tokens < prompt + completion:
        raise BudgetTooSmall(
            f"The budget (tokens={budget.tokens}) is too small to start.",
            hint=f"This run needs at least {prompt + completion}; a smaller window= needs less.",
        )
    if budget.usd is not None and price is not None and budget.usd < price.cost(prompt, completion):
        raise BudgetTooSmall(
            f"The budget (usd={budget.usd:g}) is too small to start.",
            hint=f"This run needs at least ${price.cost(prompt, completion):.4f}.",
        )
