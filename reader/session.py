"""``Reader``: a model and a store for many questions.

Everything is asynchronous inside (``reader.asynchronous``). The synchronous face runs an event loop
in a thread of its own, so it works under a running loop (Jupyter) too and patches nothing.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reader.asynchronous import AsyncReader
from reader.budget import Estimate
from reader.calls import BudgetLike, Call
from reader.documents import Document
from reader.events import Emit, Event, ignore
from reader.run import Machine

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.book import Book
    from reader.comparison import Comparison, Strategies
    from reader.documents import Source


class Reader(AsyncReader):
    """A model and a store for many questions; the object for applications and notebooks.

    Args:
        model: ``"openai:NAME"``, ``"http://HOST:PORT/v1"`` (optionally ``#NAME``), ``"gguf:PATH"``,
            ``"hf:REPO/FILE"``, ``"embedded"``, ``"embedded:large"``, ``"embedded:tiny"``, a chat
            model of LangChain, or an object of your own. None is ``"embedded"``: a small model run
            in this process.
        store: A folder, a ``Store``, or False to keep nothing; None is the user's cache.
        price: Dollars per million tokens, where the library does not know them.
        requests_per_minute: Limit of the endpoint, where it has one.
        keep_prompts: Answers remember the prompts of their run, for
            ``answer.report(..., prompts=True)``; no file holds them. A question that was answered
            before is run again from the kept replies, which costs nothing.
        api_key: For endpoints that want one; None reads OPENAI_API_KEY at the first call.
        on_download: Called with (label, bytes done, bytes in all) while weights are fetched.

    Close it, or use it with ``with``: a model run in this process holds memory.
    """

    def run(self, call: Call, emit: Emit = ignore, machine: Machine | None = None) -> Answer:
        """The synchronous twin of ``arun``."""
        return self.portal.run(lambda: self.arun(call, emit, machine))

    def answer(
        self,
        doc: Source,
        question: str | None,
        strategy: str = "coa",
        *,
        choices: Sequence[str] | None = None,
        budget: BudgetLike = None,
        deadline: float | None = None,
        on_event: Emit | None = None,
        **options: Any,
    ) -> Answer:
        """Answer a question about a document of any length.

        Args:
            doc: A ``Document``, a path, a text, bytes, or several of these.
            question: None asks for a summary of the whole.
            strategy: Name of a reading method (``reader strategies`` lists them).
            choices: Options of a multiple-choice question; ``answer.choice`` is the index.
            budget: Limits that are never passed: ``Budget(calls=, tokens=, usd=)``, the same as a
                mapping, or ``"calls=20,usd=0.10"``.
            deadline: Seconds after which the best answer so far is given.
            on_event: Called with each event, in the thread that runs the call. None draws a bar
                in a notebook (``reader.notebook``) and nothing elsewhere.
            options: Those of the strategy, and ``window``, ``chunk_tokens``, ``concurrency``.

        Returns:
            The answer. Budget spent, deadline passed, chunks failed and "not found" are values
            of ``answer.status``.

        Raises:
            ReaderError: something that the caller must mend; ``error.hint`` says how,
                ``error.spent`` what was used. The same call again resumes.
        """
        return self.portal.run(
            lambda: self.aanswer(
                doc,
                question,
                strategy,
                choices=choices,
                budget=budget,
                deadline=deadline,
                on_event=on_event,
                **options,
            )
        )

    def compare(
        self,
        doc: Source,
        question: str | None,
        strategies: Strategies,
        *,
        choices: Sequence[str] | None = None,
        budget: BudgetLike = None,
        deadline: float | None = None,
        on_event: Emit | None = None,
        **options: Any,
    ) -> Comparison:
        """Answer a question with several strategies, one after another, under the same budget.

        Args:
            doc: As in ``answer``.
            question: As in ``answer``.
            strategies: Names, or labels with the options of each, where the strategy's name is
                one of them unless it is the label:
                ``{"coa": {}, "checked": {"strategy": "coa", "preset": "evidence"}}``.
            choices: As in ``answer``.
            budget: Limits of each strategy, not of all together.
            deadline: Seconds for each strategy.
            on_event: Called with the events of each.
            options: Given to every strategy that has them.

        Returns:
            The answers side by side, and which of them agree. A strategy that ends with an error
            of its own has that instead of an answer.

        Raises:
            ReaderError: what is wrong for all of them, an unknown strategy or option among it;
                then before any call.
        """
        return self.portal.run(
            lambda: self.acompare(
                doc,
                question,
                strategies,
                choices=choices,
                budget=budget,
                deadline=deadline,
                on_event=on_event,
                **options,
            )
        )

    def answer_many(
        self,
        doc: Source,
        questions: Sequence[str | None],
        strategy: str = "coa",
        *,
        choices: Sequence[Sequence[str] | None] | None = None,
        budget: BudgetLike = None,
        deadline: float | None = None,
        on_event: Emit | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer several questions about one document, for little more than the price of one.

        ``coa`` and ``memagent`` read the document once for all of them, with a memory for each
        (their plain forms; with options such as ``quotes`` or ``paths`` each question reads by
        itself, and the answers say so). The other strategies run the questions side by side over
        what they prepare once.

        Args:
            doc: As in ``answer``.
            questions: The questions; None asks for a summary. One that occurs twice is answered
                once and given twice.
            strategy: Name of a reading method.
            choices: For each question the options of a multiple choice, or None.
            budget: Limits of all questions together.
            deadline: Seconds for all questions together.
            on_event: Called with the events of all; ``path`` is the place of the question among
                the different ones. Pieces of answers are left out.
            options: As in ``answer``.

        Returns:
            An answer for each question, in their order, each with its own status, citations,
            coverage, trace and ``run_id``. ``usage`` is what was used for that question alone and
            an even share of what was read for all, so the answers' usages add up to what was
            spent; ``seconds`` and ``depth`` are not divided.

        Raises:
            ReaderError: as in ``answer``; an empty question is one before any call.
        """
        return self.portal.run(
            lambda: self.aanswer_many(
                doc,
                questions,
                strategy,
                choices=choices,
                budget=budget,
                deadline=deadline,
                on_event=on_event,
                **options,
            )
        )

    def open(self, doc: Source) -> Book:
        """Load a document once, for many questions.

        Raises:
            DocumentError: it cannot be read.
        """
        from reader.book import Book

        return Book(self, Document.load(doc))

    async def aopen(self, doc: Source) -> Book:
        """See ``open``; the document is loaded in a thread."""
        from reader.book import Book

        return Book(self, await asyncio.to_thread(Document.load, doc))

    def stream(
        self, doc: Source, question: str | None, strategy: str = "coa", **arguments: Any
    ) -> Iterator[Event]:
        """Typed events as they happen, ``Done`` with the answer last; arguments as ``answer``.

        Leaving the loop early stops the run; the same call later resumes it.
        """
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        future = self.portal.start(
            lambda: self.aanswer(doc, question, strategy, on_event=events.put, **arguments)
        )
        future.add_done_callback(lambda _: events.put(None))
        try:
            while (event := events.get()) is not None:
                yield event
            future.result()
        finally:
            future.cancel()

    def estimate(
        self,
        doc: Source,
        question: str | None,
        strategy: str = "coa",
        *,
        choices: Sequence[str] | None = None,
        **options: Any,
    ) -> Estimate:
        """Calls, tokens, calls in series and money of a run, before any call."""
        return self.portal.run(
            lambda: self.aestimate(doc, question, strategy, choices=choices, **options)
        )

    def estimate_many(
        self,
        doc: Source,
        questions: Sequence[str | None],
        strategy: str = "coa",
        *,
        choices: Sequence[Sequence[str] | None] | None = None,
        **options: Any,
    ) -> Estimate:
        """The same for ``answer_many``; ``basis`` says how the questions are read."""
        return self.portal.run(
            lambda: self.aestimate_many(doc, questions, strategy, choices=choices, **options)
        )

    def resume(self, run_id: str, *, on_event: Emit | None = None, **limits: Any) -> Answer:
        """Go on with an earlier run whose document is a file; ``limits`` as in ``answer``.

        Raises:
            RunNotFound: no such run, or its document was not a file.
        """
        return self.portal.run(lambda: self.aresume(run_id, on_event=on_event, **limits))

    def close(self) -> None:
        """Free model and store; what a caller passed in stays open."""
        if self._owns_model:
            self.portal.run(self.aclose)
        self.portal.close()
        if self._owns_store:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
        await asyncio.to_thread(self.portal.close)
        if self._owns_store:
            self.store.close()
