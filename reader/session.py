"""``Reader``: a model and a store for many questions.

Everything is asynchronous inside. The synchronous face runs an event loop in a thread of its own,
so it works under a running loop (Jupyter) too and patches nothing.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from reader.budget import Estimate, Price
from reader.calls import BudgetLike, Call, checked, checked_many
from reader.documents import Document
from reader.errors import RunNotFound
from reader.events import Done, Emit, Event, Notice, ignore
from reader.llm.resolve import open_model
from reader.llm.types import ChatModel, Identified
from reader.many import estimate_many, execute_many, known_answers
from reader.memory.store import Store
from reader.notebook import downloads, listening
from reader.portal import Portal
from reader.run import Machine, Shared, execute, known_answer
from reader.run import estimate as estimate_call

if TYPE_CHECKING:
    import os

    from reader.answers import Answer
    from reader.book import Book
    from reader.calls import Source
    from reader.comparison import Comparison, Strategies


class Reader:
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

    def __init__(
        self,
        model: str | ChatModel | Callable[..., Any] | None = None,
        *,
        store: Store | str | os.PathLike[str] | bool | None = None,
        price: Price | None = None,
        requests_per_minute: float | None = None,
        keep_prompts: bool = False,
        api_key: str | None = None,
        on_download: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._spec = model if isinstance(model, str) else None if model is not None else "embedded"
        self._model = open_model(model, api_key=api_key, on_progress=downloads(on_download))
        self._chosen = model is not None
        self._owns_model = isinstance(model, str) or model is None
        self._owns_store = not isinstance(store, Store)
        self.store = _open_store(store)
        self._price = price
        self._rate = requests_per_minute
        self._keep_prompts = keep_prompts
        self._shared: WeakKeyDictionary[Any, dict[int, Shared]] = WeakKeyDictionary()
        self.portal = Portal()

    # Asynchronous face -------------------------------------------------------------------

    async def aanswer(
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
        """See ``answer``."""
        call = await checked(
            doc,
            question,
            strategy,
            choices=choices,
            budget=budget,
            deadline=deadline,
            options=options,
        )
        with listening(on_event) as emit:
            return await self.arun(call, emit)

    async def arun(self, call: Call, emit: Emit = ignore, machine: Machine | None = None) -> Answer:
        """Answer a checked call; for integrations, which may run its state machine themselves.

        Raises:
            ReaderError: as in ``answer``.
        """
        known = None
        if not self._keep_prompts:
            known = known_answer(call, self.store, await self._identity(call))
        if known is not None:
            emit(Done(answer=known))
            return known
        return await execute(call, await self._share(call, emit), emit, machine)

    def run(self, call: Call, emit: Emit = ignore, machine: Machine | None = None) -> Answer:
        """The synchronous twin of ``arun``."""
        return self.portal.run(lambda: self.arun(call, emit, machine))

    async def acompare(
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
        """See ``compare``."""
        from reader.comparison import compared

        return await compared(
            self,
            doc,
            question,
            strategies,
            choices=choices,
            budget=budget,
            deadline=deadline,
            on_event=on_event,
            options=options,
        )

    async def aanswer_many(
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
        """See ``answer_many``."""
        calls = await checked_many(
            doc,
            questions,
            strategy,
            choices=choices,
            budget=budget,
            deadline=deadline,
            options=options,
        )
        if not calls:
            return []
        distinct = list({call.place: call for call in calls}.values())
        with listening(on_event) as emit:
            known: list[Answer | None] = []
            if not self._keep_prompts:
                known = known_answers(distinct, self.store, await self._identity(calls[0]))
            found = [answer for answer in known if answer is not None]
            if len(found) < len(distinct):
                shared = await self._share(calls[0], emit)
                found = await execute_many(distinct, shared, emit)
            else:
                for answer in found:
                    emit(Done(answer=answer))
        return [found[call.place] for call in calls]

    async def astream(
        self, doc: Source, question: str | None, strategy: str = "coa", **arguments: Any
    ) -> AsyncIterator[Event]:
        """See ``stream``."""
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        task = asyncio.ensure_future(
            self.aanswer(doc, question, strategy, on_event=events.put_nowait, **arguments)
        )
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def aestimate(
        self,
        doc: Source,
        question: str | None,
        strategy: str = "coa",
        *,
        choices: Sequence[str] | None = None,
        **options: Any,
    ) -> Estimate:
        """See ``estimate``."""
        call = await checked(doc, question, strategy, choices=choices, options=options)
        return await estimate_call(call, await self._share(call))

    async def aestimate_many(
        self,
        doc: Source,
        questions: Sequence[str | None],
        strategy: str = "coa",
        *,
        choices: Sequence[Sequence[str] | None] | None = None,
        **options: Any,
    ) -> Estimate:
        """See ``estimate_many``."""
        calls = await checked_many(doc, questions, strategy, choices=choices, options=options)
        if not calls:
            return Estimate(calls=0, prompt_tokens=0, completion_tokens=0, depth=0)
        distinct = list({call.place: call for call in calls}.values())
        return await estimate_many(distinct, await self._share(calls[0]))

    async def aopen(self, doc: Source) -> Book:
        """See ``open``; the document is loaded in a thread."""
        from reader.book import Book

        return Book(self, await asyncio.to_thread(Document.load, doc))

    async def aresume(self, run_id: str, *, on_event: Emit | None = None, **limits: Any) -> Answer:
        """See ``resume``."""
        record = self.store.run(run_id)
        if record is None:
            raise RunNotFound(f"There is no run {run_id!r} in the store.")
        if record.source is None:
            raise RunNotFound(
                f"Run {record.id} read a text from memory.",
                hint="Make the same call with that text again: it resumes by itself.",
            )
        files = record.source.split("\n")
        doc: Source = files if len(files) > 1 else files[0]
        kind, options = record.call["strategy"], {**limits, **record.call["options"]}
        choices, beside = record.call["choices"] or None, record.call.get("beside")
        if not beside:
            return await self.aanswer(
                doc, record.question, kind, choices=choices, on_event=on_event, **options
            )
        answers = await self.aanswer_many(
            doc,
            [question for question, _ in beside],
            kind,
            choices=[offered or None for _, offered in beside],
            on_event=on_event,
            **options,
        )
        place: int = beside.index([record.question, record.call["choices"]])
        return answers[place]

    async def aclose(self) -> None:
        """Free model and store; what a caller passed in stays open."""
        if self._owns_model:
            await self._model.aclose()

    # Synchronous face --------------------------------------------------------------------

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

    # Inside ------------------------------------------------------------------------------

    async def _identity(self, call: Call) -> str:
        """The model's; one that knows it by itself is not even started for it."""
        early = self._model.identity if isinstance(self._model, Identified) else None
        return early or (await self._share(call)).info.identity

    async def _share(self, call: Call, emit: Emit = ignore) -> Shared:
        """What runs share on this event loop; limits of concurrency are part of it."""
        loop = asyncio.get_running_loop()
        info = await self._model.info()
        # Who names the small model knows that it is one; a server's notice is always news.
        if info.notice and not (self._chosen and self._spec == "embedded"):
            emit(Notice(text=info.notice))
        wanted = call.options.concurrency or info.concurrency
        kept = self._shared.setdefault(loop, {})
        if wanted not in kept:
            from reader.llm.limiter import Limiter

            kept[wanted] = Shared(
                model=self._model,
                info=info,
                spec=self._spec,
                store=self.store,
                limiter=Limiter(wanted, self._rate),
                price=self._price or info.price,
                keep_prompts=self._keep_prompts,
            )
        return kept[wanted]


def _open_store(store: Store | str | os.PathLike[str] | bool | None) -> Store:
    if isinstance(store, Store):
        return store
    if store is False:
        return Store.in_memory()
    return Store(None if store is None or store is True else store)
