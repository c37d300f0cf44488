"""A real HTTP server on this machine that speaks like a model server, and misbehaves on request.

with LocalServer([rate_limited(retry_after="2"), ok("hello")]) as server:
    ...  # server.url, server.calls, server.max_in_flight

Each chat call takes the next reply of the script, then the default one. For benchmarks
`python tests/servers.py PORT SECONDS` gives a fixed reply after a delay, from its own process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeAlias

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer. `pieces` are the text when the caller wants it streamed; `sent` bytes of the
    body (or pieces of the stream) go out before the connection is closed, None for all."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    delay: float | None = None
    sent: int | None = None
    pieces: tuple[str, ...] | None = None
    finish: str = "stop"
    usage: tuple[int, int] | None = (10, 5)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request as it came."""

    path: str
    head: str
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


Script: TypeAlias = Iterable[Reply] | Callable[[dict[str, Any]], Reply]


def as_json(value: object, status: int = 200, **fields: Any) -> Reply:
    return Reply(json.dumps(value).encode(), status, **fields)


def ok(
    text: str | None = "A fact.",
    *,
    finish: str = "stop",
    usage: tuple[int, int] | None = (10, 5),
    cached: int = 0,
    logprobs: dict[str, float] | None = None,
    delay: float | None = None,
    **message: Any,
) -> Reply:
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text, **message},
    }
    if logprobs:
        tops = [{"token": t, "logprob": p} for t, p in logprobs.items()]
        choice["logprobs"] = {"content": [{**tops[0], "top_logprobs": tops}]}
    data: dict[str, Any] = {"object": "chat.completion", "model": "m", "choices": [choice]}
    if usage is not None:
        data["usage"] = {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "prompt_tokens_details": {"cached_tokens": cached},
        }
    words = (text or "").split(" ")
    pieces = tuple(w if i == 0 else f" {w}" for i, w in enumerate(words))
    return replace(as_json(data), pieces=pieces, finish=finish, usage=usage, delay=delay)


def embeddings(texts: Sequence[str], dimension: int = 64) -> Reply:
    """Counts of words as vectors, in another order than the texts': that is what index is for."""
    data = []
    for index, text in enumerate(texts):
        vector = [0.0] * dimension
        for word in text.lower().split():
            vector[zlib.crc32(word.strip(".?").encode()) % dimension] += 1.0
        data.append({"object": "embedding", "index": index, "embedding": vector})
    return as_json({"object": "list", "data": data[::-1], "model": "m"})


def cut_at_cap(text: str) -> Reply:
    return ok(text, finish="length")


def failing(status: int, message: str = "no", headers: dict[str, str] | None = None, **more: Any):
    error = {"message": message, **more}
    return as_json({"error": error}, status, headers=tuple((headers or {}).items()))


def rate_limited(retry_after: str | None = None) -> Reply:
    return failing(429, "slow down", {"Retry-After": retry_after} if retry_after else None)


def server_error(status: int = 500) -> Reply:
    return failing(status, "out of order")


def empty_body() -> Reply:
    return Reply()


def not_json() -> Reply:
    return Reply(b"{'choices': [")


