"""A reading strategy as a solver of inspect-ai, for our runner and for tasks of your own.

    from inspect_ai import Task
    from inspect_ai.dataset import Sample
    from reader.evals.solver import reading

    Task(
        dataset=[Sample("Who pays?", target="the tenant", metadata={"document": text})],
        solver=reading("coa", model="openai:gpt-4.1-mini", window=8000),
        scorer=includes(),
    )

inspect's model layer is not used (run with ``model=None``): calls go through ``Reader``, with its
budget, its limits and its store. What became of the question lies in
``state.metadata["outcome"]``, see ``outcome.Outcome``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from inspect_ai.model import ChatMessageAssistant, ModelOutput, ModelUsage
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import LimitExceededError, time_limit

from reader.answers import Answer
from reader.budget import Budget, Usage
from reader.documents import Document
from reader.errors import DocumentNotFound, InvalidOption, ReaderError
from reader.events import Event, RunStarted, UsageChanged
from reader.session import Reader

from .outcome import STOPPING, Outcome


class Library:
    """Documents by the key that stands in a sample's metadata, so that logs need not hold them."""

    name = "library"  # what a log shows of it

    def __init__(self, documents: Mapping[str, Document]) -> None:
        self._documents = documents

    def document(self, key: str) -> Document:
        """The document under the key.

        Raises:
            DocumentNotFound: there is none.
        """
        if key not in self._documents:
            raise DocumentNotFound(f"The library has no document {key!r}.", hint="")
        return self._documents[key]


class Earlier:
    """What became earlier of samples that are not to be asked again, by their id."""

    name = "earlier"

    def __init__(self, outcomes: Mapping[str, Outcome]) -> None:
        self.outcomes = outcomes


class Halted(Exception):
    """No more is asked: ``Halt.error`` says why.

    One of its own for each question: the log holds each one's traceback, and those of a model
    client's errors take inspect seconds apiece to lay out.
    """


class Halt:
    """Remembers the error that every further question would meet, so that none is asked.

    Attributes:
        error: The first such error.
        spent: What the questions of this evaluation used, the unfinished ones too.
    """

    name = "halt"

    def __init__(self) -> None:
        self.error: ReaderError | None = None
        self.spent = Usage()

    def check(self) -> None:
        """Raise ``Halted``, if there was such an error."""
        if self.error is not None:
            raise Halted(self.error.message)

    def note(self, error: Exception) -> None:
        """Remember the first error that stops the evaluation."""
        if self.error is None and isinstance(error, STOPPING):
            self.error = error

    def spend(self, used: Usage) -> None:
        """Count the calls that a question made."""
        self.spent = self.spent.plus(used)


@solver
def reading(
    strategy: str = "coa",
    *,
    model: str | None = None,
    reader: Reader | None = None,
    library: Library | None = None,
    document: str = "document",
    files: bool = False,
    budget: Budget | str | None = None,
    timeout: float | None = None,
    on_error: Literal["raise", "record"] = "raise",
    halt: Halt | None = None,
    earlier: Earlier | None = None,
    **options: Any,
) -> Solver:
    """Answer the sample's question about the sample's document.

    Args:
        strategy: Name of a reading method.
        model: As ``reader.Reader`` takes it. The model is opened at the first sample and lives as
            long as the process.
        reader: A ``Reader`` of yours, instead of ``model``; share one among tasks.
        library: Where ``metadata[document]`` is a key into. Without one it is the text itself.
        document: Key of the sample's metadata.
        files: ``metadata[document]`` is a path, or a list of paths, instead of a text.
        budget: For each question, "calls=20,tokens=50000,usd=0.10".
        timeout: Seconds for one question; then it has no answer (outcome "timeout").
        on_error: "raise" leaves errors to inspect (``fail_on_error``, ``retry_on_error``);
            "record" makes them an outcome. Errors that every question would meet are always
            raised.
        halt: Shared by several solvers: after such an error, which it keeps, all of them raise
            ``Halted`` and none asks again.
        earlier: Outcomes that stand; what is in the store needs none.
        options: Of the strategy, and ``window``, ``chunk_tokens``, ``concurrency``. Those in a
            sample's ``metadata["options"]`` come before them.

    A sample's ``choices`` make it a multiple-choice question; an input that is empty asks for a
    summary.
    """
    stop = halt or Halt()
    own: list[Reader] = []

    def opened() -> Reader:
        if reader is not None:
            return reader
        if not own:
            own.append(Reader(model))
        return own[0]

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        stop.check()
        known = earlier.outcomes.get(str(state.sample_id)) if earlier else None
        if known is not None:
            return _record(state, known)
        watch = _Watch()
        used = opened()
        try:
            with time_limit(timeout):
                answer = await used.aanswer(
                    _document(state, library, document, files),
                    state.input_text.strip() or None,
                    strategy,
                    choices=[choice.value for choice in state.choices] or None,
                    budget=budget,
                    on_event=watch,
                    **options | (state.metadata.get("options") or {}),
                )
        except LimitExceededError:
            if timeout is None or watch.seconds < timeout:
                raise  # a limit of the task's own, not ours
            outcome = Outcome.of_timeout(timeout, usage=watch.usage, seconds=watch.seconds)
        except Exception as error:
            stop.note(error)
            if isinstance(error, STOPPING) and halt is not None:
                raise Halted(error.message) from None
            if isinstance(error, STOPPING) or on_error == "raise":
                raise
            outcome = Outcome.of_error(error, resumed=watch.resumed, seconds=watch.seconds)
        else:
            usage = answer.usage if watch.ran else _first_usage(used, answer.run_id)
            outcome = Outcome.of_answer(
                answer, usage=usage, resumed=watch.resumed, seconds=watch.seconds
            )
        finally:
            stop.spend(watch.usage)
        return _record(state, outcome)

    return solve


class _Watch:
    """Listens to a run for what is left of it when it fails."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.ran = self.resumed = False
        self.usage = Usage()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.ran, self.resumed = True, event.resumed
        elif isinstance(event, UsageChanged):
            self.usage = event.usage


def _document(
    state: TaskState, library: Library | None, key: str, files: bool
) -> Document | str | Sequence[Any]:
    value = state.metadata.get(key)
    if not value:
        raise InvalidOption(
            f"Sample {state.sample_id!r} has no metadata {key!r}.",
            hint="Put the text there, or name another key with document=.",
        )
    if library is not None:
        return library.document(value)
    if files:
        return Document.load(value)
    return Document.from_text(value)


def _first_usage(reader: Reader, run_id: str) -> Usage:
    """What an answer from the store took when it was made: a repeat must not look free."""
    record = reader.store.run(run_id)
    if record is None or record.answer is None:
        return Usage()
    return Answer.from_json(record.answer).usage


def _record(state: TaskState, outcome: Outcome) -> TaskState:
    state.metadata["outcome"] = outcome.to_metadata()
    answer = outcome.answer
    text = answer.text if answer is not None else ""
    state.output = ModelOutput.from_content(model=answer.model if answer else "", content=text)
    used = outcome.usage
    state.output.usage = ModelUsage(
        input_tokens=used.prompt_tokens,
        output_tokens=used.completion_tokens,
        total_tokens=used.prompt_tokens + used.completion_tokens,
        input_tokens_cache_read=used.cached_tokens,
    )
    state.messages.append(ChatMessageAssistant(content=text))
    if answer is not None and answer.choice is not None:
        for index in range(len(state.choices)):
            state.choices.mark_choice(index, index == answer.choice)
    return state
