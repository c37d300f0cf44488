"""Rows of attention out of queries and keys that come by in pieces: what ``vllm_extension`` keeps.

Runs in vLLM's worker; needs torch, imported late.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Kept:
    """Keys of a run of tokens, by layer: ``[tokens, key heads, size]``, filled from the front."""

    tokens: int
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    filled: dict[int, int] = field(default_factory=dict)

    def put(self, layer: int, at: int, keys: torch.Tensor) -> None:
        """Keep ``[tokens, key heads, size]`` from position ``at`` on; too much is left out."""
        keys = keys[: max(self.tokens - at, 0)]
        if not len(keys):
            return
        if layer not in self.keys:
            self.keys[layer] = keys.new_empty((self.tokens, *keys.shape[1:]))
        self.keys[layer][at : at + len(keys)] = keys
        if at <= self.filled.get(layer, 0):
            self.filled[layer] = max(self.filled.get(layer, 0), at + len(keys))


@dataclass(slots=True)
class Look:
    """One prompt: who looks, where, in which heads; and what came of it so far.

    Attributes:
        key: The name that its request carries.
        tokens: Of the prompt.
        rows: Positions that look, ascending.
        weights: Of each row, summing to 1.
        heads: Query heads by layer, numbered over all ranks; only those that are here.
        columns: First position, and one past the last, that are looked at.
        per_row: Sum over the heads instead of over the rows.
        logits: The scaled products instead of the softmax.
        prefix: Keys that it shares with others.
        tail: Its own keys.
        found: By layer: ``[heads, columns]``, or ``[rows, columns]`` with ``per_row``.
        done: Rows by layer that were seen.
        computed: Tokens that were computed for it, not taken from the prefix cache.
        touched: When it was last heard of (``time.monotonic``).
    """

    key: str
    tokens: int
    rows: list[int]
    weights: list[float]
    heads: dict[int, list[int]]
    columns: tuple[int, int]
    per_row: bool
    logits: bool
    prefix: Kept
    tail: Kept
    found: dict[int, torch.Tensor] = field(default_factory=dict)
    done: dict[int, set[int]] = field(default_factory=dict)
    computed: int = 0
    touched: float = 0.0

    def keys(self, layer: int, upto: int) -> torch.Tensor | None:
        """Keys of the first ``upto`` tokens; None where some never came by."""
        import torch

        shared = self.prefix.tokens
        own = max(upto - shared, 0)
        if self.prefix.filled.get(layer, 0) < min(upto, shared):
            return None
        if self.tail.filled.get(layer, 0) < own:
            return None
        parts = []
        if shared:
            parts.append(self.prefix.keys[layer][:upto])
        if own:
            parts.append(self.tail.keys[layer][:own])
        return torch.cat(parts) if len(parts) > 1 else parts[0]


@dataclass(frozen=True, slots=True)
class Layer:
    """How a layer turns queries and keys into attention.

    Attributes:
        scale: Factor of the products.
        softcap: Gemma 2's cap of the products; 0 for none.
        sliding: Tokens that a row can see, itself included; None for all.
        sinks: gpt-oss: a logit per wanted head that takes a share.
    """

    scale: float
    softcap: float = 0.0
    sliding: int | None = None
    sinks: torch.Tensor | None = None

    @classmethod
    def of(cls, module: Any, heads: list[int]) -> Layer:
        """Of a module of vLLM."""
        sinks = getattr(module.impl, "sinks", None)
        return cls(
            scale=float(module.impl.scale),
            softcap=float(getattr(module.impl, "logits_soft_cap", None) or 0.0),
            sliding=module.sliding_window,
            sinks=None if sinks is None else sinks[heads].float(),
        )


def attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    key_heads: list[int],
    places: list[int],
    layer: Layer,
    *,
    logits: bool,
) -> torch.Tensor:
    """Attention of a few rows.

    Args:
        query: ``[rows, heads, size]``.
        keys: ``[tokens, key heads, size]``.
        key_heads: The key head of each query head.
        places: Position of each row.
        layer: What the layer adds to the formula.
        logits: The scaled products, 0 where a row cannot see.

    Returns:
        float32 ``[heads, rows, tokens]``.
    """
    import torch

    chosen = keys.float()[:, key_heads].permute(1, 2, 0)
    products = torch.bmm(query.float().transpose(0, 1), chosen) * layer.scale
    if layer.softcap:
        products = layer.softcap * torch.tanh(products / layer.softcap)
    row = torch.tensor(places, device=query.device)[:, None]
    column = torch.arange(len(keys), device=query.device)[None]
    unseen = column > row
    if layer.sliding is not None:
        unseen |= column <= row - layer.sliding
    if logits:
        return products.masked_fill(unseen, 0.0)
    products = products.masked_fill(unseen, -math.inf)
    if layer.sinks is None:
        return products.softmax(-1)
    sinks = layer.sinks[:, None, None].expand(-1, len(places), 1)
    return torch.cat([products, sinks], -1).softmax(-1)[..., :-1]


def packed(found: torch.Tensor) -> dict[str, Any]:
    """An array as JSON: shape, and float32 little-endian bytes in base64."""
    array = found.detach().float().cpu().contiguous().numpy().astype("<f4")
    return {"shape": list(array.shape), "data": base64.b64encode(array.tobytes()).decode()}


def padded(shares: torch.Tensor, width: int) -> torch.Tensor:
    """Zeros for the columns after the last row that was seen."""
    import torch

    lacking = width - shares.shape[-1]
    return torch.nn.functional.pad(shares, (0, lacking)) if lacking > 0 else shares
