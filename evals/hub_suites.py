"""Suites of many tasks: LongBench, InfiniteBench, LooGLE, L-Eval, LV-Eval, HELMET's RAG tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from .hub_form import Fields, HubSet, Row, Task, records, texts
from .set_info import PARAGRAPH, SENTENCE, SHORT, SUMMARY, VALUE

_ROUGE = ("rouge1", "rouge2")
_NUMBER = "Answer with the number alone."
_CODE = "Answer with the next line of code alone."
_LETTER = "Answer with the letter of the right option; with all their letters if several are right."
_CHINESE = "Answer briefly and in Chinese."

_SHORT = Task("f1", SHORT)
_PHRASE = Task("f1", SENTENCE, ("rougeL",))
_HOPS = Task("f1", SHORT, ("exact_match", "subspan"))
_SUMMARY = Task("rougeL", SUMMARY, _ROUGE)

LONGBENCH: Mapping[str, Task] = {
    "narrativeqa": _SHORT,
    "qasper": _SHORT,
    "multifieldqa_en": _PHRASE,
    "multifieldqa_zh": Task("f1_characters", _CHINESE),
    "hotpotqa": _HOPS,
    "2wikimqa": _HOPS,
    "musique": _HOPS,
    "dureader": Task("rouge_characters", _CHINESE),
    "gov_report": _SUMMARY,
    "qmsum": Task("rougeL", PARAGRAPH, _ROUGE),
    "multi_news": _SUMMARY,
    "vcsum": Task("rouge_characters", "Write a summary in Chinese."),
    "trec": Task("classification", "Answer with the type of the question alone."),
    "triviaqa": _SHORT,
    "samsum": Task("rougeL", "Write a summary of one to three sentences.", _ROUGE),
    "lsht": Task("classification", "Answer with the class of the news alone, in Chinese."),
    "passage_count": Task("numbers_right", _NUMBER),
    "passage_retrieval_en": Task("numbers_right", 'Answer in the form "Paragraph 7".'),
    "passage_retrieval_zh": Task("numbers_right", 'Answer in the form "段落7".'),
    "lcc": Task("edit_similarity", _CODE),
    "repobench-p": Task("edit_similarity", _CODE),
}
"""Tasks of LongBench v1 with the metrics of its ``eval.py``; word F1 and ROUGE of the Chinese ones
are taken over characters here."""

_ASKED = {
    "passage_count": "How many different paragraphs are there, duplicates counted once?",
    "lcc": "What is the next line of this code?",
    "passage_retrieval_en": "From which paragraph is this abstract?\n\n{input}",
    "passage_retrieval_zh": "以下摘要出自哪一段?\n\n{input}",
    "repobench-p": "What is the next line of this code?\n\n{input}",
    "trec": "Of which type is the last question, by the examples in the text?\n\n{input}",
    "lsht": "以下新闻属于哪一类, 参照文中的例子?\n\n{input}",
    "triviaqa": "Answer the last question, as in the examples in the text.\n\n{input}",
    "samsum": "Summarise the last dialogue, as in the examples in the text.\n\n{input}",
}

INFINITE: Mapping[str, Task] = {
    "longbook_qa_eng": _SHORT,
    "longbook_choice_eng": Task("choice", None),
    "longbook_sum_eng": Task("rougeLsum", "Write a summary of about 1,000 words.", _ROUGE),
    "longbook_qa_chn": Task("f1_characters", _CHINESE),
    "longdialogue_qa_eng": Task("recall_any", "Answer with the name alone."),
    "passkey": Task("first_number", _NUMBER),
    "number_string": Task("first_number", _NUMBER),
    "kv_retrieval": Task("subspan", VALUE),
    "code_debug": Task("choice", None),
    "code_run": Task("last_number", _NUMBER),
    "math_find": Task("first_number", _NUMBER),
    "math_calc": Task("leading_numbers", "Answer with the numbers alone, separated by commas."),
}

LOOGLE: Mapping[str, Task] = {
    "longdep_qa": Task("rougeL", SENTENCE, ("f1", *_ROUGE)),
    "shortdep_qa": Task("rougeL", SENTENCE, ("f1", *_ROUGE)),
    "summarization": _SUMMARY,
}

_EXAM = Task("letters", _LETTER)
LEVAL_EXAM: Mapping[str, Task] = {
    "coursera": _EXAM,
    "quality": _EXAM,
    "tpo": _EXAM,
    "gsm100": Task("last_number", "Give the reasoning in short, and the number at the end."),
    "topic_retrieval_longchat": Task("subspan", "Answer with the topic alone."),
    "codeU": Task("subspan", "Answer with the output of the code alone."),
}
LEVAL_GENERATION: Mapping[str, Task] = {
    **dict.fromkeys(
        (
            "financial_qa",
            "legal_contract_qa",
            "multidoc_qa",
            "narrative_qa",
            "natural_question",
            "scientific_qa",
        ),
        _PHRASE,
    ),
    **dict.fromkeys(
        ("gov_report_summ", "news_summ", "patent_summ", "tv_show_summ", "paper_assistant"),
        _SUMMARY,
    ),
    **dict.fromkeys(("meeting_summ", "review_summ"), Task("rougeL", PARAGRAPH, _ROUGE)),
}

LVEVAL: Mapping[str, Task] = {
    **dict.fromkeys(
        (
            "hotpotwikiqa_mixup",
            "loogle_SD_mixup",
            "loogle_CR_mixup",
            "loogle_MIR_mixup",
            "multifieldqa_en_mixup",
        ),
        Task("keyword_f1", SHORT, ("f1",)),
    ),
    "factrecall_en": Task("subspan", SHORT),
    **dict.fromkeys(
        ("multifieldqa_zh_mixup", "factrecall_zh", "cmrc_mixup", "lic_mixup"),
        Task("f1_characters", _CHINESE),
    ),
    "dureader_mixup": Task("rouge_characters", _CHINESE),
}


def longbench(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Lines with input, context, answers, length, dataset, language, all_classes, _id.

    Shape and metrics: LongBench's README and ``eval.py`` (THUDM/LongBench, data.zip; the parts
    named ..._e are LongBench-E), and lm-evaluation-harness' task folder of it.
    """
    task = options["task"]
    asked = _ASKED.get(task, "{input}").replace("{input}", row["input"].strip())
    meta: dict[str, Any] = {"words": row["length"], "language": row["language"]}
    if row.get("all_classes"):
        meta["classes"] = row["all_classes"]
    yield {
        "id": row["_id"],
        "context": row["context"],
        "question": asked or None,
        "answers": texts(row["answers"]),
        "meta": meta,
    }


