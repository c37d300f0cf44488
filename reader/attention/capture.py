"""The attention function of transformers' models, with rows of it kept on the way.

transformers calls one function per attention layer, after rotary embedding and the norms of queries
and keys (``AttentionInterface``). Ours computes attention as torch's fast kernel does, and of the
wanted heads also the softmax of a few rows: memory is rows x tokens x heads, never tokens x tokens.
After the last wanted layer the forward pass is left by an exception.

Needs torch; imported late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from reader.attention.model import Kind

NAME = "longdoc_reader_rows"
BLOCK = 512  # rows of exact attention computed at once


class Enough(Exception):
    """The last wanted layer has been seen."""


@dataclass(slots=True)
class Capture:
    """What one forward pass is to keep.

    Attributes:
        last: The layer after which the pass may end.
        heads: Query heads by layer; none in a pass that only makes keys.
        rows: ``[batch, rows]``: which of the pass's tokens look; short lists are padded.
        weights: ``[batch, tails, rows]``: of each tail's rows, summing to 1; 0 for all others.
        per_row: Sum over the heads, not over the rows.
        kind: Softmax or the scaled products.
        per_head: What was kept without ``per_row``: (layer, head) to ``[batch, tails, tokens]``.
        by_row: What was kept with it: ``[batch, rows, tokens]``, summed over the heads.
        calls: Layers that were seen, in order.
        keys: Last layer's keys, where asked for by ``probe``.
    """

    last: int
    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)
    rows: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    per_row: bool = False
    kind: Kind = "softmax"
    per_head: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    by_row: torch.Tensor | None = None
    calls: list[int] = field(default_factory=list)
    keys: torch.Tensor | None = None

    def see(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        extras: Mapping[str, Any],
    ) -> None:
        """Keep what is wanted of a layer.

        Args:
            layer: Counted from 0.
            query: ``[batch, heads, tokens of the pass, size]``.
            key: ``[batch, key heads, tokens so far, size]``.
            mask: ``[batch, 1, tokens of the pass, tokens so far]``: bool or added to the products.
            scaling: Factor of the products.
            extras: ``softcap``, ``s_aux`` (sink logits, ``[heads]``).
        """
        self.calls.append(layer)
        self.keys = key
        wanted = self.heads.get(layer, ())
        if not wanted or self.rows is None or self.weights is None:
            return
        size, groups = query.shape[-1], query.shape[1] // key.shape[1]
        rows = self.rows
        allowed = visible(mask, rows, query.shape[2], key.shape[2])
        for key_head in sorted({head // groups for head in wanted}):
            mine = [head for head in wanted if head // groups == key_head]
            at = rows[:, None, :, None].expand(-1, len(mine), -1, size)
            looking = query[:, mine].gather(2, at).flatten(1, 2).float()
            products = torch.bmm(looking, key[:, key_head].float().transpose(1, 2)) * scaling
            products = products.unflatten(1, (len(mine), rows.shape[1]))
            products = capped(products, extras.get("softcap"))
            if self.kind == "logits":
                shares = products.masked_fill(~allowed[:, None], 0.0)
            else:
                products = products.masked_fill(~allowed[:, None], -torch.inf)
                sinks = extras.get("s_aux")
                shares = softmax(products, None if sinks is None else sinks[mine])
            self._keep(layer, mine, shares)

    def _keep(self, layer: int, heads: Sequence[int], shares: torch.Tensor) -> None:
        """Sum over what is not told apart; ``[batch, heads, rows, tokens]``."""
        if self.per_row:
            summed = shares.sum(1)
            self.by_row = summed if self.by_row is None else self.by_row + summed
            return
        assert self.weights is not None
        means = torch.einsum("bhrt,bkr->bhkt", shares, self.weights)
        for at, head in enumerate(heads):
            self.per_head[layer, head] = means[:, at]


CURRENT: ContextVar[Capture | None] = ContextVar("capture", default=None)
"""Of the forward pass under way in this thread; the function is called by the model's layers."""


def visible(mask: torch.Tensor | None, rows: torch.Tensor, queries: int, keys: int) -> torch.Tensor:
    """Which tokens each row can see: ``[batch, rows, keys]``, bool.

    Without a mask attention is plainly causal: transformers leaves it to the kernel then, and never
    where a sliding window is shorter than the text.
    """
    if mask is not None:
        allowed = mask if mask.dtype == torch.bool else mask >= 0
        allowed = allowed[:, 0, :, :keys].expand(rows.shape[0], -1, -1)
        return allowed.gather(1, rows[:, :, None].expand(-1, -1, allowed.shape[-1]))
    place = rows[:, :, None] + (keys - queries)
    column = torch.arange(keys, device=rows.device)
    return column <= place


def capped(products: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Gemma 2's soft cap."""
    return products if softcap is None else softcap * torch.tanh(products / softcap)


def softmax(products: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Over the last dimension; ``sinks`` ``[heads]`` (gpt-oss) take a share and are left out."""
    if sinks is None:
        return products.softmax(-1)
    column = sinks.float().reshape(1, -1, 1, 1).expand(*products.shape[:-1], 1)
    return torch.cat([products, column], -1).softmax(-1)[..., :-1]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **extras: Any,
) -> tuple[torch.Tensor, None]:
    """The function that transformers calls in each attention layer.

    Raises:
        Enough: nothing after this layer is needed.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    capture = CURRENT.get()
    if capture is not None:
        layer = int(module.layer_idx)
        capture.see(layer, query, key, attention_mask, scaling, extras)
        if layer >= capture.last:
            raise Enough
    if extras.get("softcap") is None and extras.get("s_aux") is None:
        found = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **extras
        )
        return found[0], None
    return exact(query, key, value, attention_mask, scaling, extras), None


def exact(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    extras: Mapping[str, Any],
) -> torch.Tensor:
    """Attention with soft cap or sinks, which the fast kernel lacks; some rows at a time.

    Returns:
        ``[batch, tokens, heads, size]``.
    """
    groups = query.shape[1] // key.shape[1]
    keys, values = (part.repeat_interleave(groups, 1) for part in (key, value))
    batch, _, queries, _ = query.shape
    found = []
    for start in range(0, queries, BLOCK):
        rows = torch.arange(start, min(start + BLOCK, queries), device=query.device)
        allowed = visible(mask, rows.expand(batch, -1), queries, key.shape[2])
        part = query[:, :, start : start + BLOCK]
        products = capped(part @ keys.transpose(2, 3) * scaling, extras.get("softcap")).float()
        products = products.masked_fill(~allowed[:, None], -torch.inf)
        # A padding row sees nothing: 0 / 0.
        shares = softmax(products, extras.get("s_aux")).nan_to_num(0.0)
        found.append(shares.to(query.dtype) @ values)
    return torch.cat(found, 2).transpose(1, 2).contiguous()


def register() -> None:
    """Tell transformers of the function; as often as you like."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
