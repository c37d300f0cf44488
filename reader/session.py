"""``Reader``: a model and a store for many questions.

Everything is asynchronous inside. The synchronous face runs an event loop in a thread of its own,
so it works under a running loop (Jupyter) too and patches nothing.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from pydantic import ValidationError

from reader.budget import Budget, Estimate, Price
from reader.documents import Document
from reader.errors import EmptyQuestion, InvalidOption, RunNotFound
from reader.events import Done, Emit, Event, Notice, ignore
from reader.llm.resolve import open_model
from reader.llm.types import ChatModel, Identified
from reader.memory.store import Store
from reader.run import Call, Shared, execute, known_answer
from reader.run import estimate as estimate_call
from reader.strategy import find_strategy, read_options

if TYPE_CHECKING:
    import os

    from anyio.from_thread import BlockingPortal

    from reader.answers import Answer

    Source: TypeAlias = Document | str | os.PathLike[str] | bytes | Sequence[Any]

T = TypeVar("T")
INTERRUPT_SECONDS = 5.0
BudgetLike: TypeAlias = "Budget | Mapping[str, float] | str | None"


class Reader:
    """A model and a store for many questions; the object for applications and notebooks.

    Args:
        model: ``"openai:NAME"``, ``"http://HOST:PORT/v1"`` (optionally ``#NAME``), ``"gguf:PATH"``,
            ``"hf:REPO/FILE"``, ``"embedded"``, ``"embedded:large"``, ``"embedded:tiny"``, or an
            object of your own. None is ``"embedded"``: a small model run in this process.
        store: A folder, a ``Store``, or False to keep nothing; None is the user's cache.
        price: Dollars per million tokens, where the library does not know them.
        requests_per_minute: Limit of the endpoint, where it has one.
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
        api_key: str | None = None,
        on_download: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._spec = model if isinstance(model, str) else None if model is not None else "embedded"
        self._model = open_model(model, api_key=api_key, on_progress=on_download)
        self._chosen = model is not None
        self._owns_model = isinstance(model, str) or model is None
        self._owns_store = not isinstance(store, Store)
        self.store = _open_store(store)
        self._price = price
        self._rate = requests_per_minute
        self._shared: WeakKeyDictionary[Any, dict[int, Shared]] = WeakKeyDictionary()
        self._exit = ExitStack()
        self._portal: BlockingPortal | None = None

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
        call = await _call(doc, question, strategy, choices, budget, deadline, options)
        emit = on_event or ignore
        # A model that knows its identity is not even asked for an answer that is there.
        early = self._model.identity if isinstance(self._model, Identified) else None
        shared = None if early else await self._share(call)
        identity = early or (shared.info.identity if shared else "")
        known = known_answer(call, self.store, identity)
        if known is not None:
            emit(Done(answer=known))
            return known
        shared = shared or await self._share(call)
        # Who names the small model knows that it is one; a server's notice is always news.
        if shared.info.notice and not (self._chosen and self._spec == "embedded"):
            emit(Notice(text=shared.info.notice))
        return await execute(call, shared, emit)

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
        call = await _call(doc, question, strategy, choices, None, None, options)
        return await estimate_call(call, await self._share(call))

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
        source = record.source.split("\n")
        return await self.aanswer(
            source if len(source) > 1 else source[0],
            record.question,
            record.call["strategy"],
            choices=record.call["choices"] or None,
            on_event=on_event,
            **limits,
            **record.call["options"],
        )

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
            on_event: Called with each event, in the thread that runs the call.
            options: Those of the strategy, and ``window``, ``chunk_tokens``, ``concurrency``.

        Returns:
            The answer. Budget spent, deadline passed, chunks failed and "not found" are values
            of ``answer.status``.

        Raises:
            ReaderError: something that the caller must mend; ``error.hint`` says how,
                ``error.spent`` what was used. The same call again resumes.
        """
        return self._sync(
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

    def stream(
        self, doc: Source, question: str | None, strategy: str = "coa", **arguments: Any
    ) -> Iterator[Event]:
        """Typed events as they happen, ``Done`` with the answer last; arguments as ``answer``.

        Leaving the loop early stops the run; the same call later resumes it.
        """
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        future = self._start().start_task_soon(
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
        return self._sync(
            lambda: self.aestimate(doc, question, strategy, choices=choices, **options)
        )

    def resume(self, run_id: str, *, on_event: Emit | None = None, **limits: Any) -> Answer:
        """Go on with an earlier run whose document is a file; ``limits`` as in ``answer``.

        Raises:
            RunNotFound: no such run, or its document was not a file.
        """
        return self._sync(lambda: self.aresume(run_id, on_event=on_event, **limits))

    def close(self) -> None:
        """Free model and store; what a caller passed in stays open."""
        if self._owns_model:
            self._sync(self.aclose)
        self._exit.close()
        self._portal = None
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
        if self._owns_store:
            self.store.close()

    # Inside ------------------------------------------------------------------------------

    def _start(self) -> BlockingPortal:
        if self._portal is None:
            from anyio.from_thread import start_blocking_portal

            self._portal = self._exit.enter_context(start_blocking_portal())
        return self._portal

    def _sync(self, function: Callable[[], Awaitable[T]]) -> T:
        ended = threading.Event()

        async def run() -> T:
            try:
                return await function()
            finally:
                ended.set()

        future = self._start().start_task_soon(run)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C arrives here, in the caller's thread: stop the run and let it write down
            # where it stands before the exception goes on.
            if future.cancel():
                ended.wait(INTERRUPT_SECONDS)
            raise

    async def _share(self, call: Call) -> Shared:
        """What runs share on this event loop; limits of concurrency are part of it."""
        loop = asyncio.get_running_loop()
        info = await self._model.info()
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
            )
        return kept[wanted]


async def _call(
    doc: Source,
    question: str | None,
    strategy: str,
    choices: Sequence[str] | None,
    budget: BudgetLike,
    deadline: float | None,
    options: dict[str, Any],
) -> Call:
    """Check everything that can be checked before anything is spent."""
    if question is not None and not question.strip():
        raise EmptyQuestion("The question is empty.")
    if choices is not None and (isinstance(choices, str) or len(choices) < 2):
        raise InvalidOption("choices must be a list of at least two texts.", hint="")
    if question is None and choices:
        raise InvalidOption("choices need a question.", hint="Pass both or neither.")
    if deadline is not None and deadline <= 0:
        raise InvalidOption("deadline must be above 0 seconds.", hint="")
    kind = find_strategy(strategy)
    read = read_options(kind, options)
    limits = _budget(budget)
    if not isinstance(doc, Document):
        doc = await asyncio.to_thread(Document.load, doc)
    return Call(
        strategy=kind,
        options=read,
        document=doc,
        question=question.strip() if question is not None else None,
        choices=tuple(choices or ()),
        budget=limits,
        deadline=deadline,
    )


def _budget(budget: BudgetLike) -> Budget | None:
    if budget is None or isinstance(budget, Budget):
        return budget
    if isinstance(budget, str):
        return Budget.parse(budget)
    try:
        return Budget.model_validate(dict(budget))
    except ValidationError as error:
        raise InvalidOption(
            f"The budget is not understood: {error.errors()[0]['msg']}.",
            hint="It takes calls, tokens and usd, each above zero.",
        ) from None


def _open_store(store: Store | str | os.PathLike[str] | bool | None) -> Store:
    if isinstance(store, Store):
        return store
    if store is False:
        return Store.in_memory()
    return Store(None if store is None or store is True else store)
