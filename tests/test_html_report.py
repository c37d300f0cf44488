"""The reading report: what it holds, its size, and a real browser that opens it."""

from __future__ import annotations

import html
import json
import re
from itertools import combinations, pairwise
from pathlib import Path

import pytest

import reader
from browser import CHROMIUM, chromium
from conftest import tale
from reader import Document, Reader, Store
from reader.answers import Answer, origin_of
from reader.budget import CallRecord, Usage
from reader.citations import Citation
from reader.coverage import ChunkStatus, Coverage
from reader.errors import InvalidOption, NotWritten
from reader.html.memory import timelines
from reader.html.passages import AROUND, SHOWN, shown
from reader.html.report import report_page
from reader.html.steps import calls_of, lanes, shown_steps
from reader.html.ways import graph_of
from reader.testing import FunctionModel
from reader.trace import Place, Step, Trace
from report_runs import (
    FACT,
    attention_run,
    graph_run,
    lighthouse,
    memory_run,
    overwriting_run,
    tree_run,
)
from scripts import Script, run

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def words(page: str) -> str:
    body = re.sub(r"<(style|script)>.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def ids(page: str) -> list[str]:
    return re.findall(r'\bid="([^"]+)"', page)


def coa(store: Store, **options) -> Answer:
    """A chain of workers; one of the two quotes that travel on stands in the document."""
    note = 'It says "The fact of part 1 is number 111." and "a dragon slept in the hall".'
    script = Script(worker=note, manager="number 111")
    return run(script, store, tale(), chunk_tokens=60, **options)


# What it holds ------------------------------------------------------------------------------


def test_every_link_leads_somewhere_and_no_name_is_given_twice(store, tmp_path):
    for answer in (
        coa(store),
        graph_run(store),
        tree_run(store),
        memory_run(store),
        overwriting_run(store),
        attention_run(store, tmp_path),
    ):
        page = report_page(answer)
        names = ids(page)
        assert len(names) == len(set(names)), answer.strategy
        wanted = set(re.findall(r'href="#([^"]+)"', page))
        assert wanted <= set(names), answer.strategy
        assert {f"cite-{n}" for n in range(1, len(answer.citations) + 1)} <= wanted


def test_it_shows_answer_citation_steps_and_cost(store):
    said = words(report_page(coa(store)))
    for expected in (
        "What is the fact of part 3?",
        "number 111",
        "The fact of part 1 is number 111.",
        "word for word",
        "1 of 2 quotes by the model are not in the document and were dropped",
        "Read 5 of 5 chunks, 100% of the text.",
        "1. worker of chunk 1",
        "6. manager",
        "6 calls",
        "The text",
    ):
        assert expected in said, expected


def test_a_step_has_time_and_tokens_only_where_it_is_certain_whose_they_are(store):
    answer = coa(store)
    assert calls_of(answer) == [0, 1, 2, 3, 4, 5]
    assert len(answer.trace.calls) == answer.usage.calls
    assert sum(c.prompt_tokens for c in answer.trace.calls) == answer.usage.prompt_tokens
    step = Step(purpose="worker", tokens=9)
    at_once = [_call("worker", 0.0, 5.0, 9), _call("worker", 1.0, 5.0, 9)]
    both = answer.model_copy(update={"trace": Trace(steps=(step, step), calls=tuple(at_once))})
    assert calls_of(both) == [None, None]
    after = [_call("worker", 0.0, 1.0, 9), _call("worker", 1.0, 5.0, 9)]
    serial = answer.model_copy(update={"trace": Trace(steps=(step, step), calls=tuple(after))})
    assert calls_of(serial) == [0, 1]
    other = step.model_copy(update={"path": 1})
    paths = answer.model_copy(update={"trace": Trace(steps=(step, other), calls=tuple(after))})
    assert calls_of(paths) == [None, None]
    asked_again = answer.model_copy(update={"trace": Trace(steps=(step,), calls=tuple(after))})
    assert calls_of(asked_again) == [None]


def _call(purpose: str, began: float, seconds: float, tokens: int) -> CallRecord:
    return CallRecord(
        purpose=purpose, began=began, seconds=seconds, prompt_tokens=5, completion_tokens=tokens
    )


def test_calls_at_once_are_drawn_on_lines_of_their_own():
    found = lanes([_call("a", 0.0, 2.0, 1), _call("a", 1.0, 2.0, 1), _call("a", 2.5, 1.5, 1)])
    assert [lane.row for lane in found] == [0, 1, 0]
    assert [lane.left for lane in found] == [0.0, 25.0, 62.5]


def test_replies_from_the_store_say_so(store):
    coa(store)
    model = FunctionModel(lambda r: "never asked", identity="script", window=2048)
    with Reader(model, store=store, keep_prompts=True) as r:
        again = r.answer(tale(), "What is the fact of part 3?", chunk_tokens=60)
    assert model.requests == []
    assert [c.cached for c in again.trace.calls] == [True] * 6
    assert "from the store" in words(report_page(again))


def test_the_way_through_a_tree_and_a_graph_is_told_step_by_step(store):
    said = words(report_page(tree_run(store)))
    assert re.search(r"triage at chunks 1 to 24 → chunks \d+ to \d+", said)
    assert "read chunk 13" in said
    assert "About part 13 of the story." in said
    said = words(report_page(graph_run(store)))
    assert "neighbors at part 1 → road" in said
    assert "path 2: neighbors at part 5 → fact" in said


def test_the_memory_shows_what_was_changed_dropped_and_lost(store):
    answer = memory_run(store)
    [line] = timelines(answer, None)
    assert [entry.state for entry in line.entries if entry.last.kind == "fact"] == [
        "changed",
        "dropped",
        "kept",
        "kept",
    ]
    assert "dropped: He left." in words(report_page(answer))
    [line] = timelines(overwriting_run(store), None)
    second = line.versions[1]
    assert (second.new, second.lost) == (1, 1)
    assert [c.text for c in second.changes if c.kind == "lost"] == ["Bob J. Smith is a smith."]


def test_the_memory_of_an_answer_read_from_json_is_found_in_its_store(store):
    answer = Answer.from_json(memory_run(store).to_json())
    assert "He left." not in words(report_page(answer))
    assert "He left." in words(report_page(answer, store=store))
    assert "He left." in words(report_page(answer, store=store.folder))


def test_attention_is_a_score_a_passage_highest_at_the_fact(store, tmp_path):
    answer = attention_run(store, tmp_path)
    scored = [c for c in answer.coverage.chunks if c.score is not None]
    best = max(scored, key=lambda c: c.score)
    assert len(scored) == len(answer.coverage.chunks)
    assert FACT in lighthouse()[best.start : best.end]
    assert Answer.from_json(answer.to_json()) == answer
    assert f"chunk {best.index + 1} , score" in words(report_page(answer))


@pytest.mark.parametrize("method", ["infiniretri", "attrieval", "gemfilter", "sorting"])
def test_other_methods_have_scores_too(store, tmp_path, method):
    answer = attention_run(store, tmp_path, method=method)
    assert any(c.score is not None for c in answer.coverage.chunks)


def test_forced_replies_and_missed_chunks_are_warned_of_with_links():
    chunks = (
        ChunkStatus(index=0, start=0, end=50, outcome="read"),
        ChunkStatus(index=1, start=50, end=90, outcome="failed", reason="the server gave 500"),
    )
    steps = (
        Step(purpose="worker", chunk=0, text="a", level="forced"),
        Step(purpose="manager", text="b", finish_reason="length"),
    )
    answer = Answer(
        question="?",
        text="a",
        status="partial",
        coverage=Coverage(chunks=chunks),
        trace=Trace(steps=steps),
    )
    page = report_page(answer, document="x" * 40 + "\n" + "y" * 60)
    said = words(page)
    assert "No passage of the document was found that the answer rests on." in said
    assert "1 replies were unusable and replaced by the strategy's default. step 1" in said
    assert "1 replies were cut off at their cap. step 2" in said
    assert "1 chunk could not be read: the server gave 500 chunk 2" in said
    assert 'href="#chunk-1"' in page


# Text and size ------------------------------------------------------------------------------


def long_answer(document: Document, chunks: int, *, read: int | None = None) -> Answer:
    """Everything read in so many chunks, three citations, long replies."""
    size = len(document.text) // chunks
    statuses = tuple(
        ChunkStatus(
            index=i,
            start=i * size,
            end=(i + 1) * size if i < chunks - 1 else len(document.text),
            outcome="read" if read is None or i < read else "skipped",
            score=i / chunks,
        )
        for i in range(chunks)
    )
    at = (1000, len(document.text) // 2, len(document.text) - 2000)
    citations = tuple(
        Citation(start=a, end=a + 80, text=document.text[a : a + 80], match="exact") for a in at
    )
    steps = tuple(
        Step(purpose="worker", chunk=i, text=f"note {i} <b> & " * 300, tokens=900)
        for i in range(chunks)
    )
    calls = tuple(_call("worker", i * 2.0, 2.0, 900) for i in range(chunks))
    return Answer(
        question="What?",
        text="That.",
        status="answered",
        citations=citations,
        coverage=Coverage(chunks=statuses),
        usage=Usage(calls=chunks),
        trace=Trace(steps=steps, calls=calls, options={"window": 8192}),
        strategy="coa",
        sha256=document.sha256,
    )


@pytest.mark.parametrize("chunks", [200, 10_000])
def test_a_million_tokens_give_a_file_under_5_mb(chunks):
    document = Document.from_text('The "wind" & the sea <blew> on. ' * 130_000)
    assert len(document.text) > 4_000_000
    page = report_page(long_answer(document, chunks), document=document)
    assert len(page.encode()) < 5_000_000
    assert page.count('id="cite-') == 3


def test_text_around_evidence_is_whole_however_long_the_document(store):
    document = Document.from_text("The wind & the sea blew on and on. " * 130_000)
    answer = long_answer(document, 200)
    found = shown(document, answer.citations, answer.coverage.chunks)
    total = sum(len(piece.text) for p in found.passages for piece in p.pieces)
    assert total <= SHOWN + 10 * AROUND
    for citation in answer.citations:
        [home] = [p for p in found.passages if p.start <= citation.start < p.end]
        assert home.start <= citation.start - AROUND + 40
        assert home.end >= citation.end + AROUND - 40
    left_out = sum(p.skipped for p in found.passages) + found.rest
    assert total + left_out == len(document.text)


def test_a_short_document_that_was_read_is_shown_whole_with_its_chunks(store):
    answer = coa(store)
    found = shown(Document.from_text(tale()), answer.citations, answer.coverage.chunks)
    [passage] = found.passages
    assert "".join(piece.text for piece in passage.pieces) == tale()
    assert found.chunks == frozenset(range(5))


def test_citations_that_overlap_are_marked_each_from_its_own_beginning():
    document = Document.from_text("one two three four five")
    citations = (
        Citation(start=4, end=13, text="two three", match="exact"),
        Citation(start=8, end=18, text="three four", match="exact"),
        Citation(start=8, end=13, text="three", match="exact"),
    )
    [passage] = shown(document, citations, ()).passages
    assert [(p.text, p.cited, p.begins) for p in passage.pieces] == [
        ("one ", (), ()),
        ("two ", (1,), (1,)),
        ("three", (1, 2, 3), (2, 3)),
        (" four", (2,), ()),
        (" five", (), ()),
    ]
    page = report_page(
        Answer(question="?", text="a", status="answered", citations=citations), document=document
    )
    assert sorted(i for i in ids(page) if i.startswith("cite-")) == ["cite-1", "cite-2", "cite-3"]


def test_thousands_of_steps_are_shortened_and_that_is_said():
    document = Document.from_text("The wind and the sea. " * 5_000)
    answer = long_answer(document, 2_000)
    assert len(shown_steps(answer)) == 1_500
    assert "500 more steps are in the answer's JSON" in words(report_page(answer))
    assert "more characters in the answer's JSON" in words(report_page(answer))


# Files, documents, prompts ------------------------------------------------------------------


def test_an_answer_read_from_json_has_a_report_with_its_document_given(store, tmp_path):
    answer = Answer.from_json(coa(store).to_json())
    alone = answer.report(tmp_path / "alone.html").read_text()
    assert "was not at hand" in alone
    assert 'href="#cite-1"' not in alone
    path = tmp_path / "tale.txt"
    path.write_text(tale())
    assert 'href="#cite-1"' in answer.report(tmp_path / "r.html", document=path).read_text()
    with pytest.raises(InvalidOption, match="not the document of this answer"):
        answer.report(tmp_path / "r.html", document=tale(6))


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("r.txt", InvalidOption, "not an .html file"),
        ("no/such/r.html", NotWritten, "no folder"),
        ("folder.html", NotWritten, "is a folder"),
    ],
)
def test_a_path_that_cannot_be_written_is_said(store, tmp_path, name, error, says):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(error, match=says):
        Answer(question="?", text="a", status="answered").report(tmp_path / name)


