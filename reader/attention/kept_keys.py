"""Keys and values of prefixes that were read, kept while there is room for them."""

from __future__ import annotations

import mmap
import sys
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Keys(NamedTuple):
    """Of one prefix: ``(keys, values)`` a layer, each ``[key heads, tokens, size]``."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    tokens: int

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return sum(part.nbytes for pair in self.layers for part in pair)


def in_one_block(layers: Sequence[tuple[torch.Tensor, torch.Tensor]], tokens: int) -> Keys:
    """Keys and values copied into memory of their own, which goes back to the system with them.

    On the heap they would be some sixty pieces a prefix, among what each pass allocates and frees,
    and would leave holes when they go.
    """
    parts = [part for pair in layers for part in pair]
    whole = _block(parts[0], sum(part.numel() for part in parts))
    copies, start = [], 0
    for part in parts:
        copy = whole[start : start + part.numel()].view(part.shape)
        copies.append(copy.copy_(part))
        start += part.numel()
    return Keys(tuple(zip(copies[::2], copies[1::2], strict=True)), tokens)


def _block(like: torch.Tensor, numbers: int) -> torch.Tensor:
    import torch

    if like.device.type != "cpu":
        return torch.empty(numbers, dtype=like.dtype, device=like.device)
    size = max(numbers, 1) * like.element_size()
    if sys.platform == "win32":
        memory = mmap.mmap(-1, size)
    else:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # fewer page faults; where the kernel has them
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=like.dtype, count=numbers)


@dataclass(slots=True)
class KeptKeys:
    """The prefixes read last. Used in the model's thread only."""

    kept: OrderedDict[tuple[int, ...], Keys] = field(default_factory=OrderedDict)

    def find(self, prefix: tuple[int, ...], last: int) -> Keys | None:
        """Keys of a prefix, if they reach up to the layer."""
        found = self.kept.get(prefix)
        if found is None or len(found.layers) <= last:
            return None
        self.kept.move_to_end(prefix)
        return found

    def keep(self, prefix: tuple[int, ...], keys: Keys, most: int) -> None:
        """Keep keys; the oldest go where all take more than ``most`` bytes."""
        self.kept[prefix] = keys
        self.kept.move_to_end(prefix)
        size = sum(kept.bytes for kept in self.kept.values())
        while self.kept and size > most:
            size -= self.kept.popitem(last=False)[1].bytes

    def clear(self) -> None:
        """Forget all."""
        self.kept.clear()
