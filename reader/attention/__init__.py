"""Attention scorers: which passages the heads of a model look at.

``rank`` is a reranker without training, for any pipeline; ``AttentionModel`` is what scorers of
your own implement. Names are loaded when they are first used: vLLM's worker imports this package
too, and there the rest of the library need not be installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reader.attention.model import (
        AttentionInfo,
        AttentionModel,
        AttentionRequest,
        AttentionScores,
        Head,
        Tail,
    )
    from reader.attention.ranking import Ranked, arank, rank
    from reader.attention.resolve import open_attention

_HOMES = {
    "AttentionInfo": "model",
    "AttentionModel": "model",
    "AttentionRequest": "model",
    "AttentionScores": "model",
    "Head": "model",
    "Ranked": "ranking",
    "Tail": "model",
    "arank": "ranking",
    "open_attention": "resolve",
    "rank": "ranking",
}

__all__ = [
    "AttentionInfo",
    "AttentionModel",
    "AttentionRequest",
    "AttentionScores",
    "Head",
    "Ranked",
    "Tail",
    "arank",
    "open_attention",
    "rank",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
