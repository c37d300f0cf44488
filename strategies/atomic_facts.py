"""Atomic facts of one chunk: one call, its lines understood, and what stands in for a bad reply.

Li et al. 2024, arXiv 2406.14550, section 3.2. Holds the rows of the failure table about a single
chunk: a reply without usable lines is asked for once more, then the chunk's own sentences are its
facts; a prompt that does not fit is split; where a reply is cut off, the sentences after its
last fact are facts too.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from reader.boundaries import halves
from reader.chunking import Chunk
from reader.errors import ContextOverflow, RequestRefused
from reader.folding import content_words
from reader.llm.replies import clean, content_overlap, is_refusal_or_empty, sentences
from reader.llm.structured import SHOWN_OUTPUT
from reader.llm.types import ChatReply, ChatRequest, Message
from reader.prompts import Prompt, fence
from reader.strategy import Reading

FactAndElements: TypeAlias = tuple[str, tuple[str, ...]]

FACTS_VERSION = 2
MOST_ELEMENTS = 12  # of one fact
MIN_SPLIT = 100  # characters; a shorter chunk that does not fit is not the chunk's fault
FOREIGN = 0.2  # a fact that shares less of its words with the chunk was not taken from it
HELD = 0.6  # a sentence is in a fact that has this share of its words
COMMON = 0.02  # words of a larger share of the sentences say little about any
_NUMBER = re.compile(
    r"\A[\s|]*(?:[-*\u2022]\s*)?(?:\*\*)?(?:fact\s*)?\(?(\d{1,4})\s*[.):|]+\s*", re.IGNORECASE
)
_BULLET = re.compile(r"\A\s*[-*\u2022]\s+")
_NAME = re.compile(r"[A-Z]\w*(?:['\u2019]\w+)?(?:\s+(?:of\s+)?[A-Z]\w*)*")
_MARKS = " \t\"'`*_\u201c\u201d"
_AGAIN = (
    "That reply cannot be used: it holds no line of the form asked for. Write one line for each"
    " fact of the source text: number. fact | key element | key element"
)


@dataclass(frozen=True, slots=True)
class ExtractionForm:
    """How facts are asked for; the same for all questions.

    Attributes:
        prompt: The prompt file.
        tokens: Cap of the reply.
        fixed_tokens: The prompt without the chunk.
        temperature: Of sampling.
        seed: Of sampling, None at temperature 0.
        by_model: False makes no call: sentences are the facts.
    """

    prompt: Prompt
    tokens: int
    fixed_tokens: int
    temperature: float
    seed: int | None
    by_model: bool = True

    def filled(self, text: str) -> str:
        """The prompt for a text."""
        words = str(max(int(self.tokens * 0.6), 20))
        return self.prompt.fill(chunk=fence(text, "source_text"), words=words)

    def key(self, identity: str, text: str) -> str:
        """Of the facts of a text in the store: whatever decides them, and no question."""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        parts: tuple[str, ...] = ("sentences", digest)
        if self.by_model:
            words = f"{self.prompt.version}/{self.prompt.digest}"
            sampling = f"{self.tokens}/{self.temperature:g}/{self.seed}"
            parts = (identity, words, sampling, digest)
        return "|".join((f"atomic facts/{FACTS_VERSION}", *parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """What was taken from a chunk.

    Attributes:
        facts: Pairs of a fact and its key elements.
        level: "ok", "repaired" where the reply was cut off and sentences stand in for the rest,
            "reasked", "split", or "forced" where sentences stand in for all facts.
        calls: Calls in series that it took.
    """

    facts: tuple[FactAndElements, ...]
    level: str = "ok"
    calls: int = 1

    def to_json(self) -> dict[str, Any]:
        """JSON values, for the store."""
        return {
            "facts": [[text, list(elements)] for text, elements in self.facts],
            "level": self.level,
            "calls": self.calls,
        }

    @classmethod
    def from_json(cls, payload: Any) -> Extraction | None:
        """Read what ``to_json`` wrote; None if it is damaged."""
        try:
            facts = tuple((str(text), tuple(map(str, e))) for text, e in payload["facts"])
            return cls(facts=facts, level=str(payload["level"]), calls=int(payload["calls"]))
        except (KeyError, TypeError, ValueError):
            return None


async def extract(reading: Reading, form: ExtractionForm, chunk: Chunk) -> Extraction:
    """The facts of a chunk.

    Raises:
        LimitReached: budget or deadline.
        ModelError: the call failed after its retries.
    """
    return await _extract(reading, form, chunk.start, chunk.end, chunk.tokens)


async def _extract(
    reading: Reading, form: ExtractionForm, start: int, end: int, tokens: int
) -> Extraction:
    text = reading.document.text[start:end]
    try:
        return await _ask(reading, form, text, tokens)
    except ContextOverflow:
        if end - start < MIN_SPLIT:
            raise
    # The count was wrong (an estimate, or a template that grew).
    reading.warn("A chunk did not fit the model's window and was read in two halves.")
    parts = [
        await _extract(reading, form, a, b, tokens // 2 + 1)
        for a, b in halves(reading.document.text, (start, end), code=False)
    ]
    forced = all(part.level == "forced" for part in parts)
    return Extraction(
        facts=tuple(fact for part in parts for fact in part.facts),
        level="forced" if forced else "split",
        calls=sum(part.calls for part in parts),
    )


async def _ask(reading: Reading, form: ExtractionForm, text: str, tokens: int) -> Extraction:
    request = ChatRequest(
        messages=(Message("user", form.filled(text)),),
        max_tokens=form.tokens,
        temperature=form.temperature,
        seed=form.seed,
        prompt_tokens=form.fixed_tokens + int(tokens * 1.03) + 16,
        purpose="extract",
    )
    reply = await reading.model.generate(request)
    reading.ledger.structured += 1
    facts = read_facts(reply, text)
    if facts:
        reading.saw_reply("extract", reply.completion_tokens)
        return _completed(reading, facts, reply, text)
    if not re.search(r"\w", text):
        return Extraction(facts=())
    shown = clean(reply.text).strip()[:SHOWN_OUTPUT] or "(nothing)"
    again = replace(
        request,
        messages=(*request.messages, Message("assistant", shown), Message("user", _AGAIN)),
        prompt_tokens=None,
        # the same words again would get the same reply again
        temperature=max(form.temperature, 0.3),
    )
    calls = 1
    try:
        reply = await reading.model.generate(again)
    except (ContextOverflow, RequestRefused):
        facts = ()
    else:
        calls = 2
        reading.ledger.reasked += 1
        facts = read_facts(reply, text)
    if facts:
        taken = _completed(reading, facts, reply, text)
        return replace(taken, level="reasked", calls=calls)
    reading.ledger.forced += 1
    return Extraction(facts=sentences_as_facts(text), level="forced", calls=calls)


def _completed(
    reading: Reading, facts: tuple[FactAndElements, ...], reply: ChatReply, text: str
) -> Extraction:
    """The facts of a reply, and what stands in for those that it was cut off before."""
    if reply.finish_reason != "length":
        return Extraction(facts=facts)
    reading.ledger.repaired += 1
    found = dict(facts)
    for sentence, elements in sentences_as_facts(after_the_last(facts, text)):
        found.setdefault(sentence, elements)
    return Extraction(facts=tuple(found.items()), level="repaired")


def after_the_last(facts: Sequence[FactAndElements], text: str) -> str:
    """The text behind the sentences that the last fact was taken from."""
    words = set(content_words(facts[-1][0]))
    ranges = sentences(text)
    shared = [len(words & set(content_words(text[start:end]))) for start, end in ranges]
    if not any(shared):
        return text
    at = shared.index(max(shared))
    while at + 1 < len(ranges) and _holds(facts[-1][0], text[slice(*ranges[at + 1])]):
        at += 1  # a fact of several sentences
    return text[ranges[at][1] :]


def _holds(fact: str, sentence: str) -> bool:
    return content_overlap(sentence, fact) >= HELD


def read_facts(reply: ChatReply, text: str) -> tuple[FactAndElements, ...]:
    """Facts and key elements of a reply's lines; none where it holds nothing of the kind.

    A line needs a number, a bullet or bars. The last one is left out where the reply was cut off;
    repeated ones, and those that share no words with the text, are left out in any case.
    """
    said = clean(reply.text)
    if is_refusal_or_empty(said):
        return ()
    lines = [line for line in said.splitlines() if line.strip(" |-:\t")]
    if reply.finish_reason == "length" and len(lines) > 1:
        lines = lines[:-1]
    found: dict[str, tuple[str, ...]] = {}
    for line in lines:
        bare = _NUMBER.sub("", line, count=1)
        numbered = bare != line or _BULLET.match(line) is not None
        cells = [cell.strip(_MARKS) for cell in _BULLET.sub("", bare).strip(" |").split("|")]
        fact = " ".join(cells[0].split())
        if (not numbered and len(cells) < 2) or not is_statement(fact):
            continue
        if content_overlap(fact, text) < FOREIGN:
            continue
        elements = tuple(dict.fromkeys(cell for cell in cells[1:] if cell))[:MOST_ELEMENTS]
        found.setdefault(fact, elements or noun_chunks(fact))
    return tuple(found.items())


def sentences_as_facts(text: str) -> tuple[FactAndElements, ...]:
    """The sentences of a text, each with its noun chunks: for a model that takes no facts."""
    return tuple((said, noun_chunks(said)) for said in _statements(text))


def _statements(text: str) -> list[str]:
    said = (" ".join(text[start:end].split()) for start, end in sentences(text))
    return [s for s in dict.fromkeys(said) if is_statement(s)]


def facts_without_model(chunks: Sequence[str]) -> list[tuple[FactAndElements, ...]]:
    """The sentences of each chunk, with their names, their numbers and their rarer words.

    As in LazyGraphRAG (Microsoft Research, 2024) no model is asked to build the graph.
    """
    told = [_statements(text) for text in chunks]
    counts = Counter(word for said in told for text in said for word in set(content_words(text)))
    most = max(COMMON * sum(map(len, told)), 5)
    common = {word for word, count in counts.items() if count > most}
    return [tuple((text, noun_chunks(text, common=common)) for text in said) for said in told]


def is_statement(text: str) -> bool:
    """At least two words that carry meaning, not all of them numbers."""
    words = content_words(text)
    return len(words) >= 2 and not all(word.isdigit() for word in words)


def noun_chunks(
    sentence: str, most: int = 6, common: Collection[str] = frozenset()
) -> tuple[str, ...]:
    """Names (runs of words with a capital) and the longest other words that are not common.

    A capital at the beginning says nothing, unless the next word has one too; nor does "I".
    """
    names = []
    for match in _NAME.finditer(sentence):
        run = match[0].split()
        while run and not content_words(run[0]):  # "When Anna"
            run = run[1:]
        name = " ".join(run)
        if len(name) > 1 and (match.start() > 0 or len(run) > 1):
            names.append(name)
    inside = set(content_words(" ".join(names)))
    words = dict.fromkeys(
        w for w in content_words(sentence) if len(w) > 3 and w not in inside and w not in common
    )
    numbers = [w for w in content_words(sentence) if w[0].isdigit() and w not in inside]
    longest = sorted(words, key=len, reverse=True)
    return tuple(dict.fromkeys([*names, *numbers, *longest]))[:most]
