from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from fpdf import FPDF
from hypothesis import given, settings
from hypothesis import strategies as st

from reader.documents import Document, Section
from reader.errors import (
    DocumentError,
    DocumentNotFound,
    EmptyDocument,
    InputError,
    ProtectedDocument,
    UnreadableDocument,
)

WORDS = "The whale is a mammal. It breathes air.\n"


def make_pdf(pages: list[str], *, title: str = "", password: str = "", outline: bool = False):
    pdf = FPDF()
    pdf.set_font("Helvetica", size=12)
    pdf.set_title(title)
    if password:
        pdf.set_encryption(owner_password="owner", user_password=password)
    for number, text in enumerate(pages, 1):
        pdf.add_page()
        if outline:
            pdf.start_section(f"Topic {number}")
        if text:
            pdf.multi_cell(0, 6, text)
    return bytes(pdf.output())


def make_zip(entries: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return data.getvalue()


def make_docx(body: str) -> bytes:
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    main = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    relations = "application/vnd.openxmlformats-package.relationships+xml"
    return make_zip(
        {
            "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
            f'<Default Extension="rels" ContentType="{relations}"/>'
            f'<Override PartName="/word/document.xml" ContentType="{main}"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship '
            f'Id="r1" Type="{office}/officeDocument" Target="word/document.xml"/></Relationships>',
            "word/document.xml": f'<w:document xmlns:w="{word}"><w:body>{body}</w:body>'
            "</w:document>",
        }
    )


def paragraph(text: str, style: str = "") -> str:
    kind = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{kind}<w:r><w:t>{text}</w:t></w:r></w:p>"


EPUB = {
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="o/c.opf"/></rootfiles></container>',
    "o/c.opf": '<package xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
    "<dc:title>The Sea</dc:title></metadata><manifest>"
    '<item id="b" href="b.xhtml"/><item id="a" href="a.xhtml"/></manifest>'
    '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>',
    "o/a.xhtml": '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body>'
    "<h1>Tides</h1><p>They come twice a_day.</p></body></html>",
    "o/b.xhtml": '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body>'
    "<h1>Waves</h1><p>Wind makes them.</p></body></html>",
}


def titles(document: Document) -> list[tuple[str, int]]:
    return [(section.title, section.level) for section in document.sections]


# --- what a source means


@pytest.mark.parametrize("given_as", ["string", "path", "home", "uppercase"])
def test_a_path_is_read_in_every_way_to_write_it(given_as, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ("My Book.TXT" if given_as == "uppercase" else "book one.txt")
    file.write_text(WORDS)
    source = {"path": file, "home": "~/book one.txt"}.get(given_as, str(file))
    document = Document.load(source)
    assert (document.text, document.name) == (WORDS, file.name)
    assert document.source == str(file)
    assert document.title == file.stem


@pytest.mark.parametrize(
    "text",
    [
        "Just a sentence, 3/4 of it true.",
        "one line\nof/path.txt",
        "a/" * 513,
        "No file ends like this .",
        "word",
    ],
)
def test_other_strings_are_texts(text):
    document = Document.load(text)
    assert document.text == text
    assert document.source is None


@pytest.mark.parametrize("path", ["missing.pdf", "no/such", "/none here", "~/none", "./n", "a/\0b"])
def test_a_missing_path_is_not_taken_for_a_text(path):
    with pytest.raises(DocumentNotFound, match="No file at"):
        Document.load(path)


def test_a_missing_path_names_its_neighbours(tmp_path):
    (tmp_path / "walden.txt").write_text(WORDS)
    with pytest.raises(DocumentNotFound) as caught:
        Document.load(str(tmp_path / "waldne.txt"))
    assert "'walden.txt'" in caught.value.hint
    with pytest.raises(DocumentNotFound, match="from_text"):
        Document.load(tmp_path / "no folder" / "xyz.txt")


def test_a_file_wins_over_a_text_of_the_same_letters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes on whales").write_text(WORDS)
    document = Document.load("notes on whales")
    assert document.text == WORDS
    assert document.source == str(tmp_path / "notes on whales")


def test_a_document_and_bytes_and_lists_load():
    document = Document.from_text(WORDS)
    assert Document.load(document) is document
    assert Document.load(WORDS.encode()).text == WORDS
    assert Document.load(bytearray(WORDS, "utf-8")).text == WORDS
    assert [p.name for p in Document.load([document, WORDS, WORDS.encode()]).parts] == [
        "text",
        "text (2)",
        "document",
    ]


@pytest.mark.parametrize("source", [None, 7, {"a"}, ["text", 3]])
def test_other_types_are_refused(source):
    with pytest.raises(InputError, match="cannot be made of"):
        Document.load(source)


@pytest.mark.parametrize("load", [Document.load, Document.from_path])
def test_web_addresses_are_never_fetched(load):
    with pytest.raises(DocumentError, match="Download"):
        load("https://127.0.0.1:9/page.html")


def test_a_folder_is_named_as_one(tmp_path):
    with pytest.raises(DocumentError, match="is a folder"):
        Document.load(str(tmp_path))


def test_a_file_without_permission(tmp_path, monkeypatch):
    file = tmp_path / "book.txt"
    file.write_text(WORDS)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DocumentError, match=r"Permission denied.*permissions"):
        Document.load(file)


@pytest.mark.parametrize("source", ["", " \n\t", b"", b"  \n", b"\xef\xbb\xbf \n", [], ()])
def test_nothing_to_read_is_an_empty_document(source):
    with pytest.raises(EmptyDocument) as caught:
        Document.load(source)
    assert "scanned" not in caught.value.hint


# --- text, encodings, newlines


@settings(deadline=None)
@given(st.text())
def test_any_text_comes_back_but_for_its_newlines(text):
    expected = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        with pytest.raises(EmptyDocument):
            Document.from_text(text)
        return
    document = Document.from_text(text)
    assert document.text == expected
    assert document.sections == tuple(sorted(document.sections, key=lambda s: s.start))
    assert all(0 <= s.start < s.end <= len(document) for s in document.sections)


@settings(deadline=None)
@given(
    st.text(alphabet="#=-` \nAb1.CHAPTERchapter*_", max_size=80), st.sampled_from(["x.md", "x.txt"])
)
def test_sections_nest(text, name):
    if not text.strip():
        return
    document = Document.from_text(text, name=name)
    for at in range(len(document)):
        inside = [s for s in document.sections if s.start <= at < s.end]
        assert document.section_at(at) == (inside[-1] if inside else None)
        levels = [s.level for s in inside]
        assert levels == sorted(set(levels))


@settings(deadline=None)
@given(
    st.text(
        st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs", "Cc"]), min_size=1
    )
)
def test_utf8_bytes_come_back(text):
    if text.isspace():
        return
    assert Document.from_bytes(text.encode(), name="a.log").text == text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
def test_byte_order_marks(encoding):
    text = "Zoë came.\r\nThen 🐋 too.\rEnd"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    document = Document.load((mark + text).encode(encoding))
    assert document.text == "Zoë came.\nThen 🐋 too.\nEnd"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Élise était à la fenêtre, et le garçon mangeait une pêche sucrée. " * 20),
        ("cp1252", "He said “naïve”, once. "),
        ("cp1250", "Zażółć gęślą jaźń, powiedział łagodnie żółw do świerszcza. " * 20),
        ("cp1251", "Мой дядя самых честных правил, когда не в шутку занемог. " * 20),
        ("shift_jis", "吾輩は猫である。名前はまだ無い。どこで生れたか見当がつかぬ。" * 20),
    ],
)
def test_old_encodings_are_recognised(encoding, text):
    plain = "Plain letters first. " * 4_000
    assert Document.load((plain + text).encode(encoding)).text == plain + text


