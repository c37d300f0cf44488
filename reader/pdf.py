"""PDF files: text in reading order, pages, bookmarks; by PDFium."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from reader.errors import ProtectedDocument, UnreadableDocument
from reader.folding import PART
from reader.structure import Heading, Page, normalised

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument  # type: ignore[import-untyped]

# PDFium allows one call at a time in a process.
_PDFIUM = threading.Lock()
_DAMAGED = "Save it again in the program it comes from, or download it once more."
# What programs write for a title: "asaetr.dvi", "Microsoft Word - Lease_v2.docx".
_FILE_NAME = re.compile(
    r"^microsoft \w+ - |^untitled\b|\.(?:dvi|docx?|indd|odt|pdf|p65|ps|qxd|rtf|tex|txt)$",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d{1,6}")
_PAGE_NUMBER = re.compile(r"(?:\b(?:page|pg?|seite|of|von|sur|de)\b|[\W\d_])*", re.IGNORECASE)
_RUNNING = 3  # pages at whose edge a line must stand to be a running head or foot
_FRONT = 40  # pages by which printed numbers may lag behind those of the file


class PdfText(NamedTuple):
    """A PDF's text, its title (None without one), its bookmarks and its pages."""

    text: str
    title: str | None
    headings: tuple[Heading, ...]
    pages: tuple[Page, ...]


def read_pdf(data: bytes, name: str) -> PdfText:
    """Read a PDF.

    A running head or foot stands where it is met first and not on the pages after it, and page
    numbers nowhere, so that a sentence goes on from one page to the next.

    Raises:
        ProtectedDocument: it needs a password.
        UnreadableDocument: it is damaged.
    """
    import pypdfium2

    with _PDFIUM:
        try:
            pdf = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            if error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD:
                raise ProtectedDocument(f"{name} is protected by a password.") from None
            raise UnreadableDocument(f"{name} is a damaged PDF.", hint=_DAMAGED) from error
        try:
            title = " ".join(normalised(pdf.get_metadata_dict().get("Title", "")).split())
            texts = list(_page_texts(pdf, name))
            outline = list(_outline(pdf))
        finally:
            pdf.close()
    texts = _without_running_lines(texts)
    whole = "\n\n".join(filter(None, texts))
    pages: list[Page] = []
    at = 0
    for number, text in enumerate(texts, 1):
        # The blank line between two pages belongs to the first of them.
        end = min(at + len(text) + 2, len(whole)) if text else at
        pages.append(Page(number, at, end))
        at = end
    known = title if title and not _FILE_NAME.search(title) else None
    return PdfText(whole, known, tuple(_headings(whole, pages, outline)), tuple(pages))


def _headings(
    text: str, pages: Sequence[Page], outline: Iterable[tuple[str, int, int]]
) -> Iterator[Heading]:
    """Bookmarks where their words stand on the page, else at the top of it.

    A bookmark behind another one on its page that is not found opens no section: it would take
    the text of the other.
    """
    start = after = 0
    for title, level, index in outline:
        page = pages[index]
        words = r"[\W_]+".join(map(re.escape, PART.findall(title))) or re.escape(title)
        # Print has them in capitals, in small ones, on two lines; a line of their own is best.
        for pattern in (rf"^[^\w\n]*({words})[^\w\n]*$", rf"\b({words})\b"):
            anyhow = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
            if found := anyhow.search(text, max(after, page.start), page.end):
                start, after = found.span(1)
                break
        else:
            if after > page.start:
                continue
            start = after = max(after, page.start)
        yield Heading(title, level, start)


def _page_texts(pdf: PdfDocument, name: str) -> Iterator[str]:
    import pypdfium2

    for i in range(len(pdf)):
        try:
            page = pdf[i]
            text_page = page.get_textpage()
            text = text_page.get_text_range()
            text_page.close()
            page.close()
        except pypdfium2.PdfiumError as error:
            raise UnreadableDocument(
                f"{name} is damaged: page {i + 1} cannot be read.", hint=_DAMAGED
            ) from error
        # PDFium puts U+FFFE where a word was hyphenated at the end of a line.
        text = normalised(text).replace("\ufffe", "").replace("\x00", "\ufffd").strip("\n")
        yield "" if text.isspace() else text


def _outline(pdf: PdfDocument) -> Iterator[tuple[str, int, int]]:
    """Title, level and page index of the PDF's bookmarks, in the order of the pages."""
    last = 0
    for bookmark in pdf.get_toc():
        target = bookmark.get_dest()
        page = None if target is None else target.get_index()
        title = " ".join(normalised(bookmark.get_title()).split())
        if title and page is not None and last <= page < len(pdf):
            last = page
            yield title, bookmark.level + 1, page


def _without_running_lines(texts: Sequence[str]) -> list[str]:
    """Pages without page numbers, and without the heads and feet of the pages before them."""
    pages = [text.split("\n") for text in texts]
    for foot in (False, True):
        kept = [0] * len(pages)  # running lines at this edge of a page that stay
        for _ in range(2):  # a head or foot of two lines, the outer one first
            kinds = _edge(pages, kept, foot)
            often = Counter(kind for found in kinds for kind in found)
            last: dict[str, int] = {}
            for number, (lines, found) in enumerate(zip(pages, kinds, strict=True)):
                running = {kind for kind in found if often[kind] >= _RUNNING}
                # Heads of left and right pages may differ.
                again = any(number - last.get(kind, -3) <= 2 for kind in running)
                if again or any(kind.startswith("\0") for kind in running):
                    del lines[-1 - kept[number] if foot else kept[number]]
                elif running:
                    kept[number] += 1
                last.update(dict.fromkeys(running, number))
    return ["\n".join(lines).strip("\n") for lines in pages]


def _edge(pages: Sequence[Sequence[str]], kept: Sequence[int], foot: bool) -> list[set[str]]:
    """What the outer line of each page may be known by on other pages, behind those kept.

    Without its page number, if it has one: words with a number at the head may be a heading.
    """
    found: list[set[str]] = []
    for number, lines in enumerate(pages):
        kinds: set[str] = set()
        if len(lines) > kept[number] + 1:
            line = " ".join(lines[-1 - kept[number] if foot else kept[number]].split())
            kinds.add(line)
            alone = _PAGE_NUMBER.fullmatch(line) is not None
            for match in _NUMBER.finditer(line) if foot or alone else ():
                lag = number + 1 - int(match[0])
                if abs(lag) <= _FRONT:
                    rest = f"{line[: match.start()]}\0{lag}\0{line[match.end() :]}"
                    kinds.add(f"\0{rest}" if alone else rest)
        found.append(kinds - {""})
    return found
