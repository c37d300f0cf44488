"""One batch of windows through a model of transformers: prefixes first, then the tails.

What ``transformers_model`` runs in the model's thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reader.attention.kept_keys import Keys, in_one_block
from reader.attention.model import AttentionRequest, AttentionScores, Tail

if TYPE_CHECKING:
    from reader.attention.capture import Capture
    from reader.attention.loading import Loaded

TAIL_TOKENS = {"cpu": 2_048, "cuda": 16_384}
PREFIX_STEP = 64
"""Prefixes are read in multiples of so many tokens: where each of 386 windows had its own length, a
process took 0.4 GB more on a CPU. Torch's cache of kernels is not why: cut from 1,024 of them to 16
it took nearly as much."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One tail of one request, on its way."""

    request: int
    tail: int
    ids: tuple[int, ...]
    rows: tuple[int, ...]
    weights: tuple[float, ...]


class _Pack(list[_Look]):
    """Tails of one request, one after the other in one sequence, none of which sees another."""

    @property
    def tokens(self) -> int:
        """Of all tails."""
        return sum(len(look.ids) for look in self)

    @property
    def rows(self) -> list[int]:
        """Which tokens of the sequence look, of all tails."""
        return [start + row for start, look in self.starts() for row in look.rows]

    def starts(self) -> Iterator[tuple[int, _Look]]:
        """Where each tail begins."""
        start = 0
        for look in self:
            yield start, look
            start += len(look.ids)


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
        looks = self._looks()
        arrays: dict[tuple[int, int], Any] = {}
        for packs in self._packed([same[0] for same in looks]):
            arrays |= self._tails(packs, keys)
        for first, *others in looks:
            found = arrays[first.request, first.tail]
            arrays |= {(other.request, other.tail): found.copy() for other in others}
        return {
            at: AttentionScores(
                tuple(arrays[at, n] for n in range(len(self.requests[at].tails))), self.read[at]
            )
            for at in self.batch
        }

    def _looks(self) -> list[list[_Look]]:
        """All tails, prefix by prefix; those that ask the same of the same window side by side."""
        same: dict[tuple[Any, ...], list[_Look]] = {}
        order = {prefix: n for n, prefix in enumerate(self._distinct())}
        for at in sorted(self.batch, key=lambda at: order[self.requests[at].prefix]):
            request = self.requests[at]
            for number, tail in enumerate(request.tails):
                key = (request.prefix, request.columns, request.heads, tail)
                same.setdefault(key, []).append(self._look(at, number, tail))
        return list(same.values())

    def _distinct(self) -> list[tuple[int, ...]]:
        return list(dict.fromkeys(self.requests[at].prefix for at in self.batch))

    def _packed(self, looks: Sequence[_Look]) -> Iterator[list[_Pack]]:
        """The tails in sequences, as many at once as ``TAIL_TOKENS`` allows.

        Keys of a prefix are copied once a sequence. Masks of sliding windows are transformers' own,
        so there each tail is a sequence.
        """
        most = TAIL_TOKENS[self.loaded.device_kind]
        packs: list[_Pack] = []
        for look in looks:
            pack = packs[-1] if packs and self.loaded.packs else _Pack()
            fits = pack.tokens + len(look.ids) <= most
            if not (pack and fits and self._prefix(pack[0]) == self._prefix(look)):
                pack = _Pack()
                packs.append(pack)
            pack.append(look)
        while packs:
            longest, count = 0, 0
            for pack in packs:
                longest = max(longest, pack.tokens)
                if count and (count + 1) * longest > most:
                    break
                count += 1
            yield packs[:count]
            packs = packs[count:]

    def _prefix(self, look: _Look) -> tuple[int, ...]:
        return self.requests[look.request].prefix

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
        pads = [longest - len(prefix) for prefix in prefixes]
        width = max(longest, min(-(-longest // PREFIX_STEP) * PREFIX_STEP, self.loaded.info.window))
        cache = DynamicCache()
        self._forward(prefixes, pads, cache, Capture(self.last), width=width)
        found = []
        for row, prefix in enumerate(prefixes):
            part = slice(longest - len(prefix), longest)
            layers = [
                (layer.keys[row, :, part], layer.values[row, :, part])
                for layer in cache.layers[: self.last + 1]
            ]
            found.append(in_one_block(layers, len(prefix)))
        return found

    def _tails(self, packs: Sequence[_Pack], keys: dict[int, Keys]) -> dict[tuple[int, int], Any]:
        """Rows of several tails, each after its own prefix."""
        import torch

        from reader.attention.capture import Capture

        device = self.loaded.device
        longest_row = max(len(pack.rows) for pack in packs)
        rows = torch.zeros(len(packs), longest_row, dtype=torch.long, device=device)
        weights = torch.zeros(len(packs), max(map(len, packs)), longest_row, device=device)
        for at, pack in enumerate(packs):
            rows[at, : len(pack.rows)] = torch.tensor(pack.rows, device=device)
            first = 0
            for place, look in enumerate(pack):
                last = first + len(look.rows)
                weights[at, place, first:last] = torch.tensor(look.weights, device=device)
                self.read[look.request] += len(look.ids)
                first = last
        by_layer: dict[int, list[int]] = {}
        for head in self.heads:
            by_layer.setdefault(head.layer, []).append(head.head)
        capture = Capture(self.last, by_layer, rows, weights, self.per_row, self.kind)
        windows = [keys[pack[0].request] for pack in packs]
        longest = max(window.tokens for window in windows)
        cache, pads = _joined(windows, longest)
        alone = all(len(pack) == 1 for pack in packs)
        if alone:
            self._forward([pack[0].ids for pack in packs], pads, cache, capture, before=longest)
        else:
            self._forward_packed(packs, pads, cache, capture, longest)
        found = {}
        for at, pack in enumerate(packs):
            first = 0
            for place, (start, look) in enumerate(pack.starts()):
                last = first + len(look.rows)
                kept = (
                    [capture.by_row[at, first:last] / len(self.heads)]
                    if capture.by_row is not None
                    else [capture.per_head[h][at, place] for h in self.requests[look.request].heads]
                )
                columns = self._columns(look, pads[at], longest, start)
                array = torch.stack([one[..., columns] for one in kept]).float().cpu().numpy()
                found[look.request, look.tail] = array[0] if self.per_row else array
                first = last
        return found

    def _columns(self, look: _Look, pad: int, before: int, start: int) -> Any:
        """Where a request's columns are in a sequence whose tails begin after ``before`` keys."""
        import torch

        columns = torch.arange(*self.requests[look.request].columns, device=self.loaded.device)
        prefix = before - pad
        return torch.where(columns < prefix, columns + pad, columns + pad + start)

    def _forward_packed(
        self, packs: Sequence[_Pack], pads: Sequence[int], cache: Any, capture: Capture, before: int
    ) -> None:
        """One pass over packed tails: each token sees the prefix, and its own tail up to itself."""
        import torch

        width = max(pack.tokens for pack in packs)
        ids = torch.zeros(len(packs), width, dtype=torch.long)
        places = torch.zeros(len(packs), width, dtype=torch.long)
        tail = torch.full((len(packs), width), -1)  # of each token; padding is a tail of its own
        for at, pack in enumerate(packs):
            for start, look in pack.starts():
                end = start + len(look.ids)
                ids[at, start:end] = torch.tensor(look.ids)
                places[at, start:end] = torch.arange(end - start) + (before - pads[at])
                tail[at, start:end] = start
        order = torch.arange(width)
        own = (tail[:, :, None] == tail[:, None, :]) & (order[None, :] <= order[:, None])
        prefix = torch.arange(before) >= torch.tensor(pads)[:, None]
        prefix = prefix[:, None, :].expand(-1, width, -1)
        mask = torch.cat([prefix, own], -1)[:, None]
        self._run(ids, mask, places, cache, capture)

    def _forward(
        self,
        texts: Sequence[tuple[int, ...]],
        pads: Sequence[int],
        cache: Any,
        capture: Capture,
        *,
        before: int = 0,
        width: int = 0,
    ) -> None:
        """One pass over token ids; prefixes (``before`` is 0) are padded left, tails right.

        Up to ``width`` tokens follow that no token of a text sees.
        """
        import torch

        width = max(width, *map(len, texts))
        ids = torch.zeros(len(texts), width, dtype=torch.long)
        mask = torch.ones(len(texts), before + width, dtype=torch.long)
        places = torch.zeros(len(texts), width, dtype=torch.long)
        for at, (text, pad) in enumerate(zip(texts, pads, strict=True)):
            start = 0 if before else pad if self.loaded.shares else 0
            ids[at, start : start + len(text)] = torch.tensor(text)
            mask[at, :pad] = 0
            first = before - pad if before else 0
            places[at, start:] = torch.arange(first, first + width - start)
        whole = bool(mask.all()) and not before
        self._run(ids, None if whole else mask, places, cache, capture)

    def _run(self, ids: Any, mask: Any, places: Any, cache: Any, capture: Capture) -> None:
        """The model's layers up to the last wanted one."""
        from reader.attention.capture import CURRENT, Enough

        device = self.loaded.device
        token = CURRENT.set(capture)
        try:
            self.loaded.body(
                input_ids=ids.to(device),
                attention_mask=None if mask is None else mask.to(device),
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
