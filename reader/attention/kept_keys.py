"""Keys and values of prefixes that were read, kept while there is room for them."""

from __future__ import annotations

from collections import OrderedDict
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


@dataclass(slots=True)
class KeptKeys:
    """The prefixes read last. Used under the model's lock only."""

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
