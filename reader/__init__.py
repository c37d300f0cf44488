"""Read documents longer than any model's window, with any model.

``reader.answer(doc, question)`` is the way in; ``Reader`` keeps a model and a store for many
questions. Names are loaded when they are first used, so that ``import reader`` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reader.answers import Answer, Citation, Coverage
    from reader.api import (
        aanswer,
        aestimate,
        answer,
        astream,
        estimate,
        stream,
    )
    from reader.budget import Budget, Estimate, Price, Usage
    from reader.documents import Document
    from reader.errors import ReaderError
    from reader.memory.store import Store
    from reader.session import Reader

_HOMES = {
    "Answer": "answers",
    "Budget": "budget",
    "Citation": "answers",
    "Coverage": "answers",
    "Document": "documents",
    "Estimate": "budget",
    "Price": "budget",
    "Reader": "session",
    "ReaderError": "errors",
    "Store": "memory.store",
    "Usage": "budget",
    "aanswer": "api",
    "aestimate": "api",
    "answer": "api",
    "astream": "api",
    "estimate": "api",
    "stream": "api",
}

__all__ = [
    "Answer",
    "Budget",
    "Citation",
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
    "aestimate",
    "answer",
    "astream",
    "estimate",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version("longdoc-reader")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'reader' has no attribute {name!r}")
    return getattr(import_module(f"reader.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
