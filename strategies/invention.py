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


def is_invented(said: str, question: str, *read: str) -> bool:
    """Whether a note names things beyond the question of which none stands in what was read.

    Sentences that stand in ``read`` word for word are not new and do not count.

    Args:
        said: The note.
        question: "" where there is none.
        read: The text that it was made from, and the note before.
    """
    known = [" ".join(text.split()) for text in read]
    told = (" ".join(said[start:end].split()) for start, end in sentences(said))
    new = [sentence for sentence in told if not any(sentence in text for text in known)]
    asked, stands = _words(question), set().union(*map(_words, read))
    named = set().union(*map(_named, new)) - asked
    words = set().union(*map(_words, new)) - asked
    return bool(named) and not named & stands and len(words & stands) < len(words) / 2


def _words(text: str) -> set[str]:
    words = (word[:KNOWN_BY] for word in content_words(text) if not word[0].isdigit())
    return {*numbers(text), *words}


def _named(sentence: str) -> set[str]:
    """Its numbers, and the words with a capital that do not open it."""
    sentence = _MARKER.sub("", sentence)
    words = [found[0] for found in WORD.finditer(sentence)]
    names = (word for word in words[1:] if word[0].isupper() and len(word) > 1)
    return {*numbers(sentence), *_words(" ".join(names))}