def test_prompts_are_shown_only_when_kept_and_asked_for(store, tmp_path):
    answer = coa(store)
    with pytest.raises(InvalidOption, match="not kept"):
        answer.report(tmp_path / "r.html", prompts=True)
    model = FunctionModel(lambda r: "number 7", window=2048, identity="other")
    with Reader(model, store=store, keep_prompts=True) as r:
        kept = r.answer(tale(), "Which number?", chunk_tokens=60)
        many = r.answer_many(tale(), ["Which number?", "Which road?"], chunk_tokens=60)
    asked = " ".join(model.requests[0].messages[0].content.split())
    assert asked not in words(report_page(kept))
    assert asked in words(report_page(kept, prompts=True))
    for one in many:
        assert len(origin_of(one).prompts) == len(one.trace.calls)
        assert one.trace.calls
    assert "number 7" in kept.to_json()
    assert asked[:60] not in kept.to_json()


def test_a_repeated_call_remembers_its_document(store):
    first = coa(store)
    again = coa(store)
    assert again.usage.calls == 0
    assert 'href="#cite-1"' in report_page(again)
    assert first.trace.calls == again.trace.calls


# In a browser -------------------------------------------------------------------------------

PROBE = """<script>
const box = e => e.getBoundingClientRect();
const all = selector => [...document.querySelectorAll(selector)];
const shown = () => all("#step-list > li").filter(s => box(s).height > 0).length;
const press = p => document.querySelector(`button[data-purpose="${p}"]`).click();
const named = e => e.textContent.trim() || e.getAttribute("aria-label") || e.closest("label");
const jump = link => {
  link.click();
  const target = document.querySelector(link.getAttribute("href"));
  const visible = box(target).top >= 0 && box(target).bottom <= innerHeight;
  return [target.tagName, target.textContent, visible, getComputedStyle(target).outlineStyle];
};
addEventListener("DOMContentLoaded", () => setTimeout(() => {
  document.documentElement.style.scrollBehavior = "auto";
  const said = {fetched: performance.getEntriesByType("resource").length};
  said.jumps = all('#citations a[href^="#cite-"]').map(jump);
  said.all = shown();
  press("worker");
  said.worker = shown();
  said.pressed = document.querySelector('[aria-pressed="true"]').textContent;
  press("manager");
  said.manager = shown();
  said.count = document.getElementById("step-count").textContent;
  location.hash = "#step-1";
  setTimeout(() => {
    said.brought = shown();
    const search = document.querySelector("input[type=search]");
    search.value = "Dragon";
    search.dispatchEvent(new Event("input"));
    said.search = shown();
    said.wide = document.documentElement.scrollWidth <= innerWidth;
    said.unnamed = all("a[href],button,input").filter(e => !named(e)).length;
    said.landmarks = ["header", "nav", "main", "footer"].map(t => all(t).length);
    said.levels = all("h1,h2,h3").map(h => +h.tagName[1]);
    document.body.dataset.said = JSON.stringify(said);
  }, 50);
}, 0));
</script>"""


