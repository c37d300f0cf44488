"""Requests of several callers about one window, answered by one pass over it.

Questions that are asked at the same time read the same windows in the same order. Whoever has the
model takes along what the others wait for on its window, as in flat combining (Hendler et al., SPAA
2010).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from reader.attention.model import AttentionRequest, AttentionScores


@dataclass(slots=True, eq=False)
class Wanted:
    """A request and, once somebody has made the pass, its scores."""

    request: AttentionRequest
    scores: AttentionScores | None = None

    def taken(self) -> AttentionScores:
        """The scores, which are there."""
        assert self.scores is not None
        return self.scores


@dataclass(slots=True)
class Waiting:
    """What is wanted of a model by all its callers."""

    wanted: list[Wanted] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def holding(self, mine: Iterable[Wanted]) -> Iterator[None]:
        """Let others see what is wanted, as long as it is."""
        mine = list(mine)
        with self.lock:
            self.wanted.extend(mine)
        try:
            yield
        finally:
            gone = set(mine)
            with self.lock:
                self.wanted[:] = [one for one in self.wanted if one not in gone]

    def like(self, mine: Sequence[Wanted]) -> list[Wanted]:
        """What others want of the same windows, with the same heads; nothing where nothing is."""
        windows = {(one.request.prefix, kind_of(one.request)) for one in mine}
        with self.lock:
            return [
                one
                for one in self.wanted
                if one.scores is None
                and one not in mine
                and (one.request.prefix, kind_of(one.request)) in windows
            ]


def kind_of(request: AttentionRequest) -> tuple[Any, ...]:
    """What requests of one pass have in common."""
    return request.per_row, request.kind, tuple(sorted(set(request.heads))), not request.prefix
