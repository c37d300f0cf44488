"""The quickstart notebook from its first cell to its last, with the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"


@pytest.mark.real_model
@pytest.mark.filterwarnings("default")  # the kernel's client warns about its own files
def test_the_quickstart_runs_and_shows_what_it_says(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": tmp_path}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # Progress bars go to standard error or are displays of their own.
    said = [
        "".join(
            o.get("text", "") + o.get("data", {}).get("text/plain", "")
            for o in cell.outputs
            if o.get("name") == "stdout" or o.output_type == "execute_result"
        )
        for cell in cells
    ]
    whole = json.dumps(notebook)
    assert "Estimate(calls=" in said[1]
    assert "chunk 1, characters 0-" in said[2]
    assert "text/html" in whole
    assert said[4] == "(True, 0)"  # the same question again
    for strategy in ("memwalker", "memagent", "graphreader", "quotes", "rag", "closed_book"):
        assert f"\n{strategy} " in f"\n{said[5]}"
    assert "'partial', 3," in said[8]  # the budget of three calls
