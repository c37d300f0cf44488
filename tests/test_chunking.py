"""Chunks tile the text, never pass their budget, and end where a reader would pause."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from reader import Document
from reader.chunking import (
    Chunk,
    ChunkOptions,
    chunk,
    chunk_document,
    chunk_key,
    room,
)
from reader.errors import InvalidOption, WindowTooSmall
from reader.tokens import EstimateCounter, HuggingFaceCounter, TokenCounter

TALE = (Path(__file__).parent.parent / "reader" / "tales" / "the_monkeys_paw.txt").read_text(
    encoding="utf-8"
)


def learnt() -> Tokenizer:
    """A small vocabulary of words learnt from the tale."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=2_000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TALE], trainer)
    return tokenizer


WORDS = HuggingFaceCounter(learnt())
ESTIMATE = EstimateCounter()


class Server:
    """Counts as a server does: exactly, with a token for the start, and one request a text."""

    name = "server"
    exact = True

    def __init__(self) -> None:
        self.requests = 0

    async def count(self, texts: Sequence[str]) -> list[int]:
        self.requests += len(texts)
        await asyncio.sleep(0)
        return [n + 1 for n in await WORDS.count(texts)]

    async def count_messages(self, turns: Sequence[tuple[str, str]]) -> int:
        raise AssertionError("no messages here")

    def tokenizer(self) -> Any | None:
        return None


def chunks_of(text: str, tokens: int, counter: TokenCounter = WORDS, **options: Any) -> list[Chunk]:
    chunks = asyncio.run(chunk(text, counter=counter, chunk_tokens=tokens, **options))
    shown = [text[c.overlap_start : c.end] for c in chunks]
    assert "".join(text[c.start : c.end] for c in chunks) == text
    assert [c.index for c in chunks] == list(range(len(chunks)))
    assert all(c.start < c.end for c in chunks)
    assert [c.tokens for c in chunks] == asyncio.run(counter.count(shown))
    assert all(c.tokens <= tokens for c in chunks)
    return chunks


def texts(text: str, chunks: list[Chunk]) -> list[str]:
    return [text[c.start : c.end] for c in chunks]


def fill(chunks: list[Chunk], tokens: int) -> float:
    return sum(c.tokens for c in chunks) / len(chunks) / tokens


# Letters of every kind, and what splitters stumble over: line ends, joiners, accents, fences.
awkward = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(
            [
                "\n",
                "\r\n",
                "\r",
                "\n\n\n",
                "\x00",
                " ",
                "\t",
                "\u2028",
                "\u200d",
                "e\u0301",
                "\U0001f469\u200d\U0001f467",
            ]
        ),
        st.sampled_from(
            ["漢字。", "```\n", "| a | b |\n", "# Head\n", "- item\n", "A sentence. ", "x" * 90]
        ),
    ),
    max_size=60,
).map("".join)


class TestAnyText:
    @settings(max_examples=150, deadline=None)
    @given(awkward, st.integers(16, 80), st.booleans(), st.booleans(), st.data())
    def test_chunks_tile_it_within_the_budget(
        self, text: str, tokens: int, markdown: bool, code: bool, data: st.DataObject
    ) -> None:
        counter = data.draw(st.sampled_from([WORDS, ESTIMATE, Server()]))
        sections = data.draw(st.lists(st.integers(0, len(text)), max_size=4))
        chunks_of(text, tokens, counter, markdown=markdown, code=code, sections=sections)

    @settings(max_examples=100, deadline=None)
    @given(awkward, st.integers(24, 80), st.integers(1, 12), st.booleans())
    def test_overlaps_are_the_text_before_and_no_longer_than_asked(
        self, text: str, tokens: int, overlap: int, markdown: bool
    ) -> None:
        chunks = chunks_of(text, tokens, overlap_tokens=overlap, markdown=markdown)
        before = asyncio.run(WORDS.count([text[c.overlap_start : c.start] for c in chunks]))
        assert all(n <= overlap for n in before)
        assert all(c.overlap_start <= c.start for c in chunks)

    @pytest.mark.parametrize(
        "text",
        [
            "x" * 200_000,
            "\n" * 100_000,
            " " * 100_000,
            "\x00" * 20_000,
            "漢字仮名" * 20_000,
            "👩‍👩‍👧" * 8_000,
            "e" + "\u0301" * 20_000,
            "word " * 40_000,
            "`" * 50_000,
            "```\n" * 20_000,
            "| a | b |\n" * 15_000,
        ],
        ids=lambda text: repr(text[:4]),
    )
    def test_long_monotony(self, text: str) -> None:
        chunks = chunks_of(text, 500, ESTIMATE)
        assert fill(chunks, 500) > 0.5

    def test_no_text_has_no_chunks(self) -> None:
        assert chunks_of("", 100) == []

    def test_what_fits_is_one_chunk(self) -> None:
        text = "# Title\n\nOne.\n\n\n\nTwo.\n"
        assert [c.end for c in chunks_of(text, 100, markdown=True)] == [len(text)]

    def test_letters_keep_their_accents_and_families_stay_together(self) -> None:
        for unit in ("e\u0301", "👩‍👩‍👧", "\r\n"):
            text = unit * 3_000
            assert all(c.start % len(unit) == 0 for c in chunks_of(text, 64, ESTIMATE))


