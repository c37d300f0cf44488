"""Sets of the hub, loaded from small files of the same shape as their own."""

from __future__ import annotations

import http.server
import json
import re
import threading
import zipfile
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reader.errors import InvalidOption, InvalidRow, SetUnavailable
from reader.evals.hub import hub_sets
from reader.evals.metrics import score
from reader.evals.sets import load, set_info
from reader.testing import WordCounter


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "downloads")
    datasets.disable_progress_bars()


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def archive(path, **members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as made:
        for name, rows in members.items():
            made.writestr(name, "".join(json.dumps(row) + "\n" for row in rows))


def longbench_row(**fields):
    return {
        "input": "Who rules?",
        "context": "Anna rules. Ben does not.",
        "answers": ["Anna"],
        "length": 5,
        "dataset": "hotpotqa",
        "language": "en",
        "all_classes": None,
        "_id": "abc",
    } | fields


def test_longbench(tmp_path):
    archive(
        tmp_path / "data.zip",
        **{
            "data/hotpotqa.jsonl": [longbench_row()],
            "data/hotpotqa_e.jsonl": [longbench_row(_id="e")],
            "data/trec.jsonl": [
                longbench_row(
                    input="Question: Where?",
                    answers=["Location"],
                    all_classes=["Location", "Person"],
                )
            ],
            "data/gov_report.jsonl": [longbench_row(input="", answers=["A summary."])],
            "data/passage_retrieval_en.jsonl": [longbench_row(answers=["Paragraph 7"])],
        },
    )
    [item] = load("longbench", task="hotpotqa", source=tmp_path)
    assert (item.id, item.dataset) == ("longbench/hotpotqa/abc", "longbench/hotpotqa")
    assert (item.question, item.answers) == ("Who rules?", ("Anna",))
    assert score(item, "It is Anna").value == pytest.approx(0.5)
    assert load("longbench/hotpotqa", source=tmp_path, part="_e")[0].id.endswith("/e")
    [trec] = load("longbench/trec", source=tmp_path)
    assert "Question: Where?" in trec.question
    assert score(trec, "Location").value == 1
    assert set_info(trec).requirement == "Answer with the type of the question alone."
    [report] = load("longbench/gov_report", source=tmp_path)
    assert report.question is None
    assert set_info(report).metric == "rougeL"
    [place] = load("longbench/passage_retrieval_en", source=tmp_path)
    assert score(place, "Paragraph 7").value == 1


def test_longbench_v2(tmp_path):
    row = {
        "_id": "v2",
        "domain": "Law",
        "sub_domain": "Cases",
        "difficulty": "hard",
        "length": "long",
        "question": "Which?",
        "choice_A": "Ale",
        "choice_B": "Beer",
        "choice_C": "Cider",
        "choice_D": "Dew",
        "answer": "C",
        "context": "They drank cider.",
    }
    (tmp_path / "data.json").write_text(json.dumps([row, {**row, "_id": "w"}], indent=1))
    first, second = load("longbench_v2", source=tmp_path)
    assert (first.choices[2], first.gold_choice, second.id) == ("Cider", 2, "longbench_v2/w")
    assert score(first, "C").value == 1
    assert first.meta["difficulty"] == "hard"


def test_infinitebench(tmp_path):
    base = {"context": "A book.", "options": []}
    lines(
        tmp_path / "longbook_choice_eng.jsonl",
        {**base, "id": 1, "input": "Who?", "answer": ["Ben"], "options": ["Al", "Ben", "C", "D"]},
    )
    lines(
        tmp_path / "code_debug.jsonl",
        {**base, "id": 2, "input": "Bug?", "answer": ["f", "B"], "options": ["e", "f", "g", "h"]},
        {**base, "id": 3, "input": "Bug?", "answer": ["D"], "options": ["e", "f", "g", "h"]},
    )
    lines(tmp_path / "longbook_sum_eng.jsonl", {**base, "id": 4, "input": "", "answer": ["Sum."]})
    lines(
        tmp_path / "math_calc.jsonl",
        {**base, "id": 5, "input": "", "answer": [3, 2]},
        {**base, "id": 6, "input": "", "answer": 7},
    )
    [choice] = load("infinitebench/longbook_choice_eng", source=tmp_path)
    assert choice.gold_choice == 1
    assert [i.gold_choice for i in load("infinitebench/code_debug", source=tmp_path)] == [1, 3]
    assert load("infinitebench/longbook_sum_eng", source=tmp_path)[0].question is None
    first, second = load("infinitebench/math_calc", source=tmp_path)
    assert (first.answers, second.answers) == (("3", "2"), ("7",))
    assert score(first, "3, 5").value == 0.5


def test_loogle_in_both_shapes(tmp_path):
    context = "The town was founded in 1901. It burned in 1950."
    table(
        tmp_path / "shortdep_qa/test/0000.parquet",
        {
            "context": context,
            "question": "When was it founded?",
            "answer": "In 1901.",
            "evidence": ["The town was founded in 1901."],
            "title": "Town",
            "doc_id": "d1",
        },
    )
    table(
        tmp_path / "longdep_qa/test/0000.parquet",
        {
            "input": context,
            "title": "Town",
            "qa_pairs": json.dumps(
                [
                    {
                        "Q": "When?",
                        "A": "1901",
                        "S": ["The town was founded in 1901."],
                        "type": "x",
                    },
                    {"Q": "What then?", "A": "fire", "S": ["It burned in 1950."], "type": "y"},
                ]
            ),
            "output": "none",
        },
    )
    table(
        tmp_path / "summarization/test/0000.parquet",
        {"input": context, "title": "Town", "qa_pairs": "none", "output": "A town that burned."},
    )
    [short] = load("loogle/shortdep_qa", source=tmp_path)
    assert (short.answers, short.meta["doc_id"]) == (("In 1901.",), "d1")
    assert len(short.gold_spans()) == 1
    long = load("loogle/longdep_qa", source=tmp_path)
    assert [item.meta["kind"] for item in long] == ["x", "y"]
    assert long[1].evidence == ("It burned in 1950.",)
    [summary] = load("loogle/summarization", source=tmp_path)
    assert (summary.question, summary.answers) == (None, ("A town that burned.",))


def test_leval(tmp_path):
    lines(
        tmp_path / "LEval/Exam/coursera.jsonl",
        {
            "instructions": ["Which?\nA. x\nB. y", "Which two?\nA. x\nB. y\nC. z"],
            "outputs": ["A", "BC"],
            "input": "A lecture.",
            "source": "coursera",
            "evaluation": "exam",
        },
    )
    lines(
        tmp_path / "LEval/Generation/narrative_qa.jsonl",
        {
            "instructions": ["Who?"],
            "outputs": ["Anna of the hill"],
            "input": "A story.",
            "source": "narrative_qa",
            "evaluation": "f1",
        },
    )
    one, two = load("leval_exam/coursera", source=tmp_path)
    assert (score(one, "A").value, score(two, "B").value, score(two, "B, C").value) == (1, 0.25, 1)
    [open_] = load("leval_generation/narrative_qa", source=tmp_path)
    assert score(open_, "Anna").value == pytest.approx(0.5)


def test_lveval(tmp_path):
    archive(
        tmp_path / "hotpotwikiqa_mixup.zip",
        **{
            "hotpotwikiqa_mixup/hotpotwikiqa_mixup_32k.jsonl": [
                {
                    "input": "Where?",
                    "context": "In the old town of Bern.",
                    "answers": ["the old town of Bern"],
                    "length": 6,
                    "dataset": "hotpotwikiqa_mixup",
                    "language": "en",
                    "answer_keywords": "Bern town",
                    "confusing_facts": None,
                }
            ]
        },
    )
    [item] = load("lveval/hotpotwikiqa_mixup", source=tmp_path, length="32k")
    assert item.meta["length"] == "32k"
    assert score(item, "old town of Bern").value == 1
    assert score(item, "the of").value == 0


def test_helmet(tmp_path):
    passages = [
        {"title": "Lake", "text": "The lake is deep.", "id": "1", "has_answer": False},
        {"title": "Hill", "text": "Anna lives there.", "id": "2", "has_answer": True},
    ]
    row = {"question": "Who lives there?", "answers": ["Anna"], "ctxs": passages}
    lines(tmp_path / "kilt/nq-dev-multikilt_1000_k50_dep6.jsonl", row, row)
    lines(
        tmp_path / "kilt/popqa_test_1000_k20_dep6.jsonl",
        {**row, "id": 7, "s_pop": 50},
        {**row, "id": 8, "s_pop": 5_000},
        {**row, "id": 7, "s_pop": 50},
    )
    first, second = load("helmet_nq", source=tmp_path)
    assert first.id != second.id
    assert first.meta["gold_positions"] == [1]
    text = first.document().text
    assert [text[a:b] for a, b in first.gold_spans()] == ["Anna lives there."]
    assert score(first, "It is Anna, I think").value == 1
    popular = load("helmet_popqa", source=tmp_path, passages=20)
    assert [item.id for item in popular] == ["helmet_popqa/7", "helmet_popqa/7-2"]
    with pytest.raises(InvalidOption, match=r"needs source.*34 GB"):
        load("helmet_nq")


HOTPOT = {
    "id": "5a7",
    "question": "Who is older?",
    "answer": "Anna",
    "type": "comparison",
    "level": "hard",
    "supporting_facts": {"title": ["Anna", "Ben", "Anna"], "sent_id": [0, 1, 9]},
    "context": {
        "title": ["Lake", "Anna", "Ben"],
        "sentences": [
            ["A lake."],
            ["Anna was born in 1901.", " She sang."],
            ["Ben sings.", "He was born in 1950."],
        ],
    },
}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("hotpotqa", "distractor/validation-00000-of-00001.parquet"),
        ("2wikimultihopqa", "data/validation-00000-of-00001.parquet"),
    ],
)
def test_hotpotqa_and_2wiki(tmp_path, name, path):
    table(tmp_path / path, HOTPOT)
    [item] = load(name, source=tmp_path)
    assert [p.text for p in item.documents] == [
        "A lake.",
        "Anna was born in 1901. She sang.",
        "Ben sings. He was born in 1950.",
    ]
    assert item.evidence == ("Anna was born in 1901.", "He was born in 1950.")
    assert item.meta["gold_titles"] == ["Anna", "Ben"]
    assert item.meta["gold_positions"] == [1, 2]
    assert len(item.gold_spans()) == 2


