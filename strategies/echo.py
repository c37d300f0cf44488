"""Replies that give the prompt back: small models do, where they should write something new."""

from __future__ import annotations

import re

from reader.llm.cleaning import sentences

LEAST_WORDS = 3  # of a sentence that counts as repeated; shorter ones anybody may write
CUT_WORDS = 6  # of one that was cut off
_LABEL = re.compile(r"^\W*[\w ]{1,50}:\W*$", re.MULTILINE)


def without_prompt(said: str, prompt: str) -> str:
    """A reply without the prompt's tags and sentences.

    Args:
        said: The reply.
        prompt: As it was sent, without the text and the notes that it showed.

    Returns:
        What is left; "" where it is labels alone.
    """
    for tag in set(re.findall(r"</(\w+?)_*>", prompt)):
        said = re.sub(rf"</?{tag}_*>", "", said, flags=re.IGNORECASE)
    known = {_plain(prompt[start:end]) for start, end in sentences(prompt)}
    for start, end in reversed(sentences(said)):
        sentence = _plain(said[start:end])
        words = len(sentence.split())
        cut = words >= CUT_WORDS and any(one.startswith(sentence) for one in known)
        if cut or (words >= LEAST_WORDS and sentence in known):
            said = said[:start] + said[end:]
    return said.strip() if re.search(r"\w", _LABEL.sub("", said)) else ""


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
