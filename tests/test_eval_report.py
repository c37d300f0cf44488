"""The report: every figure and every picture, from rows of known values; and in a browser."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from io import StringIO
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from browser import CHROMIUM, chromium
from reader.answers import Answer
from reader.budget import Usage
from reader.citations import Citation
from reader.evals import report
from reader.evals.evidence import EvidenceScore
from reader.evals.outcome import Failure
from reader.evals.report import cells
from reader.evals.results import NoLogs, named_apart
from reader.evals.row import Row
from reader.evals.summary import (
    by_length,
    differences,
    endurance,
    frontier,
    grids,
    summarised,
    summary_table,
)
from reader.trace import Step, Trace

NASTY = "<script>alert('x')</script><img src=http://127.0.0.1:9/x>"
FALLS = {"full": 0.2, "rag": 0.05}
LABELS = ("coa", "closed_book", "full", "rag")


def row(label: str, item: int, quality: float, **more: Any) -> Row:
    text = more.pop("text", f"answer {item}")
    tokens = {"coa": 4000, "closed_book": 100, "full": 2000, "rag": 900}.get(label, 500)
    usage = Usage(
        calls=4,
        depth=2,
        prompt_tokens=tokens,
        completion_tokens=20,
        seconds=1.5,
        cost=0.001,
        structured=4,
        repaired=1,
        reasked=1,
    )
    answer = Answer(
        question="q",
        text=text,
        status="answered",
        citations=(Citation(start=0, end=5, text="quote", match="exact"),),
        trace=Trace(
            steps=(Step(purpose="worker", chunk=0, text="a note", tokens=3),),
            checked_quotes=4,
            invented_quotes=1,
        ),
    )
    given = {
        "set": "needle",
        "label": label,
        "strategy": label,
        "seed": 0,
        "item": f"needle/{item}",
        "key": label,
        "model": "m",
        "group": f"doc{item}",
        "question": f"question {item}",
        "references": ("ref",),
        "kind": "answered",
        "quality": quality,
        "metric": "f1",
        "usage": usage,
        "answer": answer,
        "evidence": EvidenceScore(
            recall=quality,
            coverage=0.5,
            precision=None,
            citations=1,
            gold=1,
            missing=0,
            invented=None,
        ),
        "meta": {"length": (1024, 2048, 4096)[item % 3], "depth": (0.0, 0.5, 1.0)[item // 3]},
    }
    return Row.model_validate(given | more)


@pytest.fixture
def rows() -> list[Row]:
    score = {"coa": 0.9, "closed_book": 0.1, "full": 0.6, "rag": 0.5}
    found = [
        row(label, item, score[label] - FALLS.get(label, 0.0) * (item % 3))
        for label in LABELS
        for item in range(9)
    ]
    found[1] = found[1].model_copy(update={"kind": "partial", "usage": None})
    failed = Failure(type="ServerFailed", message=f"500 {NASTY}")
    found[2] = found[2].model_copy(
        update={"kind": "error", "quality": 0.0, "answer": None, "failure": failed}
    )
    return found


def test_a_summary_has_the_means_and_what_they_are_means_of(rows):
    one = {s.label: s for s in summarised(rows)}["coa"]
    assert one.quality.mean == pytest.approx((8 * 0.9) / 9)
    assert one.quality.low < one.quality.mean < one.quality.high
    assert one.kinds == {"answered": 7, "partial": 1, "error": 1}
    assert one.failures == 1
    assert one.counted == 8
    assert one.tokens == 4020
    assert one.invalid == 0.5
    assert one.invented == 0.25
    assert one.cost == 0.001
    assert one.precision is None


def test_costs_that_nobody_knows_are_not_nought(rows):
    resumed = [r.model_copy(update={"usage": None}) if r.label == "coa" else r for r in rows]
    summaries = summarised(resumed)
    one = {s.label: s for s in summaries}["coa"]
    assert one.counted == 0
    assert cells(one)[5:12] == ["-"] * 7
    assert "coa" not in [s.label for s in frontier(summaries)]
    console = Console(width=120, record=True, file=StringIO())
    console.print(summary_table(summaries, "needle"))
    [line] = [text for text in console.export_text().splitlines() if " coa " in text]
    assert [cell.strip() for cell in line.split("│")][4:7] == ["-", "-", "-"]


def test_differences_are_paired_over_the_same_questions(rows):
    without = [r for r in rows if not (r.label == "rag" and r.item == "needle/0")]
    found = differences(without, "rag")
    assert set(found) == {"coa", "closed_book", "full"}
    assert found["coa"].n == 8
    assert found["closed_book"].mean == pytest.approx(0.1 - 0.5 + 0.05 * 9 / 8)
    assert found["closed_book"].significant


def test_seeds_of_one_question_are_one_question(rows):
    twice = rows + [r.model_copy(update={"seed": 1}) for r in rows]
    assert differences(twice, "rag")["coa"].n == 9
    assert summarised(twice)[0].quality.low == pytest.approx(
        summarised(rows)[0].quality.low, abs=0.06
    )


def test_lengths_depths_and_the_frontier(rows):
    points = by_length(rows)
    assert [p.length for p in points["full"]] == [1024, 2048, 4096]
    assert [round(p.quality.mean, 2) for p in points["full"]] == [0.6, 0.4, 0.2]
    assert endurance(points)["full"].tokens == 1024
    grid = grids(rows)["full"]
    assert grid.depths == (0.0, 0.5, 1.0)
    assert grid.values[0] == pytest.approx((0.6, 0.4, 0.2))
    assert [s.label for s in frontier(summarised(rows))] == ["closed_book", "rag", "coa"]


def test_lengths_that_nobody_asked_for_are_put_in_four_ranges(rows):
    found = [r.model_copy(update={"meta": {}, "tokens": 100 * (int(r.item[7:]) + 1)}) for r in rows]
    assert [p.quality.n for p in by_length(found)["coa"]] == [2, 2, 2, 3]
    assert grids(found) == {}


def test_settings_and_models_that_share_a_label_are_told_apart(rows):
    again = [r.model_copy(update={"key": "other"}) for r in rows if r.label == "coa"]
    assert {r.label for r in named_apart(rows + again)} == {*LABELS, "coa #2"}
    other = [r.model_copy(update={"model": "big"}) for r in rows]
    assert "coa (big)" in {r.label for r in named_apart(rows + other)}


WANTED = (
    *("quality", "cost", "dollars", "length"),
    *(f"minus-{label}" for label in LABELS),
    *(f"needle-{label}" for label in LABELS),
)


def test_the_page_holds_every_figure_and_nothing_is_loaded(rows):
    text = report.page(report.chapters_of(rows))
    for name in WANTED:
        assert f'<figure id="needle-{name}"><svg' in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    outside = re.findall(r'(?:src|href)="(?!#|data:image/png)([^"]*)"', text)
    assert outside == []
    assert "<script" not in text
    assert "ServerFailed" in text
    assert "1 of 9" in text
    assert "8 of 9 questions" in text


def test_what_models_and_documents_say_is_escaped_everywhere(rows):
    bad = [
        row("coa", 0, 1.0, text=NASTY, question=NASTY, title=NASTY, references=(NASTY,)),
        row("rag", 0, 0.0, text=NASTY, set="needle"),
        rows[2],
    ]
    chapters = report.chapters_of(bad)
    text = report.page(chapters)
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text
    assert "<script" not in report.markdown(chapters)


def test_the_markdown_table_has_a_line_for_each_strategy(rows):
    text = report.markdown(report.chapters_of(rows))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(LABELS)
    assert lines[2].startswith("| coa | 0.800 |")
    assert {line.count("|") for line in lines} == {15}
    assert "Minus rag, on the same questions: coa +0.3" in text


def test_a_score_without_an_interval_shows_none():
    alone = [row("coa", 0, 0.4), row("rag", 0, 0.5)]
    text = report.markdown(report.chapters_of(alone))
    assert "| coa | 0.400 | - |" in text
    assert "coa -0.100 (-)" in text
    assert "One document: intervals speak of other questions about it" in text
    console = Console(width=120, record=True, file=StringIO())
    console.print(summary_table(summarised(alone), "needle"))
    [line] = [text for text in console.export_text().splitlines() if " coa " in text]
    assert [cell.strip() for cell in line.split("│")][2:4] == ["0.400", "-"]


def test_a_missing_baseline_and_an_unfinished_run_are_said(rows):
    part = [r for r in rows if r.label in ("coa", "rag")][:-2]
    text = report.markdown(report.chapters_of(part))
    assert "Without the baseline closed_book, full" in text
    assert "rag has 7 of 9 answers" in text
    assert "Only 9 documents" in text


def test_every_picture_is_written_twice(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "read_rows", lambda folder: rows)
    page, table, pictures = report.write_report(tmp_path, tmp_path / "out" / "r.html")
    assert page.exists()
    assert table.name == "r.md"
    for name in WANTED:
        root = ET.fromstring((pictures / f"needle-{name}.svg").read_text())
        assert root.tag.endswith("svg")
        data = (pictures / f"needle-{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
    said = (pictures / "needle-cost.svg").read_text()
    for label in (*LABELS, "frontier"):
        assert f">{label}<" in said


@pytest.mark.parametrize("timed", [True, False])
def test_a_question_whose_replies_nobody_waited_for_shows_no_seconds(
    rows, timed, tmp_path, monkeypatch
):
    shown = [r.model_copy(update={"timed": timed}) for r in rows]
    monkeypatch.setattr(report, "read_rows", lambda folder: shown)
    page, _, _ = report.write_report(tmp_path, tmp_path / "r.html")
    assert "4 calls, 2 in series" in page.read_text()
    assert (", 1.5 s<" in page.read_text()) == timed


def test_a_folder_without_logs_is_one_sentence(tmp_path):
    with pytest.raises(NoLogs, match="no finished question"):
        report.write_report(tmp_path, tmp_path / "r.html")


BOXES = """<script>document.body.dataset.boxes = JSON.stringify(
[...document.querySelectorAll("figure")].map(f => {
  const r = f.querySelector("svg").getBoundingClientRect();
  return [f.id, r.left, r.top, r.right, r.bottom].map(v => v.toFixed ? Math.round(v) : v);
}))</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_opens_in_a_browser_with_every_picture_drawn(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "read_rows", lambda folder: rows)
    page, _, _ = report.write_report(tmp_path, tmp_path / "r.html")
    shot = tmp_path / "page.png"
    chromium(page, tmp_path, f"--screenshot={shot}")
    # Where the pictures are: asked by a script, which the page itself does not allow.
    measured = tmp_path / "measured.html"
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    measured.write_text(text.replace("</body>", f"{BOXES}</body>"))
    said = re.search(r'data-boxes="([^"]*)"', chromium(measured, tmp_path, "--dump-dom"))
    assert said is not None
    boxes = {name: box for name, *box in json.loads(html.unescape(said[1]))}
    assert set(boxes) == {f"needle-{name}" for name in WANTED}
    with Image.open(shot) as image:
        for name, (left, top, right, bottom) in boxes.items():
            assert right - left > 150
            assert bottom <= image.height, f"{name} is below the screenshot"
            inside = image.convert("RGB").crop((left, top, right, bottom))
            coloured = sum(n for n, c in inside.getcolors(1 << 24) or [] if max(c) - min(c) > 60)
            assert coloured > 100, f"{name} is empty"
