"""The shell: what it prints, how it exits, what bad input gets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import tale
from servers import NEVER, LocalServer, ok


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from reader.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def book(tmp_path: Path) -> str:
    path = tmp_path / "book.txt"
    path.write_text(tale())
    return str(path)


def test_the_version():
    import reader

    said = shell("--version")
    assert (said.returncode, said.stdout) == (0, f"longdoc-reader {reader.__version__}\n")


def test_ctrl_c_says_what_was_spent_and_that_the_run_goes_on(tmp_path, book):
    arguments = ("ask", book, "Which number?", "--chunk-tokens", "100")
    arguments = (*arguments, "--store", str(tmp_path / "s"), "--model")
    code = "from reader.cli import main; main()"
    with LocalServer([ok("Facts.")], default=ok("Facts.", delay=NEVER)) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments, server.url], stderr=-1, text=True
        )
        while len(server.calls) < 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "spent so far: 2 calls, " in said  # the one in flight with what it may cost at most
    assert "goes on" in said
    assert "Traceback" not in said


def test_ask_estimate_and_runs_of_one_question(tmp_path, book):
    store = str(tmp_path / "s")
    with LocalServer(default=ok("It says that the number is 333.")) as server:
        common = (book, "Which number?", "--model", server.url, "--store", store)
        size = ("--chunk-tokens", "100")
        expected = shell("estimate", *common, *size, "--json")
        assert expected.returncode == 0, expected.stderr
        calls = json.loads(expected.stdout)["calls"]
        assert server.calls == []
        asked = shell("ask", *common, *size, "--json")
        assert asked.returncode == 0, asked.stderr
        answer = json.loads(asked.stdout)
        assert answer["usage"]["calls"] == len(server.calls) == calls
        part = shell("ask", *common, "--chunk-tokens", "90", "--budget", "calls=2")
        assert part.returncode == 3
        assert "not everything was read" in part.stdout
        run = json.loads(shell("runs", "--store", store, "--json").stdout)[0]
        assert run["state"] == "partial"
        done = shell("runs", "resume", run["id"], "--store", store, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["usage"]["cached_calls"] >= 1
        shown = shell("runs", "show", answer["run_id"], "--store", store)
        assert "333" in shown.stdout


def test_not_found_has_an_exit_code_of_its_own(tmp_path, book):
    with LocalServer(default=ok("Not found in the document.")) as server:
        asked = shell("ask", book, "Which?", "-m", server.url, "--store", str(tmp_path / "s"))
    assert asked.returncode == 4


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("ask", "missing.txt", "Who?"), 2, "No file"),
        (("ask", "{book}", " "), 2, "empty"),
        (("ask", "{book}", "Who?", "-s", "cao"), 2, "'coa'"),
        (("ask", "{book}", "Who?", "-o", "path=single"), 2, "'paths'"),
        (("ask", "{book}", "Who?", "-m", "http://127.0.0.1:9/v1"), 1, "Start the server"),
        (("ask", "{book}", "Who?", "-m", "embeded"), 1, "Did you mean 'embedded'?"),
        (("ask", "{book}", "Who?", "-m", "nosuch"), 1, "Models are named embedded,"),
        (("ask", "{book}"), 2, "needed"),
        (("ask", "{book}", "Who?", "--nope"), 2, "No such option"),
        (("runs", "show", "nothing"), 1, "no run"),
    ],
)
def test_bad_input_is_one_sentence_and_no_traceback(book, arguments, code, says):
    done = shell(*(a.replace("{book}", book) for a in arguments))
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_key_says_so_and_nothing_was_spent(book, monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    done = shell("ask", book, "Who?", "-m", "openai:gpt-4.1-mini", "--store", str(tmp_path / "s"))
    assert done.returncode == 1
    assert "Set OPENAI_API_KEY" in done.stderr
    assert "spent" not in done.stderr


def test_strategies_show_prints_the_machine_and_the_options():
    done = shell("strategies", "show", "coa")
    assert done.returncode == 0
    assert "graph TD" in done.stdout
    assert "cu_tokens" in done.stdout


def test_compare_shows_strategies_side_by_side_and_writes_a_page(tmp_path, book):
    page = tmp_path / "compared.html"
    with LocalServer(default=ok("It is <b>333</b>.")) as server:
        common = (book, "Which number?", "--model", server.url, "--store", str(tmp_path / "s"))
        found = shell(
            "compare", *common, "-s", "closed_book,rag", "-s", "full", "--html", str(page)
        )
        assert found.returncode == 0, found.stderr
        made = len(server.calls)
        again = shell("compare", *common, "-s", "rag", "--json")
        assert len(server.calls) == made
    for name in ("closed_book", "rag", "full"):
        assert name in found.stdout
    assert "A (3)" in found.stdout
    assert "compared.html" in found.stderr
    text = page.read_text()
    assert "default-src 'none'" in text
    assert text.count("It is &lt;b&gt;333&lt;/b&gt;.") >= 6
    assert "<b>333" not in text
    assert json.loads(again.stdout)["entries"][0]["answer"]["text"] == "It is <b>333</b>."


def test_compare_has_the_exit_code_of_its_best_answer(tmp_path, book):
    with LocalServer(default=ok("Not found in the document.")) as server:
        common = ("compare", book, "Which number?", "--model", server.url)
        common += ("--store", str(tmp_path / "s"), "-q")
        assert shell(*common, "-s", "rag,full").returncode == 4
        cut = shell(*common, "-s", "coa", "--chunk-tokens", "60", "--budget", "calls=2")
        assert cut.returncode == 3
        wrong = shell(*common, "-s", "rag,nothing", "--html", str(tmp_path / "c.html"))
        assert wrong.returncode == 2
        assert "nothing" in wrong.stderr
        assert shell(*common, "-s", "rag", "--html", str(tmp_path / "c.txt")).returncode == 2
    assert not (tmp_path / "c.html").exists()