def test_one_bad_byte_does_not_spoil_a_utf8_text():
    text = "Zoë naïvely ate crème brûlée, señor. " * 50
    document = Document.load(text.encode() + b"\xff" + text.encode())
    assert document.text == text + "\ufffd" + text


def test_surrogates_never_get_in():
    assert Document.from_text("a \ud83d\udc0b b \ud800 c").text == "a 🐋 b \ufffd c"


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)), "PNG"),
        (b"abc\0def" * 9, "not text"),
        (bytes(range(1, 32)) * 9, "not text"),
        (b"\xff\xfeabc", "utf-16"),
        (b"{\\rtf1\\ansi Hello}", "RTF"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old Office"),
        (b"PK\x03\x04" + bytes(200), "ZIP container"),
        (make_zip({"xl/workbook.xml": "<x/>"}), "Excel"),
        (make_zip({"ppt/a.xml": "<x/>"}), "PowerPoint"),
        (make_zip({"content.xml": "<x/>"}), "OpenDocument"),
        (make_zip({"a.txt": "text"}), "ZIP archive"),
        (b"%PDF-1.7\n" + bytes(100), "damaged PDF"),
    ],
)
def test_what_is_no_text_is_said_to_be_what_it_is(data, looks):
    with pytest.raises(UnreadableDocument, match=looks):
        Document.load(data)


