"""What the openai client raises, in this library's words.

A server's own message is passed on only for requests that it calls wrong, shortened, and never when
it quotes the prompt: document text and keys stay out of errors.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

from reader.errors import (
    AuthenticationFailed,
    BadReply,
    ContextOverflow,
    ModelError,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    RequestRefused,
    ServerFailed,
    UnknownModel,
)
from reader.llm.types import ChatRequest

# vLLM and OpenAI speak of the maximum context length, llama-server of the available context size,
# Ollama of an input that exceeds the context length; old vLLM let max_tokens become negative.
OVERFLOW = re.compile(
    r"maximum (context|model|input) length|context (length|size|window)|context_length_exceeded"
    r"|exceed_context_size|longer than the (maximum )?model|prompt is too long"
    r"|max_tokens must be at least 1, got -",
    re.IGNORECASE,
)
# By name, since the openai client runs on httpx, httpx2 or aiohttp. aiohttp's errors come wrapped
# in httpx's, where a lost connection and one never made look alike: so aiohttp's decide.
UNREACHED = {"ClientConnectorError", "ConnectionTimeoutError", "UnsupportedProtocol", "ProxyError"}
LOST = {"ClientOSError", "ServerDisconnectedError", "ClientPayloadError"}
UNREACHED_BY_HTTPX = {"ConnectError", "ConnectTimeout"}
QUOTED = 24
SHOWN = 200


def translate(error: Exception, address: str, request: ChatRequest | None = None) -> ModelError:
    """The error of this library for one that a call through the openai client raised.

    Args:
        error: One of ``kinds()``.
        address: The server, for the message.
        request: The request, so that its text can be kept out of the message.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        said, headers = _said(error.body), error.response.headers
        return from_status(error.status_code, said, headers, address, request)
    causes = _causes(error)
    if causes & UNREACHED or (causes & UNREACHED_BY_HTTPX and not causes & LOST):
        return ModelUnavailable(f"No server answers at {address}.")
    if causes & LOST:
        return BadReply(f"{address} closed the connection before its reply was complete.")
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return ModelTimeout(f"No reply from {address} within the time for one call.")
    if isinstance(error, openai.APIConnectionError):
        return BadReply(f"{address} closed the connection before its reply was complete.")
    if isinstance(error, UnicodeEncodeError):
        return RequestRefused(
            "The prompt holds characters that are not Unicode text (lone surrogates).",
            hint="Decode the document with errors='replace'.",
        )
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return BadReply(f"The reply of {address} is not JSON.")
    if isinstance(error, openai.APIError):
        return from_body(error.body, address, request)
    return BadReply(f"The reply of {address} is not a chat completion.")


@cache
def kinds() -> tuple[type[Exception], ...]:
    """What a call through the openai client raises, in its own words and in its transports'."""
    import openai

    own = (openai.OpenAIError, TimeoutError, json.JSONDecodeError, UnicodeError)
    try:
        import aiohttp
    except ImportError:
        return own
    return (*own, aiohttp.ClientError)


def _causes(error: BaseException) -> set[str]:
    """Names of the classes of an error and of those that it came from."""
    names: set[str] = set()
    current: BaseException | None = error
    while current is not None:
        names.update(kind.__name__ for kind in type(current).__mro__)
        current = current.__cause__
    return names


def from_body(body: object, address: str, request: ChatRequest | None) -> ModelError:
    """The error for a failure told inside a reply of status 200, or inside a stream."""
    said = _said(body)
    code = body.get("code") if isinstance(body, Mapping) else None
    if OVERFLOW.search(said):
        return ContextOverflow(f"The prompt does not fit the window of the model at {address}.")
    if code == 429:
        return RateLimited(f"{address} asks to slow down.")
    if isinstance(code, int) and 400 <= code < 500:
        return RequestRefused(f"{address} refuses the request{_shown(said, request)}.")
    return ServerFailed(f"{address} failed in the middle of its reply.")


def from_status(
    status: int,
    said: str,
    headers: Mapping[str, str],
    address: str,
    request: ChatRequest | None = None,
) -> ModelError:
    """The error for a reply of a status that is not 2xx, with what the server said."""
    wait = retry_after(headers)
    if status in (401, 403):
        return AuthenticationFailed(f"{address} does not accept the API key (status {status}).")
    # llama-server once said this with status 500.
    if OVERFLOW.search(said) and (status in (400, 413, 422) or "exceed_context_size" in said):
        return ContextOverflow(f"The prompt does not fit the window of the model at {address}.")
    if status == 404:
        if "model" in said.lower():
            return UnknownModel(
                f"{address} has no such model.", hint="Name one that it serves: ADDRESS#NAME."
            )
        return RequestRefused(
            f"{address} has no such endpoint (status 404).",
            hint="The address of an OpenAI-compatible endpoint mostly ends in /v1.",
        )
    if status == 429 and "insufficient_quota" in said:
        return RequestRefused(
            f"The account at {address} has no credit left.",
            hint="Add credit or use another key or model; waiting does not help.",
        )
    if status == 429 or (status == 503 and wait is not None):
        return RateLimited(f"{address} asks to slow down (status {status}).", retry_after=wait)
    if status == 408:
        return ModelTimeout(f"{address} gave up waiting (status 408).")
    if status >= 500:
        return ServerFailed(f"{address} failed (status {status}).")
    return RequestRefused(
        f"{address} refuses the request (status {status}){_shown(said, request)}."
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the headers of a reply, None where they do not say.

    Understood are ``retry-after-ms``, and ``retry-after`` as seconds or as an HTTP date.
    """
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(float(milliseconds) / 1000, 0.0)
        if (value := headers.get("retry-after")) is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return float(value)
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _said(body: object) -> str:
    """Message, type and code of an error body in one line."""
    if isinstance(body, Mapping):
        inner: Any = body.get("error", body)
        if isinstance(inner, Mapping):
            parts = (inner.get(k) for k in ("message", "detail", "type", "code"))
            return " ".join(str(p) for p in parts if p is not None)
        body = inner
    return body if isinstance(body, str) else ""


def _shown(said: str, request: ChatRequest | None) -> str:
    """The server's words for a message, or nothing where they may quote the prompt."""
    words = " ".join(said.split())[:SHOWN].rstrip(". ")
    if not words or request is None:
        return ""
    prompt = " ".join(" ".join(m.content for m in request.messages).split())
    pieces = (words[i : i + QUOTED] for i in range(max(len(words) - QUOTED, 0) + 1))
    return "" if any(piece in prompt for piece in pieces) else f": {words}"
