"""The card of notebooks: what it shows, what it escapes, what JSON keeps of it."""

from __future__ import annotations

import pickle
from html.parser import HTMLParser

import pytest
from test_answer import EVIL, full, status

from conftest import tale
from reader import Document
from reader.answers import Answer
from reader.citations import Citation
from reader.coverage import ChunkStatus, Coverage
from reader.evidence import Claim, cite
from reader.html.strip import CELLS, LEAST, strip_of
from reader.quotes import QuoteFinder
from reader.trace import Trace
from scripts import Script, run

VOID = {"line", "rect", "path"}


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.words = ""
        self.marked = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words += data
        if "mark" in self.open:
            self.marked += data


def card(answer: Answer) -> Page:
    page = Page(answer._repr_html_())
    assert page.open == []
    return page


def test_markup_of_a_text_is_shown_as_text():
    cited = full(EVIL, EVIL)
    citation = cited.citations[0].model_copy(update={"before": EVIL, "after": EVIL})
    evil = cited.model_copy(
        update={
            "question": EVIL,
            "model": EVIL,
            "citations": (citation,),
            "trace": Trace(warnings=('"><img src=x onerror=alert(1)>',)),
        }
    )
    page = card(evil)
    assert not {"script", "img"} & set(page.tags)
    assert not [
        name for name in page.attributes if name.startswith("on") or name in ("src", "href")
    ]
    assert page.words.count("<script>alert('x')</script>") == 6
    assert "\x1b" not in page.words
    assert "\u202e" not in page.words


def test_it_shows_all_that_counts():
    words = card(full()).words
    for expected in ("At the Crooked Billet.", "page 12", "40% of the text", "$0.0123", "partial"):
        assert expected in words
    assert "1 of 4 quotes by the model are not in the document" in words


def test_texts_take_the_colours_of_the_page_around_it():
    style = full()._repr_html_().split("<style>")[1].split("</style>")[0]
    assert "@import" not in style
    assert "url(" not in style
    for rule in style.split("}"):
        selector, _, body = rule.partition("{")
        if not selector.strip():
            continue
        assert all(s.strip().startswith(".longdoc-card") for s in selector.split(",")), selector
        colours = [p.split(":")[1] for p in body.split(";") if p.split(":")[0] == "color"]
        assert set(colours) <= {"inherit"} or "legend b" in selector


def test_quoted_words_are_marked_between_the_words_around_them(store):
    answer = run(Script(worker=_quoting, manager="number 333"), store, tale(), chunk_tokens=60)
    [first, *_] = answer.citations
    text = tale()
    assert text[first.start - len(first.before) : first.start] == first.before
    assert text[first.end : first.end + len(first.after)] == first.after
    assert first.before
    assert first.after
    page = card(answer)
    assert "The fact of part 3 is number 333" in page.marked
    assert " ".join(first.after.split()[:5]) in " ".join(page.words.split())


def _quoting(request):
    found = request.messages[0].content.find("The fact of part 3 is number 333.")
    return 'It says "The fact of part 3 is number 333."' if found >= 0 else "Nothing new here."


def test_the_card_of_an_answer_read_from_json_is_the_same(store):
    answer = run(Script(worker=_quoting, manager="number 333"), store, tale(), chunk_tokens=60)
    again = Answer.from_json(answer.to_json())
    assert again == answer
    assert again._repr_html_() == answer._repr_html_()
    assert pickle.loads(pickle.dumps(answer)) == answer
    assert len(pickle.dumps(answer)) < len(answer.to_json()) + 4_000  # without the document


def test_an_answer_of_before_the_words_around_were_kept_has_a_card():
    old = Citation(start=5, end=10, text="quote", match="exact")
    page = card(Answer(question="?", text="a", status="answered", citations=(old,)))
    assert page.marked == "quote"


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("one two three", "", ""),
        ("x" * 300 + " one two three " + "y" * 300, " ", ""),
        ("word " * 100 + "one two three" + " word" * 100, "word " * 32, " word" * 32),
    ],
)
def test_words_around_are_whole_words_of_the_document(text, before, after):
    document = Document.from_text(text)
    quote = Claim("one two three")
    [found] = cite(document, QuoteFinder(text), [quote], question="", answer="").citations
    assert text[found.start - len(found.before) : found.start] == found.before
    assert text[found.end : found.end + len(found.after)] == found.after
    assert (found.before.strip(), found.after.strip()) == (before.strip(), after.strip())
    assert len(found.before) <= 160


def strip(*chunks: ChunkStatus):
    answer = Answer(question="?", text="a", status="partial", coverage=Coverage(chunks=chunks))
    return strip_of(answer)


def test_one_failed_chunk_among_ten_thousand_is_seen():
    found = strip(*(status(i, "failed" if i == 7_123 else "read") for i in range(10_000)))
    [failed] = [bar for bar in found.bars if bar.kind == "failed"]
    assert failed.left == pytest.approx(71.23, abs=100 / CELLS)
    assert not found.gaps


def test_a_few_chunks_read_of_ten_thousand_are_seen_and_so_is_that_most_was_not():
    found = strip(*(status(i, "read" if i == 5_000 else "skipped") for i in range(10_000)))
    [bar] = found.bars
    assert (bar.kind, bar.height) == ("read", LEAST)
    assert found.gaps


def test_the_strip_covers_the_document_without_overlaps():
    kinds = ("read", "skipped", "unread", "failed", "read")
    found = strip(*(status(i, kind) for i, kind in enumerate(kinds)))
    assert [bar.kind for bar in found.bars] == ["read", "unread", "failed", "read"]
    assert [round(bar.left) for bar in found.bars] == [0, 40, 60, 80]
    assert sum(bar.width for bar in found.bars) == pytest.approx(80)


def test_an_answer_without_anything_has_a_card():
    page = card(Answer(question=None, text="", status="not_found"))
    assert "not found" in page.words
    assert "No passage" not in page.words
    unsupported = card(Answer(question="?", text="a", status="answered"))
    assert "No passage of the document was found" in unsupported.words
    assert "svg" not in page.tags