# --- sections and titles


def test_markdown_headings(tmp_path):
    file = tmp_path / "guide.md"
    file.write_text(
        "intro\n\n# The *Guide* #\n\ntext\n## [Use](a.html)\n```sh\n# no heading\n```\n"
        "Set up\n======\n\nBelow\n-----\n\n| a |\n|---|\n\npara\nline\n---\n#tag\n"
    )
    document = Document.load(file)
    assert titles(document) == [("The Guide", 1), ("Use", 2), ("Below", 2)]
    assert document.media == "markdown"
    guide, use, below = document.sections
    assert document.text[guide.start :].startswith("# The")
    assert guide.end == below.end == len(document)
    assert use.end == below.start
    assert document.section_at(0) is None
    assert document.section_at(use.start) == use


def test_plain_text_headings():
    text = (
        "Title: The Sea\n\nPREFACE\n\nWords.\n\nBOOK II\n\nCHAPTER I.\nIn which it rains\n\n"
        "Chapter 3 was long, he said.\n\nChapter 2. The Storm\n\nIt blew.\nCHAPTER 9\n"
        "no blank line\n\n"
        "  Letter 4  \n\nDear sister,\n\nII. THE RIVER\n\nI saw. IT WAS.\n\n"
        "FEDERALIST No. 3. Union\n\nx"
    )
    document = Document.from_text(text)
    assert titles(document) == [
        ("PREFACE", 2),
        ("BOOK II", 1),
        ("CHAPTER I. In which it rains", 2),
        ("Chapter 2. The Storm", 2),
        ("Letter 4", 2),
        ("II. THE RIVER", 2),
        ("FEDERALIST No. 3. Union", 2),
    ]
    assert (document.title, document.media) == ("The Sea", "text")
    book = document.sections[1]
    assert text[book.start : book.start + 7] == "BOOK II"
    assert document.section_at(text.index("It blew")).title == "Chapter 2. The Storm"


def test_a_heading_on_the_first_line_and_no_other():
    document = Document.from_text("CHAPTER ONE")
    assert document.sections == (Section("CHAPTER ONE", 1, 0, 11),)


def test_markdown_is_recognised_in_a_text():
    document = Document.from_text("# Whales\n\nBig.\n\n## Teeth\nMany.")
    assert titles(document) == [("Whales", 1), ("Teeth", 2)]
    assert (document.media, document.title) == ("markdown", "Whales")


def test_code_has_no_sections():
    document = Document.from_text("import os\n\n# Set up\n\nPREFACE\n\n", name="a.py")
    assert (document.sections, document.media, document.title) == ((), "text", "a")


def test_a_given_title_wins():
    document = Document.from_text("Title: A\n\nb", title="C", name="d.txt")
    assert (document.title, document.name) == ("C", "d.txt")


# --- formats


def test_html(tmp_path):
    file = tmp_path / "page.html"
    image = "<img alt='A ship' src='data:image/png;base64,QUJD'>"
    file.write_text(
        f"<html><head><title>The\n Ship</title><script>x()</script></head><body><h1>Hull</h1>"
        f"<p>Planks of snake_case * oak.</p>{image}<h2>Keel</h2><table><tr><th>a</th></tr>"
        "<tr><td>1</td></tr></table></body></html>"
    )
    document = Document.load(file)
    assert titles(document) == [("Hull", 1), ("Keel", 2)]
    assert (document.title, document.media) == ("The Ship", "markdown")
    assert "Planks of snake_case * oak." in document.text
    assert "A ship" in document.text
    assert "| 1 |" in document.text
    assert "base64" not in document.text
    assert "x()" not in document.text


def test_html_is_recognised_without_a_name_and_in_its_own_encoding(tmp_path):
    assert Document.load(b"<!DOCTYPE html><p>One</p>").text == "One"
    page = "<html><meta charset=iso-8859-2><body>Łódź</body></html>"
    assert Document.from_bytes(page.encode("iso-8859-2"), name="a.htm").text == "Łódź"
    source = "<html><p>One</p></html>"
    assert Document.from_bytes(source.encode(), name="a.jinja").text == source
    assert Document.from_text(source).text == source


