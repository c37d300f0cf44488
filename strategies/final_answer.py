"""The call that answers, shared by the baselines: what it is asked, what may go wrong, what counts.

The reply is the answer and then, where quotes are asked for, lines that begin with "Quote:". The
answer comes first, so that it is what a bare prompt would have given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from reader.budget import Estimate
from reader.coverage import ChunkOutcome, ChunkStatus
from reader.errors import InvalidOption, LimitReached, ModelError, ModelUnavailable
from reader.events import AnswerToken
from reader.evidence import Claim, QuoteFinder, candidates
from reader.llm.choice import choose, render
from reader.llm.layer import Layer
from reader.llm.replies import (
    before_next_question,
    clean,
    is_refusal_or_empty,
    says_nothing_found,
    trim_to_sentence,
)
from reader.llm.types import ChatModel, ChatReply, ChatRequest, Message, OnToken
from reader.strategy import Reading, StrategyOptions
from reader.trace import Step

QUOTE_TOKENS = 160
"""Room for the quotes of one reply, beside the answer."""
EXPECTED_ANSWER = 60
NOT_FOUND = "Not found in the document."
UNKNOWN = f"If the text does not hold the answer, write only: {NOT_FOUND}"
QUOTE_RULE = (
    'Then, on a new line that begins with "Quote:", copy the one sentence of the text that shows '
    "it best, word for word."
)
REQUIREMENT = "Answer the question in as few words as it needs."
SUMMARY_REQUIREMENT = "Write a summary of the source text in one or two paragraphs."
CHOICE_REQUIREMENT = "Answer with the letter of the one right option."

WHY = {"read": "", "unread": "the reply was empty or a refusal", "skipped": "no call was made"}

_MOST_QUOTES = 4
_LABEL = re.compile(
    r"^[^\w\n]*(?i:(?:verbatim |direct |supporting )?quot(?:e|ation)s?)[*_ ]*\d*[*_ ]*:[*_ ]*"
    r"|\bQuotes?:[*_ ]*",
    re.MULTILINE,
)
_HELD_BACK = 32  # characters: more than any beginning of a label


class AnswerOptions(StrategyOptions):
    """Options of every strategy whose last call is an answer in a fixed form."""

    requirement: str | None = Field(
        default=None, description="what the model is told about the answer's form"
    )
    answer_tokens: int = Field(
        default=1024, ge=8, description="cap of the answer; at most 1/8 of the window"
    )


class AnswerForm:
    """How the last call of a run is asked; made once a run.

    Attributes:
        question: With the choices under it, where there are some; "" for a summary.
        summary: There is no question.
        answer_tokens: Cap of the answer.
        output_tokens: Cap of the reply, quotes included.
        quotes: Quotes are asked for.
    """

    def __init__(self, reading: Reading, window: int, *, quotes: bool) -> None:
        options: AnswerOptions = reading.options
        self.summary = reading.question is None
        self.quotes = quotes and not self.summary
        self.question = reading.question or ""
        if reading.choices:
            self.question = f"{self.question}\n{render(reading.choices)}"
        self.answer_tokens = min(options.answer_tokens, max(window // 8, 32))
        self.output_tokens = self.answer_tokens + (QUOTE_TOKENS if self.quotes else 0)
        self._choices = bool(reading.choices)
        self._requirement = options.requirement

    def requirement(self, *, unknown: bool = True) -> str:
        """What the model is told about the answer's form, one rule after the other."""
        usual = SUMMARY_REQUIREMENT if self.summary else REQUIREMENT
        usual = CHOICE_REQUIREMENT if self._choices else usual
        rules = [usual if self._requirement is None else self._requirement]
        if self.quotes:
            rules.append(QUOTE_RULE)
        if unknown and not self.summary and not self._choices:
            rules.append(UNKNOWN)
        return " ".join(rules)


def needs_question(reading: Reading, why: str) -> str:
    """The question.

    Raises:
        InvalidOption: there is none.
    """
    if reading.question is None:
        raise InvalidOption(
            f"This strategy needs a question: {why}.",
            hint='For a summary use "coa", "map_reduce" or "full".',
        )
    return reading.question


