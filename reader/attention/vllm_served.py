"""Attention scores from a vLLM server that was started with the extension.

The development endpoint ``/collective_rpc`` opens and takes looks, ``/v1/completions`` has the
prompts read, in the same batches as everybody's chats. ``docs/attention_vllm.md`` has the start
line, and says why such a server belongs on a private address only.
"""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from reader.attention.model import AttentionTokenizer
from reader.attention.vllm_extension import EXTRA_ARG
from reader.attention.vllm_looks import START_LINE, PlannedLook, VLLMScorer, together
from reader.errors import (
    BadReply,
    ModelError,
    RequestRefused,
    ServerFailed,
    UnknownModel,
    UnsupportedModel,
)

if TYPE_CHECKING:
    from reader.llm.served import ServedModel

PROMPTS_AT_ONCE = 32


class ServedAttention(VLLMScorer):
    """A vLLM server with the extension, as an ``AttentionModel``.

    Args:
        url: Address of the server, with or without ``/v1``.
        api_key: Sent as bearer token, never shown.
        timeout: Seconds for one window, waiting behind others included.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 3600.0) -> None:
        super().__init__()
        from reader.llm.served import ServedModel

        self._root = root_of(url)
        self._served: ServedModel = ServedModel(
            f"{self._root}/v1", api_key=api_key, timeout=timeout
        )
        self._tokenizer: AttentionTokenizer | None = None
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def __repr__(self) -> str:
        return f"ServedAttention({self._served.address!r})"

    async def tokenizer(self) -> AttentionTokenizer:
        """The server's tokenizer, fetched once.

        Raises:
            UnsupportedModel: it does not tell where tokens stand in a text.
            ModelError: the server cannot be asked.
        """
        if self._tokenizer is None:
            from reader.attention.tokenizer import FastTokenizer

            await self.info()
            [found, *_] = await self._call("reader_attention_tokenizer")
            remote = RemoteTokenizer(found, f"{self._root}/collective_rpc", self._headers)
            self._tokenizer = FastTokenizer(remote)
        return self._tokenizer

    async def aclose(self) -> None:
        """Close the connections of the running loop; the object can be used again."""
        await self._served.aclose()

    async def _call(self, method: str, *args: str) -> list[dict[str, Any]]:
        body = {"method": method, "args": list(args)}
        try:
            reply = await self._served.ask("post", f"{self._root}/collective_rpc", body)
        except (RequestRefused, UnknownModel) as error:
            if isinstance(error, RequestRefused) and "404" not in error.message:
                raise
            raise UnsupportedModel(
                f"{self._served.address} has no development endpoint (/collective_rpc).",
                hint=f"If it is vLLM, start it with: {START_LINE}",
            ) from None
        except ServerFailed as error:
            raise await self._explained(method, error) from None
        return results(reply)

    async def _explained(self, method: str, error: ModelError) -> ModelError:
        """Why the first call failed: a server that is well does not know the method."""
        if method != "reader_attention_describe":
            return error
        try:
            await self._served.ask("get", f"{self._root}/version")
            await self._served.ask("get", "/models")
        except ModelError:
            return error
        return UnsupportedModel(
            f"The vLLM server at {self._served.address} runs without the attention extension.",
            hint=f"Install longdoc-reader where it runs and start it with: {START_LINE}",
        )

    async def _read(self, looks: Sequence[PlannedLook]) -> None:
        name = (await self.info()).name
        slots = asyncio.Semaphore(PROMPTS_AT_ONCE)

        async def one(look: PlannedLook) -> None:
            body = {
                "model": name,
                "prompt": list(look.ids),
                "max_tokens": 1,
                "temperature": 0,
                "cache_salt": look.salt,
                "vllm_xargs": {EXTRA_ARG: look.key},
            }
            async with slots:
                await self._served.ask("post", "/completions", body)

        await together([one(look) for look in looks])


class RemoteTokenizer:
    """What ``FastTokenizer`` needs of a transformers tokenizer, with the template on the server.

    The template is asked once for each sequence of roles, with marks for the texts; a template
    that changes texts (strips them, say) leaves ours as they are.

    Args:
        found: What the extension says of the tokenizer.
        url: Address of the development endpoint.
        headers: Sent with each call.

    Raises:
        UnsupportedModel: the tokenizer does not tell where tokens stand.
    """

    def __init__(self, found: Mapping[str, Any], url: str, headers: Mapping[str, str]) -> None:
        from tokenizers import Tokenizer

        if not found.get("json"):
            raise UnsupportedModel(
                f"The server's tokenizer {found.get('kind')} does not tell where tokens stand.",
                hint="Serve a model folder with a tokenizer.json.",
            )
        self.backend_tokenizer = Tokenizer.from_str(
            zlib.decompress(base64.b64decode(found["json"])).decode()
        )
        self.chat_template = bool(found["chat"])
        self.bos_token = found["start"] or None
        self.bos_token_id = -1
        self._adds_start = bool(found["adds_start"])
        self._url = url
        self._headers = dict(headers)
        self._forms: dict[tuple[str, ...], tuple[str, ...] | None] = {}

    def __call__(self, text: str) -> dict[str, list[int]]:
        """Only asked for the start token that the tokenizer adds."""
        return {"input_ids": [self.bos_token_id] if self._adds_start else []}

    def apply_chat_template(
        self, turns: Sequence[Mapping[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        """The turns as text; blocks while the server is asked.

        Raises:
            ValueError: what the template says against the turns.
            ModelError: the server cannot be asked.
        """
        roles = tuple(turn["role"] for turn in turns)
        if roles not in self._forms:
            self._forms[roles] = self._form(roles)
        form = self._forms[roles]
        if form is None:
            return self._rendered(turns)
        texts = [*(turn["content"] for turn in turns), ""]
        return "".join(part for pair in zip(form, texts, strict=True) for part in pair)

    def _form(self, roles: Sequence[str]) -> tuple[str, ...] | None:
        """What stands before, between and after the texts; None where that depends on them."""
        marks = [f"\u2402{n}\u2403" for n in range(len(roles))]
        rest = self._rendered(
            [{"role": r, "content": m} for r, m in zip(roles, marks, strict=True)]
        )
        parts = []
        for mark in marks:
            if rest.count(mark) != 1:
                return None
            before, rest = rest.split(mark)
            parts.append(before)
        return (*parts, rest)

    def _rendered(self, turns: Sequence[Mapping[str, str]]) -> str:
        import requests

        body = {"method": "reader_attention_chat", "args": [json.dumps(list(turns))]}
        try:
            reply = requests.post(self._url, json=body, headers=self._headers, timeout=600)
            reply.raise_for_status()
            [found, *_] = results(reply.json())
        except (requests.RequestException, ValueError) as error:
            raise ServerFailed("The server does not render its chat template.") from error
        if found["text"] is None:
            raise ValueError(found["error"])
        return str(found["text"])


def results(reply: object) -> list[dict[str, Any]]:
    """The workers' answers in a reply of the development endpoint.

    Raises:
        BadReply: it is not one.
    """
    if isinstance(reply, Mapping):
        found = reply.get("results")
        if isinstance(found, list) and found and all(isinstance(one, dict) for one in found):
            return found
    raise BadReply("The server's /collective_rpc does not answer as vLLM's does.")


def root_of(url: str) -> str:
    """The address without path, query and ``/v1``."""
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/").removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
