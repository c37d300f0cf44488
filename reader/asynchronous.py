"""The asynchronous half of ``Reader``: where every question is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from reader.budget import Estimate, Price
from reader.calls import BudgetLike, Call, checked, checked_many
from reader.errors import RunNotFound
from reader.events import Done, Emit, Event, Notice, ignore
from reader.llm.resolve import open_model
from reader.llm.types import ChatModel, Identified
from reader.many import estimate_many, execute_many, known_answers
from reader.memory.store import Store
from reader.notebook import downloads, listening
from reader.portal import Portal
from reader.prepared import Shared
from reader.results import known_answer
from reader.run import Machine, execute
from reader.run import estimate as estimate_call

if TYPE_CHECKING:
    import os

    from reader.answers import Answer
    from reader.comparison import Comparison, Strategies
    from reader.documents import Source


class AsyncReader:
    """A model and a store on any number of event loops; see ``Reader`` for all that it takes."""

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
