"""Rows, files of rows, and sets by name."""

from __future__ import annotations

import gzip
import json

import pytest

from reader.errors import InvalidOption, InvalidRow, UnknownSet
from reader.evals.item import Item
from reader.evals.jsonl import read_items, write_items
from reader.evals.metrics import METRICS
from reader.evals.sets import FILES, known_sets, load, set_info

ROW = {"context": "Anna rules the town.", "question": "Who rules?", "answers": ["Anna"]}
PASSAGES = [
    {"title": "Lake", "text": "The lake is deep.\r\nVery deep.", "rank": 3},
    {"title": "", "text": "# Not a heading\n```\nopen fence"},
    {"title": "Hill  of\nWind", "text": "The hill is high."},
]


def write(folder, *rows, name="mine.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_the_shortest_row_gets_an_id_and_a_set(tmp_path):
    first, second = load(write(tmp_path, ROW, ROW))
    assert (first.id, second.id, first.dataset) == ("mine/1", "mine/2", "mine")
    assert first.document().text == "Anna rules the town."
    assert first.answers == ("Anna",)


def test_passages_become_sections_and_their_ranges_hold():
    item = Item(id="a", dataset="a", documents=PASSAGES, question="Where?", answers=["x"], meta={})
    document = item.document()
    assert [p.title for p in item.passages] == ["Lake", "", "Hill of Wind"]
    for passage, given in zip(item.passages, PASSAGES, strict=True):
        assert document.text[passage.start : passage.end] == given["text"].replace("\r\n", "\n")
    # An open code fence in a passage does not swallow the next title.
    assert [s.title for s in document.sections] == ["Lake", "Hill of Wind"]
    assert document.section_at(item.passages[2].start).title == "Hill of Wind"
    assert "# Hill of Wind\n\nThe hill is high." in document.text
    assert item.documents[0].rank == 3


def test_rows_of_one_document_give_equal_documents(tmp_path):
    other = {**ROW, "question": "Who does not?", "meta": {"title": "Town"}}
    first, second = load(write(tmp_path, ROW, other))
    assert first.document() == second.document()
    assert second.document().title == "Town"


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"question": None, "answers": "Anna"}, "answers", "array"),
        ({"answers": [1]}, "answers.0", "string"),
        ({"answers": []}, "", "'answers' is empty"),
        ({"answer": "Anna"}, "answer", "no such field"),
        ({"question": " "}, "question", "no word"),
        ({"choices": ["Anna"]}, "choices", "two options"),
        ({"choices": ["Ben", "Cid"]}, "", "must hold one of 'choices'"),
        ({"documents": [{"text": "x"}]}, "", "exactly one of"),
        ({"context": None}, "", "exactly one of"),
        ({"context": "  "}, "", "no text"),
        ({"context": None, "documents": [{"title": "x"}]}, "documents.0.text", "required"),
        ({"meta": 3}, "meta", "object"),
    ],
)
def test_a_wrong_row_names_its_line_and_field(tmp_path, change, field, said):
    path = write(tmp_path, ROW, {**ROW, **change})
    with pytest.raises(InvalidRow, match="line 2") as caught:
        read_items(path)
    assert caught.value.line == 2
    assert caught.value.field == field
    assert said in str(caught.value)
    assert "README" in str(caught.value) or "Fields are" in str(caught.value)


@pytest.mark.parametrize("missing", ["question", "answers"])
def test_a_missing_field_is_named(tmp_path, missing):
    row = {k: v for k, v in ROW.items() if k != missing}
    with pytest.raises(InvalidRow, match=rf"line 1: the field '{missing}' is missing") as caught:
        read_items(write(tmp_path, row))
    assert caught.value.field == missing


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('{"question": \n', 1, "not JSON"),
        ("\n[1]\n", 2, "a list where an object"),
        ("", 0, "holds no row"),
        ("\n \n", 0, "holds no row"),
    ],
)
def test_what_is_no_row_is_refused(tmp_path, text, line, said):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidRow, match=said) as caught:
        read_items(path)
    assert caught.value.line == line