def probed(page: Path, folder: Path, size: str = "1200,900") -> dict:
    """What a script finds out that the page itself would not allow."""
    text = page.read_text()
    opened = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert opened != text
    copy = folder / "probed.html"
    copy.write_text(opened.replace("</body>", f"{PROBE}</body>"))
    dom = chromium(copy, folder, "--dump-dom", "--virtual-time-budget=5000", size=size)
    found = re.search(r'data-said="([^"]*)"', dom)
    assert found is not None
    return json.loads(html.unescape(found[1]))


@needs_browser
def test_citations_jump_to_the_marked_text_and_filters_work(store, tmp_path):
    answer = coa(store)
    page = answer.report(tmp_path / "r.html")
    said = probed(page, tmp_path)
    assert len(said["jumps"]) == len(answer.citations) >= 1
    for (tag, text, visible, outline), citation in zip(
        said["jumps"], answer.citations, strict=True
    ):
        assert (tag, text, visible, outline) == ("MARK", citation.text, True, "solid")
    assert (said["all"], said["worker"], said["manager"]) == (6, 5, 1)
    assert said["pressed"] == "worker"
    assert said["count"] == "1 of 6 steps shown"
    assert said["brought"] == 6
    assert said["search"] == 5
    assert said["fetched"] == 0
    assert said["unnamed"] == 0
    assert said["landmarks"] == [1, 1, 1, 1]
    levels = said["levels"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


@needs_browser
def test_nothing_is_wider_than_a_narrow_screen(store, tmp_path):
    said = probed(coa(store).report(tmp_path / "r.html"), tmp_path, size="500,900")
    assert said["wide"]


@needs_browser
def test_a_planted_script_does_not_run_not_even_without_the_pages_policy(store, tmp_path):
    answer = attention_run(store, tmp_path)
    page = answer.report(tmp_path / "r.html")
    assert "document.title = &#39;owned&#39;" in page.read_text()
    dom = chromium(page, tmp_path, "--dump-dom", "--virtual-time-budget=2000")
    assert "<title>Who was the keeper of the lighthouse? - reading report</title>" in dom
    open_copy = tmp_path / "open.html"
    open_copy.write_text(re.sub(r'<meta http-equiv="Content-Security[^>]*>', "", page.read_text()))
    assert "<title>owned" not in chromium(open_copy, tmp_path, "--dump-dom")


@needs_browser
def test_the_policy_runs_our_script_and_no_other(store, tmp_path):
    page = coa(store).report(tmp_path / "r.html")
    assert "6 of 6 steps shown" in chromium(page, tmp_path, "--dump-dom")
    slipped = tmp_path / "slipped.html"
    text = page.read_text().replace("<main", "<script>document.title='owned'</script><main")
    slipped.write_text(text.replace("</header>", "<img src='http://127.0.0.1:9/x'></header>"))
    dom = chromium(slipped, tmp_path, "--dump-dom")
    assert "<title>owned" not in dom
    assert "6 of 6 steps shown" in dom


@needs_browser
def test_without_its_script_the_page_shows_everything(store, tmp_path):
    page = coa(store).report(tmp_path / "r.html")
    bare = tmp_path / "bare.html"
    bare.write_text(re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL))
    dom = chromium(bare, tmp_path, "--dump-dom")
    assert re.search(r'<div id="filters"[^>]* hidden', dom)
    assert dom.count('<li id="step-') == 6