def test_html_nested_too_deep_for_a_converter_still_gives_its_text():
    page = "<html><body>" + "<div>" * 3_000 + "treasure" + "</div>" * 3_000
    assert "treasure" in Document.from_bytes(page.encode(), name="a.html").text


def test_docx():
    data = make_docx(
        paragraph("Voyage", "Heading1") + paragraph("We sailed.") + paragraph("Storm", "Heading2")
    )
    for name in ("trip.docx", "trip.txt", None):
        document = Document.from_bytes(data, name=name)
        assert titles(document) == [("Voyage", 1), ("Storm", 2)]
        assert "We sailed." in document.text
        assert document.title == "Voyage"


def test_epub(tmp_path):
    file = tmp_path / "sea.epub"
    file.write_bytes(make_zip(EPUB))
    document = Document.load(file)
    assert document.title == "The Sea"
    assert titles(document) == [("Tides", 1), ("Waves", 1)]
    assert "They come twice a_day." in document.text


def test_pdf_pages_title_and_outline(tmp_path):
    file = tmp_path / "sea.txt"
    file.write_bytes(
        make_pdf(["Topic 1\nFirst words.", "", "Second words."], title="On the Sea", outline=True)
    )
    document = Document.load(file)
    assert document.title == "On the Sea"
    assert [page.number for page in document.pages] == [1, 2, 3]
    first, empty, last = document.pages
    assert document.text[first.start : first.end] == "Topic 1\nFirst words.\n\n"
    assert empty.start == empty.end == last.start
    assert document.text[last.start : last.end] == "Second words."
    assert document.page_at(document.text.index("Second")).number == 3
    assert document.page_at(len(document)) is None
    assert titles(document)[0] == ("Topic 1", 1)
    assert document.section_at(document.text.index("Second")).title == "Topic 3"


def with_bookmarks(pages: list[tuple[str, list[str]]]) -> bytes:
    """A PDF whose pages have bookmarks that say it otherwise than the page does."""
    pdf = FPDF()
    pdf.set_font("Helvetica", size=12)
    for text, bookmarks in pages:
        pdf.add_page()
        for name in bookmarks:
            pdf.start_section(name)
        pdf.multi_cell(0, 6, text)
    return bytes(pdf.output())


def test_bookmarks_find_their_headings_however_they_are_printed():
    document = Document.load(
        with_bookmarks(
            [
                (
                    "See 1 Introduction.\n1 INTRODUCTION\nFirst.\n2 The 'Teaser'\nFigure\nSecond.",
                    ["1 Introduction", "2 The ``Teaser'' Figure", "3 Not printed"],
                ),
                ("Third.\nREFERENCES\nFourth.", ["On this page", "References"]),
            ]
        )
    )
    text = document.text
    assert [(s.title, text[s.start :].split("\n")[0]) for s in document.sections] == [
        ("1 Introduction", "1 INTRODUCTION"),
        ("2 The ``Teaser'' Figure", "2 The 'Teaser'"),
        ("On this page", "Third."),
        ("References", "REFERENCES"),
    ]
    assert document.section_at(text.index("Second")).title == "2 The ``Teaser'' Figure"


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("asaetr.dvi", "lease"),
        ("Microsoft Word - Lease v2.docx", "lease"),
        ("untitled", "lease"),
        ("Vol. 2", "Vol. 2"),
    ],
)
def test_a_title_that_is_a_file_name_is_none(title, shown, tmp_path):
    file = tmp_path / "lease.pdf"
    file.write_bytes(make_pdf(["Words."], title=title))
    assert Document.load(file).title == shown


def test_a_sentence_goes_on_from_page_to_page_without_heads_and_feet():
    sentence = ["The keeper of the light was", "called Oren Tallis and lived", "alone."]
    pages = [
        f"Lamps and Keepers\nYear {1700 + n}.\n{part}\nReport of May, sheet {n}\n- {n + 4} -"
        for n, part in enumerate(sentence, 1)
    ]
    document = Document.load(make_pdf([*pages, "Lesson 4\nRead.", "Lesson 5\nRead."]))
    texts = [document.text[page.start : page.end] for page in document.pages]
    assert texts[0] == f"Lamps and Keepers\nYear 1701.\n{sentence[0]}\nReport of May, sheet 1\n\n"
    assert texts[1:] == [
        f"Year 1702.\n{sentence[1]}\n\n",
        f"Year 1703.\n{sentence[2]}\n\n",
        "Lesson 4\nRead.\n\n",
        "Lesson 5\nRead.",
    ]