def test_musique(tmp_path):
    row = {
        "id": "2hop__1",
        "question": "Q?",
        "answer": "Bern",
        "answer_aliases": ["Berne"],
        "answerable": True,
        "question_decomposition": [{"id": 1}, {"id": 2}],
        "paragraphs": [
            {"idx": 0, "title": "A", "paragraph_text": "Not here.", "is_supporting": False},
            {"idx": 1, "title": "B", "paragraph_text": "Bern is here.", "is_supporting": True},
        ],
    }
    lines(tmp_path / "musique_ans_v1.0_dev.jsonl", row)
    lines(tmp_path / "musique_full_v1.0_dev.jsonl", row, {**row, "id": "n", "answerable": False})
    [item] = load("musique", source=tmp_path)
    assert (item.answers, item.meta["hops"]) == (("Bern", "Berne"), 2)
    assert item.evidence == ("Bern is here.",)
    _, none = load("musique", source=tmp_path, part="full")
    assert not none.answerable
    assert score(none, "The passages do not say.").value == 1


def test_narrativeqa_draws_before_it_reads(tmp_path):
    rows = [
        {
            "document": {
                "id": f"d{n}",
                "kind": "gutenberg",
                "text": f"Book {n}.",
                "summary": {"text": "A book.", "title": f"The Book {n}"},
            },
            "question": {"text": "Who?"},
            "answers": [{"text": "Anna"}, {"text": "Queen Anna"}],
        }
        for n in range(6)
    ]
    table(tmp_path / "data/validation-00000-of-00003.parquet", *rows[:3])
    table(tmp_path / "data/validation-00001-of-00003.parquet", *rows[3:])
    items = load("narrativeqa", source=tmp_path)
    assert [item.meta["doc_id"] for item in items] == [f"d{n}" for n in range(6)]
    assert items[0].answers == ("Anna", "Queen Anna")
    assert items[0].document().title == "The Book 0"
    drawn = load("narrativeqa", source=tmp_path, limit=2, seed=1)
    assert len(drawn) == 2
    assert all(item in items for item in drawn)