def half_a_reply() -> Reply:
    whole = ok("This will be cut off in the middle.")
    return replace(whole, sent=len(whole.body) // 2)


def half_a_stream(pieces: int = 2) -> Reply:
    return replace(ok("This will be cut off in the middle."), sent=pieces)


def hung_up() -> Reply:
    """The connection is closed without a byte."""
    return Reply(sent=-1)


def not_http() -> Reply:
    return Reply(b"220 mail.example ESMTP\r\n", status=0)


def wrong_key() -> Reply:
    return failing(401, "Incorrect API key provided: sk-secret.", code="invalid_api_key")


def unknown_model() -> Reply:
    return failing(404, "The model `x` does not exist.", type="NotFoundError", code=404)


OVERFLOWS = {
    "vllm": (
        "This model's maximum context length is 2048 tokens. However, you requested 64 output"
        " tokens and your prompt contains at least 1985 input tokens."
    ),
    "llama.cpp": "request (2500 tokens) exceeds the available context size (2048 tokens)",
    "openai": "Your messages resulted in 9000 tokens. context_length_exceeded",
    "ollama": "the input length exceeds the context length",
}


def context_overflow(dialect: str = "vllm") -> Reply:
    return failing(400, OVERFLOWS[dialect], type="invalid_request_error")


class LocalServer:
    """An HTTP/1.1 server with kept-alive connections, in a thread with a loop of its own.

    Args:
        script: Replies to chat calls in their order, or a function of the request's JSON.
        default: The reply when the script is used up.
        delay: Seconds before every reply that has no delay of its own.
        models: What /v1/models lists.
        dialect: Whose other endpoints (/tokenize, /props, /api/show) it has.
        window: Tokens, where the dialect tells them.
        source: Where a vLLM says that it has its model from.
        tokens: Counts for /tokenize; words by default.
        key: The only bearer key it accepts.
    """

    def __init__(
        self,
        script: Script = (),
        *,
        default: Reply | None = None,
        delay: float = 0.0,
        models: Sequence[str] = ("m",),
        dialect: Literal["vllm", "llama.cpp", "ollama"] | None = None,
        window: int = 4096,
        key: str | None = None,
        port: int = 0,
        source: str | None = None,
        tokens: Callable[[str], int] = lambda text: len(text.split()),
    ) -> None:
        self.answer = script if callable(script) else None
        self.script = deque(() if callable(script) else script)
        self.default = default or ok()
        self.delay = delay
        self.models = models
        self.dialect = dialect
        self.window = window
        self.key = key
        self.port = port
        self.source = source
        self.tokens = tokens
        self.drops = 0  # requests to /tokenize on which it hangs up before it answers
        self.requests: list[Exchange] = []
        self.completed: list[Exchange] = []
        self.in_flight = self.max_in_flight = self.connections = 0
        self._open: set[asyncio.Transport] = set()
        self._ready = threading.Event()
        self._stop: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The JSON of every chat call so far; ``completed`` has those that were answered."""
        return [r.json for r in self.requests if r.path.endswith("/chat/completions")]

    @property
    def embedded(self) -> list[list[str]]:
        """The texts of every embedding call so far."""
        return [r.json["input"] for r in self.requests if r.path.endswith("/embeddings")]

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await stopped.wait()
        server.close()
        for transport in list(self._open):
            transport.abort()
        await asyncio.sleep(0)

    def reply(self, request: Exchange) -> Reply:
        """The reply to one request."""
        if self.key is not None and f"bearer {self.key}" not in request.head.lower():
            return wrong_key()
        if request.path.endswith("/embeddings"):
            return self.script.popleft() if self.script else embeddings(request.json["input"])
        if request.path.endswith("/chat/completions"):
            if self.answer is not None:
                return self.answer(request.json)
            return self.script.popleft() if self.script else self.default
        if self.drops and request.path == "/tokenize":
            self.drops -= 1
            return hung_up()
        return self._other(request.path, json.loads(request.body or b"{}"))

    def _other(self, path: str, body: dict[str, Any]) -> Reply:
        if path == "/v1/models":
            extra: dict[str, Any] = {"owned_by": "someone"}
            if self.dialect == "vllm":
                extra = {"owned_by": "vllm", "max_model_len": self.window}
                extra |= {"root": self.source} if self.source is not None else {}
            elif self.dialect == "llama.cpp":
                extra = {"owned_by": "llamacpp", "meta": {"n_ctx_train": 8 * self.window}}
            return as_json({"data": [{"id": m, "object": "model", **extra} for m in self.models]})
        if self.dialect == "vllm" and path == "/tokenize":
            text = body["prompt"] if "prompt" in body else _rendered(body["messages"])
            return as_json({"count": self.tokens(text), "max_model_len": self.window})
        if self.dialect == "llama.cpp":
            if path == "/tokenize":
                return as_json({"tokens": list(range(len(body["content"].split())))})
            if path == "/apply-template":
                return as_json({"prompt": _rendered(body["messages"])})
            if path == "/props":
                settings = {"n_ctx": self.window}
                return as_json({"default_generation_settings": settings, "total_slots": 3})
        if self.dialect == "ollama":
            if path == "/api/show":
                return as_json({"model_info": {"qwen2.context_length": 32768}, "parameters": ""})
            if path == "/api/ps":
                loaded = [{"name": m, "context_length": self.window} for m in self.models]
                return as_json({"models": loaded})
        return as_json({"detail": "Not Found"}, 404)


def _rendered(messages: list[dict[str, str]]) -> str:
    """A template that costs two words a turn and one for the cue."""
    turns = [f"<{m['role']}> {m['content']} <end>" for m in messages]
    return " ".join([*turns, "<assistant>"])


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.buffer = bytearray()
        self.waiting: asyncio.TimerHandle | None = None
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections += 1
        self.server._open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server._open.discard(self.transport)
        if self.waiting is not None:
            self.waiting.cancel()
        if self.busy:
            self.busy = False
            self.server.in_flight -= 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end])
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        whole = end + 4 + int(length or 0)
        if len(self.buffer) < whole:
            return
        body = bytes(self.buffer[end + 4 : whole])
        del self.buffer[:whole]
        request = Exchange(head.split(b" ", 2)[1].decode(), head.decode(), body)
        server = self.server
        server.requests.append(request)
        server.in_flight += 1
        server.max_in_flight = max(server.max_in_flight, server.in_flight)
        self.busy = True
        reply = server.reply(request)
        delay = server.delay if reply.delay is None else reply.delay
        if delay == NEVER:
            return
        if delay:
            loop = asyncio.get_running_loop()
            self.waiting = loop.call_later(delay, self._send, request, reply)
        else:
            self._send(request, reply)

    def _send(self, request: Exchange, reply: Reply) -> None:
        self.busy = False
        self.server.in_flight -= 1
        if reply.sent == -1:
            self.transport.abort()
            return
        if reply.status == 0:
            self.transport.write(reply.body)
            self.transport.close()
            return
        head = f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Failed')}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
        if reply.pieces is not None and b'"stream":true' in request.body:
            # llama-server always closes after a stream, and says so only when asked to.
            if "connection: close" in request.head.lower():
                head += "connection: close\r\n"
            self._stream(head, reply)
            return
        head += f"content-type: {reply.content_type}\r\ncontent-length: {len(reply.body)}\r\n\r\n"
        self.transport.write(head.encode() + reply.body[: reply.sent])
        if reply.sent is not None:
            self.transport.close()
        elif request.path.endswith("/chat/completions"):
            self.server.completed.append(request)

    def _stream(self, head: str, reply: Reply) -> None:
        """Server-sent events in chunked coding: pieces, the finish, the usage, the end mark."""
        deltas: list[dict[str, Any]] = [
            {"index": 0, "delta": {"content": p}, "finish_reason": None} for p in reply.pieces or ()
        ]
        events: list[Any] = [{"choices": [d]} for d in deltas[: reply.sent]]
        if reply.sent is None:
            end = {"index": 0, "delta": {}, "finish_reason": reply.finish}
            events.append({"choices": [end]})
            if reply.usage is not None:
                counts = dict(zip(("prompt_tokens", "completion_tokens"), reply.usage, strict=True))
                events.append({"choices": [], "usage": counts})
        lines = [f"data: {json.dumps(e)}\n\n".encode() for e in events]
        if reply.sent is None:
            lines.append(b"data: [DONE]\n\n")
        head += "content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in lines)
        # Half a stream ends cleanly for HTTP: only the missing finish tells that it is half.
        self.transport.write(head.encode() + chunks + b"0\r\n\r\n")
        self.transport.close()


def main() -> None:
    """Serve a fixed reply at a port after a delay in seconds."""
    server = LocalServer(
        default=ok("The summary so far is fine. " * 10),
        port=int(sys.argv[1]),
        delay=float(sys.argv[2]),
        dialect="vllm",
        window=131_072,
    )
    asyncio.run(server.serve())


if __name__ == "__main__":
    main()
