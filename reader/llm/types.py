"""The words of the model client: request, reply, model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from reader.budget import Price
from reader.tokens import TokenCounter

FinishReason: TypeAlias = Literal["stop", "length", "other"]
OnToken: TypeAlias = Callable[[str], None]


class Message(NamedTuple):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """Everything that decides a reply, and two fields that do not.

    Attributes:
        messages: The turns.
        max_tokens: Cap of the reply, tokens.
        temperature: 0 is greedy.
        seed: Sampling seed; also tells samples of one prompt apart in the reply cache.
        stop: Texts at which the reply ends.
        json_schema: The reply must be JSON of this schema, where the endpoint can enforce it.
        top_logprobs: So many alternatives of the first token with their log-probabilities.
        prompt_tokens: Upper bound of the prompt's tokens where the caller knows one; spares a
            count. Not part of the cache key.
        purpose: What the call is for ("worker", "manager", ...). Not part of the cache key.
        closing: This is the call for which the budget keeps a reserve. Not part of the key.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    top_logprobs: int = 0
    prompt_tokens: int | None = None
    purpose: str = ""
    closing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """A reply and what it took.

    Attributes:
        text: The reply.
        finish_reason: "length" means cut off at ``max_tokens``.
        prompt_tokens: Tokens in, by the server's count.
        completion_tokens: Tokens out, likewise.
        cached_tokens: Of the tokens in, those from the server's prefix cache.
        top_logprobs: Alternatives of the first token, where asked for and available.
        from_cache: The reply came from the store, not from a model.
    """

    text: str
    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    top_logprobs: Mapping[str, float] | None = None
    from_cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What the library must know about a model.

    Attributes:
        name: For people.
        identity: For keys: equal only where replies may be exchanged (address and name of a
            served model, hash of a file).
        window: Tokens of prompt and reply together.
        counter: Counts tokens as the model does, or says that it only estimates.
        json_schema: The endpoint enforces a JSON schema.
        price: Dollars per million tokens, None where not known (0 for a local model).
        notice: One line the user should read before using it, or "".
        concurrency: Calls at once that make sense for it.
    """

    name: str
    identity: str
    window: int
    counter: TokenCounter
    json_schema: bool = False
    price: Price | None = None
    notice: str = ""
    concurrency: int = 8


@runtime_checkable
class ChatModel(Protocol):
    """Anything that answers chats. Own implementations need these three methods only."""

    async def info(self) -> ModelInfo:
        """Describe the model; may start it or ask its server.

        Raises:
            ModelError: it cannot be reached.
        """
        ...

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """Answer one request; with ``on_token``, pass pieces of the reply on as they come.

        Raises:
            ModelError: one of its kinds, each saying whether trying again helps.
        """
        ...

    async def aclose(self) -> None:
        """Free what the model holds (connections, memory)."""
        ...


@runtime_checkable
class Identified(Protocol):
    """A model that knows its identity without asking anybody."""

    @property
    def identity(self) -> str | None:
        """``ModelInfo.identity``, None where it cannot be known yet."""
        ...


def as_turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages as the plain dictionaries that endpoints take."""
    return [{"role": m.role, "content": m.content} for m in messages]
