"""Read documents longer than any model's window, with any model.

``reader.answer(doc, question)`` is the way in; ``reader.open(doc)`` keeps a document for many
questions, ``Reader`` a model and a store for many documents. Names are loaded when they are first
used, so that ``import reader`` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reader.answers import Answer
    from reader.api import (
        aanswer,
        acompare,
        aestimate,
        answer,
        aopen,
        astream,
        compare,
        estimate,
        stream,
    )
    from reader.api import (
        open as open,  # noqa: A004
    )
    from reader.book import Book
    from reader.budget import Budget, Estimate, Price, Usage
    from reader.citations import Citation
    from reader.comparison import Comparison
    from reader.coverage import Coverage
    from reader.documents import Document
    from reader.drawing import draw
    from reader.errors import ReaderError
    from reader.memory.store import Store
    from reader.session import Reader

_HOMES = {
    "Answer": "answers",
    "Book": "book",
    "Budget": "budget",
    "Citation": "citations",
    "Comparison": "comparison",
    "Coverage": "coverage",
    "Document": "documents",
    "Estimate": "budget",
    "Price": "budget",
    "Reader": "session",
    "ReaderError": "errors",
    "Store": "memory.store",
    "Usage": "budget",
    "aanswer": "api",
    "acompare": "api",
    "aestimate": "api",
    "answer": "api",
    "aopen": "api",
    "astream": "api",
    "compare": "api",
    "draw": "drawing",
    "estimate": "api",
    "open": "api",
    "stream": "api",
}

__all__ = [
    "Answer",
    "Book",
    "Budget",
    "Citation",
    "Comparison",
    "Coverage",
    "Document",
    "Estimate",
    "Price",
    "Reader",
    "ReaderError",
    "Store",
    "Usage",
    "__version__",
    "aanswer",
    "acompare",
    "aestimate",
    "answer",
    "aopen",
    "astream",
    "compare",
    "draw",
    "estimate",
    "stream",
]
# Not in it: "open", which would hide Python's own where everything is imported.


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version("longdoc-reader")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'reader' has no attribute {name!r}")
    return getattr(import_module(f"reader.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*_HOMES, "__version__"})
