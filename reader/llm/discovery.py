"""What a server tells about the model it serves: name, window, tokenizer.

No two kinds of server tell it in the same place: vLLM in its list of models, llama-server at
``/props``, Ollama at ``/api/show`` and ``/api/ps``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from reader.errors import ModelError, ModelUnavailable, RequestRefused, UnknownModel
from reader.llm.nearby_tokenizer import tokenizer_like
from reader.llm.server_tokens import Dialect, ServerTokenCounter
from reader.tokens import TokenCounter

DEFAULT_WINDOW = 8192
OLLAMA_WINDOW = 4096
VLLM_CONCURRENCY = 32
OLLAMA_CONCURRENCY = 4
CONCURRENCY = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """What was found out; the window is in tokens."""

    name: str
    window: int
    counter: TokenCounter
    json_schema: bool
    concurrency: int
    notice: str = ""


class Server(Protocol):
    """The part of ``ServedModel`` that is needed here."""

    address: str

    async def ask(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call an endpoint of the server."""
        ...


async def discover(server: Server, base_url: str, model: str | None) -> Discovered:
    """Ask a server for everything the library must know about one of its models.

    Raises:
        UnknownModel: the name is not served, or several are and none was named.
        ModelError: the server cannot be asked.
    """
    entry = await _entry(server, model)
    name = str(entry["id"]) if model is None else model
    root = re.sub(r"/v\d+$", "", base_url)
    if isinstance(entry.get("max_model_len"), int):
        found = entry["max_model_len"], True, VLLM_CONCURRENCY
    elif entry.get("owned_by") == "llamacpp":
        found = await _llama_server(server, root, entry)
    elif (window := await _ollama(server, root, name)) is not None:
        # A remote model behind Ollama takes a schema and does not keep to it.
        found = window, not name.endswith("-cloud"), OLLAMA_CONCURRENCY
    else:
        found = None, False, CONCURRENCY
    known, json_schema, concurrency = found
    return Discovered(
        name=name,
        window=known or DEFAULT_WINDOW,
        counter=await _counter(server, root, name, entry.get("root")),
        json_schema=json_schema,
        concurrency=concurrency,
        notice=""
        if known
        else f"{server.address} does not tell the window of {name}: {DEFAULT_WINDOW} tokens are"
        " assumed; pass window= to correct it.",
    )


async def _entry(server: Server, model: str | None) -> Mapping[str, Any]:
    """The server's entry for the model, {} where it keeps no list."""
    try:
        listed = await server.ask("get", "/models")
    except RequestRefused:
        listed = None
    data = listed.get("data") if isinstance(listed, Mapping) else None
    entries = [e for e in data or () if isinstance(e, Mapping) and "id" in e]
    if not entries and model is not None:
        return {}
    if not entries:
        raise UnknownModel(
            f"{server.address} does not tell which models it serves.",
            hint="Name one: ADDRESS#NAME.",
        )
    names = [str(e["id"]) for e in entries]
    if model is None:
        if len(entries) == 1:
            return entries[0]
        raise UnknownModel(
            f"{server.address} serves several models: {_some(names)}.",
            hint=f"Name one: {server.address}#{names[0]}.",
        )
    for entry in entries:
        if model in (entry["id"], *(entry.get("aliases") or ())):
            return entry
        if entry["id"] == f"{model}:latest":
            return entry
    raise UnknownModel(
        f"{server.address} has no model {model!r}; it serves {_some(names)}.",
        hint=f"The nearest is {nearest(model, names)!r}.",
    )


def nearest(word: str, choices: Sequence[str], cutoff: float = 0.0) -> str:
    """The choice that is most like the word; empty where none reaches the cutoff (0 to 100)."""
    from rapidfuzz import fuzz, process

    found = process.extractOne(word, choices, scorer=fuzz.WRatio, score_cutoff=cutoff)
    return str(found[0]) if found else ""


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


async def _quietly(
    server: Server, method: str, url: str, body: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """A reply that may be missing: {} unless the server has the endpoint."""
    try:
        reply = await server.ask(method, url, body)
    except ModelUnavailable:
        raise
    except ModelError:
        return {}
    return reply if isinstance(reply, Mapping) else {}


async def _llama_server(
    server: Server, root: str, entry: Mapping[str, Any]
) -> tuple[int | None, bool, int]:
    """Window of one slot, schema, slots."""
    props = await _quietly(server, "get", f"{root}/props")
    window = (props.get("default_generation_settings") or {}).get("n_ctx")
    window = window or (entry.get("meta") or {}).get("n_ctx")
    return window, True, int(props.get("total_slots") or 1)


async def _ollama(server: Server, root: str, name: str) -> int | None:
    """The window Ollama really gives, None where the server is not Ollama.

    It silently cuts longer prompts, and mostly gives much less than the model was trained for.
    """
    shown = await _quietly(server, "post", f"{root}/api/show", {"model": name})
    if not isinstance(shown.get("model_info"), Mapping):
        return None
    if found := re.search(r"^num_ctx\s+(\d+)", shown.get("parameters") or "", re.MULTILINE):
        return int(found[1])
    loaded = await _quietly(server, "get", f"{root}/api/ps")
    for model in loaded.get("models") or ():
        if model.get("name") in (name, f"{name}:latest") and model.get("context_length"):
            return int(model["context_length"])
    trained = [v for k, v in shown["model_info"].items() if k.endswith(".context_length")]
    return min([OLLAMA_WINDOW, *map(int, trained)])


async def _counter(server: Server, root: str, name: str, source: object) -> TokenCounter:
    """The server's own tokenizer, the estimate where it has none.

    ``source`` is where the server has the model from.
    """
    # One question that both dialects understand; vLLM counts, llama-server gives tokens only.
    body = {"model": name, "prompt": "a", "content": "a"}
    reply = await _quietly(server, "post", f"{root}/tokenize", body)
    dialect: Dialect | None = None
    if isinstance(reply.get("count"), int):
        dialect = "vllm"
    elif isinstance(reply.get("tokens"), list):
        turn = {"messages": [{"role": "user", "content": "a"}]}
        rendered = await _quietly(server, "post", f"{root}/apply-template", turn)
        dialect = "llama.cpp" if isinstance(rendered.get("prompt"), str) else None
    if dialect is not None:
        counter = ServerTokenCounter(server.ask, root, name, dialect)
        counter.nearby = await tokenizer_like(counter, source)
        return counter
    from reader.tokens import EstimateCounter

    return EstimateCounter()
