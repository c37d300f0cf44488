"""Parts of the report in a notebook's cell, in a real browser; and the drawing of a strategy."""

from __future__ import annotations

import re

import pytest

import reader
from browser import CHROMIUM, chromium
from reader.errors import InvalidOption, UnknownStrategy
from reader.strategy import strategies
from report_runs import PLANTED, graph_run, memory_run, tree_run

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def test_the_way_and_the_memory_show_themselves(store):
    for answer, part in ((tree_run(store), "way"), (graph_run(store), "way")):
        page = answer.show(part).page
        assert "The way through the" in page
    assert "The memory along the document" in memory_run(store).show("memory").page


def test_a_part_that_is_not_there_is_named_with_those_that_are(store):
    answer = tree_run(store)
    with pytest.raises(InvalidOption, match=r"'memory' is not in this report\..* way, "):
        answer.show("memory")
    with pytest.raises(InvalidOption, match="'path' is no part of a report"):
        answer.show("path")


@needs_browser
def test_a_cell_shows_the_parts_asked_for_and_no_others(store, tmp_path):
    shown = tree_run(store).show("way", "steps")
    cell = tmp_path / "cell.html"
    cell.write_text(f"<!doctype html><title>a cell</title>{shown._repr_html_()}")
    assert chromium(cell, tmp_path, "--dump-dom").count("<iframe") == 1
    # The frame's own page, as it stands in it.
    inside = tmp_path / "inside.html"
    check = (
        "<script>document.title=[...document.querySelectorAll('main>section')]"
        ".filter(s=>s.offsetParent!==null).map(s=>s.id).join()</script>"
    )
    page = re.sub(r"<meta http-equiv[^>]*>", "", shown.page)
    inside.write_text(page.replace("</body>", check + "</body>"))
    title = re.search("<title>(.*?)</title>", chromium(inside, tmp_path, "--dump-dom"))[1]
    assert title == "way,steps"


def test_what_a_document_says_cannot_leave_the_frame(store):
    answer = tree_run(store).model_copy(update={"question": PLANTED})
    cell = answer.show()._repr_html_()
    assert "<script" not in cell
    assert cell.count("<") == 2  # the frame's own tags
    assert 'sandbox="allow-scripts"' in cell


@pytest.mark.parametrize("name", sorted(strategies()))
def test_every_strategy_draws_its_state_machine(name):
    drawing = reader.draw(name)
    assert drawing._repr_markdown_().startswith("```mermaid\n")
    assert "__start__" in str(drawing)
    assert "__end__" in str(drawing)


def test_an_unknown_strategy_has_no_drawing():
    with pytest.raises(UnknownStrategy, match="coa"):
        reader.draw("cao")
