"""Models for tests: they answer from a script or a function and count words as tokens.

    model = ScriptedModel(["Anna rules.", "Anna"])
    answer = reader.answer(document, "Who rules?", model=model, store=tmp_path)
    assert answer.text == "Anna"
    assert "Who rules?" in model.requests[-1].messages[-1].content

They keep to a server's manners: a reply ends at ``max_tokens`` with finish reason "length", and a
prompt that leaves no room for it in the window is a ``ContextOverflow``.
"""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import crc32

from reader.budget import Price
from reader.errors import ContextOverflow
from reader.llm.embedders import EmbedderInfo
from reader.llm.types import ChatReply, ChatRequest, ModelInfo, OnToken
from reader.tokens import TokenCounter

if TYPE_CHECKING:
    from reader.llm.embedders import Vectors

Respond: TypeAlias = Callable[[ChatRequest], "str | ChatReply | Awaitable[str | ChatReply]"]

_TOKEN = re.compile(r"\w+|[^\w\s]")
_PIECE = re.compile(r"\s*(?:\w+|[^\w\s])")
_CLASSES = "".join(
    "w" if re.match(r"\w", chr(c)) else " " if chr(c).isspace() else "." for c in range(128)
).encode() + bytes(128)
TURN_TOKENS = 4
CUE_TOKENS = 3


