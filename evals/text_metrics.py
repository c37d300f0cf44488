"""Metrics of two texts, each from 0 to 1, as their data sets define them.

Every function takes the prediction and the references, and gives the best over the references
unless its docstring says otherwise. No model, no network, no state.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from reader.errors import MissingExtra
from reader.folding import content_words

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NOT_WORD = re.compile(r"[^\w\s]|_")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_LETTERS = re.compile(r"(?<![\w'])\(?[A-H](?:\)?(?:\s*(?:,|and|&)?\s*)\(?[A-H])*\)?(?![\w'])")
_DIRECTIONS = {"n": "north", "s": "south", "e": "east", "w": "west"}

_KEYWORD_RECALL = 0.2  # LV-Eval's threshold for English


def normalised(text: str) -> str:
    """Lower case, without punctuation (ASCII), articles and surplus white space.

    As in SQuAD's evaluation script (Rajpurkar et al. 2016), which HotpotQA, MuSiQue, Qasper,
    LongBench and HELMET use as well.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the normalised texts are equal (SQuAD)."""
    said = normalised(prediction)
    return float(any(said == normalised(reference) for reference in references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """F1 of the words of the normalised texts as bags (SQuAD).

    Where one of the two has no word left, it is 1 if both have none (SQuAD 2.0).
    """
    said = normalised(prediction).split()
    return max((_bag_f1(said, normalised(r).split()) for r in references), default=0.0)


def f1_characters(prediction: str, references: Sequence[str]) -> float:
    """F1 of letters and digits as bags: for Chinese (InfiniteBench).

    LongBench and LV-Eval cut Chinese into words with a segmenter, so their numbers differ.
    """
    said = _characters(prediction)
    return max((_bag_f1(said, _characters(reference)) for reference in references), default=0.0)


def subspan(prediction: str, references: Sequence[str]) -> float:
    """1 if a normalised reference is part of the normalised prediction.

    Best-subspan accuracy of Lost in the Middle (Liu et al. 2023); HELMET's substring exact match.
    A reference of which normalising leaves nothing ("The", "%") is looked for as it is.
    """
    said = normalised(prediction)
    for reference in references:
        wanted = normalised(reference)
        if (wanted in said) if wanted else (reference.strip().lower() in prediction.lower()):
            return 1.0
    return 0.0


def contains(prediction: str, references: Sequence[str]) -> float:
    """1 if a reference is part of the prediction, character for character (NoLiMa)."""
    return float(any(reference in prediction for reference in references))


def recall_all(prediction: str, references: Sequence[str]) -> float:
    """Share of the references that are part of the prediction, ignoring case.

    RULER's ``string_match_all`` (Hsieh et al. 2024): the references are the parts of one answer.
    """
    said = prediction.lower()
    found = sum(reference.lower() in said for reference in references)
    return found / len(references) if references else 0.0


def recall_any(prediction: str, references: Sequence[str]) -> float:
    """1 if one of the references is part of the prediction, ignoring case.

    RULER's ``string_match_part``, for its question answering tasks.
    """
    said = prediction.lower()
    return float(any(reference.lower() in said for reference in references))


def babi(prediction: str, references: Sequence[str]) -> float:
    """1 if the answer stands in the prediction as whole words, ignoring case.

    Of a list ("apple,milk") every part must be there, in any order; of a path ("w,n", also said
    as "west, north") in its order.
    """
    return float(any(_holds_answer(prediction.lower(), r.lower()) for r in references))


def babilong(
    prediction: str, references: Sequence[str], labels: Sequence[str], question: str
) -> float:
    """As ``babi``, in the first sentence, with no other label of the task beside the answer.

    After BABILong (Kuratov et al. 2024): labels that the question names do not count.
    """
    said = prediction.lower().split(".")[0]
    wanted = {part for reference in references for part in reference.lower().split(",")}
    others = {label.lower() for label in labels} - wanted
    asked = question.lower()
    if any(_whole_word(label, said) and not _whole_word(label, asked) for label in others):
        return 0.0
    return babi(said, references)


def keyword_f1(prediction: str, references: Sequence[str], keywords: str | None) -> float:
    """``f1``, but 0 where less than a fifth of the answer's keywords is in the prediction.

    After LV-Eval (Yuan et al. 2024). Function words do not count as found; the list of those is
    ours, so single scores may differ from LV-Eval's.
    """
    if keywords and keywords.strip():
        wanted = normalised(keywords).split()
        common = Counter(normalised(prediction).split()) & Counter(wanted)
        found = sum(count for word, count in common.items() if content_words(word))
        if not wanted or found / len(wanted) < _KEYWORD_RECALL:
            return 0.0
    return f1(prediction, references)


def classification(prediction: str, references: Sequence[str], classes: Sequence[str]) -> float:
    """1 divided by the classes named, if the right one is among them (LongBench: TREC, LSHT).

    A class whose name is a part of the right one's does not count as named.
    """
    best = 0.0
    for reference in references:
        named = [c for c in classes if c in prediction and (c == reference or c not in reference)]
        if reference in named:
            best = max(best, 1 / len(named))
    return best


def numbers_right(prediction: str, references: Sequence[str]) -> float:
    """Share of the numbers in the prediction that are the reference's first number.

    LongBench's ``count`` and, with references such as "Paragraph 7", ``retrieval``.
    """
    said = re.findall(r"\d+", prediction)
    wanted = [match.group() for r in references if (match := re.search(r"\d+", r))]
    return max((said.count(number) / len(said) for number in wanted), default=0.0) if said else 0.0


def first_number(prediction: str, references: Sequence[str]) -> float:
    """1 if the first number of the prediction is the reference (InfiniteBench)."""
    return _number_at(prediction, references, 0)


def last_number(prediction: str, references: Sequence[str]) -> float:
    """1 if the last number of the prediction is the reference (InfiniteBench: Code.Run)."""
    return _number_at(prediction, references, -1)


def leading_numbers(prediction: str, references: Sequence[str]) -> float:
    """Share of the references, a sequence of numbers, that the prediction has from its beginning.

    InfiniteBench's Math.Calc.
    """
    right = 0
    for said, wanted in zip(re.findall(r"\d+", prediction), references, strict=False):
        if said != wanted.strip().lstrip("-"):
            break
        right += 1
    return right / len(references) if references else 0.0


def letters(prediction: str, references: Sequence[str]) -> float:
    """1 if the letters of options named are the reference's, a quarter if they are some of them.

    L-Eval's exams (An et al. 2023), where several options may be right ("AC").
    """
    match = _LETTERS.search(prediction.strip())
    said = set(re.findall("[A-Z]", match.group())) if match else set()
    best = 0.0
    for reference in references:
        wanted = set(re.findall("[A-Z]", reference))
        best = max(best, 1.0 if said == wanted else 0.25 if said and said < wanted else 0.0)
    return best


def edit_similarity(prediction: str, references: Sequence[str]) -> float:
    """Similarity of the first line of code in the prediction (LongBench: LCC, RepoBench-P)."""
    from rapidfuzz import fuzz

    skipped = ("`", "#", "//")
    lines = (line for line in prediction.splitlines() if line.strip())
    code = next((line for line in lines if not any(mark in line for mark in skipped)), "")
    return max((fuzz.ratio(code, reference) / 100 for reference in references), default=0.0)


def rouge(kind: str) -> Callable[[str, Sequence[str]], float]:
    """F-measure of a kind of ROUGE ("rouge1", "rouge2", "rougeL", "rougeLsum"), stemmed.

    By the ``rouge-score`` package. ``rougeLsum`` takes lines for sentences.

    Raises:
        MissingExtra: on first use, where the package is not installed.
    """

    def score(prediction: str, references: Sequence[str]) -> float:
        if not references:
            return 0.0
        return float(_scorer(kind, False).score_multi(references, prediction)[kind].fmeasure)

    return score


def rouge_characters(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L over characters: for Chinese, of which the package's own words leave nothing."""
    if not references:
        return 0.0
    return float(_scorer("rougeL", True).score_multi(references, prediction)["rougeL"].fmeasure)


