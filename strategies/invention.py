"""Notes that a model made up: asked about text that says nothing, a small one answers all the same.

What a note names beyond its question, numbers and names, has to stand in the text it was made
from, or in the note before. Where nothing of it does, and of its other words less than half, the
note tells what nobody wrote; handed on, it would shut out what later parts really say. Sums,
conclusions and other spellings of a name come beside something that was read, and stay.
"""

from __future__ import annotations

import re

from reader.folding import WORD, content_words, numbers
from reader.llm.replies import sentences

KNOWN_BY = 4  # letters: other endings make no other word
_MARKER = re.compile(r"\A\W*(?:\d{1,2}[.):]\s)?\W*")


def is_invented(said: str, question: str, text: str, before: str = "") -> bool:
    """Whether nothing that a note names beyond the question stands in what was read.

    And of its other words less than half; a note that names nothing is none of these.

    Args:
        said: The note.
        question: "" where there is none.
        text: What it was made from.
        before: The note before; its sentences are not new and do not count.
    """
    known = " ".join(before.split())
    told = (" ".join(said[start:end].split()) for start, end in sentences(said))
    new = [sentence for sentence in told if sentence not in known]
    asked = _words(question)
    named = set().union(*map(_named, new)) - asked
    # Most notes name something that is found at once; the words of a whole chunk take longer.
    if not named or any(_found(name, read) for read in (before, text) for name in named):
        return False
    stands = _words(text) | _words(before)
    words = set().union(*map(_words, new)) - asked
    return not named & stands and len(words & stands) < len(words) / 2


def _found(name: str, text: str) -> bool:
    """Whether a name or number stands in a text; one in words ("twelve") is not seen here."""
    if name[0].isdigit():
        return re.search(rf"(?<![\d.]){re.escape(name)}(?![\d])", text.replace(",", "")) is not None
    end = r"\b" if len(name) < KNOWN_BY else ""
    return re.search(rf"\b{re.escape(name)}{end}", text.lower()) is not None


def _words(text: str) -> set[str]:
    words = (word[:KNOWN_BY] for word in content_words(text) if not word[0].isdigit())
    return {*numbers(text), *words}


def _named(sentence: str) -> set[str]:
    """Its numbers, and the words with a capital that do not open it."""
    sentence = _MARKER.sub("", sentence)
    words = [found[0] for found in WORD.finditer(sentence)]
    names = (word for word in words[1:] if word[0].isupper() and len(word) > 1)
    return {*numbers(sentence), *_words(" ".join(names))}
