"""``Book``: one document, loaded and cut once, for many questions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reader.documents import Document

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.budget import Estimate
    from reader.comparison import Comparison, Strategies
    from reader.events import Event
    from reader.session import Reader


class Book:
    """A document and the reader that asks about it; made by ``reader.open`` or ``Reader.open``.

        with reader.open("novel.txt", model="openai:gpt-5-mini") as book:
            print(book.ask("Who is the narrator?"))
            first, second = book.ask_many(["Where does it begin?", "Where does it end?"])

    The document is loaded, hashed and cut once. What a strategy prepares without a question (a
    tree, a graph, vectors) is made for the first one that needs it and found by all later ones.
    Keywords are those of ``Reader.answer`` and ``Reader.answer_many``.

    Attributes:
        document: What is read.
        reader: The model and the store.
    """

    def __init__(self, reader: Reader, document: Document, *, owned: bool = False) -> None:
        self.reader = reader
        self.document = document
        self._owned = owned

    def __repr__(self) -> str:
        return f"<Book {self.document.title!r}: {len(self.document.text):,} characters>"

    def ask(self, question: str | None, strategy: str = "coa", **arguments: Any) -> Answer:
        """Answer one question; see ``Reader.answer``."""
        return self.reader.answer(self.document, question, strategy, **arguments)

    async def aask(self, question: str | None, strategy: str = "coa", **arguments: Any) -> Answer:
        """The asynchronous twin of ``ask``."""
        return await self.reader.aanswer(self.document, question, strategy, **arguments)

    def ask_many(
        self, questions: Sequence[str | None], strategy: str = "coa", **arguments: Any
    ) -> list[Answer]:
        """Answer several questions, in one pass where the strategy can; ``Reader.answer_many``."""
        return self.reader.answer_many(self.document, questions, strategy, **arguments)

    async def aask_many(
        self, questions: Sequence[str | None], strategy: str = "coa", **arguments: Any
    ) -> list[Answer]:
        """The asynchronous twin of ``ask_many``."""
        return await self.reader.aanswer_many(self.document, questions, strategy, **arguments)

    def compare(self, question: str | None, strategies: Strategies, **arguments: Any) -> Comparison:
        """Several strategies on one question, side by side; see ``Reader.compare``."""
        return self.reader.compare(self.document, question, strategies, **arguments)

    async def acompare(
        self, question: str | None, strategies: Strategies, **arguments: Any
    ) -> Comparison:
        """The asynchronous twin of ``compare``."""
        return await self.reader.acompare(self.document, question, strategies, **arguments)

    def stream(
        self, question: str | None, strategy: str = "coa", **arguments: Any
    ) -> Iterator[Event]:
        """Typed events of one question; see ``Reader.stream``."""
        return self.reader.stream(self.document, question, strategy, **arguments)

    def astream(
        self, question: str | None, strategy: str = "coa", **arguments: Any
    ) -> AsyncIterator[Event]:
        """The asynchronous twin of ``stream``."""
        return self.reader.astream(self.document, question, strategy, **arguments)

    def estimate(self, question: str | None, strategy: str = "coa", **arguments: Any) -> Estimate:
        """What ``ask`` would use, before any call."""
        return self.reader.estimate(self.document, question, strategy, **arguments)

    async def aestimate(
        self, question: str | None, strategy: str = "coa", **arguments: Any
    ) -> Estimate:
        """The asynchronous twin of ``estimate``."""
        return await self.reader.aestimate(self.document, question, strategy, **arguments)

    def estimate_many(
        self, questions: Sequence[str | None], strategy: str = "coa", **arguments: Any
    ) -> Estimate:
        """What ``ask_many`` would use, before any call."""
        return self.reader.estimate_many(self.document, questions, strategy, **arguments)

    async def aestimate_many(
        self, questions: Sequence[str | None], strategy: str = "coa", **arguments: Any
    ) -> Estimate:
        """The asynchronous twin of ``estimate_many``."""
        return await self.reader.aestimate_many(self.document, questions, strategy, **arguments)

    def close(self) -> None:
        """Free the model and the store, unless the reader is the caller's own."""
        if self._owned:
            self.reader.close()

    async def aclose(self) -> None:
        """The asynchronous twin of ``close``."""
        if self._owned:
            await self.reader.__aexit__(None, None, None)

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