class _Characters:
    def tokenize(self, text: str) -> list[str]:
        return _characters(text)


@lru_cache(maxsize=8)
def _scorer(kind: str, characters: bool) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtra(
            "ROUGE needs the package rouge-score.",
            hint="pip install 'longdoc-reader[evals]'",
        ) from error
    if characters:
        return RougeScorer([kind], tokenizer=_Characters())
    return RougeScorer([kind], use_stemmer=True)


def _bag_f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


def _characters(text: str) -> list[str]:
    return [c for c in _NOT_WORD.sub("", text.lower()) if not c.isspace()]


def _whole_word(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def _holds_answer(said: str, answer: str) -> bool:
    parts = [part.strip() for part in answer.split(",") if part.strip()]
    if len(parts) > 1 and all(part in _DIRECTIONS for part in parts):
        steps = r"\b.*?\b".join(rf"(?:{part}|{_DIRECTIONS[part]})" for part in parts)
        return re.search(rf"\b{steps}\b", said, re.DOTALL) is not None
    return bool(parts) and all(_whole_word(part, said) for part in parts)


def _number_at(prediction: str, references: Sequence[str], index: int) -> float:
    numbers = _NUMBER.findall(prediction)
    if not numbers:
        return 0.0
    said = float(numbers[index])
    return float(any(_as_number(reference) == said for reference in references))


def _as_number(text: str) -> float | None:
    match = _NUMBER.search(text)
    return float(match.group()) if match else None
