"""What a question may cost, what it is expected to cost, and what it did cost.

Counts are calls and tokens, money is US dollars, times are seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reader.errors import InvalidOption, LimitReached

NonNegative = Annotated[int, Field(ge=0)]


class Frozen(BaseModel):
    """Base of the value types: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Price(Frozen):
    """Dollars per million tokens."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)
    cached_prompt: float | None = Field(default=None, ge=0)

    def cost(self, prompt: int, completion: int, cached: int = 0) -> float:
        """Dollars for so many prompt tokens (of which ``cached``) and completion tokens."""
        cheap = self.prompt if self.cached_prompt is None else self.cached_prompt
        full = max(prompt - cached, 0)
        return (full * self.prompt + cached * cheap + completion * self.completion) / 1e6


class Budget(Frozen):
    """Limits that a run never exceeds; None is no limit.

    Attributes:
        calls: Model calls really made, retries included.
        tokens: Prompt and completion tokens together.
        usd: Dollars; needs a model with a known price.
    """

    calls: int | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    usd: float | None = Field(default=None, gt=0)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``"calls=20,tokens=50000,usd=0.10"``.

        Raises:
            InvalidOption: an unknown name or something that is not a number.
        """
        values: dict[str, float] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, number = part.partition("=")
            try:
                values[name.strip()] = float(number.replace("_", ""))
            except ValueError:
                raise InvalidOption(
                    f"Budget {text!r} is not understood.",
                    hint='Write it like "calls=20,tokens=50000,usd=0.10".',
                ) from None
        try:
            return cls.model_validate(values)
        except ValueError:
            raise InvalidOption(
                f"Budget {text!r} is not understood.",
                hint="It takes calls, tokens and usd, each above zero.",
            ) from None

    @model_validator(mode="after")
    def _something(self) -> Budget:
        if self.calls is None and self.tokens is None and self.usd is None:
            raise ValueError("a budget limits at least one of calls, tokens and usd")
        return self


class Estimate(Frozen):
    """What a run is expected to use, before any call.

    Attributes:
        calls: Model calls.
        prompt_tokens: Tokens in.
        completion_tokens: Tokens out, expected.
        depth: Calls in series: with unlimited concurrency the run takes this many call times.
        cost: Dollars, None where the price is not known.
        max_completion_tokens: Tokens out if every reply ran to its cap.
        max_cost: Dollars in that case.
        exact_counts: False where the model's tokenizer could not be had and prompt tokens are
            a conservative estimate.
        basis: Where the expected reply length comes from, in words.
        preparation_calls: Of the calls, those that know no question: another question about the
            document does without them.
        preparation_prompt_tokens: Their tokens in.
        preparation_completion_tokens: Their tokens out, expected.
    """

    calls: NonNegative
    prompt_tokens: NonNegative
    completion_tokens: NonNegative
    depth: NonNegative
    cost: float | None = None
    max_completion_tokens: NonNegative = 0
    max_cost: float | None = None
    exact_counts: bool = True
    basis: str = ""
    preparation_calls: NonNegative = 0
    preparation_prompt_tokens: NonNegative = 0
    preparation_completion_tokens: NonNegative = 0


class Usage(Frozen):
    """What a run used.

    Attributes:
        calls: Model calls really made, retries and re-asks included.
        cached_calls: Replies taken from the store instead; they cost nothing.
        prompt_tokens: Tokens in, of the calls really made.
        completion_tokens: Tokens out, likewise.
        cached_tokens: Of the prompt tokens, those the server took from its prefix cache.
        seconds: Wall time of the run.
        depth: Calls in series on the longest path.
        cost: Dollars, None where the price is not known.
        failed_calls: Calls that gave no usable reply (429, 5xx, time-out, half a reply).
        structured: Replies that had to have a form (JSON, a letter).
        repaired: Of those, understood only after lenient parsing.
        reasked: Of those, asked again.
        forced: Of those, replaced by the strategy's default.
    """

    calls: NonNegative = 0
    cached_calls: NonNegative = 0
    prompt_tokens: NonNegative = 0
    completion_tokens: NonNegative = 0
    cached_tokens: NonNegative = 0
    seconds: float = 0.0
    depth: NonNegative = 0
    cost: float | None = None
    failed_calls: NonNegative = 0
    structured: NonNegative = 0
    repaired: NonNegative = 0
    reasked: NonNegative = 0
    forced: NonNegative = 0

    def plus(self, other: Usage) -> Usage:
        """The sum of both, with this one's seconds and depth; no calls cost nothing."""
        counted = {
            name: getattr(self, name) + getattr(other, name)
            for name in Usage.model_fields
            if name not in ("seconds", "depth", "cost")
        }
        paid = [used.cost for used in (self, other) if used.calls] or [self.cost]
        known = [cost for cost in paid if cost is not None]
        cost = sum(known) if len(known) == len(paid) else None
        return self.model_copy(update={**counted, "cost": cost})


