"""Counters: right where a vocabulary is at hand, from above where there is none."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import uuid
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer, models, pre_tokenizers

from reader.errors import UnknownModel
from reader.tokens import (
    EstimateCounter,
    HuggingFaceCounter,
    TiktokenCounter,
    TokenCounter,
    counter_for_openai,
    estimated,
)

TALE = Path(__file__).parent.parent / "reader" / "tales" / "the_monkeys_paw.txt"


def byte_tokenizer() -> Tokenizer:
    """One token a byte: counts can be known without any vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def byte_encoding() -> tiktoken.Encoding:
    ranks = {bytes([i]): i for i in range(256)}
    special = {"<|endoftext|>": 256}
    return tiktoken.Encoding(
        "bytes", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens=special
    )


def fits(text: str, tokens: int, model: str) -> bool:
    """Whether a text has at most so many tokens, by a vocabulary the splitting library holds."""
    splitter = TextSplitter.from_tiktoken_model(model, tokens, trim=False)
    return len(splitter.chunks(text)) == 1


def real_texts() -> dict[str, str]:
    tale = TALE.read_text(encoding="utf-8")
    dice = random.Random(3)
    ids = [str(uuid.UUID(int=dice.getrandbits(128))) for _ in range(60)]
    rows = [[dice.gauss(0, 10**k) for k in range(6)] for _ in range(80)]
    return {
        "prose": tale[:6000],
        "more prose": tale[6000:12000],
        "shouting": tale[:4000].upper(),
        "code": Path(json.__file__).with_name("decoder.py").read_text(encoding="utf-8")[:6000],
        "identifiers": json.dumps(dict(zip(ids[::2], ids[1::2], strict=True))),
        "numbers": "\n".join("\t".join(f"{x:.3f}" for x in row) for row in rows),
        "a table": "\n".join("| " + " | ".join(f"{x:.1f}" for x in row) + " |" for row in rows),
        "Chinese": "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。" * 40,
        "Japanese": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 40,
        "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. " * 30,
        "Russian": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья " * 30,
        "German": "Übermäßig große Straßenbahnhaltestellen begrüßen fröhliche Gäste. " * 40,
        "emoji": "😀🎉🚀👍🏽 👩‍👩‍👧 ✅ 🇩🇪 " * 40,
    }


class TestEstimate:
    @pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
    @pytest.mark.parametrize("kind", real_texts())
    def test_is_not_lower_than_the_truth(self, kind: str, model: str) -> None:
        text = real_texts()[kind]
        assert fits(text, estimated(text), model)

    def test_is_within_40_percent_for_prose(self) -> None:
        text = real_texts()["prose"]
        assert not fits(text, int(estimated(text) / 1.4), "gpt-4o")

    def test_says_that_it_estimates(self) -> None:
        counter = EstimateCounter()
        assert counter.name == "estimate/1"
        assert not counter.exact
        assert counter.tokenizer() is None

    @given(st.text())
    def test_any_text_has_an_estimate_up_to_its_bytes(self, text: str) -> None:
        size = len(text.encode())
        assert min(size, 1) <= estimated(text) <= size

    @given(st.text(max_size=60), st.text(max_size=60))
    def test_more_text_is_not_fewer_tokens_than_its_head(self, head: str, tail: str) -> None:
        # A mark that joins a run of marks makes it cheaper by a quarter at most.
        assert estimated(head + tail) >= estimated(head) * 0.7 - 1


class TestHuggingFace:
    def test_counts_as_the_tokenizer_does(self) -> None:
        counter = HuggingFaceCounter(byte_tokenizer())
        assert asyncio.run(counter.count(["", "abc", "a\u00e9", "x" * 70_000])) == [0, 3, 3, 70_000]
        assert counter.exact

    def test_reads_a_file_or_a_folder_and_knows_them_as_the_same(self, tmp_path: Path) -> None:
        byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
        of_folder, of_file = (
            HuggingFaceCounter(tmp_path),
            HuggingFaceCounter(str(tmp_path / "tokenizer.json")),
        )
        assert of_folder.name == of_file.name == HuggingFaceCounter(byte_tokenizer()).name
        assert asyncio.run(of_folder.count(["four"])) == [4]

    def test_a_tokenizer_that_cuts_is_not_believed_and_not_changed(self) -> None:
        tokenizer = byte_tokenizer()
        tokenizer.enable_truncation(5)
        tokenizer.enable_padding(length=9)
        assert asyncio.run(HuggingFaceCounter(tokenizer).count(["a" * 20, "a"])) == [20, 1]
        assert len(tokenizer.encode("a" * 20)) == 9

    @pytest.mark.parametrize("content", [None, "{}", "not json"])
    def test_what_is_no_tokenizer_is_a_typed_error(
        self, tmp_path: Path, content: str | None
    ) -> None:
        if content is not None:
            (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(UnknownModel, match=r"tokenizer\.json"):
            HuggingFaceCounter(tmp_path)


class TestTiktoken:
    def test_special_tokens_in_a_document_are_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: byte_encoding())
        counter = TiktokenCounter("gpt-4o")
        assert asyncio.run(counter.count(["<|endoftext|>", ""])) == [13, 0]
        assert counter.name == "tiktoken/bytes"

    def test_messages_cost_what_openai_documents(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: byte_encoding())
        counter = TiktokenCounter("gpt-4o")
        turns = [("system", "abc"), ("user", "de")]
        assert asyncio.run(counter.count_messages(turns)) == 3 + (3 + 6 + 3) + (3 + 4 + 2)

    def test_a_new_model_has_the_newest_vocabulary(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        monkeypatch.setattr(
            tiktoken, "get_encoding", lambda name: asked.append(name) or byte_encoding()
        )
        TiktokenCounter("a-model-of-next-year")
        assert asked == ["o200k_base"]

    def test_with_a_vocabulary_openai_models_are_counted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: byte_encoding())
        assert counter_for_openai("gpt-4o").exact

    def test_without_a_network_they_are_estimated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(name: str) -> tiktoken.Encoding:
            raise ConnectionError("no network")

        monkeypatch.setattr(tiktoken, "encoding_for_model", refused)
        assert isinstance(counter_for_openai("gpt-4o"), EstimateCounter)

    def test_a_fetch_that_hangs_stops_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        over = threading.Event()

        def hangs(name: str) -> tiktoken.Encoding:
            over.wait(5)
            return byte_encoding()

        monkeypatch.setattr(tiktoken, "encoding_for_model", hangs)
        try:
            assert isinstance(counter_for_openai("gpt-4o", patience=0.01), EstimateCounter)
        finally:
            over.set()


@pytest.mark.parametrize("counter", [EstimateCounter(), HuggingFaceCounter(byte_tokenizer())])
class TestEveryLocalCounter:
    def test_messages_count_more_than_their_texts(self, counter: TokenCounter) -> None:
        turns = [("system", "Be brief."), ("user", "Who wished for what, and why?")]
        alone = sum(asyncio.run(counter.count([content for _, content in turns])))
        assert asyncio.run(counter.count_messages(turns)) >= alone + 8 * len(turns)

    def test_large_batches_leave_the_event_loop_free(self, counter: TokenCounter) -> None:
        async def ticks_while_counting() -> int:
            task = asyncio.ensure_future(counter.count(["some words. " * 200] * 800))
            ticks = 0
            while not task.done():
                ticks += 1
                await asyncio.sleep(0)
            assert len(await task) == 800
            return ticks

        assert asyncio.run(ticks_while_counting()) > 3
