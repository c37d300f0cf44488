"""Single question sets: HotpotQA, MuSiQue, 2WikiMultihopQA, NarrativeQA, QuALITY, Qasper, QMSum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .hub_form import Fields, HubSet, Row, Task, records, texts
from .set_info import PARAGRAPH, SHORT

_HOPS = Task("f1", SHORT, ("exact_match", "subspan"))


def hotpotqa(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Rows with id, question, answer, type, context and supporting_facts.

    ``context`` has title and sentences, ``supporting_facts`` title and sent_id, as lists side by
    side. Shape: the hub's card of ``hotpot_qa`` (features of the configuration "distractor"), file
    distractor/validation-00000-of-00001.parquet; framolfese/2WikiMultihopQA has the same, seen in
    public loaders that read both with one function.
    """
    passages = records(row["context"])
    facts = records(row["supporting_facts"])
    gold = list(dict.fromkeys(fact["title"] for fact in facts))
    sentences = {passage["title"]: list(passage["sentences"]) for passage in passages}
    evidence = [
        sentences[fact["title"]][fact["sent_id"]].strip()
        for fact in facts
        if fact["sent_id"] < len(sentences.get(fact["title"], ()))
    ]
    yield {
        "id": row["id"],
        "documents": [
            {"title": p["title"], "text": "".join(_spaced(p["sentences"]))} for p in passages
        ],
        "question": row["question"],
        "answers": [row["answer"]],
        "evidence": [text for text in evidence if text] or None,
        "meta": {
            "kind": row.get("type"),
            "level": row.get("level"),
            "gold_titles": gold,
            "gold_positions": [at for at, p in enumerate(passages) if p["title"] in gold],
        },
    }


