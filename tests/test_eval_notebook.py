"""The notebook that compares runs from its first cell to its last on the logs beside it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.filterwarnings("default")  # the kernel's client warns about its own files
def test_the_notebook_draws_the_tables_and_pictures(tmp_path):
    notebook = nbformat.read(EXAMPLES / "compare.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": EXAMPLES}})
    client.execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    kinds = [kind for o in outputs for kind in o.get("data", {})]
    assert kinds.count("image/svg+xml") >= 4
    assert "text/markdown" in kinds
    assert "text/html" in kinds  # the answer with its evidence
    table = next(o["data"]["text/markdown"] for o in outputs if "text/markdown" in o["data"])
    for label in ("coa", "closed_book", "full", "rag"):
        assert f"| {label} |" in table