def test_the_page_refers_to_nothing_outside(store, tmp_path):
    for answer in (coa(store), graph_run(store), attention_run(store, tmp_path)):
        page = report_page(answer)
        tags = re.findall(
            r"<[a-z][^>]*>", re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
        )
        for tag in tags:
            assert not re.search(r'\b(src|action|srcset|data)="', tag), tag
            assert not re.search(r'\bhref="(?!#)', tag), tag
        assert "@import" not in page
        assert "url(" not in page


def test_reports_of_the_shell(tmp_path):
    from test_cli import shell

    from servers import LocalServer, ok

    book = tmp_path / "book.txt"
    book.write_text(tale())
    folder = ("--store", str(tmp_path / "s"))
    with LocalServer(default=ok('It says "The fact of part 3 is number 333."')) as server:
        ask = ("ask", str(book), "Which number?", "-m", server.url, *folder, "--json")
        refused = shell(*ask, "--html", str(tmp_path / "r.txt"))
        assert (refused.returncode, server.calls) == (2, [])
        asked = shell(*ask, "--html", str(tmp_path / "r.html"), "--prompts")
        assert asked.returncode == 0, asked.stderr
    page = (tmp_path / "r.html").read_text()
    assert 'href="#cite-1"' in page
    assert "All prompts" in page
    run_id = json.loads(asked.stdout)["run_id"]
    show = ("runs", "show", run_id, *folder, "--html")
    assert shell(*show, str(tmp_path / "s.html")).returncode == 0
    assert 'href="#cite-1"' in (tmp_path / "s.html").read_text()
    book.write_text("changed")
    changed = shell(*show, str(tmp_path / "t.html"))
    assert changed.returncode == 0
    assert "has changed since" in changed.stderr
    assert "was not at hand" in (tmp_path / "t.html").read_text()


def test_an_in_memory_store_has_a_report(tmp_path):
    model = FunctionModel(lambda r: "number 7", window=2048)
    answer = reader.answer(tale(), "Which?", model=model, store=False)
    assert answer.report(tmp_path / "r.html").exists()


def test_no_name_of_a_graphs_picture_lies_over_another_or_outside(store):
    """Twelve nodes in four parts that hang together, and forty that do not."""
    for count, chained in ((12, 3), (40, 1)):
        places = tuple(
            Place(name=f"n{i}", text="", beside=(f"n{i + 1}",) if (i + 1) % chained else ())
            for i in range(count)
        )
        answer = graph_run(store)
        picture = graph_of(
            answer.model_copy(update={"trace": answer.trace.model_copy(update={"places": places})})
        )
        dots = picture.dots
        assert len(dots) == count
        for a, b in combinations(dots, 2):
            assert abs(a.x - b.x) >= 140 or abs(a.y - b.y) >= 60
        assert all(90 <= d.x <= 870 and 13 <= d.y <= picture.height - 34 for d in dots)
