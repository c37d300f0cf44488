"""Progress in a notebook: a real kernel runs the cells."""

from __future__ import annotations

import queue
import re

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from reader.notebook import in_notebook, listening

pytestmark = pytest.mark.filterwarnings("default")  # the kernel's client warns about its own files

MODEL = """
import asyncio
import reader
from reader.testing import FunctionModel

async def reply(request):
    await asyncio.sleep({delay})
    return "The fact is number 333."

TEXT = " ".join(f"The fact of part {{i}} is number {{i * 111}}. " + "The wind blew. " * 40
                for i in range(12))
book = reader.open(TEXT, model=FunctionModel(reply), store="store")
"""
ASK = "book.ask('What is the fact of part 3?', 'coa', chunk_tokens=120)"
TEXT_ONLY = """
import importlib.util, reader.notebook
reader.notebook.find_spec = lambda name: None
"""


def run(tmp_path, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    return notebook


@pytest.mark.parametrize("ask", [ASK, "await book.aask" + ASK.removeprefix("book.ask")])
def test_a_question_in_a_cell_draws_a_bar_of_its_calls(tmp_path, ask):
    notebook = run(tmp_path, MODEL.format(delay=0), ask)
    [bar, answer] = notebook.cells[1].outputs
    assert "application/vnd.jupyter.widget-view+json" in bar["data"]
    states = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    shown = [s["state"] for s in states.values()]
    [progress] = [s for s in shown if s["_model_name"] == "FloatProgressModel"]
    assert progress["value"] == progress["max"] > 3
    assert progress["bar_style"] == "success"
    words = " ".join(s["value"] for s in shown if s["_model_name"] == "HTMLModel")
    assert re.search(r"Read:\s100%.*\d+/\d+\scalls\s\[.*[\d,]+\stokens", words)
    assert "number 333" in answer["data"]["text/html"]


def test_without_widgets_it_is_a_line_of_text(tmp_path):
    notebook = run(tmp_path, TEXT_ONLY, MODEL.format(delay=0), ASK)
    *lines, answer = notebook.cells[2].outputs
    assert {line["name"] for line in lines} == {"stderr"}
    assert "\rRead: 100%" in "".join(line["text"] for line in lines)
    assert "number 333" in answer["data"]["text/html"]


def test_a_known_answer_and_a_listener_of_ones_own_draw_nothing(tmp_path):
    own = ASK.removesuffix(")") + ", quotes=True, on_event=lambda event: None)"
    notebook = run(tmp_path, MODEL.format(delay=0), ASK, ASK, own)
    assert [len(cell.outputs) for cell in notebook.cells] == [0, 2, 1, 1]


@pytest.mark.parametrize("ask", [ASK, "await book.aask" + ASK.removeprefix("book.ask")])
def test_interrupting_the_cell_stops_the_run_and_the_cell_goes_on_later(tmp_path, ask):
    manager, client = start_new_kernel(cwd=tmp_path)
    try:
        setup = TEXT_ONLY + MODEL.format(delay=0.05)
        client.execute_interactive(setup, timeout=60)
        client.execute(ask)
        said, stopped = "", False
        while True:
            message = client.get_iopub_msg(timeout=60)
            content = message["content"]
            said += content.get("text", "")
            if not stopped and "2/" in said:
                manager.interrupt_kernel()
                stopped = True
            if message["msg_type"] == "error":
                assert content["ename"] in ("KeyboardInterrupt", "CancelledError")
            if content.get("execution_state") == "idle":
                break
        assert "Run the cell again to go on" in said

        again = []
        client.execute_interactive(
            f"a = {ask}\nprint('made', a.usage.calls, 'of', a.estimate.calls)",
            timeout=60,
            output_hook=lambda m: again.append(m["content"].get("text", "")),
        )
        whole = "".join(again)
        assert "Resuming" in whole
        made, calls = map(int, re.search(r"made (\d+) of (\d+)", whole).groups())
        assert 1 <= made <= calls - 2
        with pytest.raises(queue.Empty):
            client.get_iopub_msg(timeout=0)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_outside_a_notebook_nothing_is_drawn(capsys):
    assert not in_notebook()
    with listening(None) as emit:
        emit("anything")
    assert capsys.readouterr() == ("", "")