class WordCounter:
    """Counts words and punctuation marks: exact for the models here, and the same everywhere."""

    name = "words"
    exact = True

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Words and punctuation marks of each text."""
        return [_words(text) for text in texts]

    async def count_messages(self, turns: Sequence[tuple[str, str]]) -> int:
        """Those of all turns, with 4 for each turn and 3 for the cue to answer."""
        counts = await self.count([content for _, content in turns])
        return sum(counts) + TURN_TOKENS * len(turns) + CUE_TOKENS

    def tokenizer(self) -> Any | None:
        """None: there is no library behind it."""
        return None


def _words(text: str) -> int:
    if not text.isascii():
        return len(_TOKEN.findall(text))
    # A benchmark that counts with this must not measure it: bytes are ten times faster.
    classes = b" " + text.encode().translate(_CLASSES)
    return classes.count(b".") + classes.count(b" w") + classes.count(b".w")


class ScriptExhaustedError(AssertionError):
    """A scripted model was asked more often than it has replies. Not one of the library's errors,
    so no strategy takes it for a failed call.
    """


class FunctionModel:
    """Answers with what a function says.

    Args:
        function: From request to reply; plain or async. What it raises is raised to the caller.
        window: Tokens of prompt and reply together.
        name: For people.
        identity: For cache keys. By default no two models share replies in a store; give two the
            same one to test that they do.
        json_schema: Say that a JSON schema is enforced. The function has to do it.
        counter: Counts tokens; words by default.
        price: Dollars per million tokens.
        delay: Seconds before each reply.
        concurrency: Calls at once that make sense for it.

    Attributes:
        requests: All requests so far, in order of arrival.
        closed: Whether ``aclose`` was called.
    """

    def __init__(
        self,
        function: Respond,
        *,
        window: int = 8192,
        name: str = "function",
        identity: str | None = None,
        json_schema: bool = False,
        counter: TokenCounter | None = None,
        price: Price | None = None,
        delay: float = 0.0,
        concurrency: int = 8,
    ) -> None:
        self._function = function
        self._delay = delay
        self._info = ModelInfo(
            name=name,
            identity=identity or f"{name}:{uuid.uuid4().hex}",
            window=window,
            counter=counter or WordCounter(),
            json_schema=json_schema,
            price=price,
            concurrency=concurrency,
        )
        self.requests: list[ChatRequest] = []
        self.closed = False

    async def info(self) -> ModelInfo:
        """What was passed in."""
        return self._info

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """The function's reply; with ``on_token``, word by word first.

        Raises:
            ContextOverflow: prompt and ``max_tokens`` are more than the window.
        """
        self.requests.append(request)
        counter = self._info.counter
        prompt = await counter.count_messages([(m.role, m.content) for m in request.messages])
        if prompt + request.max_tokens > self._info.window:
            raise ContextOverflow(
                f"{prompt} tokens of prompt and {request.max_tokens} of reply do not fit a window"
                f" of {self._info.window}."
            )
        if self._delay:
            import anyio

            await anyio.sleep(self._delay)
        said = self._function(request)
        if inspect.isawaitable(said):
            said = await said
        reply = said if isinstance(said, ChatReply) else _ended(said, request)
        (completion,) = await counter.count([reply.text])
        if on_token is not None:
            for piece in _pieces(reply.text):
                on_token(piece)
        return replace(
            reply,
            prompt_tokens=reply.prompt_tokens or prompt,
            completion_tokens=reply.completion_tokens or completion,
        )

    async def aclose(self) -> None:
        """Nothing to free; remembers that it was asked to."""
        self.closed = True


class ScriptedModel(FunctionModel):
    """Answers from a list, in order.

    Args:
        replies: Texts, whole replies, or errors to raise.
        repeat_last: Go on with the last one instead of failing when the list ends.
        options: As for ``FunctionModel``.

    Raises:
        ScriptExhaustedError: from ``generate``, after the last reply.
    """

    def __init__(
        self,
        replies: Iterable[str | ChatReply | Exception],
        *,
        repeat_last: bool = False,
        name: str = "scripted",
        **options: Any,
    ) -> None:
        super().__init__(self._next, name=name, **options)
        self._replies = list(replies)
        self._repeat_last = repeat_last
        self._at = 0

    @property
    def replies_left(self) -> int:
        """Replies of the script that were not given yet."""
        return max(len(self._replies) - self._at, 0)

    def _next(self, request: ChatRequest) -> str | ChatReply:
        at = self._at
        if self._repeat_last and self._replies:
            at = min(at, len(self._replies) - 1)
        if at >= len(self._replies):
            raise ScriptExhaustedError(
                f"Call {self._at + 1} ({request.purpose or 'no purpose named'}) has no reply:"
                f" the script holds {len(self._replies)}."
            )
        self._at += 1
        reply = self._replies[at]
        if isinstance(reply, Exception):
            raise reply
        return reply


class EchoModel(FunctionModel):
    """Answers with the last ``words`` words of the last message.

    Args:
        words: Words and marks given back, at most.
        options: As for ``FunctionModel``.
    """

    def __init__(self, *, words: int = 50, name: str = "echo", **options: Any) -> None:
        super().__init__(self._echo, name=name, **options)
        self._words = words

    def _echo(self, request: ChatRequest) -> str:
        starts = [m.start() for m in _TOKEN.finditer(request.messages[-1].content)]
        return request.messages[-1].content[starts[-self._words :][0] :] if starts else ""


def _ended(text: str, request: ChatRequest) -> ChatReply:
    """The text up to its first stop text or its cap, whichever comes first."""
    stops = [at for stop in request.stop if (at := text.find(stop)) >= 0]
    text = text[: min(stops)] if stops else text
    ends = [m.end() for m in _TOKEN.finditer(text)]
    if len(ends) > request.max_tokens:
        return ChatReply(text=text[: ends[request.max_tokens - 1]], finish_reason="length")
    return ChatReply(text=text)


def _pieces(text: str) -> Iterator[str]:
    """Words with the blanks before them; together the text."""
    end = 0
    for match in _PIECE.finditer(text):
        end = match.end()
        yield match[0]
    if text[end:]:
        yield text[end:]


class WordEmbedder:
    """An embedder of words: texts are alike where they share words. The same in every process.

    Args:
        dimension: Numbers in a vector; words share a place where there are more of them.
        identity: For the keys of vectors.
        longest: Characters that it says it reads.
        failure: Raised instead of giving vectors.

    Attributes:
        embedded: All texts so far.
    """

    def __init__(
        self,
        dimension: int = 256,
        *,
        identity: str = "words",
        longest: int | None = None,
        failure: Exception | None = None,
    ) -> None:
        self.identity = identity
        self._info = EmbedderInfo(
            name=identity, identity=identity, dimension=dimension, longest=longest
        )
        self._failure = failure
        self.embedded: list[str] = []

    async def info(self) -> EmbedderInfo:
        """What was passed in."""
        return self._info

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Counts of words, ``[len(texts), dimension]``."""
        import numpy as np

        if self._failure is not None:
            raise self._failure
        self.embedded += texts
        vectors = np.zeros((len(texts), self._info.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in _TOKEN.findall(text.lower()):
                vectors[row, crc32(word.encode()) % self._info.dimension] += 1.0
        return vectors

    async def aclose(self) -> None:
        """Nothing to free."""
