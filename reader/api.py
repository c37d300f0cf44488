"""What users call for one question: ``answer`` and its twins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from reader.calls import BudgetLike
from reader.session import Reader

if TYPE_CHECKING:
    import os

    from reader.answers import Answer
    from reader.book import Book
    from reader.budget import Estimate, Price
    from reader.comparison import Comparison, Strategies
    from reader.documents import Source
    from reader.events import Emit, Event
    from reader.llm.types import ChatModel
    from reader.memory.store import Store


def answer(
    doc: Source,
    question: str | None,
    strategy: str = "coa",
    *,
    model: str | ChatModel | Callable[..., Any] | None = None,
    choices: Sequence[str] | None = None,
    budget: BudgetLike = None,
    deadline: float | None = None,
    store: Store | str | os.PathLike[str] | bool | None = None,
    on_event: Emit | None = None,
    **options: Any,
) -> Answer:
    """Answer one question; see ``Reader.answer``, and ``Reader`` for ``model`` and ``store``.

    For several questions about one document use ``open``, for several documents a ``Reader``: they
    start the model once.
    """
    with Reader(model, store=store) as reader:
        return reader.answer(
            doc,
            question,
            strategy,
            choices=choices,
            budget=budget,
            deadline=deadline,
            on_event=on_event,
            **options,
        )


async def aanswer(
    doc: Source,
    question: str | None,
    strategy: str = "coa",
    *,
    model: str | ChatModel | Callable[..., Any] | None = None,
    choices: Sequence[str] | None = None,
    budget: BudgetLike = None,
    deadline: float | None = None,
    store: Store | str | os.PathLike[str] | bool | None = None,
    on_event: Emit | None = None,
    **options: Any,
) -> Answer:
    """The asynchronous twin of ``answer``."""
    async with Reader(model, store=store) as reader:
        return await reader.aanswer(
            doc,
            question,
            strategy,
            choices=choices,
            budget=budget,
            deadline=deadline,
            on_event=on_event,
            **options,
        )


def compare(
    doc: Source,
    question: str | None,
    strategies: Strategies,
    *,
    model: str | ChatModel | Callable[..., Any] | None = None,
    store: Store | str | os.PathLike[str] | bool | None = None,
    **arguments: Any,
) -> Comparison:
    """Several strategies on one question, side by side; see ``Reader.compare``."""
    with Reader(model, store=store) as reader:
        return reader.compare(doc, question, strategies, **arguments)


async def acompare(
    doc: Source,
    question: str | None,
    strategies: Strategies,
    *,
    model: str | ChatModel | Callable[..., Any] | None = None,
    store: Store | str | os.PathLike[str] | bool | None = None,
    **arguments: Any,
) -> Comparison:
    """The asynchronous twin of ``compare``."""
    async with Reader(model, store=store) as reader:
        return await reader.acompare(doc, question, strategies, **arguments)


def stream(
    doc: Source,
    question: str | None,
    strategy: str = "coa",
    *,
    model: str | ChatModel | Callable[..., Any] | None = None,
    store: Store | str | os.PathLike[str] | bool | None = None,
    **arguments: Any,
) -> Iterator[Event]:
    """Typed events of one question; see ``Reader.stream``."""
    with Reader(model, store=store) as reader:
        yield from reader.stream(doc, question, strategy, **arguments)


async def astream(
    doc: Source,
    question: str | None,
    strategy: str = "coa",
    *,
    model: str | ChatModel | Callable[..., Any] | None = None,
    store: Store | str | os.PathLike[str] | bool | None = None,
    **arguments: Any,
) -> AsyncIterator[Event]:
    """The asynchronous twin of ``stream``."""
    async with Reader(model, store=store) as reader:
        async for event in reader.astream(doc, question, strategy, **arguments):
            yield event


def estimate(
    doc: Source,
    question: str | None,
    strategy: str = "coa",
    *,
    model: str | ChatModel | Callable[..., Any] | None = None,
    store: Store | str | os.PathLike[str] | bool | None = None,
    choices: Sequence[str] | None = None,
    **options: Any,
) -> Estimate:
    """What ``answer`` with the same arguments would use, before any call."""
    with Reader(model, store=store) as reader:
        return reader.estimate(doc, question, strategy, choices=choices, **options)


async def aestimate(
    doc: Source,
    question: str | None,
    strategy: str = "coa",
    *,
    model: str | ChatModel | Callable[..., Any] | None = None,
    store: Store | str | os.PathLike[str] | bool | None = None,
    choices: Sequence[str] | None = None,
    **options: Any,
) -> Estimate:
    """The asynchronous twin of ``estimate``."""
    async with Reader(model, store=store) as reader:
        return await reader.aestimate(doc, question, strategy, choices=choices, **options)


def open(  # noqa: A001 (as in gzip, tarfile, wave)
    doc: Source,
    *,
    model: str | ChatModel | Callable[..., Any] | None = None,
    store: Store | str | os.PathLike[str] | bool | None = None,
    price: Price | None = None,
) -> Book:
    """Load a document once for many questions; see ``Reader`` for ``model``, ``store``, ``price``.

    Close the book, or use it with ``with``: it holds the model.

    Raises:
        DocumentError: the document cannot be read.
    """
    from reader.book import Book
    from reader.documents import Document

    document = Document.load(doc)
    return Book(Reader(model, store=store, price=price), document, owned=True)


async def aopen(
    doc: Source,
    *,
    model: str | ChatModel | Callable[..., Any] | None = None,
    store: Store | str | os.PathLike[str] | bool | None = None,
    price: Price | None = None,
) -> Book:
    """The asynchronous twin of ``open``: the document is loaded in a thread."""
    import asyncio

    from reader.book import Book
    from reader.documents import Document

    document = await asyncio.to_thread(Document.load, doc)
    return Book(Reader(model, store=store, price=price), document, owned=True)