class CallRecord(Frozen):
    """One reply that a run got.

    Attributes:
        purpose: What the call was for, as in the steps of the trace.
        began: When it was asked for, seconds since the run began.
        seconds: Until the whole reply was there, waiting for a free slot included; 0 from the
            store.
        prompt_tokens: Tokens in.
        completion_tokens: Tokens out.
        cached: The reply came from the store.
        cached_tokens: Of the tokens in, those that the server took from its prefix cache; those
            of the call that was made, where the reply came from the store.
        cost: Dollars of such a call, paid now or earlier; None where the price is not known.
        key: The same for calls that ask for the same; "" in answers of earlier versions.
    """

    purpose: str
    began: float
    seconds: float
    prompt_tokens: NonNegative
    completion_tokens: NonNegative
    cached: bool = False
    cached_tokens: NonNegative = 0
    cost: float | None = None
    key: str = ""


SharedT = TypeVar("SharedT", Estimate, Usage)
_UNDIVIDED = frozenset({"seconds", "depth", "exact_counts", "basis"})


def divided(whole: SharedT, n: int) -> list[SharedT]:
    """Even shares whose counts and costs add up to the whole; time and depth are each the whole's.

    Where a count does not divide evenly the first shares have one more.
    """
    shares: list[SharedT] = []
    for i in range(n):
        share: dict[str, int | float] = {}
        for name in type(whole).model_fields:
            value = getattr(whole, name)
            if name in _UNDIVIDED or value is None:
                continue
            share[name] = value / n if isinstance(value, float) else (value + n - 1 - i) // n
        shares.append(whole.model_copy(update=share))
    return shares


