"""The examples of RAG apps and agents, run as a reader would, against a scripted server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servers import LocalServer, as_json, ok

ROOT = Path(__file__).parent.parent
MORRIS = 'Sergeant-Major Morris," he said, introducing him.'
TALE = (ROOT / "reader" / "tales" / "the_monkeys_paw.txt").read_text()


def run(example: str, *arguments: str, store: Path) -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / example), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "LONGDOC_READER_STORE": str(store)},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def shown(page: str, example: str) -> str:
    """The output of an example as a page of the docs shows it."""
    text = (ROOT / "docs" / page).read_text()
    return text.split(f"$ python examples/{example}")[1].split("\n", 1)[1].split("```")[0]


def test_the_rag_app_of_the_docs_prints_what_they_show(tmp_path):
    def scripted(request: dict[str, Any]) -> Any:
        asked = request["messages"][-1]["content"]
        if asked.startswith("Answer in a few words"):
            assert MORRIS in asked
            return ok("Morris [1]")
        return ok(f"Sergeant-Major Morris\nQuote: {MORRIS}" if "Quote:" in asked else "Morris.")

    with LocalServer(scripted) as server:
        said = run("rag_langchain.py", server.url, "m", store=tmp_path)
    start = TALE.index(MORRIS)
    assert f"characters {start}-{start + len(MORRIS)}: {MORRIS!r}" in said
    assert said == shown("langchain.md", "rag_langchain.py")


def test_the_agent_of_the_docs_prints_what_they_show(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "tale.txt").write_text(TALE)
    question = "What is the sergeant-major's name?"
    start = TALE.index(MORRIS)

    def turn(name: str, **arguments: Any) -> dict[str, Any]:
        function = {"name": name, "arguments": json.dumps(arguments)}
        return {"id": "c1", "type": "function", "function": function}

    turns = [
        turn("open_document", path="tale.txt"),
        turn("ask", path="tale.txt", question=question, strategy="rag"),
        turn("text_around", path="tale.txt", start=start, end=start + len(MORRIS), around=60),
    ]

    def scripted(request: dict[str, Any]) -> Any:
        if "tools" not in request:  # the server of the tools, which reads with the same model
            return ok(f"Sergeant-Major Morris\nQuote: {MORRIS}")
        done = sum(m["role"] == "tool" for m in request["messages"])
        if done < len(turns):
            message = {"role": "assistant", "content": None, "tool_calls": [turns[done]]}
            choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
            return as_json({"object": "chat.completion", "model": "m", "choices": [choice]})
        last = request["messages"][-1]["content"]
        assert MORRIS in json.loads(last)["text"]
        return ok(f"He is called Morris: {MORRIS}")

    with LocalServer(scripted) as server:
        said = run("mcp_agent.py", str(folder), question, server.url, "m", store=tmp_path / "s")
    assert said == shown("mcp.md", "mcp_agent.py")


def test_attention_on_a_book_needs_a_server_with_the_extension(tmp_path):
    example = str(ROOT / "examples" / "attention_vllm.py")
    book = str(ROOT / "reader" / "tales" / "the_monkeys_paw.txt")
    report = tmp_path / "report.html"
    with LocalServer(default=ok("Morris.")) as server:
        ended = subprocess.run(
            [sys.executable, example, book, "Who?", "--url", server.url, "--report", str(report)],
            capture_output=True,
            text=True,
            env={**os.environ, "LONGDOC_READER_STORE": str(tmp_path / "s")},
        )
    assert ended.returncode == 2
    assert "--worker-extension-cls" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not report.exists()


def blocks(page: str) -> list[str]:
    parts = (ROOT / "docs" / page).read_text().split("```python\n")[1:]
    return [part.split("```")[0] for part in parts]


@pytest.mark.parametrize("page", ["langchain.md", "langgraph.md", "llamaindex.md"])
def test_the_code_of_the_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clause = "The tenant may end the lease with three months' notice."
    Path("contract.txt").write_text("# Lease\n\n" + "Rent is due monthly. " * 40 + clause)
    code = "\n".join(blocks(page))
    assert code
    with LocalServer(default=ok(f"With three months' notice.\nQuote: {clause}")) as server:
        code = code.replace("http://127.0.0.1:8000/v1", server.url)
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
        )
    assert ended.returncode == 0, ended.stderr
    assert "three months" in ended.stdout
