"""Where an answer of a few words stands: a name or a number alone is no sentence to look up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from reader.folding import Range, content_words, whole_words
from reader.quotes import Match
from reader.sentences import around, stems

_WORDS = 8  # content words of an answer that is looked up as it is
# Of the question's words that must stand beside it. Measured on HotpotQA and MuSiQue: of sentences
# with one word at least, but fewer than this, a tenth was evidence.
_SHARE = 0.2
_YES_NO = frozenset(["yes", "no", "true", "false"])
_MARKS = ".,;:!?*_\"'\u2018\u2019\u201c\u201d\u201e\xab\xbb()[]"
_APOSTROPHE = re.compile("['\u2018\u2019]")


def standing(text: str, answer: str, question: str, read: Iterable[Range]) -> Match | None:
    """The sentence that holds the answer word for word and has most of the question's words.

    Upper case and the marks between words may differ, figures may not. None where the answer is
    long, yes or no, or only repeats the question; and where no sentence with it has a fifth of
    the question's words.

    Args:
        text: The document's text.
        answer: The answer.
        question: The question.
        read: Ranges of the text that the model has seen.
    """
    words = _sought(answer)
    asked = stems(question)
    if words is None or not asked or not stems(answer) - asked:
        return None
    best: tuple[float, int, int] | None = None
    for start, end in dict.fromkeys(
        around(text, *place) for within in read for place in _places(text, words, within)
    ):
        share = len(stems(text[start:end]) & asked) / len(asked)
        if share >= _SHARE and (best is None or share > best[0]):
            best = share, start, end
    return None if best is None else Match(best[1], best[2], "answer", 100.0)


def holds(passage: str, answer: str) -> bool:
    """The passage has the answer word for word."""
    words = _sought(answer)
    return words is not None and next(_places(passage, words, (0, len(passage))), None) is not None


def _sought(answer: str) -> re.Pattern[str] | None:
    """What to search for, None where the answer cannot be searched for as it is."""
    count = len(content_words(answer))
    if not 0 < count <= _WORDS or answer.strip().strip(_MARKS).lower() in _YES_NO:
        return None
    words = [word for part in answer.split() if (word := part.strip(_MARKS))]
    forms = ["['\u2018\u2019]".join(map(re.escape, _APOSTROPHE.split(word))) for word in words]
    return re.compile(r"[\W_]+".join(forms), re.IGNORECASE)


def _places(text: str, words: re.Pattern[str], within: Range) -> Iterator[Range]:
    for found in words.finditer(text, *within):
        start, end = found.span()
        if whole_words(text, start, end) and not _in_a_number(text, start, end):
            yield start, end


def _in_a_number(text: str, start: int, end: int) -> bool:
    """An end of the range lies inside a figure: the 12 of 12.5, the 200 of 1,200."""
    behind, before = text[end : end + 2], text[max(start - 2, 0) : start]
    return (text[end - 1].isdigit() and behind[:1] in (".", ",", ":") and behind[1:].isdigit()) or (
        text[start].isdigit() and before[-1:] in (".", ",", ":") and before[:-1].isdigit()
    )