def test_what_only_looks_like_a_running_line_stays():
    lessons = [f"Lesson {n}\nWords.\nAnswer {n * 7}" for n in range(1, 6)]
    apart = ["Agreed.\nWords one.", "Words two.\nNo words.", "Three."] * 4
    for pages in (lessons, apart):
        document = Document.load(make_pdf(pages))
        assert document.text == "\n\n".join(pages)


def test_pages_of_pictures_are_counted():
    document = Document.load(make_pdf(["A title.", "", "", "Words."]))
    assert document.pages_without_text == 2
    assert Document.load(WORDS).pages_without_text == 0


def test_a_scanned_pdf_asks_for_text_recognition():
    with pytest.raises(EmptyDocument, match="text recognition"):
        Document.load(make_pdf(["", ""]))


def test_words_hyphenated_by_a_pdf_are_whole():
    assert "document" in Document.load(make_pdf(["A docu-\nment of words."])).text


def test_a_damaged_pdf_says_what_to_do():
    with pytest.raises(UnreadableDocument, match=r"damaged PDF\. Save it again"):
        Document.load(make_pdf([WORDS] * 3)[:900])


def test_headings_of_a_contract():
    text = "ARTICLE 1. Term\n\nNine years.\n\nSCHEDULE A. Rent\n\nMuch.\n\nANNEX II: Keys\n\nFive."
    found = Document.load(text).sections
    assert [s.title for s in found] == ["ARTICLE 1. Term", "SCHEDULE A. Rent", "ANNEX II: Keys"]


def test_protected_files():
    office = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le")
    drm = "<e><EncryptionMethod Algorithm='http://www.w3.org/2001/04/xmlenc#aes256-cbc'/></e>"
    for data in (
        make_pdf(["secret"], password="sesame"),
        office,
        make_zip({**EPUB, "META-INF/encryption.xml": drm}),
    ):
        with pytest.raises(ProtectedDocument, match="password"):
            Document.load(data)


def test_an_epub_with_scrambled_fonts_is_not_protected():
    fonts = "<e><EncryptionMethod Algorithm='http://www.idpf.org/2008/embedding'/></e>"
    assert "Wind" in Document.load(make_zip({**EPUB, "META-INF/encryption.xml": fonts})).text


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.pdf", b"<html>Log in first</html>", "not a .pdf file"),
        ("a.docx", b"plain words", "not a .docx file"),
        ("a.docx", make_zip({"word/document.xml": "<broken"}), "damaged"),
        ("a.epub", make_zip({"META-INF/container.xml": "<broken"}), "damaged"),
    ],
)
def test_damaged_files(name, data, says):
    with pytest.raises(UnreadableDocument, match=says):
        Document.from_bytes(data, name=name)


def test_a_file_that_unpacks_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("reader.conversion._LARGEST_UNPACKED", 100)
    with pytest.raises(UnreadableDocument, match="unpack"):
        Document.load(make_docx(paragraph("word " * 100)))


# --- identity


