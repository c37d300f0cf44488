"""What became of one question: an answer, a refusal, a failure - each called by its name.

Nothing is dropped. A failure, a time-out and an empty reply count as wrong, and are reported as
what they are.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from reader.answers import Answer
from reader.budget import Frozen, Usage
from reader.errors import (
    AuthenticationFailed,
    DownloadFailed,
    MissingExtra,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    ReaderError,
    StoreError,
    UnknownModel,
    UnknownPrice,
)

Kind: TypeAlias = Literal["answered", "not_found", "partial", "empty", "timeout", "error"]
KINDS: tuple[Kind, ...] = ("answered", "not_found", "partial", "empty", "timeout", "error")
WRONG: frozenset[Kind] = frozenset({"empty", "timeout", "error"})

# The next question would meet these too: the evaluation stops, and the same command goes on.
STOPPING: tuple[type[ReaderError], ...] = (
    AuthenticationFailed,
    DownloadFailed,
    MissingExtra,
    ModelUnavailable,
    RateLimited,
    StoreError,
    UnknownModel,
    UnknownPrice,
)


class Failure(Frozen):
    """Why there is no answer.

    Attributes:
        type: Name of the error's class, "timeout" for the limit of the evaluation.
        message: What happened and what to do.
        retryable: Whether trying again can help.
    """

    type: str
    message: str
    retryable: bool = False


class Outcome(Frozen):
    """What became of one question.

    Attributes:
        kind: "answered", "not_found", "partial" (as in ``Answer.status``); "empty" (a reply
            without a word), "timeout", "error": these three count as wrong.
        answer: The answer, None after a failure.
        failure: The failure, None with an answer.
        usage: What the whole run took. Of an answer that was in the store: what it took then.
        whole: False where ``usage`` misses a part, because an earlier attempt was killed half way.
        seconds: Wall time of this attempt.
    """

    kind: Kind
    answer: Answer | None = None
    failure: Failure | None = None
    usage: Usage = Usage()
    whole: bool = True
    seconds: float = 0.0

    @property
    def wrong(self) -> bool:
        """It counts as wrong whatever the reference is."""
        return self.kind in WRONG

    @classmethod
    def of_answer(
        cls, answer: Answer, *, usage: Usage, resumed: bool = False, seconds: float = 0.0
    ) -> Outcome:
        """From an answer; one without a word is "empty"."""
        replies = sum(step.tokens > 0 for step in answer.trace.steps)
        empty = not answer.text.strip() and answer.choice is None
        return cls(
            kind="empty" if empty else answer.status,
            answer=answer,
            usage=usage,
            # A run that went on at a checkpoint did not count the calls before it.
            whole=not resumed and usage.calls + usage.cached_calls >= replies,
            seconds=seconds,
        )

    @classmethod
    def of_error(cls, error: Exception, *, resumed: bool = False, seconds: float = 0.0) -> Outcome:
        """From what a run raised; errors that are not ours are defects, and are named so."""
        spent = getattr(error, "spent", None) or Usage()
        late = isinstance(error, ModelTimeout)
        said = str(error) if isinstance(error, ReaderError) else f"a defect: {error!r}"
        return cls(
            kind="timeout" if late else "error",
            failure=Failure(
                type=type(error).__name__,
                message=said,
                retryable=bool(getattr(error, "retryable", False)),
            ),
            usage=spent,
            whole=not resumed,
            seconds=seconds,
        )

    @classmethod
    def of_timeout(cls, limit: float, *, usage: Usage, seconds: float) -> Outcome:
        """The evaluation's own limit of seconds for a question was reached."""
        return cls(
            kind="timeout",
            failure=Failure(
                type="timeout", message=f"No answer within {limit:g} seconds.", retryable=True
            ),
            usage=usage,
            seconds=seconds,
        )

    def to_metadata(self) -> dict[str, Any]:
        """As a log keeps it."""
        return self.model_dump(mode="json")