class TestBoundaries:
    def test_a_real_tale_is_cut_between_paragraphs_and_the_chunks_are_full(self) -> None:
        for tokens in (400, 1_000):
            chunks = chunks_of(TALE, tokens)
            ends = [TALE[: c.end].endswith("\n\n") for c in chunks[:-1]]
            assert sum(ends) >= 0.9 * len(ends)
            assert fill(chunks, tokens) > 0.8

    def test_a_long_paragraph_is_cut_between_sentences(self) -> None:
        text = " ".join(TALE.split())
        starts = [text[: c.start].rstrip()[-1] for c in chunks_of(text, 300)[1:]]
        assert set(starts) <= set(".!?\"'\u201d\u2019")

    def test_lines_that_wrap_do_not_end_sentences(self) -> None:
        sentence = "the old man went down to the river in the cold of the morning and said nothing"
        lines = [sentence, sentence, sentence + ".", "Then he came back. And " + sentence] * 40
        text = "\n".join(lines)
        for piece in texts(text, chunks_of(text, 200))[:-1]:
            assert piece.rstrip().endswith(".")

    def test_sections_are_preferred_but_not_at_any_price(self) -> None:
        paragraph = "It was a long day and nothing at all happened on the road to the sea. " * 4
        section = "Part\n\n" + (paragraph.strip() + "\n\n") * 5
        text = section * 30
        starts = [i * len(section) for i in range(30)]
        tokens = int(asyncio.run(WORDS.count([section]))[0] * 1.25)
        with_sections = chunks_of(text, tokens, sections=starts)
        without = chunks_of(text, tokens)
        assert all(c.start in starts for c in with_sections)
        assert sum(c.start in starts for c in without) < len(without) / 2
        larger = int(tokens * 4.3 / 1.25)
        assert len(chunks_of(text, larger, sections=starts)) <= len(chunks_of(text, larger)) * 1.15

    def test_many_headings_do_not_make_many_small_chunks(self) -> None:
        paragraphs = TALE.split("\n\n")
        text = "\n\n".join(f"{'#' * (i % 3 + 1)} Head {i}\n\n{p}" for i, p in enumerate(paragraphs))
        heads = [m.start() for m in re.finditer(r"^#", text, re.MULTILINE)]
        chunks = chunks_of(text, 800, markdown=True, sections=heads)
        assert fill(chunks, 800) > 0.8
        assert all(c.start in heads for c in chunks)

    def test_the_last_chunk_is_not_a_scrap(self) -> None:
        sentence = "One more of these short sentences. "
        one = asyncio.run(WORDS.count([sentence * 10]))[0] / 10
        for extra in range(101, 106):
            chunks = chunks_of(sentence * extra, int(one * 100))
            assert len(chunks) == 2
            assert chunks[-1].tokens > one * 15

    @pytest.mark.parametrize("markdown", [True, False])
    def test_code_and_tables_stay_whole_where_they_fit(self, markdown: bool) -> None:
        code = "```python\n" + "def f(x):\n\n    return x + 1\n\n\n" * 8 + "```\n"
        table = "| name | number |\n|---|---|\n" + "| a row | 12345 |\n" * 12
        prose = [p + "\n\n" for p in TALE.split("\n\n")[:60]]
        parts = [p + (code, table)[i % 2] + "\n" if i % 4 == 0 else p for i, p in enumerate(prose)]
        text = "".join(parts)
        chunks = chunks_of(text, 400, markdown=markdown)
        assert sum(piece.count(code) + piece.count(table) for piece in texts(text, chunks)) == 15

    def test_code_that_does_not_fit_is_cut_between_lines(self) -> None:
        text = "Intro.\n\n```\n" + "value = compute(value, 17)\n" * 300 + "```\n\nAfter it.\n"
        chunks = chunks_of(text, 200, markdown=True)
        assert all(text[c.end - 1] == "\n" for c in chunks)

    def test_a_fence_that_never_closes_holds_nothing_together(self) -> None:
        assert fill(chunks_of("```\n" + TALE, 400, markdown=True), 400) > 0.8

    def test_source_code_is_cut_at_its_definitions(self) -> None:
        body = "    total = 0\n    for item in items:\n        total += item\n\n    return total\n"
        text = "\n\n".join(f"def function_{i}(items):\n{body}" for i in range(80))
        chunks = chunks_of(text, 250, code=True)
        assert all(text.startswith("def ", c.start) for c in chunks)

    def test_the_same_text_gives_the_same_chunks(self) -> None:
        assert chunks_of(TALE, 300) == chunks_of(TALE, 300)

    def test_overlaps_show_whole_sentences_of_the_text_before(self) -> None:
        chunks = chunks_of(TALE, 500, overlap_tokens=100)
        overlapping = [c for c in chunks[1:] if c.overlap_start < c.start]
        assert len(overlapping) >= 0.8 * (len(chunks) - 1)
        begins = [TALE[: c.overlap_start].rstrip()[-1] in ".!?\"'\u201d\u2019" for c in overlapping]
        assert sum(begins) >= 0.8 * len(begins)


