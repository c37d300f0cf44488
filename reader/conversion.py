"""From the bytes of a file to text: what format they are, and what converter reads it."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

from reader.errors import DocumentError, EmptyDocument, ProtectedDocument, UnreadableDocument
from reader.structure import (
    Heading,
    Page,
    markdown_headings,
    normalised,
    text_headings,
    title_line,
)

Media: TypeAlias = Literal["text", "markdown"]

MARKDOWN_SUFFIXES = frozenset({".md", ".markdown", ".mkd"})
HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml"})
BINARY_SUFFIXES = frozenset({".pdf", ".docx", ".epub"})
PROSE_SUFFIXES = frozenset({"", ".txt", ".text"})

_SAMPLE = 1 << 15
_CONTEXT = 32
_NOT_ASCII = re.compile(rb"[\x80-\xff]\S{0,1000}")
_LARGEST_UNPACKED = 1 << 30
_BOMS = (
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_HTML_START = re.compile(
    r"\s*(?:<\?xml[^>]{0,200}>\s*)?<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE
)
_CONTROLS = re.compile("[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")
_EMBEDDED_IMAGE = re.compile(r"!\[([^\[\]\n]*)\]\(data:[^()\s]*(?: \"[^\"\n]*\")?\)")
_WESTERN = frozenset(
    "àáâäåæçèéêëìíîïñòóôöøùúûüÿœßÀÁÂÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖØÙÚÛÜŒ¡¿«»“”—…•€£¢§°©®ªº½¼¾·\u2018\u2019\u2013\u00d7\u00b4\u00a0\u00ad"
)
# Fonts of an EPUB may be scrambled without the text being protected.
_FONT_SCRAMBLING = (b"http://www.idpf.org/2008/embedding", b"http://ns.adobe.com/pdf/enc#RC")


@dataclass(frozen=True, slots=True)
class Converted:
    """A text with what its format said about it."""

    text: str
    media: Media = "text"
    title: str | None = None
    headings: tuple[Heading, ...] = ()
    pages: tuple[Page, ...] = ()


def convert(data: bytes, *, name: str, suffix: str) -> Converted:
    """Read the bytes of a file; the content decides the format, then the suffix (".txt", "").

    Raises:
        EmptyDocument: there is no text in it.
        ProtectedDocument: it needs a password.
        UnreadableDocument: binary, damaged, or of an unknown format.
    """
    if not data or data.isspace():
        raise EmptyDocument(f"{name} is empty.", hint="Pass a document with text in it.")
    top = data[:1024]
    if top.lstrip().startswith(b"%PDF-") or (suffix == ".pdf" and b"%PDF-" in top):
        converted = _from_pdf(data, name)
    elif data.startswith(b"PK\x03\x04"):
        converted = _from_zip(data, name)
    elif data.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        raise _compound_file(data, name)
    elif suffix in BINARY_SUFFIXES:
        raise UnreadableDocument(f"{name} is damaged, or not a {suffix} file: {_looks_like(data)}.")
    else:
        converted = _from_plain(data, name, suffix)
    if not converted.text or converted.text.isspace():
        raise EmptyDocument(
            f"{name} holds no text.",
            hint=None if converted.pages else "Pass a document with text in it.",
        )
    return converted


def plain(text: str, suffix: str = "") -> Converted:
    """A text as it is, with the headings that a file of this suffix may have."""
    if suffix in MARKDOWN_SUFFIXES:
        return _markdown(text)
    if suffix not in PROSE_SUFFIXES:
        return Converted(text)
    headings, is_markdown = text_headings(text)
    if is_markdown:
        return _markdown(text)
    return Converted(text, title=title_line(text), headings=tuple(headings))


def decode(data: bytes, name: str, *, declared: str | None = None) -> str:
    r"""Text in whatever encoding: byte order mark, UTF-8, the declared one, or the likeliest.

    A text that is UTF-8 but for a few bad bytes keeps U+FFFD in their place.

    Raises:
        UnreadableDocument: the bytes are not text.
    """
    encoding = "utf-8"
    for bom, of_bom in _BOMS:
        if data.startswith(bom):
            data, encoding = data[len(bom) :], of_bom
            break
    else:
        if b"\x00" in data:
            raise UnreadableDocument(f"{name} is not text: {_looks_like(data)}.")
    if encoding == "utf-8" and b"\r" in data:
        # On bytes, which are smaller than the text may become.
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise UnreadableDocument(f"{name} is damaged: it is not {encoding}.") from None
        text = _decode_guessed(data, name, error.start, declared)
    sample = text[:_SAMPLE]
    if len(_CONTROLS.findall(sample)) * 50 > len(sample):
        raise UnreadableDocument(f"{name} is not text: {_looks_like(data)}.")
    return normalised(text)


def _decode_guessed(data: bytes, name: str, bad: int, declared: str | None) -> str:
    """Text that is not quite UTF-8; ``bad`` is where that shows first."""
    # Only the words that are not ASCII tell encodings apart. In no multi-byte encoding is a
    # part of a character white space, so that none is cut.
    words: list[bytes] = []
    at = max(bad - _CONTEXT, 0)
    for match in islice(_NOT_ASCII.finditer(data, bad), _SAMPLE >> 5):
        words.append(data[max(at, match.start() - _CONTEXT) : match.end()])
        at = match.end()
    around = b"".join(words)
    lenient = around.decode("utf-8", "replace")
    broken = lenient.count("\ufffd")
    if sum(not c.isascii() for c in lenient) > 10 * broken:
        return data.decode("utf-8", "replace")
    candidates = [declared] if declared else []
    # The detector takes short or French texts for others; these letters leave little doubt.
    if {c for c in around.decode("cp1252", "replace") if not c.isascii()} <= _WESTERN:
        candidates.append("cp1252")
    from charset_normalizer import from_bytes

    best = from_bytes(around).best()
    if best is not None:
        candidates.append(best.encoding)
    for candidate in candidates:
        try:
            return data.decode(candidate)
        except (UnicodeError, LookupError):
            continue
    raise UnreadableDocument(f"{name} is not text: {_looks_like(data)}.")


def _from_plain(data: bytes, name: str, suffix: str) -> Converted:
    if data.startswith(b"{\\rtf"):
        raise UnreadableDocument(f"{name} is an RTF document.", hint="Save it as .docx or .txt.")
    declared = None
    if suffix in HTML_SUFFIXES:
        declared = _declared_encoding(data)
    text = decode(data, name, declared=declared)
    if suffix in HTML_SUFFIXES or (suffix in PROSE_SUFFIXES and _HTML_START.match(text)):
        return _from_html(text, name)
    return plain(text, suffix)


def _declared_encoding(data: bytes) -> str | None:
    match = re.search(rb"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", data[:4096])
    return match[1].decode("ascii") if match else None


def _markdown(text: str, title: str | None = None) -> Converted:
    headings = tuple(markdown_headings(text))
    if not title and headings:
        title = headings[0].title
    return Converted(text, media="markdown", title=title, headings=headings)


def _from_html(text: str, name: str) -> Converted:
    return _to_markdown("Html", text.encode(), ".html", name)


def _to_markdown(
    format_: Literal["Html", "Docx", "Epub"], data: bytes, extension: str, name: str
) -> Converted:
    """Let markitdown convert; its converters work on the bytes given and fetch nothing."""
    with warnings.catch_warnings():
        # Its parsers warn about odd but readable markup.
        warnings.simplefilter("ignore")
        from markitdown import StreamInfo, converters

        converter = getattr(converters, f"{format_}Converter")()
        try:
            result = converter.convert(
                io.BytesIO(data),
                StreamInfo(extension=extension, charset="utf-8"),
                # No backslashes that the original does not have: quotes must match.
                escape_underscores=False,
                escape_asterisks=False,
            )
        except Exception as error:
            raise UnreadableDocument(
                f"{name} is damaged: it cannot be converted ({type(error).__name__})."
            ) from error
    text = _EMBEDDED_IMAGE.sub(r"\1", normalised(result.markdown))
    return _markdown(text, " ".join((result.title or "").split()) or None)


def _from_zip(data: bytes, name: str) -> Converted:
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            rights = (
                archive.read("META-INF/encryption.xml")
                if "META-INF/encryption.xml" in entries
                else b""
            )
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise UnreadableDocument(f"{name} is damaged: its ZIP container is broken.") from error
    if sum(entry.file_size for entry in entries.values()) > _LARGEST_UNPACKED:
        raise UnreadableDocument(
            f"{name} would unpack to more than {_LARGEST_UNPACKED >> 20} MiB.",
            hint="Convert it to text yourself if you trust it.",
        )
    algorithms = re.findall(rb"EncryptionMethod[^>]*Algorithm=[\"']([^\"']+)", rights)
    if any(entry.flag_bits & 1 for entry in entries.values()) or any(
        algorithm not in _FONT_SCRAMBLING for algorithm in algorithms
    ):
        raise ProtectedDocument(f"{name} is protected.")
    if "word/document.xml" in entries:
        return _to_markdown("Docx", data, ".docx", name)
    if "META-INF/container.xml" in entries:
        return _to_markdown("Epub", data, ".epub", name)
    kind = "a ZIP archive"
    for folder, of_folder in (("xl/", "an Excel workbook"), ("ppt/", "a PowerPoint file")):
        if any(entry.startswith(folder) for entry in entries):
            kind = of_folder
    if "content.xml" in entries:
        kind = "an OpenDocument file"
    raise UnreadableDocument(f"{name} is {kind}.")


def _compound_file(data: bytes, name: str) -> DocumentError:
    """Old Office files, and new ones under a password, share a container."""
    if "EncryptedPackage".encode("utf-16-le") in data:
        return ProtectedDocument(f"{name} is protected by a password.")
    return UnreadableDocument(
        f"{name} is a file of an old Office version.", hint="Save it as .docx or .pdf."
    )


def _looks_like(data: bytes) -> str:
    import magika

    found = magika.Magika().identify_bytes(data).output.description
    return f"it looks like {found.replace('Unknown', 'unknown')}"


def _from_pdf(data: bytes, name: str) -> Converted:
    from reader.pdf import read_pdf

    text, title, headings, pages = read_pdf(data, name)
    return Converted(text, title=title, headings=headings, pages=pages)
