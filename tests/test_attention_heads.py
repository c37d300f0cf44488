"""Tables of heads, finding them, and the reranker that uses them."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

import reader.attention as attention
from attention_words import GOOD, SHAPE, WordAttention
from reader.attention.calibration import (
    Measured,
    calibrate_model,
    choose,
    measure,
    reciprocal_ranks,
)
from reader.attention.examples import read_examples
from reader.attention.heads import (
    HeadTable,
    find_table,
    keep_table,
    read_table,
    shipped,
)
from reader.attention.looking import Looker
from reader.attention.model import Head
from reader.attention.needles import needle_examples
from reader.attention.ranking import fused, named
from reader.errors import EmptyQuestion, InvalidOption, WindowTooSmall

TABLE = HeadTable(model="words", shape=SHAPE, probe="test", source="test", heads=(GOOD,))


def info(model=None):
    return asyncio.run((model or WordAttention()).info())


def row(number, **changes):
    documents = [
        {"title": f"T{i}", "text": f"The road went over hill {i}. It was {'long ' * 5}."}
        for i in range(6)
    ]
    gold = number % 6
    documents[gold]["text"] += f" Keeper{number} lives here."
    plain = {
        "id": f"set/{number}",
        "question": f"Where does Keeper{number} stay?",
        "documents": documents,
        "meta": {"gold_positions": [gold]},
    }
    return plain | changes


def write(path, rows):
    opening = gzip.open if path.suffix == ".gz" else open
    with opening(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in rows)
    return path


def test_shipped_tables_are_sound():
    tables = shipped()
    assert len(tables) >= 8
    for table in tables:
        _, size, _, _ = table.shape.split("/")
        layers, heads = map(int, size.split("x"))
        assert len(set(table.heads)) == len(table.heads)
        assert all(layer < layers and head < heads for layer, head in table.heads)
    names = [(table.shape, table.probe) for table in tables]
    assert len(set(names)) == len(names)


def test_a_model_is_known_by_its_shape_and_may_have_several_tables():
    llama = replace(info(), shape="llama/32x32/4096/128256")
    assert find_table(llama).probe == "nq"
    assert find_table(llama, probe="longmemeval").heads[0] == (13, 18)
    assert find_table(llama, probe="other") is None
    assert find_table(info()) is None


def test_a_users_own_table_comes_first(store):
    model = WordAttention(shape="llama/32x32/4096/128256")
    keep_table(TABLE, info(model), store)
    assert find_table(info(model), store) == TABLE
    # Other weights of the same shape have the shipped one.
    other = replace(info(model), identity="other")
    assert find_table(other, store).probe == "nq"


def test_a_table_in_a_file(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(TABLE.model_dump_json())
    assert read_table(path) == TABLE
    path.write_text('{"model": "x"}')
    with pytest.raises(InvalidOption, match="no table of heads: shape"):
        read_table(path)
    with pytest.raises(InvalidOption, match="cannot be read"):
        read_table(tmp_path / "missing.json")


def test_a_table_of_another_model_is_refused():
    other = TABLE.model_copy(update={"shape": "llama/4x2/8/100"})
    with pytest.raises(InvalidOption, match="reader calibrate"):
        asyncio.run(Looker.open(WordAttention(), table=other))
    beyond = TABLE.model_copy(update={"heads": ((9, 0),)})
    with pytest.raises(InvalidOption, match="reader calibrate"):
        asyncio.run(Looker.open(WordAttention(), table=beyond))


def test_a_window_larger_than_the_models():
    with pytest.raises(WindowTooSmall, match="at most 512"):
        asyncio.run(Looker.open(WordAttention(), table=TABLE, window=600))


def test_calibration_finds_the_head_that_retrieves(tmp_path):
    data = write(tmp_path / "set.dev.jsonl.gz", [row(n) for n in range(20)])
    seen = []
    table = asyncio.run(
        calibrate_model(
            WordAttention(),
            data,
            heads=2,
            on_progress=lambda done, total: seen.append((done, total)),
        )
    )
    assert table.heads[0] == GOOD
    assert table.scores[0] == pytest.approx(1.0)
    assert table.scores[1] < 0.6
    assert table.recall["1"] == 1.0
    assert table.questions + table.held_out == 20
    assert table.probe == "set"
    assert seen[-1] == (20, 20)


def test_the_half_that_is_reported_is_not_the_half_that_chooses(tmp_path):
    """Heads that only fit the choosing half must look bad in the report."""
    examples = read_examples(write(tmp_path / "set.jsonl", [row(n) for n in range(40)]))
    measured = []
    for example in examples:
        scores = np.zeros((8, 6), np.float32)
        gold = next(iter(example.gold))
        scores[0, gold if example.chooses else (gold + 1) % 6] = 1.0
        measured.append(Measured(example, scores))
    table = choose(measured, info(), probe="p", source="s", heads=1)
    assert table.heads == ((0, 0),)
    assert table.scores == (1.0,)
    assert table.recall["1"] == 0.0
    with pytest.raises(InvalidOption, match="too few"):
        choose([one for one in measured if one.example.chooses], info(), probe="p", source="s")


def test_places_do_not_count_other_gold_passages():
    example = replace(read_row(0), gold=frozenset({1, 2}))
    scores = np.array([[0, 5, 4, 1, 1, 1], [9, 5, 4, 6, 1, 1]], np.float32)
    np.testing.assert_allclose(reciprocal_ranks([Measured(example, scores)]), [1.0, 1 / 3])


def read_row(number):
    from reader.attention.examples import _example

    return _example(row(number), "x")


def test_equal_scores_are_no_merit():
    example = read_row(0)
    flat = np.zeros((1, 6), np.float32)
    assert reciprocal_ranks([Measured(example, flat)])[0] == pytest.approx(1 / 6)


def test_examples_from_one_long_text(tmp_path):
    text = "\n\n".join(f"Paragraph {i} " + "says little. " * 40 for i in range(9))
    gold = f"Paragraph 4 {'says little. ' * 40}".strip()
    rows = [
        {"id": "a", "question": "Which?", "context": text, "evidence": [gold]},
        {"id": "b", "question": "Which?", "context": text, "evidence": None},
    ]
    (example,) = read_examples(write(tmp_path / "x.jsonl", rows))
    assert example.gold
    assert all(example.passages[at] in gold for at in example.gold)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["not json"], "not as expected"),
        (['{"question": "x"}'], "no question with known evidence"),
        (['{"question": "x", "documents": [{"title": "t"}]}'], "not as expected"),
        (["[1]"], "not as expected"),
        ([], "no question with known evidence"),
    ],
)
def test_files_that_hold_no_examples(tmp_path, lines, says):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(InvalidOption, match=says):
        read_examples(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(InvalidOption, match="cannot be read"):
        read_examples(tmp_path / "none.jsonl")


def test_needles_are_the_same_every_time_and_have_one_answer():
    first, again = needle_examples(8), needle_examples(8)
    assert first == again
    for example in first:
        (gold,) = example.gold
        others = " ".join(p for n, p in enumerate(example.passages) if n != gold)
        names = [w for w in example.question.rstrip("?").split() if w[0].isupper()][1:]
        assert any(name in example.passages[gold] and name not in others for name in names)
    assert len({e.chooses for e in needle_examples(24)}) == 2


def test_a_model_without_a_table_is_calibrated_once_and_remembered(store):
    model = WordAttention()
    looker = asyncio.run(Looker.open(model, store=store))
    assert looker.table.probe == "needles"
    assert looker.heads[0] == GOOD
    asked = len(model.requests)
    again = asyncio.run(Looker.open(model, store=store))
    assert again.heads == looker.heads
    assert len(model.requests) == asked


def test_measure_subtracts_what_a_question_without_content_draws():
    """Head (0, 0) looks at the first token whatever is asked: nothing is left of it."""
    model = WordAttention()
    example = read_row(2)
    plain = asyncio.run(measure(model, [example], window=512, calibrate=False))
    less = asyncio.run(measure(model, [example], window=512))
    assert plain[0].scores[0].max() > 0
    assert less[0].scores[0].max() == pytest.approx(0, abs=1e-7)
    assert less[0].scores[2 * 2 + 1].argmax() == 2


# The reranker --------------------------------------------------------------------------------

HILLS = [f"The road went over hill {i}." for i in range(120)]
PASSAGES = HILLS[:30]


def test_rank_puts_the_passage_with_the_answer_first():
    passages = [*PASSAGES]
    passages[17] = "A lighthouse stood there, and its keeper was Oren."
    found = attention.rank(
        "Who was the lighthouse keeper?", passages, model=WordAttention(), table=TABLE
    )
    assert found[0].index == 17
    assert sorted(one.index for one in found) == list(range(30))
    assert all(a.score >= b.score for a, b in pairwise(found))
    best = attention.rank("keeper?", passages, model=WordAttention(), table=TABLE, limit=3)
    assert len(best) == 3


def test_the_second_look_compares_passages_of_different_windows():
    """A passage shares attention with its neighbours; alone among strangers, a poor one looks rich.

    All words of the question stand often in the first window, one of them once in the last.
    """
    crowd = ["Some amber lay there in the sand.", "Some keeper sat there in the sand."] * 12
    right, poor = "The amber keeper sat there.", "A keeper."
    strangers = ["Nothing at all of that kind is told here."] * 40
    passages = [right, *crowd, *strangers, poor]

    def best(twice):
        return attention.rank(
            "amber keeper", passages, model=WordAttention(), table=TABLE, window=300, twice=twice
        )

    assert passages[best(False)[0].index] == poor
    found = best(True)
    assert passages[found[0].index] == right
    assert sorted(one.index for one in found) == list(range(len(passages)))
    assert all(a.score >= b.score for a, b in pairwise(found))


def test_titles_are_named_as_whole_words_without_their_brackets():
    texts = ["They lived in Art House, Corfu.", "It is large.", "It is small.", "It is far.", "x"]
    titles = ["Durrell", "Corfu (island)", "Art", "Korfu", None]
    assert named([0, 1, 2, 3, 4], texts, titles) == [1]  # "Art" is too short a title
    assert named([3, 4, 1, 0, 2], texts, titles) == []  # only the first three name others
    assert named([0, 1, 2], ["Ulmer, Ulmen", "", ""], ["Ulmer", "Ulme", "Ulmen"]) == [2]
    same = ["In Corfu.", "In Corfu.", "More."]
    assert named([0, 1, 2], same, ["Corfu", "Corfu", "Corfu"]) == []  # nobody names itself


def test_the_best_passages_words_come_before_those_of_the_next():
    texts, titles = ["See Beta.", "See Alpha.", "b", "a"], [None, None, "Beta", "Alpha"]
    assert named([1, 0, 2, 3], texts, titles) == [3, 2]
    assert fused(range(12), words=[8]).index(8) == 3  # the heads' first places stay


def test_a_first_look_and_vectors_weigh_more_than_words_and_titles():
    for half in ("first", "vectors"):
        assert fused(range(12), **{half: [10]})[0] == 10
    for quarter in ("words", "titles"):
        assert fused(range(12), **{quarter: [10]})[:3] == [0, 1, 2]


def test_what_a_question_without_content_draws_is_subtracted():
    """Head (0, 0) looks at the first token whatever is asked."""

    async def scores(calibrate):
        looker = await Looker.open(WordAttention(), table=TABLE, calibrate=calibrate)
        return (await looker.with_heads([Head(0, 0)]).passages(PASSAGES, ["hill 3"]))[0]

    assert asyncio.run(scores(False)).max() > 0
    assert asyncio.run(scores(True)).max() == pytest.approx(0, abs=1e-7)


def test_rank_works_under_a_running_loop():
    async def main():
        return attention.rank("hill 3", PASSAGES, model=WordAttention(), table=TABLE, limit=1)

    assert asyncio.run(main())[0].index == 3


def test_rank_of_nothing_and_of_empty_passages():
    assert attention.rank("x", [], model=WordAttention(), table=TABLE) == []
    found = attention.rank("hill", ["", "a hill", "  "], model=WordAttention(), table=TABLE)
    assert found[0].index == 1
    assert len(found) == 3
    with pytest.raises(EmptyQuestion):
        attention.rank(" ", ["a"], model=WordAttention(), table=TABLE)


def test_eight_questions_share_the_windows():
    model = WordAttention()

    async def main():
        looker = await Looker.open(model, table=TABLE)
        return await looker.passages(HILLS, [f"hill {n}" for n in range(8)])

    scores = asyncio.run(main())
    assert [int(values.argmax()) for values in scores] == list(range(8))
    prefixes = [request.prefix for request in model.requests]
    assert len(set(prefixes)) == len(prefixes)


def test_the_shell_calibrates_and_keeps(tmp_path, monkeypatch):
    from reader.cli import app
    from reader.memory.store import Store

    monkeypatch.setattr("reader.attention.resolve.open_attention", lambda spec: WordAttention())
    data = write(tmp_path / "set.jsonl", [row(n) for n in range(12)])
    out = tmp_path / "table.json"
    done = CliRunner().invoke(
        app,
        [
            "calibrate",
            "embedded",
            f"--data={data}",
            f"--out={out}",
            "--heads=1",
            f"--store={tmp_path / 'store'}",
        ],
    )
    assert done.exit_code == 0, done.output
    table = read_table(out)
    assert table.heads == (GOOD,)
    assert find_table(info(), Store(tmp_path / "store")) == table
