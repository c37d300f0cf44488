"""Every error a caller can meet.

    ReaderError
    ├── InputError                what was passed in must be changed
    │   ├── DocumentError
    │   │   ├── DocumentNotFound
    │   │   ├── EmptyDocument
    │   │   ├── UnreadableDocument    binary, damaged, or of an unknown format
    │   │   └── ProtectedDocument     needs a password
    │   ├── EmptyQuestion
    │   ├── UnknownStrategy
    │   ├── InvalidOption             unknown option, or a value that it cannot take
    │   ├── WindowTooSmall            no room for a chunk beside the prompt
    │   ├── BudgetTooSmall            not even one chunk and the closing call fit
    │   ├── UnknownPrice              a money budget for a model without a known price
    │   ├── UnknownSet                no question set of that name, and no file
    │   ├── InvalidRow                a row of a question set that is not of the documented form
    │   └── NotWritten                no file can be written at the path
    ├── MissingExtra                  an optional part is not installed
    ├── SetUnavailable                the files of a question set cannot be had
    ├── ModelError
    │   ├── ModelUnavailable          no server at the address
    │   ├── AuthenticationFailed
    │   │   └── MissingKey            nothing was sent
    │   ├── UnknownModel
    │   ├── RequestRefused            the server calls the request itself wrong (other 4xx)
    │   ├── ContextOverflow
    │   ├── RateLimited
    │   ├── ServerFailed              5xx
    │   ├── ModelTimeout
    │   ├── BadReply                  empty body, half a reply, not JSON
    │   ├── DownloadFailed            the weights could not be fetched or do not match
    │   ├── UnsupportedModel          it is not of the kind that is needed
    │   └── OutOfMemory               this machine's memory does not do for it
    ├── StoreError
    │   ├── StoreFull
    │   └── StoreUnavailable
    ├── RunNotFound
    └── LimitReached                  budget or deadline; inside a run only, never reaches a caller

Budget spent, deadline passed, chunks failed and "not in the document" are values of
``answer.status``, not errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from reader.budget import Usage


class ReaderError(Exception):
    """Base of all errors of this library.

    Attributes:
        hint: One sentence that says what to do.
        spent: What had been used when it happened, where a run was under way.
        run_id: The run it happened in; the same call again resumes that run.
    """

    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.spent: Usage | None = None
        self.run_id: str | None = None

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InputError(ReaderError):
    """The call itself must be changed; nothing was spent."""


class DocumentError(InputError):
    """The document cannot be read."""


class DocumentNotFound(DocumentError):
    """No file at the path."""

    default_hint = "Check the path; a text itself is passed with Document.from_text(...)."


class EmptyDocument(DocumentError):
    """The document holds no text."""

    default_hint = "A scanned PDF has pictures only: run text recognition over it first."


class UnreadableDocument(DocumentError):
    """Binary, damaged, or of a format that no converter here knows."""

    default_hint = "Readable are .txt, .md, .html, .pdf, .docx and .epub."


class ProtectedDocument(DocumentError):
    """The document needs a password."""

    default_hint = "Remove the password and try again."


class EmptyQuestion(InputError):
    """The question holds no word."""

    default_hint = "Pass a question, or question=None for a summary."


class UnknownStrategy(InputError):
    """No installed strategy has the name."""


class InvalidOption(InputError):
    """An option that the strategy does not have, or a value that it cannot take."""


class WindowTooSmall(InputError):
    """The prompt, the memory and the reply leave no room for a chunk."""


class BudgetTooSmall(InputError):
    """The budget does not even cover one chunk and the closing call."""


class UnknownPrice(InputError):
    """A money budget was given for a model whose price is not known."""


class UnknownSet(InputError):
    """Neither the name of a known question set nor a file."""


class NotWritten(InputError):
    """No file can be written at the path. Another one helps."""


class InvalidRow(InputError):
    """A row of a question set is not of the documented form.

    Attributes:
        path: Of the file, or the name of the set.
        line: Counted from 1.
        field: The field that is wrong, "" where the whole row is.
    """

    default_hint = "The form is described in evals/README.md."

    def __init__(
        self, message: str, *, path: str, line: int, field: str = "", hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.line = line
        self.field = field


class MissingExtra(ReaderError):
    """An optional part of the library is not installed."""


class SetUnavailable(ReaderError):
    """The files of a question set cannot be fetched or read."""

    retryable = True


class ModelError(ReaderError):
    """A call to the model failed."""


class ModelUnavailable(ModelError):
    """Nothing answers at the model's address."""

    retryable = True
    default_hint = "Start the server or correct the address, then make the same call again."


class AuthenticationFailed(ModelError):
    """The server does not accept the key."""

    default_hint = "Set the API key (OPENAI_API_KEY, or ChatModel's api_key) and call again."


class MissingKey(AuthenticationFailed):
    """The endpoint wants a key and none was given; nothing was sent."""


class UnknownModel(ModelError):
    """The server, the disk or the catalogue has no such model."""


class RequestRefused(ModelError):
    """The server calls the request itself wrong."""


class ContextOverflow(ModelError):
    """The prompt is longer than the model's window."""

    default_hint = "Pass a smaller window= or chunk_tokens=."


class RateLimited(ModelError):
    """The server asks to slow down. ``retry_after`` is in seconds, where it said so."""

    retryable = True
    default_hint = "Wait, or lower concurrency=, then make the same call again."

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ServerFailed(ModelError):
    """The server failed by its own word (5xx)."""

    retryable = True
    default_hint = "Make the same call again: what is finished is not paid for twice."


class ModelTimeout(ModelError):
    """No reply within the time allowed for one call."""

    retryable = True
    default_hint = "If the server is busy, fewer calls at once (concurrency) help."


class BadReply(ModelError):
    """The server's reply is not a chat completion: empty, cut off, or not JSON."""

    retryable = True
    default_hint = "Check that the address is that of an OpenAI-compatible /v1 endpoint."


class DownloadFailed(ModelError):
    """Model weights could not be fetched, or are not the ones expected."""

    retryable = True
    default_hint = "Check the network and call again: the download goes on where it stopped."


class UnsupportedModel(ModelError):
    """The model is not of the kind that is needed (not causal, attention out of reach)."""


class OutOfMemory(ModelError):
    """A model in this process found no memory."""

    default_hint = "Use a smaller model or a smaller window."


class StoreError(ReaderError):
    """The store on disk cannot be used."""


class StoreFull(StoreError):
    """No room on the disk of the store."""

    default_hint = "Free some space or pass another store=; finished calls are kept."


class StoreUnavailable(StoreError):
    """The store's folder or files cannot be opened."""

    default_hint = "Pass a writable folder as store=."


class RunNotFound(ReaderError):
    """No run of that id in the store."""

    default_hint = "`reader runs` lists them."


class LimitReached(ReaderError):
    """A budget or deadline does not allow another call. Runs turn it into status "partial"."""

    def __init__(self, message: str, *, limit: str) -> None:
        super().__init__(message)
        self.limit = limit