async def give_answer(
    reading: Reading, form: AnswerForm, prompt: str, prompt_tokens: int, *, fallback: str = ""
) -> dict[str, Any]:
    """Make the last call.

    Args:
        reading: The run.
        form: How it is asked.
        prompt: The whole prompt.
        prompt_tokens: Upper bound of its length.
        fallback: The answer where the call cannot be made or gives nothing.

    Returns:
        For the state: ``text``, ``choice``, ``quotes`` (not checked), ``closed`` (the call was
        made), ``usable`` (it gave an answer), ``calls`` in series, ``tokens``, ``finish_reason``.

    Raises:
        ModelError: the call failed and there is nothing else to give, or no other call would have
            been answered either; ``ContextOverflow`` among them.
    """
    request = ChatRequest(
        messages=(Message("user", prompt),),
        max_tokens=form.output_tokens,
        prompt_tokens=prompt_tokens,
        purpose="answer",
        closing=True,
    )
    result: dict[str, Any] = {
        "text": fallback,
        "choice": None,
        "quotes": [],
        "closed": False,
        "usable": False,
        "calls": 0,
        "tokens": 0,
        "finish_reason": "stop",
    }
    model = AnswerThenQuotes(reading.model)
    try:
        if reading.choices:
            chosen = await choose(model, request, reading.choices, counts=reading.ledger)
            reply, calls = chosen.reply, chosen.calls
            text, usable = reading.choices[chosen.index], True
            result["choice"] = chosen.index
        else:
            reply = await model.generate(
                request, lambda piece: reading.emit(AnswerToken(text=piece))
            )
            text, usable, calls = reply.text, not is_refusal_or_empty(reply.text), 1
    except LimitReached as error:
        reading.warn(f"{error.message} The last call was not made.")
        return result
    except ModelError as error:
        if not fallback or not error.retryable or isinstance(error, ModelUnavailable):
            raise
        reading.warn(f"The last call failed: {error.message} The answer is what was noted before.")
        return result
    reading.saw_reply("answer", reply.completion_tokens)
    reading.saw_reply("answer prompt", reply.prompt_tokens)
    reading.step_done()
    if not usable:
        reading.warn("The model's reply was empty or a refusal.")
        text = fallback or text
    elif reply.finish_reason == "length" and not model.quotes and not reading.choices:
        text = trim_to_sentence(text)[0] or text
    return {
        **result,
        "text": text,
        "quotes": model.quotes,
        "closed": True,
        "usable": usable,
        "calls": calls,
        "tokens": reply.completion_tokens,
        "finish_reason": reply.finish_reason,
    }


def estimate_of(
    reading: Reading,
    *,
    calls: int,
    depth: int,
    prompt: int,
    completion: int,
    most: int,
    seen: tuple[int, float] | None,
    bound: str = "",
) -> Estimate:
    """An estimate from sums of tokens.

    Args:
        reading: The run.
        calls: Calls expected.
        depth: Of those, in series.
        prompt: Tokens in.
        completion: Tokens out, expected.
        most: Tokens out if every reply ran to its cap.
        seen: Replies of this kind that the store has seen, and their mean length.
        bound: What can only be bounded, in words.
    """
    price = reading.ledger.price
    basis = f"{seen[0]} replies seen" if seen else "no reply of this model seen yet"
    return Estimate(
        calls=calls,
        prompt_tokens=prompt,
        completion_tokens=completion,
        depth=depth,
        cost=price.cost(prompt, completion) if price else None,
        max_completion_tokens=most,
        max_cost=price.cost(prompt, most) if price else None,
        exact_counts=reading.info.counter.exact,
        basis=f"{basis}; {bound}" if bound else basis,
    )


def outcome_of(result: dict[str, Any]) -> ChunkOutcome:
    """What became of the text that the last call was shown."""
    if result["usable"]:
        return "read"
    return "unread" if result["closed"] else "skipped"


def answer_steps(result: dict[str, Any]) -> tuple[Step, ...]:
    """The last call as the trace shows it; nothing where it was not made."""
    if not result["calls"]:
        return ()
    step = Step(
        purpose="answer",
        text=result["text"],
        tokens=result["tokens"],
        finish_reason=result["finish_reason"],
    )
    return (step,)