QUALITY = {
    "article_id": "20007",
    "title": "A Story",
    "article": "Once.",
    "questions": [
        {
            "question_unique_id": "20007_1",
            "question": "Who?",
            "options": ["Al", "Ben", "Cid", "Dan"],
            "gold_label": 2,
            "difficult": 1,
        },
        {"question": "Why?", "options": ["w", "x", "y", "z"], "gold_label": 4},
    ],
}


def test_quality(tmp_path):
    lines(tmp_path / "QuALITY.v1.0.1.htmlstripped.dev", QUALITY)
    first, second = load("quality", source=tmp_path)
    assert (first.id, first.answers, first.meta["hard"]) == ("quality/20007_1", ("Ben",), True)
    assert (second.id, second.gold_choice) == ("quality/0-1", 3)
    assert first.document() == second.document()


def answer(**fields):
    return {
        "unanswerable": False,
        "extractive_spans": [],
        "yes_no": None,
        "free_form_answer": "",
        "evidence": [],
        "highlighted_evidence": [],
    } | fields


def test_qasper(tmp_path):
    table(
        tmp_path / "qasper/validation/0000.parquet",
        {
            "id": "1909.0",
            "title": "A Paper",
            "abstract": "We try.",
            "full_text": {
                "section_name": ["Intro", "Method ::: Data"],
                "paragraphs": [["First."], ["We use two corpora.", "And more."]],
            },
            "qas": {
                "question": ["Which corpora?", "Is it good?", "Who pays?"],
                "question_id": ["q1", "q2", "q3"],
                "answers": [
                    {
                        "answer": [
                            answer(
                                extractive_spans=["two corpora", "more"],
                                evidence=["We use two corpora.", "FLOAT SELECTED: Table 1"],
                            ),
                            answer(free_form_answer="Two"),
                        ]
                    },
                    {"answer": [answer(yes_no=True), answer(yes_no=False)]},
                    {"answer": [answer(unanswerable=True)]},
                ],
            },
        },
    )
    spans, yes_no, none = load("qasper", source=tmp_path)
    assert spans.answers == ("two corpora, more", "Two")
    assert spans.evidence == ("We use two corpora.",)
    assert len(spans.gold_spans()) == 1
    assert yes_no.answers == ("Yes", "No")
    assert (none.answers, none.answerable) == (("Unanswerable",), False)
    document = spans.document()
    assert [s.title for s in document.sections] == ["A Paper", "Intro", "Method / Data"]


