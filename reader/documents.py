"""Documents: one text, and where its sections, pages and parts lie.

Every position in this library is a character range of ``document.text``.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar, Union

from reader.conversion import (
    BINARY_SUFFIXES,
    HTML_SUFFIXES,
    MARKDOWN_SUFFIXES,
    Converted,
    Media,
    convert,
    plain,
)
from reader.errors import DocumentError, DocumentNotFound, EmptyDocument
from reader.structure import Location, Page, Part, Section, Span, normalised, sections

__all__ = ["Document", "Location", "Media", "Page", "Part", "Section", "Source", "Span"]

_LONGEST_PATH = 1_024
_PATH_SUFFIXES = (
    BINARY_SUFFIXES
    | HTML_SUFFIXES
    | MARKDOWN_SUFFIXES
    | {".txt", ".text", ".rst", ".tex", ".log", ".csv", ".json", ".jsonl", ".xml", ".doc", ".rtf"}
)
_PART_SEPARATOR = "\n\n"
_HASH_SLICE = 1 << 20
_ADDRESS = re.compile(r"https?://\S+\Z", re.IGNORECASE)

_Range = TypeVar("_Range", Section, Page, Part)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Document:
    """A text to read. Made by ``load`` or one of the ``from_`` methods; immutable.

    Two documents are equal when their content hashes are.

    Attributes:
        text: The whole text; newlines are ``\\n``.
        title: For people: what the file says about itself, else its first Markdown heading,
            else the name of the file without its suffix.
        name: The file's name, or "text".
        sha256: Hash of the text, of its kind, and of the parts of a collection; not of the path.
        sections: What its headings open, in order of their starts; deeper ones lie within.
        pages: Pages where the format has them (PDF), else empty. The numbers of a collection's
            pages start again with each part.
        parts: The documents of a collection; a single document is one part.
        media: "markdown" if headings, code and tables may be marked that way.
        source: Absolute path of the file; for a collection one a line; None if not from files.
    """

    text: str
    title: str
    name: str
    sha256: str
    sections: tuple[Section, ...]
    pages: tuple[Page, ...]
    parts: tuple[Part, ...]
    media: Media
    source: str | None

    @classmethod
    def load(cls, source: Source) -> Document:
        """Make a document of a path, a text, the bytes of a file, or a list of these.

        A ``str`` with a newline or of more than 1,024 characters is a text. Any other is a path
        if something is there. If nothing is, it is a missing path when it ends like a file
        (".pdf"), starts with "~", "./" or "/", or holds a "/" and no space; else it is a text.
        ``Document.from_text`` and ``Document.from_path`` leave no doubt.

        Raises:
            DocumentNotFound: no file at the path; names files in the folder with like names.
            EmptyDocument: no text in it.
            UnreadableDocument: binary, damaged, or of an unknown format.
            ProtectedDocument: it needs a password.
            DocumentError: a folder, a web address, a file without permission, another type.
        """
        if isinstance(source, Document):
            return source
        if isinstance(source, str):
            return cls.from_path(source) if _means_path(source) else cls.from_text(source)
        if isinstance(source, os.PathLike):
            return cls.from_path(source)
        if isinstance(source, bytes | bytearray | memoryview):
            return cls.from_bytes(bytes(source))
        if isinstance(source, list | tuple):
            return cls.collection(source)
        raise DocumentError(
            f"A document cannot be made of {type(source).__name__}.",
            hint="Pass a path, a text, bytes, a Document, or a list of these.",
        )

    @classmethod
    def from_text(cls, text: str, *, title: str | None = None, name: str | None = None) -> Document:
        """Make a document of a text. A ``name`` with a suffix (".md") says what kind it is.

        Raises:
            EmptyDocument: nothing but white space.
        """
        if not text or text.isspace():
            raise EmptyDocument("The text is empty.", hint="Pass a text with words in it.")
        converted = plain(normalised(text), Path(name).suffix.lower() if name else "")
        return cls._from_converted(converted, name=name or "text", title=title)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Document:
        """Read a file: .txt, .md, .html, .pdf, .docx, .epub, or any other text. Blocks.

        Raises:
            DocumentError: one of its kinds, as with ``load``.
        """
        _refuse_address(path)
        file = _expanded(path)
        converted = convert(_read(file), name=file.name, suffix=file.suffix.lower())
        return cls._from_converted(converted, name=file.name, source=str(file.absolute()))

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str | None = None) -> Document:
        """Read the bytes of a file. The suffix of ``name`` helps where the content does not say.

        Raises:
            DocumentError: one of its kinds, as with ``load``.
        """
        suffix = Path(name).suffix.lower() if name else ""
        converted = convert(data, name=name or "The document", suffix=suffix)
        return cls._from_converted(converted, name=name or "document")

    @classmethod
    def collection(cls, sources: Sequence[Source], *, title: str | None = None) -> Document:
        """Join several documents into one; collections among them give their parts.

        A blank line stands between two parts. Names that occur twice get a number.

        Raises:
            EmptyDocument: no document at all.
            DocumentError: one of its kinds, as with ``load``.
        """
        documents = [cls.load(source) for source in sources]
        if not documents:
            raise EmptyDocument("The collection is empty.", hint="Pass at least one document.")
        if len(documents) == 1 and title is None:
            return documents[0]
        sections_: list[Section] = []
        pages: list[Page] = []
        parts: list[Part] = []
        names: set[str] = set()
        at = 0
        for document in documents:
            sections_ += _shifted(document.sections, at)
            pages += _shifted(document.pages, at)
            for part in _shifted(document.parts, at):
                name = _unique(part.name, names)
                names.add(name)
                parts.append(part._replace(name=name))
            at += len(document.text) + len(_PART_SEPARATOR)
        text = _PART_SEPARATOR.join(document.text for document in documents)
        media: Media = "markdown" if any(d.media == "markdown" for d in documents) else "text"
        files = [document.source for document in documents if document.source is not None]
        label = parts[0].title if len(parts) == 1 else f"{parts[0].title} and {len(parts) - 1} more"
        return cls(
            text=text,
            title=title or label,
            name=f"{len(parts)} documents" if len(parts) > 1 else parts[0].name,
            sha256=_content_hash(text, media, parts),
            sections=tuple(sections_),
            pages=tuple(pages),
            parts=tuple(parts),
            media=media,
            source="\n".join(files) if len(files) == len(documents) else None,
        )

    @classmethod
    def _from_converted(
        cls, converted: Converted, *, name: str, title: str | None = None, source: str | None = None
    ) -> Document:
        text = converted.text
        title = title or converted.title or Path(name).stem or name
        parts = (Part(name, title, 0, len(text)),)
        return cls(
            text=text,
            title=title,
            name=name,
            sha256=_content_hash(text, converted.media, parts),
            sections=sections(converted.headings, len(text)),
            pages=converted.pages,
            parts=parts,
            media=converted.media,
            source=source,
        )

    def section_at(self, position: int) -> Section | None:
        """The deepest section that holds the character, None before the first heading."""
        return _holding(self.sections, position)

    def page_at(self, position: int) -> Page | None:
        """The page that holds the character, None where there are no pages."""
        return _holding(self.pages, position)

    def part_at(self, position: int) -> Part | None:
        """The part that holds the character, None between two parts."""
        return _holding(self.parts, position)

    @property
    def pages_without_text(self) -> int:
        """How many pages hold none: blank ones, and pictures of text that nobody recognised."""
        return sum(page.start == page.end for page in self.pages)

    def locate(self, start: int, end: int) -> Location:
        """Name of the part in which a range starts, and the range within that part.

        What lies outside of the part (the blank line before it, a part that follows) is cut off.

        Raises:
            IndexError: not a range of this document.
        """
        if not 0 <= start <= end <= len(self.text):
            raise IndexError(f"{start} to {end} is no range of {len(self.text)} characters")
        following = bisect_right(self.parts, start, key=lambda part: part.start)
        part = self.parts[following - 1]
        if start >= part.end and following < len(self.parts):
            part = self.parts[following]
        length = part.end - part.start
        within = [min(max(at - part.start, 0), length) for at in (start, end)]
        return Location(part.name, *within)

    def __len__(self) -> int:
        return len(self.text)

    def __eq__(self, other: object) -> bool:
        return self.sha256 == other.sha256 if isinstance(other, Document) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        size = f"{len(self.text):,} characters"
        return f"<Document {self.name!r}: {size}, sha256 {self.sha256[:12]}>"


Source: TypeAlias = Union[
    Document, str, "os.PathLike[str]", bytes, bytearray, memoryview, "Sequence[Source]"
]


def _holding(ranges: tuple[_Range, ...], position: int) -> _Range | None:
    """The last range that starts at or before the position, if it holds it."""
    found = bisect_right(ranges, position, key=lambda r: r.start)
    return ranges[found - 1] if found and position < ranges[found - 1].end else None


def _shifted(ranges: Iterable[_Range], by: int) -> list[_Range]:
    return [r._replace(start=r.start + by, end=r.end + by) for r in ranges]


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name} ({count})"
    return candidate


def _content_hash(text: str, media: Media, parts: Sequence[Part]) -> str:
    digest = hashlib.sha256()
    for at in range(0, len(text), _HASH_SLICE):
        digest.update(text[at : at + _HASH_SLICE].encode())
    # The same characters are cut into other chunks where Markdown is marked.
    if media != "text":
        digest.update(f"\0{media}".encode())
    if len(parts) > 1:
        for part in parts:
            name = part.name.encode("utf-8", "replace")
            digest.update(b"\0%d %d %d " % (part.start, part.end, len(name)) + name)
    return digest.hexdigest()


def _expanded(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DocumentNotFound(f"No home folder for {os.fspath(path)!r}.") from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise _not_found(file) from None
    except IsADirectoryError:
        raise DocumentError(
            f"{str(file)!r} is a folder.", hint="Pass a file, or a list of files."
        ) from None
    except OSError as error:
        raise DocumentError(
            f"{str(file)!r} cannot be read: {error.strerror}.",
            hint="Check the file and its permissions.",
        ) from error


def _means_path(text: str) -> bool:
    if "\n" in text or len(text) > _LONGEST_PATH or not text.strip():
        return False
    _refuse_address(text)
    if os.path.exists(os.path.expanduser(text)):
        return True
    return (
        text.startswith(("~", "./", "../", "/"))
        or (os.sep in text and " " not in text)
        or os.path.splitext(text)[1].lower() in _PATH_SUFFIXES
    )


def _refuse_address(path: str | os.PathLike[str]) -> None:
    if isinstance(path, str) and _ADDRESS.match(path):
        raise DocumentError(
            f"{path!r} is a web address.", hint="Download the page or file first, then pass it."
        )


def _not_found(file: Path) -> DocumentNotFound:
    import difflib

    message = f"No file at {str(file)!r}."
    try:
        names = [entry.name for entry in islice(file.parent.iterdir(), 10_000)]
    except (OSError, ValueError):
        return DocumentNotFound(message)
    near = difflib.get_close_matches(file.name, names, n=3)
    if not near:
        return DocumentNotFound(message)
    listed = ", ".join(repr(name) for name in near)
    return DocumentNotFound(message, hint=f"The folder has {listed}.")