class TestCounters:
    def test_a_server_is_asked_little(self) -> None:
        server = Server()
        text = TALE * 5
        chunks = chunks_of(text, 500, server)
        asked_by_the_check = len(chunks)
        assert server.requests - asked_by_the_check <= 3 * len(chunks)
        assert fill(chunks, 500) > 0.8

    def test_counts_that_do_not_add_up_still_fit(self) -> None:
        class Moody(Server):
            """Long texts weigh a third more than their parts."""

            async def count(self, texts: Sequence[str]) -> list[int]:
                return [n + n // 3 * (n > 150) for n in await WORDS.count(texts)]

            def tokenizer(self) -> Any | None:
                return learnt

        chunks = chunks_of(TALE, 200, Moody())
        assert fill(chunks, 200) > 0.4

    def test_a_character_larger_than_the_budget_is_an_error(self) -> None:
        class Heavy(Server):
            async def count(self, texts: Sequence[str]) -> list[int]:
                return [100 * len(text) for text in texts]

        with pytest.raises(InvalidOption, match="One character counts 100 tokens"):
            chunks_of("some text", 64, Heavy())


class TestDocuments:
    def test_sections_of_a_document_are_its_boundaries(self) -> None:
        body = "The road went on over the hill and the wind blew from the sea. " * 6
        document = Document.from_text(
            "\n".join(f"# Part {i}\n\n{body}\n" for i in range(20)), name="parts.md"
        )
        starts = {section.start for section in document.sections}
        seen: list[tuple[int, int]] = []
        chunks = asyncio.run(
            chunk_document(
                document,
                counter=WORDS,
                chunk_tokens=300,
                on_progress=lambda done, total: seen.append((done, total)),
            )
        )
        assert len(starts) == 20
        assert {c.start for c in chunks} <= starts
        assert seen[-1] == (len(document.text), len(document.text))

    def test_long_texts_report_progress_and_leave_the_event_loop_free(self) -> None:
        text = TALE * 120
        seen: list[int] = []

        async def main() -> int:
            task = asyncio.ensure_future(
                chunk(
                    text,
                    counter=ESTIMATE,
                    chunk_tokens=1_000,
                    on_progress=lambda done, total: seen.append(done),
                )
            )
            ticks = 0
            while not task.done():
                ticks += 1
                await asyncio.sleep(0)
            assert fill(await task, 1_000) > 0.8
            return ticks

        assert asyncio.run(main()) > 10
        assert len(seen) >= 2
        assert seen == sorted(seen)
        assert seen[-1] == len(text)

    def test_slices_of_a_long_text_leave_no_trace(self) -> None:
        text = TALE * 8
        assert len(text) > 150_000
        chunks = chunks_of(text, 600)
        assert min(c.tokens for c in chunks[:-1]) > 300


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"chunk_tokens": 15},
            {"chunk_tokens": 100, "overlap_tokens": 51},
            {"chunk_tokens": 100, "overlap_tokens": -1},
        ],
    )
    def test_out_of_range_is_an_error_that_says_the_range(self, options: dict[str, int]) -> None:
        with pytest.raises(InvalidOption, match=r"16|50"):
            asyncio.run(chunk("text", counter=WORDS, **options))
        with pytest.raises(ValueError, match=r"16|half|0"):
            ChunkOptions(**options)

    def test_a_key_changes_with_everything_that_changes_chunks(self) -> None:
        base = ChunkOptions(chunk_tokens=100)
        keys = {
            chunk_key("a", base, "x"),
            chunk_key("b", base, "x"),
            chunk_key("a", base, "y"),
            chunk_key("a", ChunkOptions(chunk_tokens=101), "x"),
            chunk_key("a", ChunkOptions(chunk_tokens=100, overlap_tokens=10), "x"),
        }
        assert len(keys) == 5
        assert chunk_key("a", base, "x") == chunk_key("a", ChunkOptions(chunk_tokens=100), "x")


class TestRoom:
    def test_is_what_the_window_leaves(self) -> None:
        left = room(8_000, fixed_tokens=500, memory_tokens=300, output_tokens=200)
        assert left == 7_760 - 1_000

    def test_hardly_depends_on_the_question(self) -> None:
        def left(asked: int) -> int:
            caps = {"memory_tokens": 300, "output_tokens": 200}
            return room(8_000, fixed_tokens=400 + asked, question_tokens=asked, **caps)

        assert len({left(asked) for asked in range(1, 126)}) == 1
        assert left(126) == left(1) - 125
        assert all(left(asked) <= 7_760 - 900 - asked for asked in range(400))

    def test_too_little_is_an_error_with_the_numbers(self) -> None:
        with pytest.raises(WindowTooSmall) as caught:
            room(1_000, fixed_tokens=700, memory_tokens=120, output_tokens=90, safety=0.03)
        for number in ("1000", "60", "64", "700", "120", "90", "30"):
            assert number in str(caught.value)
        assert "window=" in caught.value.hint
