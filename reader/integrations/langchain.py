"""LangChain: evidence as documents, a chain that answers, a tool for agents.

    from reader import Reader
    from reader.integrations.langchain import ReadingChain, ReadingRetriever, reading_tool

    with Reader(ChatOpenAI(model="gpt-4.1-mini", max_retries=0)) as r:
        retriever = ReadingRetriever(reader=r, document="contract.pdf")
        evidence = retriever.invoke("When may the tenant end the lease?")

``document`` is whatever ``reader.answer`` takes, or LangChain documents as a loader gives them.
The caller closes the ``Reader``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from reader.answers import Answer
from reader.errors import InvalidOption, MissingExtra, ReaderError
from reader.events import AnswerToken, Done, Event, Progress
from reader.integrations.passages import told
from reader.session import Reader

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForChainRun,
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForChainRun,
        CallbackManagerForRetrieverRun,
        adispatch_custom_event,
        dispatch_custom_event,
    )
    from langchain_core.documents import Document as LangChainDocument
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableConfig, RunnableSerializable
    from langchain_core.runnables.utils import AddableDict
    from langchain_core.tools import StructuredTool, ToolException

    from reader.integrations.langchain_documents import Loaded, as_document, evidence, load
except ImportError as error:
    raise MissingExtra(
        "LangChain is not installed, or too old.", hint="pip install 'longdoc-reader[langchain]'"
    ) from error

__all__ = ["PROGRESS", "ReadingChain", "ReadingRetriever", "as_document", "reading_tool"]

PROGRESS = "reading_progress"
"""Name of the custom event that tells how far a reading is: done, total, seconds, seconds_left."""


class ReadingRetriever(BaseRetriever):
    """Reads for the query and returns the evidence, the best first.

    Each document's ``page_content`` is ``source[start:end]``; ``metadata`` holds ``source``,
    ``start``, ``end`` (characters, end exclusive), ``match``, ``run_id``, and ``page`` (from 1),
    ``section`` where there are such. Metadata of LangChain documents passed in goes through, their
    own ``page`` included. Nothing found is an empty list.

    Attributes:
        reader: Model and store.
        document: What to read: a path, a text, a ``reader.Document``, LangChain documents.
        strategy: A reading method that cites; "quotes" reads everything, "rag" makes one call.
        k: So many documents at most.
        around: Characters around the evidence on each side; ``metadata["quote"]`` is the evidence.
        budget: As in ``Reader.answer``.
        deadline: Seconds.
        options: The strategy's options.
    """

    reader: Reader
    document: Any
    strategy: str = "quotes"
    k: int | None = None
    around: int = 0
    budget: Any = None
    deadline: float | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    def model_post_init(self, context: Any, /) -> None:
        """Load the document once."""
        self.document = load(self.document)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[LangChainDocument]:
        answer = self.reader.answer(
            self.document.document,
            query,
            self.strategy,
            budget=self.budget,
            deadline=self.deadline,
            **self.options,
        )
        return evidence(answer, self.document, self.k, self.around)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[LangChainDocument]:
        answer = await self.reader.aanswer(
            self.document.document,
            query,
            self.strategy,
            budget=self.budget,
            deadline=self.deadline,
            **self.options,
        )
        return evidence(answer, self.document, self.k, self.around)


class ReadingChain(RunnableSerializable[Any, dict[str, Any]]):
    """Answers questions: a Runnable from a question to answer, evidence and how it came about.

    The input is a question, or a mapping with ``question`` and, where it is another one each time,
    ``document``. The output has ``question``, ``answer`` (text), ``context`` (evidence, as
    ``ReadingRetriever`` gives it) and ``reading`` (the ``reader.Answer``: status, coverage, usage).

    ``stream`` gives the answer in pieces as the model writes it, then evidence and reading; where
    a strategy writes its answer anew, ``reading.text`` is what holds. ``batch`` reads once for all
    questions about one document (``Reader.answer_many``); budget and deadline then hold for all of
    them together. Progress comes as custom events named ``PROGRESS``.

    Attributes are those of ``ReadingRetriever``; ``document`` may be left out.
    """

    reader: Reader
    document: Any = None
    strategy: str = "coa"
    k: int | None = None
    around: int = 0
    budget: Any = None
    deadline: float | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    def model_post_init(self, context: Any, /) -> None:
        """Load the document once."""
        if self.document is not None:
            self.document = load(self.document)

    def invoke(
        self,
        input: Any,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Answer one question.

        Raises:
            ReaderError: as ``Reader.answer``.
        """
        return self._call_with_config(self._invoke, input, config, **kwargs)

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The asynchronous twin of ``invoke``."""
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    def stream(
        self,
        input: Any,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any | None,
    ) -> Iterator[dict[str, Any]]:
        """The output in pieces that add up."""
        yield from self._transform_stream_with_config(iter([input]), self._pieces, config, **kwargs)

    async def astream(
        self,
        input: Any,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any | None,
    ) -> AsyncIterator[dict[str, Any]]:
        """The asynchronous twin of ``stream``."""

        async def once() -> AsyncIterator[Any]:
            yield input

        async for piece in self._atransform_stream_with_config(
            once(), self._apieces, config, **kwargs
        ):
            yield piece

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[dict[str, Any]]:
        """Answer several questions, those about one document in one reading where it can be."""
        return self._batch_with_config(
            self._batch, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[dict[str, Any]]:
        """The asynchronous twin of ``batch``."""
        return await self._abatch_with_config(
            self._abatch, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    # Inside ------------------------------------------------------------------------------

    def _invoke(
        self, value: Any, run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> dict[str, Any]:
        question, loaded = self._asked(value)
        for event in self.reader.stream(loaded.document, question, **self._arguments()):
            if isinstance(event, Progress):
                dispatch_custom_event(PROGRESS, _progress(event), config=config)
            elif isinstance(event, Done):
                return self._output(question, event.answer, loaded)
        raise AssertionError("a reading ends with its answer or an error")

    async def _ainvoke(
        self, value: Any, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> dict[str, Any]:
        question, loaded = self._asked(value)
        async for event in self.reader.astream(loaded.document, question, **self._arguments()):
            if isinstance(event, Progress):
                await adispatch_custom_event(PROGRESS, _progress(event), config=config)
            elif isinstance(event, Done):
                answer = event.answer
        return self._output(question, answer, loaded)

    def _pieces(
        self, inputs: Iterator[Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> Iterator[dict[str, Any]]:
        for value in inputs:
            question, loaded = self._asked(value)
            yield AddableDict(question=question)
            told_so_far = _Told()
            for event in self.reader.stream(loaded.document, question, **self._arguments()):
                if isinstance(event, Progress):
                    dispatch_custom_event(PROGRESS, _progress(event), config=config)
                elif piece := told_so_far.piece(event):
                    yield AddableDict(answer=piece)
                if isinstance(event, Done):
                    yield self._end(event.answer, loaded)

    async def _apieces(
        self,
        inputs: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
    ) -> AsyncIterator[dict[str, Any]]:
        async for value in inputs:
            question, loaded = self._asked(value)
            yield AddableDict(question=question)
            told_so_far = _Told()
            async for event in self.reader.astream(loaded.document, question, **self._arguments()):
                if isinstance(event, Progress):
                    await adispatch_custom_event(PROGRESS, _progress(event), config=config)
                elif piece := told_so_far.piece(event):
                    yield AddableDict(answer=piece)
                if isinstance(event, Done):
                    yield self._end(event.answer, loaded)

    def _batch(self, values: list[Any]) -> list[dict[str, Any] | Exception]:
        found: dict[int, dict[str, Any] | Exception] = {}
        for group in self._grouped(values, found):
            try:
                answers = self.reader.answer_many(
                    group.loaded.document, group.questions, **self._arguments()
                )
            except ReaderError as error:
                found |= dict.fromkeys(group.places, error)
            else:
                found |= self._outputs(group, answers)
        return [found[place] for place in range(len(values))]

    async def _abatch(self, values: list[Any]) -> list[dict[str, Any] | Exception]:
        found: dict[int, dict[str, Any] | Exception] = {}
        for group in self._grouped(values, found):
            try:
                answers = await self.reader.aanswer_many(
                    group.loaded.document, group.questions, **self._arguments()
                )
            except ReaderError as error:
                found |= dict.fromkeys(group.places, error)
            else:
                found |= self._outputs(group, answers)
        return [found[place] for place in range(len(values))]

    def _grouped(
        self, values: list[Any], failed: dict[int, dict[str, Any] | Exception]
    ) -> list[_Group]:
        """The questions by their documents; what cannot be asked goes to ``failed``."""
        groups: dict[str, _Group] = {}
        for place, value in enumerate(values):
            try:
                question, loaded = self._asked(value)
                if not question.strip():
                    raise InvalidOption("The question is empty.", hint="Pass a question.")
            except ReaderError as error:
                failed[place] = error
                continue
            group = groups.setdefault(loaded.document.sha256, _Group(loaded, [], []))
            group.places.append(place)
            group.questions.append(question)
        return list(groups.values())

    def _outputs(self, group: _Group, answers: Sequence[Answer]) -> dict[int, dict[str, Any]]:
        return {
            place: self._output(question, answer, group.loaded)
            for place, question, answer in zip(group.places, group.questions, answers, strict=True)
        }

    def _asked(self, value: Any) -> tuple[str, Loaded]:
        asked = value if isinstance(value, Mapping) else {"question": value}
        question, document = asked.get("question"), asked.get("document") or self.document
        if not isinstance(question, str):
            raise InvalidOption(
                "The input holds no question.", hint='Pass a text, or {"question": text}.'
            )
        if document is None:
            raise InvalidOption(
                "There is no document to read.",
                hint="Pass document= to ReadingChain, or in the input beside the question.",
            )
        return question, load(document)

    def _arguments(self) -> dict[str, Any]:
        limits = {"budget": self.budget, "deadline": self.deadline}
        return {"strategy": self.strategy, **limits, **self.options}

    def _output(self, question: str, answer: Answer, loaded: Loaded) -> dict[str, Any]:
        return AddableDict(question=question, answer=answer.text) + self._end(answer, loaded)

    def _end(self, answer: Answer, loaded: Loaded) -> AddableDict:
        return AddableDict(context=evidence(answer, loaded, self.k, self.around), reading=answer)


@dataclass(frozen=True, slots=True)
class _Group:
    """Questions about one document, and their places in a batch."""

    loaded: Loaded
    places: list[int]
    questions: list[str]


class _Told:
    """The pieces of an answer that were passed on, so that the end adds only what is missing."""

    def __init__(self) -> None:
        self._text = ""

    def piece(self, event: Event) -> str:
        """The text to pass on for an event, "" for none."""
        said = ""
        if isinstance(event, AnswerToken):
            said = event.text if self._text else event.text.lstrip()
        elif isinstance(event, Done) and event.answer.text.startswith(self._text):
            said = event.answer.text[len(self._text) :]
        self._text += said
        return said


def _progress(event: Progress) -> dict[str, Any]:
    return {
        "done": event.done,
        "total": event.total,
        "seconds": event.seconds,
        "seconds_left": event.seconds_left,
    }


def reading_tool(
    reader: Reader,
    document: Any,
    *,
    name: str = "read_document",
    description: str | None = None,
    strategy: str = "coa",
    budget: Any = None,
    deadline: float | None = None,
    **options: Any,
) -> StructuredTool:
    """A tool with which an agent asks about one document.

    The agent gets the answer with its numbered evidence as text; the ``reader.Answer`` is the
    message's ``artifact``. An error of this library is told to the agent as the tool's reply.

    Args:
        reader: Model and store.
        document: As in ``ReadingRetriever``.
        name: The tool's name.
        description: For the agent; by default it says which document it is and how long.
        strategy: Name of a reading method.
        budget: Limits of each question.
        deadline: Seconds for each question.
        options: Those of the strategy.

    Raises:
        DocumentError: the document cannot be read.
    """
    loaded = load(document)
    found = loaded.document
    arguments = {"strategy": strategy, "budget": budget, "deadline": deadline, **options}

    def read(question: str) -> tuple[str, Answer]:
        try:
            answer = reader.answer(found, question, **arguments)
        except ReaderError as error:
            raise ToolException(str(error)) from None
        return told(answer), answer

    async def aread(question: str) -> tuple[str, Answer]:
        try:
            answer = await reader.aanswer(found, question, **arguments)
        except ReaderError as error:
            raise ToolException(str(error)) from None
        return told(answer), answer

    return StructuredTool.from_function(
        func=read,
        coroutine=aread,
        name=name,
        description=description
        or f"Reads {found.title!r} ({len(found.text):,} characters) for one question and answers"
        " it with quotes and their places. Ask one whole question at a time.",
        response_format="content_and_artifact",
        handle_tool_error=True,
    )