def test_other_encodings_and_torn_archives_are_named(tmp_path):
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(ROW, ensure_ascii=False).encode() + b'\n{"question": "\xe9"}\n')
    with pytest.raises(InvalidRow, match="line 2: not UTF-8"):
        read_items(latin)
    whole = gzip.compress((json.dumps(ROW) + "\n").encode() * 50)
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(whole[:-20])
    with pytest.raises(InvalidRow, match="not a whole gzip file"):
        read_items(torn)
    torn.write_bytes(b"no gzip at all")
    with pytest.raises(InvalidRow, match="not a whole gzip file"):
        read_items(torn)
    with pytest.raises(UnknownSet, match="cannot be read"):
        read_items(tmp_path)


def test_two_rows_with_one_id_are_refused(tmp_path):
    with pytest.raises(InvalidRow, match="'q' stands in line 1 too"):
        read_items(write(tmp_path, {**ROW, "id": "q"}, {**ROW, "id": "q"}))


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_what_was_written_is_read_back(tmp_path, name):
    rows = [
        Item(id="é", dataset="s", documents=PASSAGES, question="Q?", answers=["a", "b"]),
        Item(id="2", dataset="s", context="A\u2028B", question=None, answers=["c"]),
    ]
    write_items(rows, tmp_path / name)
    assert read_items(tmp_path / name) == rows


def test_an_unanswerable_row_needs_no_reference():
    row = {**ROW, "answers": [], "meta": {"answerable": False}}
    assert not Item(id="a", dataset="a", **row).answerable


def test_a_limit_draws_over_the_whole_set_in_its_order(tmp_path):
    path = write(tmp_path, *[{**ROW, "id": f"{i:03}"} for i in range(100)])
    drawn = [item.id for item in load(path, limit=10, seed=1)]
    assert drawn == sorted(drawn)
    assert drawn == [item.id for item in load(path, limit=10, seed=1)]
    assert drawn != [item.id for item in load(path, limit=10, seed=2)]
    assert drawn[-1] > "030"
    assert len(load(path, limit=200)) == 100
    with pytest.raises(InvalidOption, match="limit"):
        load(path, limit=0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("needel", "'needle'"),
        ("fairytaleqa", "Pass the path"),
        ("no/such/file.jsonl", "no file there"),
        ("longbenhc/hotpotqa", "no file there"),
    ],
)
def test_an_unknown_name_says_what_to_do(name, said):
    with pytest.raises(UnknownSet) as caught:
        load(name)
    assert said in str(caught.value)


def test_a_file_takes_no_options(tmp_path):
    with pytest.raises(InvalidOption, match="no option 'lengths'"):
        load(write(tmp_path, ROW), lengths=100)


def test_every_known_set_can_be_scored():
    sets = known_sets()
    assert {"needle", "babilong", "longbench", "hotpotqa", "ruler_cwe", "nolima"} <= set(sets)
    for info in (*sets.values(), *FILES.values()):
        assert info.metric in METRICS
        assert set(info.also) <= set(METRICS)
        assert info.about
        assert info.requirement or info.metric == "choice"


def test_how_an_item_is_scored_comes_from_its_set_or_itself():
    def item(dataset="mine", **fields):
        return Item(id="x", **{"dataset": dataset, **ROW, **fields})

    assert set_info(item("fairytaleqa")).metric == "rougeL"
    assert set_info(item("longbench/trec")).metric == "classification"
    assert set_info(item("longbench/trec")).name == "longbench/trec"
    assert set_info(item()).metric == "f1"
    assert set_info(item(choices=["Anna", "Ben"])).metric == "choice"
    assert set_info(item(choices=["Anna", "Ben"])).requirement is None
    assert set_info(item(question=None)).metric == "rougeL"
    own = set_info(item("fairytaleqa", meta={"metric": "subspan", "requirement": "Be short."}))
    assert (own.metric, own.requirement) == ("subspan", "Be short.")
