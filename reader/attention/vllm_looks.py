"""Attention requests as looks for vLLM, and what comes back as scores.

``vllm_extension`` has the other side. Both vLLM scorers share ``VLLMScorer``: they differ in how a
method of the worker is called and in how prompts are read.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from reader.attention.model import (
    AttentionInfo,
    AttentionRequest,
    AttentionScores,
    check_request,
    model_shape,
)
from reader.attention.vllm_extension import VERSION
from reader.errors import BadReply, RateLimited, ServerFailed, UnsupportedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Result = TypeVar("Result")

START_LINE = (
    "VLLM_SERVER_DEV_MODE=1 VLLM_USE_V2_MODEL_RUNNER=0 vllm serve MODEL --enforce-eager"
    " --worker-extension-cls reader.attention.vllm_extension.AttentionRows"
)
TROUBLES = {
    "eager": "it runs compiled graphs, in which no layer's queries and keys can be seen",
    "runner": "it uses vLLM's second model runner, whose batches cannot be told apart",
    "attention": "none of its layers has causal attention that can be read",
    "parallel": "it uses speculative decoding, or data or context parallelism",
}
HINTS = {
    "attention": "Use a plain decoder model, such as those of the Llama, Qwen, Gemma or Mistral"
    " families.",
}
LOOKS_AT_ONCE = 64  # in a round: opened, read and taken together
ROUNDS_AT_ONCE = 2  # so that the engine has work while scores are fetched


@dataclass(frozen=True, slots=True)
class PlannedLook:
    """One tail of one request, as it is sent.

    Attributes:
        request: Number of the request.
        tail: Number of the tail in it.
        ids: The whole prompt.
        key: Its name in the worker.
        salt: Of the prefix cache: only looks with the same salt share what was read.
        spec: What the worker must know of it.
    """

    request: int
    tail: int
    ids: tuple[int, ...]
    key: str
    salt: str
    spec: Mapping[str, Any]


class VLLMScorer(ABC):
    """What the two vLLM scorers share."""

    def __init__(self) -> None:
        self._info: AttentionInfo | None = None

    async def info(self) -> AttentionInfo:
        """Describe the model; asked once, then remembered.

        Raises:
            UnsupportedModel: its attention cannot be read; the message says why.
            ModelError: it cannot be reached or loaded.
        """
        if self._info is None:
            self._info = as_info(await self._call("reader_attention_describe"))
        return self._info

    async def score(self, requests: Sequence[AttentionRequest]) -> list[AttentionScores]:
        """Scores of each request, in order; many windows are read at once.

        Raises:
            InvalidOption: a request names heads, rows or columns that are not there.
            WindowTooSmall: a request is longer than the model's window.
            ModelError: the model failed; each kind says whether trying again helps.
        """
        info = await self.info()
        for request in requests:
            check_request(request, info)
        slots = asyncio.Semaphore(ROUNDS_AT_ONCE)

        async def one(looks: Sequence[PlannedLook]) -> dict[str, Any]:
            async with slots:
                return await self._round(looks)

        looks = plan(requests)
        taken: dict[str, Any] = {}
        for part in await together([one(part) for part in rounds(looks)]):
            taken |= part
        return [as_scores(at, request, looks, taken) for at, request in enumerate(requests)]

    async def _round(self, looks: Sequence[PlannedLook]) -> dict[str, Any]:
        """Open, read, take; looks that the prefix cache served too much are read once more."""
        taken, missing = await self._attempt(looks)
        if missing:
            again = [apart(look) for look in looks if look.key in missing]
            more, lost = await self._attempt(again)
            if lost:
                raise ServerFailed(
                    "vLLM read the windows and lost the scores.",
                    hint="It may have been restarted: make the same call again.",
                )
            taken |= more
        return taken

    async def _attempt(self, looks: Sequence[PlannedLook]) -> tuple[dict[str, Any], set[str]]:
        opened = await self._call(
            "reader_attention_open", json.dumps({"looks": [dict(look.spec) for look in looks]})
        )
        if any(answer["trouble"] for answer in opened):
            raise RateLimited(
                "vLLM holds too many open looks.", hint="Score fewer windows at once."
            )
        keys = json.dumps([look.key for look in looks])
        try:
            await self._read(looks)
        except BaseException:
            await asyncio.shield(self._forget(keys))
            raise
        answers = await self._call("reader_attention_take", keys)
        missing = {key for answer in answers for key in answer["missing"]}
        taken = {
            look.key: [answer["taken"][look.key] for answer in answers]
            for look in looks
            if look.key not in missing
        }
        return taken, missing

    async def _forget(self, keys: str) -> None:
        """Looks that will not be taken; where that fails too, they go by themselves in an hour."""
        from reader.errors import ModelError

        try:
            await self._call("reader_attention_take", keys)
        except ModelError:
            return

    @abstractmethod
    async def _call(self, method: str, *args: str) -> list[dict[str, Any]]:
        """Call a method of every worker; their answers in the order of ranks."""

    @abstractmethod
    async def _read(self, looks: Sequence[PlannedLook]) -> None:
        """Have all prompts read, each with its key and its salt; one new token each."""


async def together(work: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All results, in order; the first failure ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def as_info(workers: Sequence[Mapping[str, Any]]) -> AttentionInfo:
    """What the workers say of themselves.

    Raises:
        UnsupportedModel: they cannot score.
    """
    first = workers[0]
    if first.get("version") != VERSION:
        raise UnsupportedModel(
            "The vLLM server runs another version of the extension.",
            hint="Install the same longdoc-reader there and here.",
        )
    for worker in workers:
        if trouble := worker["trouble"]:
            raise UnsupportedModel(
                f"vLLM cannot tell where {first['name']} looks: {TROUBLES[trouble]}.",
                hint=HINTS.get(trouble, f"Start it with: {START_LINE}"),
            )
    return AttentionInfo(
        name=str(first["name"]),
        identity=str(first["identity"]),
        window=int(first["window"]) - 1,  # vLLM wants room for one new token
        layers=int(first["layers"]),
        heads=int(first["heads"]),
        attending=tuple(sorted({layer for worker in workers for layer in worker["attending"]})),
        shape=model_shape(
            str(first["kind"]),
            layers=int(first["layers"]),
            heads=int(first["heads"]),
            hidden=int(first["hidden"]),
            vocabulary=int(first["vocabulary"]),
        ),
    )


def plan(requests: Sequence[AttentionRequest]) -> list[PlannedLook]:
    """One look a tail; the tails of a request share keys and prefix cache."""
    looks = []
    for at, request in enumerate(requests):
        group = uuid.uuid4().hex
        for number, tail in enumerate(request.tails):
            weights = tail.weights or (1.0,) * len(tail.rows)
            rows = sorted(zip(tail.rows, weights, strict=True)) if not request.per_row else None
            pairs = rows or list(zip(tail.rows, weights, strict=True))
            ids = request.prefix + tail.ids
            key = uuid.uuid4().hex
            spec = {
                "key": key,
                "group": group,
                "prefix": len(request.prefix),
                "tokens": len(ids),
                "rows": [row + len(request.prefix) for row, _ in pairs],
                "weights": [weight / sum(weights) for _, weight in pairs],
                "heads": [list(head) for head in sorted(set(request.heads))],
                "columns": list(request.columns),
                "per_row": request.per_row,
                "logits": request.kind == "logits",
            }
            looks.append(PlannedLook(at, number, ids, key, group, spec))
    return looks


def rounds(looks: Sequence[PlannedLook]) -> Iterator[list[PlannedLook]]:
    """At most ``LOOKS_AT_ONCE`` together; the looks of one request stay together."""
    part: list[PlannedLook] = []
    for at, look in enumerate(looks):
        new = at == 0 or looks[at - 1].salt != look.salt
        if new and len(part) >= LOOKS_AT_ONCE:
            yield part
            part = []
        part.append(look)
    if part:
        yield part


def apart(look: PlannedLook) -> PlannedLook:
    """The same look, sharing nothing with others."""
    alone = uuid.uuid4().hex
    return replace(look, salt=alone, spec={**look.spec, "group": alone, "prefix": 0})


def as_scores(
    at: int,
    request: AttentionRequest,
    looks: Sequence[PlannedLook],
    taken: Mapping[str, Sequence[Mapping[str, Any]]],
) -> AttentionScores:
    """The scores of one request, put together from all workers.

    Raises:
        BadReply: a layer or head is missing in what the workers sent.
    """
    mine = [look for look in looks if look.request == at]
    return AttentionScores(
        tuple(_array(request, taken[look.key]) for look in mine),
        # Each worker of a group computes the same tokens; those of one that has no wanted layer
        # are not counted.
        sum(max(worker["computed"] for worker in taken[look.key]) for look in mine),
    )


def _array(request: AttentionRequest, workers: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    import numpy as np

    by_head: dict[tuple[int, int], Any] = {}
    total: Any = None
    seen = 0
    for worker in workers:
        for layer, found in worker["layers"].items():
            array = unpacked(found)
            if request.per_row:
                total = array if total is None else total + array
                seen += len(found["heads"])
            else:
                by_head |= {
                    (int(layer), int(head)): array[n] for n, head in enumerate(found["heads"])
                }
    try:
        if not request.per_row:
            return np.stack([by_head[head] for head in request.heads])
    except KeyError as error:
        raise BadReply(f"vLLM sent no scores of head {error.args[0]}.") from None
    if seen != len(set(request.heads)):
        raise BadReply(f"vLLM sent scores of {seen} of {len(set(request.heads))} heads.")
    return np.asarray(total / seen, dtype=np.float32)


def unpacked(found: Mapping[str, Any]) -> NDArray[np.float32]:
    """An array from its JSON form; see ``vllm_extension.packed``."""
    import numpy as np

    flat = np.frombuffer(base64.b64decode(found["data"]), dtype="<f4")
    return flat.astype(np.float32).reshape(found["shape"])
