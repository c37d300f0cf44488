"""One batch of windows through a model of transformers: prefixes first, then the tails.

What ``transformers_model`` runs in its thread, under the model's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reader.attention.kept_keys import Keys
from reader.attention.model import AttentionRequest, AttentionScores, Tail

if TYPE_CHECKING:
    from reader.attention.capture import Capture
    from reader.attention.loading import Loaded

TAIL_TOKENS = {"cpu": 2_048, "cuda": 16_384}


@dataclass(frozen=True, slots=True)
class _Look:
    """One tail of one request, on its way."""

    request: int
    tail: int
    ids: tuple[int, ...]
    rows: tuple[int, ...]
    weights: tuple[float, ...]


class WindowPass:
    """One batch: read the prefixes that are not kept, then look from the tails."""

    def __init__(
        self,
        loaded: Loaded,
        requests: Sequence[AttentionRequest],
        batch: Sequence[int],
        kept_bytes: int,
    ) -> None:
        first = requests[batch[0]]
        self.kept_bytes = kept_bytes
        self.loaded = loaded
        self.requests = requests
        self.batch = batch
        self.heads = sorted(set(first.heads))
        self.last = max(head.layer for head in first.heads)
        self.per_row = first.per_row
        self.kind = first.kind
        self.read = dict.fromkeys(batch, 0)

    def run(self) -> dict[int, AttentionScores]:
        """Scores by the number of the request."""
        keys = self._prefixes()
        arrays: dict[tuple[int, int], Any] = {}
        most = TAIL_TOKENS[self.loaded.device_kind]
        looks = [
            self._look(at, n, tail)
            for at in self.batch
            for n, tail in enumerate(self.requests[at].tails)
        ]
        while looks:
            # Keys are copied once a tail: as many tails at once as the tails' own tokens allow.
            longest, count = 0, 0
            for look in looks:
                longest = max(longest, len(look.ids))
                if count and (count + 1) * longest > most:
                    break
                count += 1
            arrays |= self._tails(looks[:count], keys)
            looks = looks[count:]
        return {
            at: AttentionScores(
                tuple(arrays[at, n] for n in range(len(self.requests[at].tails))), self.read[at]
            )
            for at in self.batch
        }

    def _look(self, at: int, number: int, tail: Tail) -> _Look:
        weights = tail.weights or (1.0,) * len(tail.rows)
        shares = tuple(weight / sum(weights) for weight in weights)
        if self.loaded.shares:
            return _Look(at, number, tail.ids, tail.rows, shares)
        # A model whose state is not keys alone reads prefix and tail in one.
        prefix = self.requests[at].prefix
        rows = tuple(row + len(prefix) for row in tail.rows)
        return _Look(at, number, prefix + tail.ids, rows, shares)

    def _prefixes(self) -> dict[int, Keys]:
        """Keys of every request's prefix."""
        if not self.loaded.shares:
            return {at: Keys((), 0) for at in self.batch}
        found: dict[tuple[int, ...], Keys] = {}
        for at in self.batch:
            prefix = self.requests[at].prefix
            kept = self.loaded.kept.find(prefix, self.last) if prefix else Keys((), 0)
            if kept is not None:
                found[prefix] = kept
        missing: dict[tuple[int, ...], int] = {}
        for at in self.batch:
            if self.requests[at].prefix not in found:
                missing.setdefault(self.requests[at].prefix, at)
        if missing:
            for prefix, keys in zip(missing, self._read(list(missing)), strict=True):
                found[prefix] = keys
                self.read[missing[prefix]] += len(prefix)
                self.loaded.kept.keep(prefix, keys, self.kept_bytes)
        return {at: found[self.requests[at].prefix] for at in self.batch}

    def _read(self, prefixes: Sequence[tuple[int, ...]]) -> list[Keys]:
        """Read prefixes, padded on the left, up to the last wanted layer's keys."""
        from transformers import DynamicCache

        from reader.attention.capture import Capture

        longest = max(map(len, prefixes))
        cache = DynamicCache()
        self._forward(prefixes, [longest - len(p) for p in prefixes], cache, Capture(self.last))
        found = []
        for row, prefix in enumerate(prefixes):
            pad = longest - len(prefix)
            layers = tuple(
                (layer.keys[row, :, pad:], layer.values[row, :, pad:])
                for layer in cache.layers[: self.last + 1]
            )
            if len(prefixes) > 1:  # a view would keep the whole batch alive
                layers = tuple((k.clone(), v.clone()) for k, v in layers)
            found.append(Keys(layers, len(prefix)))
        return found

    def _tails(self, looks: Sequence[_Look], keys: dict[int, Keys]) -> dict[tuple[int, int], Any]:
        """Rows of several tails, each after its own prefix."""
        import torch

        from reader.attention.capture import Capture

        device = self.loaded.device
        longest_row = max(len(look.rows) for look in looks)
        rows = torch.zeros(len(looks), longest_row, dtype=torch.long, device=device)
        weights = torch.zeros(len(looks), longest_row, device=device)
        for at, look in enumerate(looks):
            rows[at, : len(look.rows)] = torch.tensor(look.rows, device=device)
            weights[at, : len(look.rows)] = torch.tensor(look.weights, device=device)
            self.read[look.request] += len(look.ids)
        by_layer: dict[int, list[int]] = {}
        for head in self.heads:
            by_layer.setdefault(head.layer, []).append(head.head)
        capture = Capture(self.last, by_layer, rows, weights, self.per_row, self.kind)
        longest = max(keys[look.request].tokens for look in looks)
        cache, pads = _joined([keys[look.request] for look in looks], longest)
        self._forward([look.ids for look in looks], pads, cache, capture, before=longest)
        return {
            (look.request, look.tail): self._array(look, at, pads[at], capture)
            for at, look in enumerate(looks)
        }

    def _array(self, look: _Look, at: int, pad: int, capture: Capture) -> Any:
        """One tail's scores as a numpy array of its own."""
        import torch

        request = self.requests[look.request]
        first, last = (column + pad for column in request.columns)
        if self.per_row:
            assert capture.by_row is not None
            array = capture.by_row[at, : len(look.rows), first:last] / len(self.heads)
        else:
            array = torch.stack([capture.per_head[head][at, first:last] for head in request.heads])
        return array.float().cpu().numpy()

    def _forward(
        self,
        texts: Sequence[tuple[int, ...]],
        pads: Sequence[int],
        cache: Any,
        capture: Capture,
        *,
        before: int = 0,
    ) -> None:
        """One pass over token ids; prefixes (``before`` is 0) are padded left, tails right."""
        import torch

        from reader.attention.capture import CURRENT, Enough

        width = max(map(len, texts))
        ids = torch.zeros(len(texts), width, dtype=torch.long)
        mask = torch.ones(len(texts), before + width, dtype=torch.long)
        places = torch.zeros(len(texts), width, dtype=torch.long)
        for at, (text, pad) in enumerate(zip(texts, pads, strict=True)):
            start = 0 if before else pad if self.loaded.shares else 0
            ids[at, start : start + len(text)] = torch.tensor(text)
            mask[at, :pad] = 0
            first = before - pad if before else 0
            places[at, start:] = torch.arange(first, first + width - start)
        device = self.loaded.device
        whole = bool(mask.all())
        token = CURRENT.set(capture)
        try:
            self.loaded.body(
                input_ids=ids.to(device),
                attention_mask=None if whole and not before else mask.to(device),
                position_ids=places.to(device),
                **{self.loaded.cache_name: cache},
                use_cache=cache is not None,
            )
        except Enough:
            pass
        finally:
            CURRENT.reset(token)


def _joined(windows: Sequence[Keys], longest: int) -> tuple[Any, list[int]]:
    """Keys of several windows as one cache, padded on the left, and the paddings."""
    import torch
    from transformers import DynamicCache

    pads = [longest - window.tokens for window in windows]
    if not windows[0].layers:
        return None, pads
    cache = DynamicCache()
    for layer in range(min(len(window.layers) for window in windows)):
        parts = []
        for which in (0, 1):
            sides = [
                torch.nn.functional.pad(window.layers[layer][which], (0, 0, pad, 0))
                for window, pad in zip(windows, pads, strict=True)
            ]
            parts.append(torch.stack(sides))
        cache.update(parts[0], parts[1], layer)
    return cache, pads
