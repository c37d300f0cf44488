"""MemAgent's segments: so many tokens each, wherever that is, or aligned to sentences."""

from __future__ import annotations

import asyncio

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from reader import Store
from reader.boundaries import Level, level
from reader.strategies import memagent_segments
from reader.strategies.memagent_segments import segments
from reader.testing import WordCounter
from reader.tokens import EstimateCounter, HuggingFaceCounter, TiktokenCounter

PROSE = "The road went on over the hill. Mr. Smith saw 3.5 ships, and the wind blew! Why? " * 60


def huggingface() -> HuggingFaceCounter:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return HuggingFaceCounter(tokenizer)


def openai() -> TiktokenCounter:
    """One token a byte."""
    counter = TiktokenCounter.__new__(TiktokenCounter)
    ranks = {bytes([i]): i for i in range(256)}
    counter._encoding = tiktoken.Encoding(
        "bytes", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={}
    )
    counter.name = "bytes"
    return counter


COUNTERS = [huggingface(), openai(), WordCounter(), EstimateCounter()]


def cut(text, counter, tokens, *, align=False, store=None):
    store = store or Store.in_memory()
    return asyncio.run(segments(store, "hash", text, counter, tokens, align=align))


def tiles(text, chunks) -> bool:
    ends = [0, *(c.end for c in chunks)]
    return (
        [c.start for c in chunks] == ends[:-1]
        and ends[-1] == len(text)
        and all(c.start < c.end for c in chunks)
        and [c.index for c in chunks] == list(range(len(chunks)))
    )


@pytest.mark.parametrize("counter", [huggingface(), openai()])
def test_with_a_tokenizer_segments_have_exactly_so_many_tokens(counter):
    chunks = cut(PROSE, counter, 500)
    assert tiles(PROSE, chunks)
    assert {c.end - c.start for c in chunks[:-1]} == {500}
    assert {c.tokens for c in chunks[:-1]} == {500}


@pytest.mark.parametrize("counter", [WordCounter(), EstimateCounter()])
def test_counted_segments_are_nearly_full_and_take_few_counts(counter):
    counted = []

    class Counting(type(counter)):
        async def count(self, texts):
            counted.extend(texts)
            return await super().count(texts)

    text = PROSE * 10
    chunks = cut(text, Counting(), 200)
    assert tiles(text, chunks)
    assert all(180 <= c.tokens <= 200 for c in chunks[:-1])
    assert len(counted) <= 2 * len(chunks)
    # no word is cut where the place was only guessed
    assert all(text[c.end - 1].isspace() or text[c.end].isspace() for c in chunks[:-1])


@given(st.text(max_size=300), st.integers(16, 40), st.sampled_from(COUNTERS), st.booleans())
def test_any_text_is_tiled(text, tokens, counter, align):
    chunks = cut(text, counter, tokens, align=align)
    assert tiles(text, chunks) or not text
    assert all(c.tokens <= tokens for c in chunks) or not isinstance(counter, WordCounter)


def test_characters_of_several_tokens_stay_whole():
    text = "日本語のテキスト。" * 30
    for counter in (huggingface(), openai()):
        chunks = cut(text, counter, 100)
        assert tiles(text, chunks)
        assert all(33 <= c.end - c.start <= 34 for c in chunks[:-1])


@pytest.mark.parametrize("counter", COUNTERS)
def test_aligned_segments_end_at_sentences_and_lose_at_most_a_twentieth(counter):
    plain = cut(PROSE, counter, 1000)
    chunks = cut(PROSE, counter, 1000, align=True)
    assert tiles(PROSE, chunks)
    assert all(level(PROSE, c.end) >= Level.SENTENCE for c in chunks[:-1])
    full = plain[0].end - plain[0].start
    assert all(0.88 * full <= c.end - c.start for c in chunks[:-1])
    assert any(level(PROSE, c.end) < Level.SENTENCE for c in plain[:-1])


def test_without_a_sentence_near_the_end_of_a_word_will_do():
    text = "word " * 2000
    chunks = cut(text, openai(), 503, align=True)
    assert all(text[c.end - 1] == " " for c in chunks[:-1])
    assert tiles("x" * 5000, cut("x" * 5000, openai(), 500, align=True))


def test_long_texts_are_tokenized_in_stretches_with_the_same_result(monkeypatch):
    whole = cut(PROSE, openai(), 100)
    monkeypatch.setattr(memagent_segments, "_STRETCH", 64)
    assert cut(PROSE, openai(), 100) == whole


def test_segments_are_kept_and_a_damaged_list_is_made_anew():
    store, asked = Store.in_memory(), []

    class Counting(WordCounter):
        async def count(self, texts):
            asked.extend(texts)
            return await super().count(texts)

    first = cut(PROSE, Counting(), 200, store=store)
    asked.clear()
    assert cut(PROSE, Counting(), 200, store=store) == first
    assert asked == []
    [key] = [row[0] for row in store._read("SELECT key FROM artifacts")]
    for damage in ([[5, 5]], [[10, 1], [5, 1]], {"a": 1}, [["x", "y"]], []):
        store.keep_artifact(key, "segments", damage)
        assert cut(PROSE, Counting(), 200, store=store) == first