def test_qmsum(tmp_path):
    lines(
        tmp_path / "test.jsonl",
        {
            "topic_list": [],
            "general_query_list": [{"query": "Summarize.", "answer": "They met."}],
            "specific_query_list": [
                {
                    "query": "What of the budget?",
                    "answer": "It was cut.",
                    "relevant_text_span": [["1", "2"]],
                }
            ],
            "meeting_transcripts": [
                {"speaker": "Anna", "content": "Welcome to the meeting."},
                {"speaker": "Ben", "content": "The budget was cut."},
                {"speaker": "Anna", "content": "By how much was it?"},
            ],
        },
    )
    general, specific = load("qmsum", source=tmp_path)
    assert (general.evidence, general.meta["kind"]) == (None, "general")
    assert specific.evidence == ("Ben: The budget was cut.\nAnna: By how much was it?",)
    assert specific.meta["turn_spans"] == [[1, 2]]
    assert len(specific.gold_spans()) == 1


def nolima(folder):
    entry = {
        "id": "0401",
        "reasoning_type": "world_knowledge",
        "system_prompt": "",
        "task_template": "{haystack} {question}",
        "needle": "Actually, {CHAR} lives beside {1}.",
        "questions": {"onehop": "Who has been to {2}?", "twohop": "Who has been to {3}?"},
        "character_set": ["Yuki", "Stuart"],
        "tests": {
            "T1": {"input_args": ["the tower", "Paris", "France"]},
            "T2": {"input_args": ["the bridge", "Prague", "Bohemia"]},
        },
    }
    (folder / "needlesets").mkdir()
    (folder / "needlesets/needle_set.json").write_text(json.dumps([entry]))
    books = folder / "haystack/rand_shuffle"
    books.mkdir(parents=True)
    for number in range(1, 6):
        (books / f"rand_book_{number}.txt").write_text(f"Line of book {number}. It rains.\n" * 40)


