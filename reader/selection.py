"""Choosing one of several answers to the same question: the normalised vote.

Voting over exact strings ruins long answers (Zhang et al. 2024, table of paths); here answers that
say the same in other words vote together.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from reader.errors import InvalidOption

SAME = 0.8
"""Token F1 from which two answers say the same."""

_TO_NINETEEN = """zero one two three four five six seven eight nine ten eleven twelve thirteen
fourteen fifteen sixteen seventeen eighteen nineteen"""
_BY_TEN = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = {word: value for value, word in enumerate(_TO_NINETEEN.split())}
_TENS = {word: 10 * value for value, word in enumerate(_BY_TEN.split(), start=2)}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_ARTICLES = frozenset({"a", "an", "the"})
_NEGATIONS = frozenset({"not", "no", "never", "none", "nobody", "neither", "nor", "without"})
# Chinese and Japanese put no blanks between words: there each character is a token.
_TOKEN = re.compile(
    r"\d+(?:[.,]\d+)*|[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What a vote came to.

    Attributes:
        index: Of the answer that stands for the largest cluster.
        clusters: Indices of the answers that say the same, the largest cluster first. Empty
            answers are in none of them.
        tie: The largest cluster is not larger than the next: somebody should judge.
    """

    index: int
    clusters: tuple[tuple[int, ...], ...]
    tie: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Answers in each cluster."""
        return tuple(map(len, self.clusters))


def normalise(answer: str) -> str:
    """The answer in lower case, without articles and punctuation, numbers as digits.

    "The twenty-one Kings" and "21 kings" come out the same, so do "1,200" and "1200". English
    number words up to billions are known.
    """
    return " ".join(_tokens(answer))


def _tokens(answer: str) -> list[str]:
    text = unicodedata.normalize("NFKC", answer).casefold()
    text = re.sub(r"\bcan(?:['\u2019]t|not)\b", "can not", text)
    text = re.sub(r"n['\u2019]t\b", " not", text)
    text = re.sub(r"(?<=\w)['\u2019](?=\w)", "", text).replace("%", " percent ")
    words = [w for w in _TOKEN.findall(text) if w not in _ARTICLES]
    return _with_digits([_plain_number(w) if w[0].isdigit() else w for w in words])


def _plain_number(digits: str) -> str:
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    return digits.rstrip("0").rstrip(".") if re.fullmatch(r"\d+\.\d+", digits) else digits


def _with_digits(words: list[str]) -> list[str]:
    """Runs of number words as one number: "two hundred and five" is "205"."""
    out: list[str] = []
    run: list[str] = []
    for word, following in pairwise([*words, "", ""]):
        joins = word == "and" and run and run[-1] in _SCALES and (following in _UNITS | _TENS)
        if joins or _goes_on(run, word):
            run += [] if joins else [word]
            continue
        if run:
            out.append(str(_value(run)))
        run = [word] if word in _UNITS or word in _TENS else []
        if word and not run:
            out.append(word)
    return out


def _goes_on(run: list[str], word: str) -> bool:
    if not run:
        return False
    if word in _SCALES:
        return run[-1] not in _SCALES or _SCALES[run[-1]] < _SCALES[word]
    if word in _TENS:
        return run[-1] in _SCALES
    return word in _UNITS and (run[-1] in _SCALES or (run[-1] in _TENS and 0 < _UNITS[word] < 10))


def _value(run: list[str]) -> int:
    total = part = 0
    for word in run:
        if word == "hundred":
            part *= 100
        elif word in _SCALES:
            total, part = total + part * _SCALES[word], 0
        else:
            part += _UNITS.get(word, _TENS.get(word, 0))
    return total + part


def token_f1(a: str, b: str) -> float:
    """Overlap (0 to 1) of two answers: harmonic mean of token precision and recall, normalised.

    The measure of SQuAD and LongBench, on ``normalise``. Two empty answers are equal.
    """
    return _f1(_tokens(a), _tokens(b))


def _f1(a: list[str], b: list[str]) -> float:
    if not a or not b:
        return float(a == b)
    same = sum((Counter(a) & Counter(b)).values())
    return 2 * same / (len(a) + len(b))


def _say_the_same(a: list[str], b: list[str]) -> bool:
    if _f1(a, b) < SAME:
        return False
    # One number or one "not" more makes another answer, however long the rest.
    numbers = ({w for w in a if w[0].isdigit()}, {w for w in b if w[0].isdigit()})
    return numbers[0] == numbers[1] and _NEGATIONS.isdisjoint(a) == _NEGATIONS.isdisjoint(b)


def vote(answers: Sequence[str]) -> Vote:
    """The answer that most of the others agree with.

    Answers with a token F1 of at least 0.8 (and the same numbers and negation) agree. Of a
    cluster, the answer with most agreement stands for it, the earliest of equals. An empty answer
    wins only where all are empty.

    Raises:
        InvalidOption: there are no answers.
    """
    if not answers:
        raise InvalidOption("There is no answer to vote on.")
    tokens = [_tokens(answer) for answer in answers]
    left = [i for i, words in enumerate(tokens) if words]
    if not left:  # nothing to count; prefer marks like "?" to nothing at all
        index = next((i for i, answer in enumerate(answers) if answer.strip()), 0)
        return Vote(index=index, clusters=(), tie=False)
    agree = {i: [j for j in left if _say_the_same(tokens[i], tokens[j])] for i in left}
    stars: list[tuple[int, tuple[int, ...]]] = []
    while left:
        centre = max(left, key=lambda i: (len(set(agree[i]) & set(left)), -i))
        members = tuple(j for j in agree[centre] if j in left)
        stars.append((centre, members))
        left = [i for i in left if i not in members]
    stars.sort(key=lambda star: -len(star[1]))
    tie = len(stars) > 1 and len(stars[0][1]) == len(stars[1][1])
    return Vote(index=stars[0][0], clusters=tuple(members for _, members in stars), tie=tie)
