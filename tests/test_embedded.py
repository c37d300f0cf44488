from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from reader.errors import ContextOverflow, MissingExtra, ModelError, UnknownModel
from reader.llm import embedded
from reader.llm.catalogue import entry
from reader.llm.download import fetch
from reader.llm.embedded import EmbeddedModel
from reader.llm.gguf import file_identity, trained_window
from reader.llm.types import ChatModel, ChatReply, ChatRequest, Message, ModelInfo
from servers import LocalServer, ok

TALE = (Path(__file__).parent.parent / "reader/tales/the_monkeys_paw.txt").read_text()


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def header(*entries: tuple[str, int, bytes], version: int = 3) -> bytes:
    """A GGUF file without tensors."""
    packed = b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in entries)
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(entries)) + packed


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


WORDS = ("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("bc"))
SCORES = ("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 2) + bytes(8))
ARCHITECTURE = ("general.architecture", 8, text("llama"))
WINDOW = ("llama.context_length", 4, u32(4096))


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "some.gguf"
    path.write_bytes(header(ARCHITECTURE, WORDS, SCORES, WINDOW))
    return path


def request(prompt: str = "Hello.", max_tokens: int = 8, **more) -> ChatRequest:
    return ChatRequest(messages=(Message("user", prompt),), max_tokens=max_tokens, **more)


def info(model: EmbeddedModel) -> ModelInfo:
    return asyncio.run(model.info())


# What is known before anything is loaded


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the engine nor a download may start."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setattr("reader.llm.weights.fetch", None)


@pytest.mark.usefixtures("nothing_loaded")
def test_a_model_of_the_catalogue_is_known_without_its_file(tmp_path):
    about = info(EmbeddedModel.from_catalogue(folder=tmp_path))
    assert entry("embedded").sha256 in about.identity
    assert EmbeddedModel.from_catalogue().identity == about.identity
    assert about.window == 16_384
    assert about.json_schema
    assert about.price is not None
    assert about.price.cost(1_000_000, 1_000_000) == 0
    assert "small model" in about.notice
    assert about.counter.exact
    assert about.concurrency == 2


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(("asked", "given"), [(2048, 2048), (100_000, 8192)])
def test_the_window_is_the_asked_one_but_never_above_the_trained_one(asked, given):
    model = EmbeddedModel.from_catalogue("embedded:tiny", context_tokens=asked, slots=3)
    assert info(model).window == given
    assert info(model).concurrency == 3


@pytest.mark.usefixtures("nothing_loaded")
def test_a_file_is_known_by_its_header(gguf):
    model = EmbeddedModel.from_path(gguf)
    assert isinstance(model, ChatModel)
    assert info(model).window == 4096
    assert info(model).name == "some.gguf"
    assert info(model).notice == ""
    assert info(model).identity == model.identity == file_identity(gguf)


def test_an_unknown_model_of_the_catalogue():
    with pytest.raises(UnknownModel, match="nearest is 'embedded:tiny'"):
        EmbeddedModel.from_catalogue("embedded:tin")


def test_a_wrong_name_of_the_hub_is_told_at_once():
    with pytest.raises(UnknownModel, match="hf:OWNER/NAME"):
        EmbeddedModel.from_hub("Qwen/model")


def test_what_is_not_here_yet_has_no_identity(tmp_path):
    assert EmbeddedModel.from_path(tmp_path / "missing.gguf").identity is None
    assert EmbeddedModel.from_hub("owner/name/a.gguf", folder=tmp_path).identity is None


def test_files_with_other_bytes_have_other_identities(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"x" * 9_000_000)
    identity = file_identity(path)
    (tmp_path / "b.gguf").write_bytes(b"x" * 9_000_000)
    assert file_identity(tmp_path / "b.gguf") == identity
    for other in (b"x" * 9_000_001, b"y" + b"x" * 8_999_999, b"x" * 8_999_999 + b"y"):
        path.write_bytes(other)
        assert file_identity(path) != identity


def test_the_scan_stops_at_the_window(tmp_path):
    path = tmp_path / "a.gguf"
    broken_behind = (*WINDOW[:2], u32(512)), ("x", 99, b"")
    path.write_bytes(header(ARCHITECTURE, *broken_behind))
    assert trained_window(path) == 512


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"GGML" + header(WINDOW)[4:],
        header(WINDOW, version=1),
        header(ARCHITECTURE),
        header(ARCHITECTURE, WINDOW)[:-2],
        header(("llama.context_length", 4, u32(0))),
        header(("llama.context_length", 8, text("long"))),
        header(("x", 99, b""), WINDOW),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62),
        header(("x", 8, struct.pack("<Q", 2**63)), WINDOW),
        header(("x", 9, struct.pack("<IQ", 4, 2**63)), WINDOW),
        header(("x", 9, struct.pack("<IQ", 8, 2**63)), WINDOW),
        header(("x", 9, struct.pack("<IQ", 9, 1) * 5000), WINDOW),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(UnknownModel, match="is not a GGUF model"):
        info(EmbeddedModel.from_path(path))


@pytest.mark.parametrize("name", ["missing.gguf", "."])
def test_a_path_without_a_file(tmp_path, name):
    with pytest.raises(UnknownModel, match="cannot be read"):
        info(EmbeddedModel.from_path(tmp_path / name))


# Starting and stopping, with a server in the engine's place


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    with LocalServer(default=ok("Yes."), dialect="llama.cpp", window=4096) as server:
        started: list[dict[str, object]] = []

        def start(path: Path, key: str, **settings: object) -> object:
            server.key = key
            started.append({"path": path, **settings})
            return SimpleNamespace(listening_address=server.root)

        monkeypatch.setattr(embedded, "start_engine", start)
        server.started = started
        yield server


def test_it_starts_once_for_all_that_wait(engine, gguf):
    async def many() -> list[ChatReply]:
        model = EmbeddedModel.from_path(gguf, context_tokens=1024, threads=1)
        replies = await asyncio.gather(*(model.generate(request()) for _ in range(5)))
        await model.aclose()
        return replies

    assert {r.text for r in asyncio.run(many())} == {"Yes."}
    assert engine.started == [{"path": gguf, "window": 1024, "slots": 2, "threads": 1}]


def test_counting_starts_it_and_describing_does_not(engine, gguf):
    async def count() -> tuple[list[int], int]:
        model = EmbeddedModel.from_path(gguf)
        counter = (await model.info()).counter
        assert counter.tokenizer() is None
        assert not engine.started
        counted = await counter.count(["one two", "three"])
        turns = await counter.count_messages([("user", "one two")])
        await model.aclose()
        return counted, turns

    assert asyncio.run(count()) == ([2, 1], 5)


def test_one_object_serves_several_loops_and_starts_again_after_closing(engine, gguf):
    model = EmbeddedModel.from_path(gguf)

    async def ask(close: bool) -> str:
        reply = await model.generate(request())
        if close:
            await model.aclose()
        return reply.text

    assert [asyncio.run(ask(close)) for close in (False, True, False, True)] == ["Yes."] * 4
    assert len(engine.started) == 2


def test_loops_in_several_threads_share_one_engine(engine, gguf):
    model = EmbeddedModel.from_path(gguf)
    said: list[str] = []
    threads = [
        Thread(target=lambda: said.append(asyncio.run(model.generate(request())).text))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["Yes."] * 4
    assert len(engine.started) == 1


def test_closing_what_never_started_is_nothing(gguf):
    asyncio.run(EmbeddedModel.from_path(gguf).aclose())


def test_without_the_engine_the_missing_part_is_named(gguf, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingExtra, match="pip install xllamacpp"):
        asyncio.run(EmbeddedModel.from_path(gguf).generate(request()))


def test_a_file_that_the_engine_cannot_load(gguf, capfd):
    pytest.importorskip("xllamacpp")
    with pytest.raises(ModelError, match=r"cannot load some\.gguf"):
        asyncio.run(EmbeddedModel.from_path(gguf).generate(request()))
    assert capfd.readouterr() == ("", "")


# A real small model


@pytest.fixture(scope="session")
def weights() -> Path:
    return asyncio.run(fetch(entry("embedded:tiny")))


@pytest.fixture(scope="module")
def tiny(weights: Path) -> Iterator[EmbeddedModel]:
    # One thread: two that wait for each other starve on a busy machine.
    model = EmbeddedModel.from_catalogue("embedded:tiny", context_tokens=2048, threads=1)
    yield model
    asyncio.run(model.aclose())


SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string", "maxLength": 20}},
    "required": ["place"],
    "additionalProperties": False,
}


@pytest.mark.real_model
def test_equal_requests_get_equal_replies_whatever_the_cache_holds(tiny):
    chunk = TALE[2000:5000]
    first = request(f"{chunk}\n\nWho speaks?", 24)
    other = request(f"{chunk}\n\nWhat is the house like?", 4)
    elsewhere = request(f"{TALE[9000:9400]}\n\nWhat happens?", 4)

    async def ask() -> list[ChatReply]:
        replies = [await tiny.generate(r) for r in (first, first, other, elsewhere, first)]
        return [r for i, r in enumerate(replies) if i not in (2, 3)]

    replies = asyncio.run(ask())
    assert len({r.text for r in replies}) == 1
    assert replies[0].prompt_tokens > 600
    assert replies[0].cached_tokens < 100 < 500 < replies[1].cached_tokens
    assert replies[2].cached_tokens > 500


@pytest.mark.real_model
def test_a_schema_is_kept_to(tiny):
    reply = asyncio.run(tiny.generate(request("Where is Paris?", 60, json_schema=SCHEMA)))
    assert set(json.loads(reply.text)) == {"place"}


@pytest.mark.real_model
def test_the_first_token_has_alternatives(tiny):
    reply = asyncio.run(tiny.generate(request("Yes or no?", 1, top_logprobs=3)))
    assert reply.top_logprobs is not None
    assert len(reply.top_logprobs) == 3
    assert all(p <= 0 for p in reply.top_logprobs.values())
    assert reply.finish_reason == "length"


@pytest.mark.real_model
def test_streamed_pieces_are_the_reply(tiny):
    pieces: list[str] = []
    reply = asyncio.run(tiny.generate(request("Say hello.", 8), pieces.append))
    assert "".join(pieces) == reply.text
    assert len(pieces) > 1
    assert reply.completion_tokens == 8 or reply.finish_reason == "stop"


@pytest.mark.real_model
def test_counts_are_those_of_the_calls(tiny):
    async def both() -> tuple[int, ChatReply, list[int]]:
        counter = (await tiny.info()).counter
        turns = await counter.count_messages([("user", "Say <|im_end|> hello.")])
        reply = await tiny.generate(request("Say <|im_end|> hello.", 1))
        return turns, reply, await counter.count(["", "hello hello", "x" * 1000])

    turns, reply, counted = asyncio.run(both())
    assert turns == reply.prompt_tokens
    assert counted[0] == 0
    assert counted[1] == 2
    assert 10 < counted[2] <= 1000


@pytest.mark.real_model
def test_a_prompt_beyond_the_window_is_an_overflow(tiny):
    with pytest.raises(ContextOverflow):
        asyncio.run(tiny.generate(request("word " * 3000)))


@pytest.mark.real_model
@pytest.mark.parametrize("streamed", [True, False])
def test_a_cancelled_call_frees_its_slot(tiny, streamed):
    async def cancel() -> None:
        served = await tiny.served()
        root = served.address.removesuffix("/v1")

        async def busy() -> bool:
            slots = await served.ask("get", f"{root}/slots")
            return any(slot["is_processing"] for slot in slots)

        on_token = (lambda piece: None) if streamed else None
        task = asyncio.create_task(tiny.generate(request("Count to 900.", 1500), on_token))
        while not await busy():
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(20):  # the reply would take longer
            while await busy():
                pass

    asyncio.run(cancel())


@pytest.mark.real_model
def test_two_models_one_after_another(weights):
    async def ask() -> str:
        model = EmbeddedModel.from_path(weights, context_tokens=512, slots=1, threads=1)
        reply = await model.generate(request("Who wrote Hamlet?"))
        await model.aclose()
        return reply.text

    assert asyncio.run(ask()) == asyncio.run(ask())


ASKING = """
    import asyncio, sys
    from reader.llm.embedded import EmbeddedModel
    from reader.llm.types import ChatRequest, Message

    async def main():
        model = EmbeddedModel.from_path(sys.argv[1], context_tokens=2048, threads=1)
        request = ChatRequest(messages=(Message("user", "Count to 900."),), max_tokens=1500)
        got = asyncio.Event()
        task = asyncio.create_task(model.generate(request, lambda piece: got.set()))
        await got.wait()
        {then}

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("then", "ends"),
    [
        ("task.cancel(); await model.aclose()", 0),
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGINT); await task", 130),
    ],
    ids=["closed", "dropped", "exit", "interrupted"],
)
def test_a_program_ends_in_silence_while_the_model_writes(weights, then, ends):
    code = "import os, signal\n" + textwrap.dedent(ASKING).replace("{then}", then)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(weights)],
        capture_output=True,
        timeout=60,
        env=os.environ,
    )
    assert (done.returncode, done.stdout, done.stderr) == (ends, b"", b"")