def test_nolima(tmp_path):
    nolima(tmp_path)
    given = {"source": str(tmp_path), "lengths": 200, "items": 4, "counter": WordCounter()}
    items = load("nolima", **given)
    assert [item.question for item in items] == 2 * [
        "Who has been to Paris?",
        "Who has been to Prague?",
    ]
    assert [item.meta["haystack"] for item in items] == [f"rand_book_{n}" for n in range(1, 5)]
    for item in items:
        assert item.evidence[0] in item.context
        assert score(item, f"It is {item.answers[0]}.").value == 1
        assert score(item, item.answers[0].lower()).value == 0  # NoLiMa minds the case
    assert "France" in load("nolima", **given, hops="twohop")[0].question


@pytest.fixture
def served(tmp_path):
    """The folder over HTTP, as a hub would serve it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def end_headers(self):
            self.send_header("Accept-Ranges", "bytes")
            super().end_headers()

        def do_GET(self):
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if wanted is None:
                super().do_GET()
                return
            data = Path(self.translate_path(self.path)).read_bytes()
            start, end = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            self.send_header("Content-Length", str(end - start + 1))
            self.end_headers()
            self.wfile.write(data[start : end + 1])

    handler = partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_come_over_the_network_too_also_from_within_an_archive(served):
    folder, address = served
    archive(folder / "data.zip", **{"data/hotpotqa.jsonl": [longbench_row()]})
    [item] = load("longbench/hotpotqa", source=address)
    assert item.answers == ("Anna",)
    lines(folder / "QuALITY.v1.0.1.htmlstripped.dev", QUALITY)
    assert len(load("quality", source=address)) == 2


def test_what_cannot_be_had_says_so(served, tmp_path):
    _, address = served
    with pytest.raises(SetUnavailable, match="source=") as caught:
        load("longbench/hotpotqa", source=address)
    assert caught.value.retryable
    with pytest.raises(SetUnavailable):
        load("musique", source=tmp_path / "nowhere")


def test_a_set_that_changed_its_shape_is_named_with_the_row(tmp_path):
    lines(tmp_path / "musique_ans_v1.0_dev.jsonl", {"id": "1", "question": "Q?"})
    with pytest.raises(InvalidRow, match=r"musique, row 1.*paragraphs"):
        load("musique", source=tmp_path)
    (tmp_path / "musique_ans_v1.0_dev.jsonl").write_text("{no json\n")
    with pytest.raises(InvalidRow, match="not JSON"):
        load("musique", source=tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("longbench", {"taks": "trec"}, "Did you mean 'task'"),
        ("longbench/nothing", {}, "cannot be 'nothing'"),
        ("hotpotqa", {"split": "test"}, "It can be: 'validation', 'train'"),
        ("hotpotqa", {"task": "x"}, "no option 'task'"),
    ],
)
def test_wrong_options_of_a_hub_set_are_named(name, options, said):
    with pytest.raises(InvalidOption) as caught:
        load(name, **options)
    assert said in str(caught.value)


def test_addresses_are_those_that_were_looked_up():
    addresses = {
        name: hub.path.format(
            root=hub.root, **{option: values[0] for option, values in hub.allowed().items()}
        )
        for name, hub in hub_sets().items()
    }
    assert addresses["longbench"] == (
        "zip://data/narrativeqa.jsonl::hf://datasets/zai-org/LongBench/data.zip"
    )
    assert addresses["hotpotqa"] == "distractor/validation-*.parquet"
    assert addresses["helmet_nq"] == "kilt/nq-dev-multikilt_1000_k50_dep6.jsonl"
    assert len(addresses) == 18