def musique(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Lines with id, question, answer, answer_aliases, answerable, paragraphs, decomposition.

    A paragraph has idx, title, paragraph_text, is_supporting. Shape: dgslibisey/MuSiQue as public
    loaders read it, file musique_ans_v1.0_dev.jsonl; rows with ``answerable`` false (MuSiQue-Full)
    become questions whose answer is that there is none.
    """
    paragraphs = row["paragraphs"]
    answerable = row.get("answerable") is not False
    gold = [at for at, p in enumerate(paragraphs) if p["is_supporting"]]
    steps = row.get("question_decomposition") or []
    yield {
        "id": row["id"],
        "documents": [{"title": p["title"], "text": p["paragraph_text"]} for p in paragraphs],
        "question": row["question"],
        "answers": texts([row["answer"], *(row.get("answer_aliases") or [])]) if answerable else [],
        "evidence": [paragraphs[at]["paragraph_text"] for at in gold] or None,
        "meta": {
            "hops": len(steps),
            "answerable": answerable,
            "gold_titles": [paragraphs[at]["title"] for at in gold],
            "gold_positions": gold,
        },
    }


def narrativeqa(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Rows with document (id, text, summary), question (text) and answers (text of each).

    Shape: HELMET's ``load_narrativeqa`` and public loaders of deepmind/narrativeqa, files
    data/validation-*.parquet.
    """
    document = row["document"]
    summary = document.get("summary") or {}
    yield {
        "context": document["text"],
        "question": row["question"]["text"],
        "answers": texts([answer["text"] for answer in records(row["answers"])]),
        "meta": {
            "doc_id": document["id"],
            "kind": document.get("kind"),
            "title": summary.get("title"),
        },
    }


def quality(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Lines with article_id, title, article and questions.

    A question has question_unique_id, question, options, gold_label (counted from 1; absent in
    the test part) and difficult. Shape: nyu-mll/quality, data/v1.0.1, QuALITY.v1.0.1.htmlstripped,
    as public loaders read it.
    """
    for asked in row["questions"]:
        gold = asked["gold_label"] - 1
        yield {
            "id": asked.get("question_unique_id"),
            "context": row["article"],
            "question": asked["question"],
            "answers": [asked["options"][gold]],
            "choices": asked["options"],
            "meta": {
                "doc_id": row["article_id"],
                "title": row.get("title"),
                "gold": gold,
                "hard": bool(asked.get("difficult")),
            },
        }


def qasper(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Rows with id, title, abstract, full_text and qas, one paper a row.

    ``full_text`` has section_name and paragraphs, ``qas`` question, question_id and answers side
    by side; of each question, ``answers["answer"]`` lists what annotators said: unanswerable,
    extractive_spans, yes_no, free_form_answer, evidence. Shape: public loaders of allenai/qasper,
    whose script ``datasets`` no longer runs, hence the hub's own conversion to parquet. References
    are formed as in Qasper's evaluation script: spans joined by a comma, "Yes", "No", free form,
    "Unanswerable".
    """
    context = _paper(row)
    for asked in records(row["qas"]):
        said = records(asked["answers"]["answer"])
        answerable = [answer for answer in said if not answer["unanswerable"]]
        references = [_reference(answer) for answer in said]
        evidence = [text for answer in answerable for text in answer["evidence"] or ()]
        yield {
            "id": asked.get("question_id"),
            "context": context,
            "question": asked["question"],
            "answers": list(dict.fromkeys(filter(None, references))),
            # Figures and tables are named there; their text is not in the paper.
            "evidence": [
                text
                for text in dict.fromkeys(evidence)
                if text.strip() and not text.startswith("FLOAT SELECTED")
            ]
            or None,
            "meta": {
                "doc_id": row["id"],
                "title": row["title"],
                "answerable": bool(answerable),
                "markdown": True,
            },
        }


def qmsum(row: Row, options: Mapping[str, str]) -> Iterator[Fields]:
    """Lines with general_query_list, specific_query_list and meeting_transcripts, one meeting each.

    A query has query and answer, a specific one relevant_text_span: pairs of turn numbers (texts),
    counted from 0, both ends included; a turn has speaker and content. Shape: Yale-LILY/QMSum,
    data/ALL/jsonl, as public loaders read it.
    """
    turns = [f"{turn['speaker']}: {turn['content']}" for turn in row["meeting_transcripts"]]
    context = "\n".join(turns)
    for kind in ("general", "specific"):
        for asked in row.get(f"{kind}_query_list") or ():
            spans = [(int(a), int(b)) for a, b in asked.get("relevant_text_span") or ()]
            yield {
                "context": context,
                "question": asked["query"],
                "answers": [asked["answer"]],
                "evidence": ["\n".join(turns[a : b + 1]) for a, b in spans if turns[a : b + 1]]
                or None,
                "meta": {"kind": kind, "turn_spans": [list(span) for span in spans]},
            }


def _spaced(sentences: list[str]) -> list[str]:
    """Sentences with a space between them, where the set has none (2WikiMultihopQA)."""
    return [
        sentence
        if not at or sentence[:1].isspace() or sentences[at - 1][-1:].isspace()
        else f" {sentence}"
        for at, sentence in enumerate(sentences)
    ]


def _paper(row: Row) -> str:
    parts = [f"# {row['title']}", row["abstract"] or ""]
    for section in records(row["full_text"]):
        if section["section_name"]:
            name = " / ".join(part.strip() for part in section["section_name"].split(":::"))
            parts.append(f"## {name}")
        parts += section["paragraphs"] or []
    return "\n\n".join(part.strip() for part in parts if part and part.strip())


def _reference(answer: Row) -> str:
    if answer["unanswerable"]:
        return "Unanswerable"
    if answer["extractive_spans"]:
        return ", ".join(answer["extractive_spans"])
    if answer["free_form_answer"]:
        return str(answer["free_form_answer"])
    return {True: "Yes", False: "No"}.get(answer["yes_no"], "")


QUESTIONS = (
    HubSet(
        name="hotpotqa",
        about="HotpotQA, distractor setting: 10 passages, 2 hops",
        root="hf://datasets/hotpotqa/hotpot_qa",
        path="distractor/{split}-*.parquet",
        form="parquet",
        tasks={"": _HOPS},
        choices={"split": ("validation", "train")},
        convert=hotpotqa,
    ),
    HubSet(
        name="2wikimultihopqa",
        about="2WikiMultihopQA: 10 passages, 2 to 4 hops",
        root="hf://datasets/framolfese/2WikiMultihopQA",
        path="data/{split}-*.parquet",
        form="parquet",
        tasks={"": _HOPS},
        choices={"split": ("validation", "train")},
        convert=hotpotqa,
    ),
    HubSet(
        name="musique",
        about="MuSiQue: 20 passages, 2 to 4 hops",
        root="hf://datasets/dgslibisey/MuSiQue",
        path="musique_{part}_v1.0_{split}.jsonl",
        form="lines",
        tasks={"": _HOPS},
        choices={"split": ("dev", "train"), "part": ("ans", "full")},
        convert=musique,
    ),
    HubSet(
        name="narrativeqa",
        about="NarrativeQA: questions to whole books and scripts",
        root="hf://datasets/deepmind/narrativeqa",
        path="data/{split}-*.parquet",
        form="parquet",
        tasks={"": Task("rougeL", SHORT, ("f1",))},
        choices={"split": ("validation", "test", "train")},
        convert=narrativeqa,
    ),
    HubSet(
        name="quality",
        about="QuALITY: multiple choice on stories and articles",
        root="https://raw.githubusercontent.com/nyu-mll/quality/main/data/v1.0.1",
        path="QuALITY.v1.0.1.htmlstripped.{split}",
        form="lines",
        tasks={"": Task("choice", None)},
        choices={"split": ("dev", "train")},
        convert=quality,
        fan_out=True,
    ),
    HubSet(
        name="qasper",
        about="Qasper: questions to papers, some without an answer",
        root="hf://datasets/allenai/qasper@refs%2Fconvert%2Fparquet",
        path="qasper/{split}/*.parquet",
        form="parquet",
        tasks={"": Task("f1", SHORT, ("rougeL",))},
        choices={"split": ("validation", "test", "train")},
        convert=qasper,
        fan_out=True,
    ),
    HubSet(
        name="qmsum",
        about="QMSum: queries to meetings",
        root="https://raw.githubusercontent.com/Yale-LILY/QMSum/main/data/ALL/jsonl",
        path="{split}.jsonl",
        form="lines",
        tasks={"": Task("rougeL", PARAGRAPH, ("rouge1", "rouge2"))},
        choices={"split": ("test", "val", "train")},
        convert=qmsum,
        fan_out=True,
    ),
)
