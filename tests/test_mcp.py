"""`reader mcp` through the official SDK's client: a real subprocess over stdio."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from conftest import tale
from servers import NEVER, LocalServer, ok, wrong_key

FACT = "The fact of part 3 is number 333."


def scripted(request: dict[str, Any]) -> Any:
    """Finds the fact where it stands; says so with its sentence."""
    text = " ".join(m["content"] for m in request["messages"])
    return ok(f"It is 333.\nQuote: {FACT}" if FACT in text else "Not found in the document.")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "book.txt").write_text("# Rules\n\n" + tale(8))
    (tmp_path / "secret.txt").write_text("The code of the safe is 4711.")
    return folder


@asynccontextmanager
async def client(shelf: Path, *arguments: str):
    command = [
        *("-c", "from reader.cli import main; main()", "mcp"),
        *("--allow", str(shelf), "--store", str(shelf.parent / "store"), *arguments),
    ]
    async with Client(StdioServerParameters(command=sys.executable, args=command)) as connected:
        yield connected


async def called(connected: Any, tool: str, **arguments: Any) -> Any:
    result = await connected.call_tool(tool, arguments)
    assert not result.is_error, result.content[0].text
    return result.structured_content


async def refused(connected: Any, tool: str, **arguments: Any) -> str:
    result = await connected.call_tool(tool, arguments)
    assert result.is_error
    return result.content[0].text


def test_an_agent_opens_estimates_asks_and_looks_up_the_citation(shelf):
    async def session() -> None:
        progress: list[tuple[float, float | None]] = []

        async def heard(done: float, total: float | None, message: str | None) -> None:
            progress.append((done, total))

        with LocalServer(scripted) as server:
            async with client(shelf, "--model", server.url, "-s", "rag") as agent:
                tools = {tool.name for tool in (await agent.list_tools()).tools}
                assert tools == {"open_document", "estimate", "ask", "ask_many", "text_around"}
                opened = await called(agent, "open_document", path="book.txt")
                text = (shelf / "book.txt").read_text()
                assert opened["characters"] == len(text)
                assert opened["sections"] == ["Rules"]
                expected = await called(
                    agent, "estimate", path="book.txt", questions=["What is the fact of part 3?"]
                )
                assert expected["calls"] >= 1
                assert server.calls == []
                result = await agent.call_tool(
                    "ask",
                    {"path": "book.txt", "question": "What is the fact of part 3?"},
                    progress_callback=heard,
                )
                asked = result.structured_content
                assert (asked["answer"], asked["status"]) == ("It is 333.", "answered")
                [cited] = asked["citations"]
                assert text[cited["start"] : cited["end"]] == FACT
                around = await called(
                    agent,
                    "text_around",
                    path="book.txt",
                    start=cited["start"],
                    end=cited["end"],
                    around=50,
                )
                assert FACT in around["text"]
                assert around["text"] == text[around["start"] : around["end"]]
                assert len(around["text"]) <= len(FACT) + 100
        assert progress == [(0, 1), (1, 1)]

    asyncio.run(session())


def test_a_long_read_reports_how_far_it_is(shelf):
    (shelf / "long.txt").write_text(tale(200))

    async def session() -> None:
        progress: list[tuple[float, float | None]] = []

        async def heard(done: float, total: float | None, message: str | None) -> None:
            assert message
            progress.append((done, total))

        with LocalServer(default=ok("It is 333.")) as server:
            async with client(shelf, "--model", server.url, "--window", "2048") as agent:
                ask = {"path": "long.txt", "question": "What is the fact of part 3?"}
                await agent.call_tool("ask", ask, progress_callback=heard)
            calls = len(server.calls)
        done = [at for at, _ in progress]
        assert done[0] == 0
        assert done[-1] == progress[-1][1] == calls
        assert len(done) > 5
        assert done == sorted(set(done))

    asyncio.run(session())


def test_many_questions_are_read_in_one_pass_and_within_the_servers_budget(shelf):
    async def session() -> None:
        with LocalServer(default=ok("It is 333.")) as server:
            limits = ("--model", server.url, "--window", "2048", "--budget", "calls=3")
            async with client(shelf, *limits) as agent:
                questions = ["What is the fact of part 3?", "What is the fact of part 5?"]
                many = await called(agent, "ask_many", path="book.txt", questions=questions)
                assert [a["question"] for a in many["answers"]] == questions
                assert len(server.calls) <= 3
                # A call's own limit cannot be larger than the server's.
                said = await refused(
                    agent,
                    "ask",
                    path="book.txt",
                    question="What is the fact of part 1?",
                    budget="calls=1",
                )
                assert "budget (calls=1) is too small" in said
                long = shelf / "long.txt"
                long.write_text(tale(400))
                before = len(server.calls)
                partial = await called(
                    agent, "ask", path="long.txt", question="Which?", budget="calls=500"
                )
                assert partial["status"] == "partial"
                assert len(server.calls) - before <= 3

    asyncio.run(session())


def test_nothing_outside_of_the_allowed_folders_is_read(shelf):
    secret = shelf.parent / "secret.txt"
    (shelf / "link.txt").symlink_to(secret)
    (shelf / "folder").symlink_to(shelf.parent)
    (shelf / "inside.txt").symlink_to(shelf / "book.txt")

    async def session() -> None:
        async with client(shelf, "--model", "http://127.0.0.1:9/v1") as agent:
            for path in (
                str(secret),
                "../secret.txt",
                "link.txt",
                "folder/secret.txt",
                str(shelf / ".." / "secret.txt"),
                "~/.bashrc",
                "../no-such-file.txt",  # and nobody learns whether it is there
            ):
                for tool, more in (
                    ("open_document", {}),
                    ("ask", {"question": "What is the code?"}),
                    ("text_around", {"start": 0, "end": 10}),
                ):
                    said = await refused(agent, tool, path=path, **more)
                    assert "outside of the folders" in said, (path, tool)
                    assert "4711" not in said
            assert (await called(agent, "open_document", path="inside.txt"))["characters"] > 100
            assert "No file" in await refused(agent, "open_document", path="missing.txt")
            assert "no file" in await refused(agent, "open_document", path=".")

    asyncio.run(session())


def test_errors_say_what_to_do_and_the_server_goes_on(shelf):
    async def session() -> None:
        with LocalServer([wrong_key()], default=ok("It is 333.")) as server:
            async with client(shelf, "--model", server.url) as agent:
                ask = {"path": "book.txt", "question": "What is the fact of part 3?"}
                said = await refused(agent, "ask", **ask)
                assert "does not accept the API key" in said
                assert "Traceback" not in said
                assert "Did you mean 'quotes'?" in await refused(
                    agent, "ask", **ask, strategy="quotess"
                )
                assert "is empty" in await refused(agent, "ask", path="book.txt", question=" ")
                assert "no range" in await refused(
                    agent, "text_around", path="book.txt", start=5, end=10**9
                )
                assert (await called(agent, "ask", **ask))["answer"] == "It is 333."

    asyncio.run(session())


def test_a_call_that_the_client_gives_up_is_stopped(shelf):
    async def session() -> None:
        with LocalServer(default=ok("x", delay=NEVER)) as server:
            async with client(shelf, "--model", server.url) as agent:
                ask = {"path": "book.txt", "question": "What is the fact of part 3?"}
                task = asyncio.ensure_future(agent.call_tool("ask", ask))
                while not server.in_flight:
                    await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.wait([task])
                while server.in_flight:  # the model's connection is closed
                    await asyncio.sleep(0.01)
                assert (await called(agent, "open_document", path="book.txt"))["title"]

    asyncio.run(session())


def test_a_changed_file_is_read_again(shelf):
    async def session() -> None:
        async with client(shelf, "--model", "http://127.0.0.1:9/v1") as agent:
            path = shelf / "note.txt"
            path.write_text("One.")
            assert (await called(agent, "open_document", path="note.txt"))["characters"] == 4
            path.write_text("One and two.")
            assert (await called(agent, "open_document", path="note.txt"))["characters"] == 12

    asyncio.run(session())


def test_standard_output_holds_protocol_only(shelf):
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    opened = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "open_document", "arguments": {"path": "book.txt"}},
    }
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    process = subprocess.Popen(
        [sys.executable, "-c", "from reader.cli import main; main()", "mcp", "--allow", str(shelf)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        for message in (hello, ready, opened):
            process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.stdin.close()
        rest = process.stdout.read()
        assert process.wait() == 0
    assert [line["id"] for line in lines] == [1, 2]
    assert lines[1]["result"]["structuredContent"]["path"] == "book.txt"
    assert rest == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--allow", "/no/such/folder"), "is no folder"),
        (("--budget", "many"), "not understood"),
        (("--strategy", "coaa"), "Did you mean 'coa'?"),
        (("--deadline", "0"), "above 0"),
    ],
)
def test_wrong_usage_ends_the_command_with_a_sentence(arguments, said):
    ended = subprocess.run(
        [sys.executable, "-c", "from reader.cli import main; main()", "mcp", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_the_sdk_the_command_says_what_to_install():
    code = (
        "import sys; sys.modules['mcp'] = None\n"
        "from reader.cli import main; sys.argv = ['reader', 'mcp']; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "longdoc-reader[mcp]" in ended.stderr
    assert "Traceback" not in ended.stderr