def longbench_v2(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Rows with _id, domain, sub_domain, difficulty, length, question, choice_A to choice_D,
    answer (a letter) and context.

    Shape: LongBench v2's README, one array in data.json. Metric: accuracy.
    """
    choices = [row[f"choice_{letter}"] for letter in "ABCD"]
    gold = "ABCD".index(row["answer"].strip())
    yield {
        "id": row["_id"],
        "context": row["context"],
        "question": row["question"],
        "answers": [choices[gold]],
        "choices": choices,
        "meta": {
            "gold": gold,
            **{field: row[field] for field in ("domain", "sub_domain", "difficulty", "length")},
        },
    }


def infinitebench(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Lines with id, context, input, answer (one or a list) and options (empty if there are none).

    Shape: the features that HELMET gives for xinrongzhang2022/InfiniteBench, one file a task;
    metrics: InfiniteBench's ``compute_scores.py``.
    """
    choices = texts(row.get("options") or [])
    answers = texts(row["answer"])
    question = (row["input"] or "").strip()
    if options["task"] == "math_calc":
        question = "Give all intermediate results of this calculation, from left to right."
    gold: dict[str, Any] = {}
    if choices:
        # Code.Debug gives the name of the function and its letter.
        right = next((i for i, choice in enumerate(choices) if choice in answers), None)
        if right is None:
            right = "ABCD".index(next(a for a in answers if a in "ABCD"))
        gold, answers = {"gold": right}, [choices[right]]
    yield {
        "id": str(row["id"]),
        "context": row["context"],
        "question": question or None,
        "answers": answers,
        "choices": choices or None,
        "meta": gold,
    }


def loogle(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Rows in either of the shapes that LooGLE has had.

    A document with input, title, qa_pairs (Q, A, S, type; a list, its text, or "none") and output
    (LooGLE's README and sample files), or a question with context, question, answer, evidence and
    title (public loaders of the hub's bigai-nlco/LooGLE, read by its conversion to parquet).
    """
    context = row.get("context") or row["input"]
    title = row.get("title")
    pairs = row.get("qa_pairs")
    if isinstance(pairs, str) and pairs.strip() not in ("", "none"):
        pairs = json.loads(pairs)
    if isinstance(pairs, list | Mapping):
        asked = [(pair["Q"], pair["A"], pair.get("S"), pair.get("type")) for pair in records(pairs)]
    elif row.get("question"):
        asked = [(row["question"], row["answer"], row.get("evidence"), row.get("task"))]
    else:
        asked = [(None, row.get("answer") or row["output"], None, "summarization")]
    for question, answer, evidence, kind in asked:
        yield {
            "context": context,
            "question": question,
            "answers": texts(answer),
            "evidence": texts(evidence) or None,
            "meta": {"title": title, "doc_id": row.get("doc_id") or title, "kind": kind},
        }


def leval(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Lines with instructions, outputs (side by side), input, source and evaluation.

    Shape: L-Eval's README (L4NLP/LEval, folders LEval/Exam and LEval/Generation). Options of a
    multiple choice stand in the question, several may be right: its answer is letters.
    """
    for question, answer in zip(row["instructions"], row["outputs"], strict=True):
        yield {
            "context": row["input"] or question,
            "question": question,
            "answers": texts(answer),
            "meta": {"source": row.get("source"), "evaluation": row.get("evaluation")},
        }


def lveval(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Lines with input, context, answers, length, dataset, language, answer_keywords and
    confusing_facts.

    Shape and metrics: LV-Eval's README and ``metrics.py`` (Infinigence/LVEval, one zip a task with
    a file for each of five lengths).
    """
    keywords = row.get("answer_keywords")
    yield {
        "context": row["context"],
        "question": row["input"],
        "answers": texts(row["answers"]),
        "meta": {
            "words": row["length"],
            "length": options["length"],
            "language": row["language"],
            "answer_keywords": " ".join(texts(keywords)) if keywords else None,
        },
    }


def helmet(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Lines with question, answers and ctxs (title, text, has_answer), and id or not.

    Shape: HELMET's ``load_qa``, files data/kilt/... of its archive. The passages with the answer
    in them are the evidence. Of PopQA, questions about what is asked for more than 1,000 times
    (s_pop) are left out, as in HELMET's configuration ``popqa_3``.
    """
    popularity = row.get("s_pop")
    if popularity is not None and math.log10(popularity) >= 3:
        return
    passages = row["ctxs"]
    gold = [at for at, passage in enumerate(passages) if passage.get("has_answer")]
    identity = row.get("id")
    yield {
        "id": None if identity is None else str(identity),
        "documents": [{"title": p["title"], "text": p["text"]} for p in passages],
        "question": row["question"],
        "answers": texts(row["answers"]),
        "evidence": [passages[at]["text"] for at in gold] or None,
        "meta": {
            "gold_titles": [passages[at]["title"] for at in gold],
            "gold_positions": gold,
        },
    }


SUITES = (
    HubSet(
        name="longbench",
        about="LongBench v1: 21 tasks in English, Chinese and code",
        root="hf://datasets/zai-org/LongBench",
        path="zip://data/{task}{part}.jsonl::{root}/data.zip",
        form="lines",
        tasks=LONGBENCH,
        choices={"part": ("", "_e")},
        convert=longbench,
    ),
    HubSet(
        name="longbench_v2",
        about="LongBench v2: 503 multiple-choice questions, up to two million words",
        root="hf://datasets/zai-org/LongBench-v2",
        path="data.json",
        form="array",
        tasks={"": Task("choice", None)},
        convert=longbench_v2,
    ),
    HubSet(
        name="infinitebench",
        about="InfiniteBench: 12 tasks of more than 100,000 tokens",
        root="hf://datasets/xinrongzhang2022/InfiniteBench",
        path="{task}.jsonl",
        form="lines",
        tasks=INFINITE,
        convert=infinitebench,
    ),
    HubSet(
        name="loogle",
        about="LooGLE: short and long dependency questions to recent documents",
        root="hf://datasets/bigai-nlco/LooGLE@refs%2Fconvert%2Fparquet",
        path="{task}/test/*.parquet",
        form="parquet",
        tasks=LOOGLE,
        convert=loogle,
        fan_out=True,
    ),
    *(
        HubSet(
            name=f"leval_{part.lower()}",
            about=f"L-Eval: {about}",
            root="hf://datasets/L4NLP/LEval",
            path=f"LEval/{part}/{{task}}.jsonl",
            form="lines",
            tasks=tasks,
            convert=leval,
            fan_out=True,
        )
        for part, about, tasks in (
            ("Exam", "closed questions", LEVAL_EXAM),
            ("Generation", "open questions and summaries", LEVAL_GENERATION),
        )
    ),
    HubSet(
        name="lveval",
        about="LV-Eval: questions at five lengths up to 256,000 words",
        root="hf://datasets/Infinigence/LVEval",
        path="zip://{task}/{task}_{length}.jsonl::{root}/{task}.zip",
        form="lines",
        tasks=LVEVAL,
        choices={"length": ("16k", "32k", "64k", "128k", "256k")},
        convert=lveval,
    ),
    *(
        HubSet(
            name=f"helmet_{name}",
            about=f"HELMET's RAG tasks: {about}",
            root=None,
            path=f"kilt/{path}",
            form="lines",
            tasks={"": Task("subspan", SHORT, ("f1",))},
            choices={"passages": ("50", "20", "105", "220", "440", "1000")},
            convert=helmet,
            fan_out=name == "popqa",
            advice="Fetch data.tar.gz of princeton-nlp/HELMET (34 GB), unpack it, and pass the"
            " folder data that it holds.",
        )
        for name, about, path in (
            ("nq", "Natural Questions", "nq-dev-multikilt_1000_k{passages}_dep6.jsonl"),
            ("triviaqa", "TriviaQA", "triviaqa-dev-multikilt_1000_k{passages}_dep6.jsonl"),
            ("hotpotqa", "HotpotQA", "hotpotqa-dev-multikilt_1000_k{passages}_dep3.jsonl"),
            ("popqa", "PopQA", "popqa_test_1000_k{passages}_dep6.jsonl"),
        )
    ),
)