def answer_claims(
    reading: Reading, result: dict[str, Any], ranges: Sequence[tuple[int, int]]
) -> tuple[Claim, ...]:
    """What the last reply quotes of the ranges that it was shown, and what it says of them."""
    said = [Claim(quote) for quote in result["quotes"]]
    if result["choice"] is None and not says_nothing_found(result["text"]):
        said += [Claim(c.text, c.claimed) for c in candidates(result["text"])]
    finder = reading.finder
    return tuple(claim._replace(within=_home(finder, claim.quote, ranges)) for claim in said)


def _home(
    finder: QuoteFinder, quote: str, ranges: Sequence[tuple[int, int]]
) -> tuple[int, int] | None:
    """The range in which the quote stands, else the first one."""
    for found in ranges if len(ranges) > 1 else ():
        match = finder.find(quote, within=found)
        if match is not None and match.kind != "elsewhere":
            return found
    return ranges[0] if ranges else None


def unanswered(reading: Reading) -> dict[str, Any]:
    """The result where the notes hold nothing, so that there is nothing to ask about."""
    reading.step_done()
    return {
        "text": NOT_FOUND,
        "choice": None,
        "quotes": [],
        "closed": True,
        "usable": True,
        "calls": 0,
        "tokens": 0,
        "finish_reason": "stop",
    }


def status_of(
    result: dict[str, Any], chunks: Sequence[ChunkStatus], *, by_design: bool = False
) -> Literal["answered", "not_found", "partial"]:
    """The status of a run.

    "Not found" is said of a document that was read in whole only. ``by_design`` says that the
    method leaves parts out when nothing goes wrong, so that an answer without them is whole.
    """
    skipped = any(c.outcome in ("skipped", "failed") for c in chunks)
    if not result["closed"] or not result["usable"]:
        return "partial"
    if says_nothing_found(result["text"]) and result["choice"] is None:
        return "partial" if skipped else "not_found"
    return "partial" if skipped and not by_design else "answered"


class AnswerThenQuotes(Layer):
    """Gives on the answer alone, and keeps the quotes that follow it.

    Attributes:
        quotes: Of the last reply that held some, not yet looked up in the document.
    """

    def __init__(self, inner: ChatModel) -> None:
        super().__init__(inner)
        self.quotes: list[str] = []

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """The reply without its quotes; pieces are given on up to them."""
        listener = _UpToQuotes(on_token) if on_token else None
        reply = await self.inner.generate(request, listener.hear if listener else None)
        if listener:
            listener.end()
        text, quotes = split_quotes(before_next_question(clean(reply.text)))
        self.quotes = quotes or self.quotes
        return replace(reply, text=text)


def split_quotes(text: str) -> tuple[str, list[str]]:
    """Answer and quotes of a reply. A reply that is a quote only is its own answer."""
    first = _LABEL.search(text)
    if first is None:
        return text.strip(), []
    lines = [line for part in _LABEL.split(text[first.start() :]) for line in part.splitlines()]
    found = [line.strip(" \t\"'\u201c\u201d\u2018*_>-") for line in lines]
    quotes = [q for q in found if len(q.split()) > 1 and not says_nothing_found(q)]
    unique = list(dict.fromkeys(quotes))[:_MOST_QUOTES]
    answer = text[: first.start()].strip()
    return answer or (unique[0] if unique else ""), unique


class _UpToQuotes:
    """Passes a streamed text on up to the first label, a few characters behind."""

    def __init__(self, on_token: OnToken) -> None:
        self._on_token = on_token
        self._text = ""
        self._told = 0
        self._over = False

    def hear(self, piece: str) -> None:
        """The next piece."""
        if self._over:
            return
        self._text += piece
        label = _LABEL.search(self._text, max(self._told - _HELD_BACK, 0))
        self._over = label is not None
        self._tell(label.start() if label else len(self._text) - _HELD_BACK)

    def end(self) -> None:
        """Pass on what was held back."""
        if not self._over:
            self._tell(len(self._text))

    def _tell(self, end: int) -> None:
        said = self._text[self._told : max(end, self._told)]
        if self._over:
            said = said.rstrip()
        if said:
            self._on_token(said)
            self._told = end