@dataclass(slots=True)
class Ledger:
    """Counts what a run uses and says no before a limit is passed.

    ``reserve`` before a call, ``settle`` after it. While the run reads, a part of the budget
    (``closing``: one call and its tokens) stays out of reach; ``reserve(..., closing=True)`` may
    use it. Once a limit said no, it says no to every further reading call: it latches.

    The money and token limits count reserved upper bounds of calls in flight, so they hold with
    any number of calls at once.

    Several runs may share one budget: each counts in a ``part`` of the ledger, the ledger itself
    counts them all, and what one part keeps for its end is out of reach of the others.

    ``made`` has the replies of this ledger in the order in which they came, ``prompts`` the
    prompts of the same calls where ``keep_prompts`` says so; parts have their own.
    """

    budget: Budget | None = None
    price: Price | None = None
    deadline: float | None = None
    clock: Callable[[], float] = time.monotonic
    calls: int = 0
    cached_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    failed_calls: int = 0
    structured: int = 0
    repaired: int = 0
    reasked: int = 0
    forced: int = 0
    depth: int = 0
    stopped_by: str | None = None
    _closing_calls: int = 0
    _closing_prompt: int = 0
    _closing_completion: int = 0
    _closing_rounds: int = 1
    _whole: Ledger | None = None
    _parts: list[Ledger] = field(default_factory=list)
    _held_prompt: int = 0
    _held_completion: int = 0
    _slowest: float = 0.0
    started: float = field(default=0.0)
    keep_prompts: bool = False
    made: list[CallRecord] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def part(self) -> Ledger:
        """A ledger for one of several runs under this one's limits."""
        part = Ledger(
            price=self.price, clock=self.clock, _whole=self, keep_prompts=self.keep_prompts
        )
        self._parts.append(part)
        return part

    def keep_for_closing(
        self, calls: int, prompt_tokens: int, completion_tokens: int, *, rounds: int = 1
    ) -> None:
        """Set aside what the closing calls need; ``rounds`` of them follow one another."""
        self._closing_calls = calls
        self._closing_prompt = prompt_tokens
        self._closing_completion = completion_tokens
        self._closing_rounds = rounds

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return self.clock() - self.started

    def seconds_left(self) -> float | None:
        """Time until the deadline, None without one."""
        if self._whole is not None:
            return self._whole.seconds_left()
        return None if self.deadline is None else self.deadline - self.seconds

    def reserve(self, prompt: int, completion: int, *, closing: bool = False) -> None:
        """Hold room for one call of at most so many tokens.

        Raises:
            LimitReached: the call could pass a limit; nothing is held then.
        """
        if self.stopped_by is not None and not closing:
            raise LimitReached(f"The {self.stopped_by} is used up.", limit=self.stopped_by)
        whole = self._whole or self
        limit = whole._limit_passed(prompt, completion, self._kept(closing), closing)
        if limit is not None:
            if not closing:
                self.stopped_by = limit
            raise LimitReached(f"The {limit} does not allow another call.", limit=limit)
        if closing and self._whole is not None:  # it takes from what was kept for it
            self._closing_calls = max(self._closing_calls - 1, 0)
            self._closing_prompt = max(self._closing_prompt - prompt, 0)
            self._closing_completion = max(self._closing_completion - completion, 0)
        for ledger in {id(self): self, id(whole): whole}.values():
            ledger._held_prompt += prompt
            ledger._held_completion += completion
            ledger.calls += 1

    def settle(
        self,
        held_prompt: int,
        held_completion: int,
        *,
        prompt: int = 0,
        completion: int = 0,
        cached: int = 0,
        seconds: float = 0.0,
        failed: bool = False,
        sent: bool = True,
    ) -> None:
        """Replace a reservation by what the call really used; one never sent was no call."""
        if not sent:
            self.calls -= 1
            failed = False
        self._held_prompt -= held_prompt
        self._held_completion -= held_completion
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.cached_tokens += cached
        self.failed_calls += failed
        if not failed:
            self._slowest = max(self._slowest, seconds)
        if self._whole is not None:
            self._whole.settle(
                held_prompt,
                held_completion,
                prompt=prompt,
                completion=completion,
                cached=cached,
                seconds=seconds,
                failed=failed,
                sent=sent,
            )

    def _kept(self, closing: bool) -> tuple[int, int, int]:
        """Calls and tokens in and out that this call must leave to others."""
        ledgers = [self] if self._whole is None else self._whole._parts
        kept = [p for p in ledgers if not (closing and p is self)]
        return (
            sum(p._closing_calls for p in kept),
            sum(p._closing_prompt for p in kept),
            sum(p._closing_completion for p in kept),
        )

    def _limit_passed(
        self, prompt: int, completion: int, kept: tuple[int, int, int], closing: bool
    ) -> str | None:
        left = self.seconds_left()
        if left is not None:
            # A reading call must leave time for itself and for the closing calls.
            rounds = max(p._closing_rounds for p in (self, *self._parts))
            needed = 0.0 if closing else (1.0 + rounds) * self._slowest
            if left <= needed:
                return "deadline"
        if self.budget is None:
            return None
        calls = self.calls + 1 + kept[0]
        tokens_in = self.prompt_tokens + self._held_prompt + prompt + kept[1]
        tokens_out = self.completion_tokens + self._held_completion + completion + kept[2]
        if self.budget.calls is not None and calls > self.budget.calls:
            return "budget of calls"
        if self.budget.tokens is not None and tokens_in + tokens_out > self.budget.tokens:
            return "budget of tokens"
        if (
            self.budget.usd is not None
            and self.price is not None
            and self.price.cost(tokens_in, tokens_out) > self.budget.usd
        ):
            return "budget of money"
        return None

    def usage(self) -> Usage:
        """Everything used so far, as a value."""
        cost = (
            None
            if self.price is None
            else self.price.cost(self.prompt_tokens, self.completion_tokens, self.cached_tokens)
        )
        return Usage(
            calls=self.calls,
            cached_calls=self.cached_calls,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            seconds=self.seconds,
            depth=self.depth,
            cost=cost,
            failed_calls=self.failed_calls,
            structured=self.structured,
            repaired=self.repaired,
            reasked=self.reasked,
            forced=self.forced,
        )
