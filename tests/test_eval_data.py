"""The evaluation data beside the checkout, as it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from rapidfuzz import fuzz

from reader.evals.evidence import locate
from reader.evals.metrics import score
from reader.evals.sets import FILES, load, set_info

DATA = Path(__file__).parent.parent.parent / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the evaluation data is not beside the checkout ({DATA})"
)

ROWS = {
    "nq_open": 200,
    "hotpotqa": 99,
    "hotpotqa_long": 40,
    "musique": 50,
    "musique_long": 50,
    "2wikimultihopqa": 51,
    "2wikimultihopqa_long": 51,
    "quality": 92,
    "squality": 120,
    "fairytaleqa": 336,
    "qmsum": 127,
    "cuad": 50,
    "qasper": 81,
    "paperqa": 44,
    "meetingqa": 40,
    "govreport": 6,
    "nq_longdoc": 49,
    "covidqa": 173,
    "loogle_longdep": 15,
    "loogle_shortdep": 16,
    "kv_retrieval": 30,
    "babi": 600,
}


@pytest.mark.parametrize("name", ROWS)
def test_every_set_loads_and_its_own_references_are_right(name):
    items = load(DATA / f"{name}.dev.jsonl.gz")
    assert len(items) == ROWS[name]
    assert {item.dataset for item in items} == {name}
    for item in items[:: max(len(items) // 6, 1)]:
        info = set_info(item)
        assert info is not None
        assert info.name in FILES
        if item.choices is not None:
            assert score(item, "ABCD"[item.gold_choice]).value == 1
        else:
            assert score(item, item.answers[0]).value == pytest.approx(1)
        document = item.document()
        for passage, given in zip(item.passages, item.documents or (), strict=True):
            assert document.text[passage.start : passage.end] == given.text


@pytest.mark.parametrize("name", ROWS)
def test_the_gold_evidence_is_found_where_it_is_said_to_stand(name):
    items = [i for i in load(DATA / f"{name}.dev.jsonl.gz", limit=15) if i.evidence]
    counts: Counter[str] = Counter()
    for item in items:
        document = item.document()
        located = locate(item, document)
        counts["found"] += len(item.evidence) - len(located.missing)
        counts["gold"] += len(item.evidence)
        for start, end in located.spans:
            text = document.text[start:end]
            # The first 200 characters: comparing all of a long passage takes minutes.
            assert max(fuzz.partial_ratio(text[:200], gold) for gold in item.evidence) > 75
    # Of sets whose annotators did not copy word for word, a part may be missing.
    loose = name in ("loogle_longdep", "loogle_shortdep", "meetingqa", "paperqa")
    assert counts["found"] >= (0.85 if loose else 1) * counts["gold"]


def test_haystacks_serve_generators():
    items = load("babilong", haystack=DATA / "haystacks", lengths="4k", items=4)
    assert len({item.meta["haystack"] for item in items}) == 4
    stories = DATA / "babi.dev.jsonl.gz"
    tasks = load(
        "babilong", haystack=DATA / "haystacks", stories=stories, tasks=[1, 6], lengths=2_000
    )
    assert {item.meta["task"] for item in tasks} == {"1", "6"}
    for item in tasks:
        assert item.evidence
        assert score(item, item.answers[0]).value == 1