def test_the_hash_is_that_of_the_text(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(WORDS.replace("\n", "\r\n").encode())
    one, two = Document.load(tmp_path / "a.txt"), Document.load(tmp_path / "b.txt")
    assert one.sha256 == hashlib.sha256(WORDS.encode()).hexdigest()
    assert one == two
    assert len({one, two, Document.from_text(WORDS)}) == 1
    assert one != Document.from_text(WORDS + "!")
    assert one != WORDS
    long = "é" * 3_000_000
    assert Document.from_text(long).sha256 == hashlib.sha256(long.encode()).hexdigest()


def test_a_document_does_not_change_and_does_not_show_its_text():
    document = Document.from_text("# Secret plan\n\nAttack at dawn.", name="plan.md")
    with pytest.raises(FrozenInstanceError):
        document.text = ""
    assert "plan.md" in repr(document)
    assert "30 characters" in repr(document)
    assert "Secret" not in repr(document)
    assert "dawn" not in repr(document)
    assert len(document) == 30
    again = pickle.loads(pickle.dumps(document))
    assert again == document
    assert again.sections == document.sections


# --- collections


def test_a_collection_locates_its_parts(tmp_path):
    for folder, text in (("a", "# One\n\nalpha"), ("b", "# Two\n\nbeta")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "read.md").write_text(text)
    files = [tmp_path / "a" / "read.md", str(tmp_path / "b" / "read.md")]
    document = Document.load(files)
    assert document.text == "# One\n\nalpha\n\n# Two\n\nbeta"
    assert [part.name for part in document.parts] == ["read.md", "read.md (2)"]
    assert [part.title for part in document.parts] == ["One", "Two"]
    assert titles(document) == [("One", 1), ("Two", 1)]
    assert document.sections[0].end == document.parts[0].end
    assert document.media == "markdown"
    assert document.source == "\n".join(map(str, files))
    start = document.text.index("beta")
    assert document.locate(start, start + 4) == ("read.md (2)", 7, 11)
    assert document.part_at(start).name == "read.md (2)"
    gap = document.parts[0].end
    assert document.part_at(gap) is None
    assert document.section_at(gap) is None
    assert document.locate(gap, gap + 7) == ("read.md (2)", 0, 5)
    assert document.locate(gap - 2, gap + 7) == ("read.md", 10, 12)
    assert document.locate(len(document), len(document)) == ("read.md (2)", 11, 11)
    for wrong in ((-1, 2), (3, 2), (0, len(document) + 1)):
        with pytest.raises(IndexError):
            document.locate(*wrong)


def test_a_collection_of_pdfs_counts_pages_by_part():
    pdf = make_pdf(["one", "two"])
    document = Document.collection([pdf, WORDS, pdf])
    assert [page.number for page in document.pages] == [1, 2, 1, 2]
    assert document.page_at(document.text.index("whale")) is None
    assert document.page_at(document.text.rindex("two")).number == 2
    assert document.source is None


def test_a_collection_is_known_by_its_parts():
    parts = [Document.from_text(text, name=name) for name, text in (("a", "x"), ("b", "y\n\nz"))]
    both = Document.collection(parts)
    moved = Document.collection(
        [Document.from_text("x\n\ny", name="a"), Document.from_text("z", name="b")]
    )
    renamed = Document.collection([parts[0], Document.from_text("y\n\nz", name="c")])
    assert both.text == moved.text == renamed.text
    assert len({both, moved, renamed, Document.from_text(both.text)}) == 4
    assert both == Document.collection([Document.from_text("x", name="a"), parts[1]])
    assert Document.collection([parts[0]]) is parts[0]
    nested = Document.collection([both, parts[0]], title="All")
    assert [part.name for part in nested.parts] == ["a", "b", "a (2)"]
    assert nested.title == "All"


def test_an_unreadable_part_fails_the_collection(tmp_path):
    with pytest.raises(DocumentNotFound, match=r"gone\.txt"):
        Document.load([WORDS, tmp_path / "gone.txt"])


@settings(deadline=None)
@given(st.lists(st.text(min_size=1).filter(lambda t: not t.isspace()), min_size=1, max_size=5))
def test_parts_tile_the_text_apart_from_the_separators(texts):
    documents = [Document.from_text(text) for text in texts]
    whole = Document.collection(documents)
    assert [whole.text[p.start : p.end] for p in whole.parts] == [d.text for d in documents]
    gaps = [(a.end, b.start) for a, b in zip(whole.parts, whole.parts[1:], strict=False)]
    assert [whole.text[a:b] for a, b in gaps] == ["\n\n"] * (len(texts) - 1)
    assert (whole.parts[0].start, whole.parts[-1].end) == (0, len(whole))
    for document, part in zip(documents, whole.parts, strict=True):
        moved = [s for s in whole.sections if part.start <= s.start < part.end]
        assert [s.title for s in moved] == [s.title for s in document.sections]
        assert all(s.end <= part.end for s in moved)
        assert whole.locate(part.start, part.end) == (part.name, 0, len(document))


# --- cost


def test_converters_are_imported_only_when_needed():
    code = (
        "import sys; from reader.documents import Document; Document.load('a\\nb'); "
        "print([m for m in ('markitdown','pypdfium2','bs4','magika','charset_normalizer') "
        "if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ran.stdout.strip() == "[]"


def test_memory_for_a_large_text_stays_near_its_size(tmp_path):
    import tracemalloc

    file = tmp_path / "large.txt"
    chapter = "CHAPTER 1\n\n" + "It was a calm sea and a prosperous voyage.\n" * 500 + "\n"
    file.write_text(chapter * 400)
    size = file.stat().st_size
    tracemalloc.start()
    try:
        document = Document.load(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(document.sections) == 400
    # The bytes and the text, and a slice of it; not lists of lines.
    assert peak < 2.5 * size
