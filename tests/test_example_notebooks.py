"""The notebooks of the examples: what is committed shows what it says, and they run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from reader import Document

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = ("contract", "memory", "pdf_pages")


def said(notebook: Any) -> str:
    """What the cells printed and returned, as text."""
    return "\n".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.get("name") != "stderr"
    )


def check(name: str, text: str) -> None:
    """What holds whatever a model answers."""
    if name == "contract":
        for strategy in ("coa", "quotes", "rag"):
            assert re.search(rf"{strategy} .*\d+%", text)
        assert "a deposit of 4,650 euros" in text
        assert "3 calls" in text
        assert "skipped" in text
    elif name == "memory":
        assert re.search(r"segment \d, (?:changed|kept)", text)
        assert "after segment 3:" in text
    else:
        assert "3 1 April 2027 19,320 euros 4,830 euros" in text
        assert "(True, True)" in text
        assert "(3, 'SCHEDULE B. Shares of the charges')" in text
        assert re.search(r"haul\.html [\d,]{5,} bytes", text)


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_outputs_are_whole(name):
    file = EXAMPLES / f"{name}.ipynb"
    assert file.stat().st_size < 200_000
    notebook = nbformat.read(file, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = [output for cell in code for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    pages = [
        output["data"]["text/html"] for output in shown if "text/html" in output.get("data", {})
    ]
    assert len(pages) >= 2
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", "".join(pages))
    check(name, said(notebook))


def test_the_committed_answers_are_those_that_the_words_speak_of():
    contract, pdf = (
        said(nbformat.read(EXAMPLES / f"{n}.ipynb", 4)) for n in ("contract", "pdf_pages")
    )
    assert "(('quotes', 'rag'), ('coa',))" in contract
    assert "page 1, ARTICLE 7. The slipway and the winch:" in pdf
    assert "95 euros" in pdf
    assert "22 per cent" in pdf


def test_the_printed_lease_says_what_the_written_one_says():
    written = Document.load(EXAMPLES / "texts" / "boatyard_lease.txt")
    printed = Document.load(EXAMPLES / "texts" / "boatyard_lease.pdf")
    assert [s.title for s in printed.sections] == [s.title for s in written.sections]
    assert len(printed.pages) == 3
    head = "Harbour Trust of Tarn Quay - Oakum & Daughters\n"
    assert printed.text.startswith(head)
    words = [
        document.text.replace("|", " ").replace("Title: ", "").removeprefix(head).split()
        for document in (written, printed)
    ]
    assert words[0] == words[1]


@pytest.mark.real_model
@pytest.mark.filterwarnings("default")  # the kernel's client warns about its own files
@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_runs_from_its_first_cell_to_its_last(name, tmp_path):
    shutil.copytree(EXAMPLES / "texts", tmp_path / "texts")
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": tmp_path}}).execute()
    check(name, said(notebook))
