"""Attention scorers: which passages the heads of a model look at.

``rank`` is a reranker without training, for any pipeline; ``AttentionModel`` is what scorers of
your own implement.
"""

from reader.attention.looking import Ranked, arank, rank
from reader.attention.model import (
    AttentionInfo,
    AttentionModel,
    AttentionRequest,
    AttentionScores,
    Head,
    Tail,
)
from reader.attention.resolve import open_attention

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
