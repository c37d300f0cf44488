"""Free text from a model: taking the wrapping off, its sentences, its content words.

Positions and lengths are characters. Labels and stop words are English.
"""

from __future__ import annotations

import re
from typing import Any

_NO_CASE = re.IGNORECASE

# --- cleaning ---------------------------------------------------------------------------------

_THINK = r"(?:mm:)?(?:think|thinking|thought|reasoning)"
_THINK_BLOCK = re.compile(
    rf"^[ \t]*<({_THINK})\s*>.*?</\1\s*>[ \t]*\n*", _NO_CASE | re.MULTILINE | re.DOTALL
)
_THINK_OPEN = re.compile(rf"^[ \t]*<{_THINK}\s*>", _NO_CASE | re.MULTILINE)
# Chat templates often write the opening tag themselves, so the reply holds the closing one only.
# Between blanks, quotes or backticks the tag is being talked about.
_THINK_CLOSE = re.compile(rf"(?<![ \t`\"'])</{_THINK}\s*>(?![`\"'])", _NO_CASE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPECIAL_TOKENS = re.compile(r"(?:\s*(?:<\|\w+\|>|</s>))+\s*\Z")
_FENCE = re.compile(r"\A```[\w+#.-]*[ \t]*\n(.*?)(?:\n?```)?\Z", re.DOTALL)

_PRODUCT = (
    r"(?:summary|answer|response|reply|output|result|version|rewrite|memory|notes|text|json"
    r"|communication unit)"
)
_QUALITY = (
    r"(?:updated|new|final|revised|combined|concise|short|brief|current|detailed|complete"
    r"|requested|rewritten|improved)"
)
_OPENER = (
    r"(?:sure(?: thing)?|certainly|of course|okay|ok|absolutely|alright|understood|got it"
    r"|no problem|great)"
)
_HERE_IS = (
    rf"(?:here(?:'s|\u2019s| is)|below is|this is)\s+(?:the|my|your|an?)\s+(?:{_QUALITY},?\s+)*"
)
_CHATTER = (
    # "Sure! Here is the updated summary of both parts:"
    re.compile(
        rf"\A{_OPENER}\b[,.!]*\s+(?:here(?:'s|\u2019s| is| are)|below is)\b[^\n:]{{0,120}}:\s*",
        _NO_CASE,
    ),
    # "Here is the updated summary:", and with more words only where the line ends there
    re.compile(rf"\A{_HERE_IS}{_PRODUCT}\s*:\s*", _NO_CASE),
    re.compile(rf"\A{_HERE_IS}{_PRODUCT}\b[^\n:]{{0,120}}:[ \t]*\n\s*", _NO_CASE),
    # "Certainly!" or "Sure, I can help with that." alone on the first line
    re.compile(
        rf"\A{_OPENER}\b[,.!]*(?:[ \t]+(?:I|let me)\b[^\n]{{0,100}})?[.!:][ \t]*\n\s*(?=\S)",
        _NO_CASE,
    ),
    # "Updated summary:", "**Final answer:**", "### Summary"
    re.compile(
        rf"\A(?:#{{1,6}}[ \t]*)?(?:\*\*|__)?(?:the\s+)?"
        rf"(?:(?:{_QUALITY}\s+)+{_PRODUCT}|summary|answer|response|output|assistant)"
        rf"(?:\*\*|__)?[ \t]*:(?:\*\*|__)?\s*",
        _NO_CASE,
    ),
    re.compile(
        rf"\A(?:#{{1,6}}[ \t]*(?:{_QUALITY}\s+)*{_PRODUCT}|\*\*(?:{_QUALITY}\s+)*{_PRODUCT}\*\*)"
        rf"[ \t]*\n\s*(?=\S)",
        _NO_CASE,
    ),
)


def strip_reasoning(text: str) -> str:
    """The reply without the thoughts of a reasoning model.

    Thoughts that never end were cut off before the reply began: nothing is left of them.
    """
    if "<" not in text:
        return text
    text = _THINK_BLOCK.sub("", text)
    closings = list(_THINK_CLOSE.finditer(text))
    if closings:
        text = text[closings[-1].end() :]
    opening = _THINK_OPEN.search(text)
    return text[: opening.start()] if opening else text


def clean(text: str) -> str:
    """What the model meant as its reply.

    Without thoughts, template tokens at the end, a code fence around the whole, a greeting or
    label before it, and blank lines around it. Indentation of the first line stays. Cleaning
    twice changes nothing more.
    """
    text = well_formed(text)
    while (shorter := _clean_once(text)) != text:
        text = shorter
    return text


def well_formed(value: Any) -> Any:
    r"""A text, or texts within lists and mappings, without halves of surrogate pairs.

    JSON can write them ("\ud83d"), and weak models do; nothing that is text can hold them.
    """
    if isinstance(value, str):
        if value.isascii() or not _SURROGATE.search(value):
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [well_formed(item) for item in value]
    if isinstance(value, dict):
        return {well_formed(name): well_formed(item) for name, item in value.items()}
    return value


def _clean_once(text: str) -> str:
    text = _SPECIAL_TOKENS.sub("", strip_reasoning(text)).rstrip()
    text = re.sub(r"\A(?:[^\S\n]*\n)+", "", text)
    if text[:1] == " " and text[1:2] != " ":  # a lone blank is the tokenizer's, not code
        text = text[1:]
    if text.count("```") <= 2 and (fenced := _FENCE.match(text)) and "```" not in fenced[1]:
        text = fenced[1]
    for pattern in _CHATTER:
        text = pattern.sub("", text, count=1)
    return text


# --- sentences --------------------------------------------------------------------------------

_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Messrs|Mme|Mlle|Dr|Prof|St|Sr|Jr|Rev|Hon|Capt|Col|Gen|Lt|Sgt|Gov|Sen|Rep"
    r"|Pres|No|Nos|Vol|vol|Fig|fig|Ch|ch|pp|p|ed|eds|Inc|Ltd|Co|Corp|vs|cf|approx|ca|dept|est"
    r"|Jan|Feb|Mar|Apr|Aug|Sept|Sep|Oct|Nov|Dec)"
    r"|\b[A-Z]|\b(?:e\.g|i\.e|a\.m|p\.m|al))\.\Z"
)
_LIST_NUMBER = re.compile(r"(?:\A|\n)[ \t]*(?:\d{1,3}|[A-Za-z])\.\Z")
_CLOSERS = "\"'\u201d\u2019»)]*_"
_END = re.compile(
    rf"[.!?…]+[{re.escape(_CLOSERS)}]*(?=\s|\Z)|[。\uff01\uff1f]+[\u201d\u2019」』\uff09]*"
)
_BULLET = r"[ \t]*(?:[-*•\u2013]|\d{1,3}[.)]|[A-Za-z]\))[ \t]+"
_BREAK = re.compile(rf"\n\s*\n|\n(?={_BULLET})")


def sentences(text: str) -> list[tuple[int, int]]:
    """Ranges of the sentences, without the blanks between them.

    A blank line and the next item of a list end a sentence too; a single line break does not.
    """
    ends = [m.start() for m in _BREAK.finditer(text)]
    ends += [m.end() for m in _END.finditer(text) if _is_end(text, m)]
    ranges: list[tuple[int, int]] = []
    start = 0
    for end in [*sorted(ends), len(text)]:
        part = text[start:end]
        if stripped := part.strip():
            first = start + len(part) - len(part.lstrip())
            ranges.append((first, first + len(stripped)))
        start = max(start, end)
    return ranges


def _is_end(text: str, match: re.Match[str]) -> bool:
    if match[0] != ".":
        # after "?" or an ellipsis the same sentence may go on: '"Who?" asked the king.'
        following = text[match.end() : match.end() + 40].lstrip()
        return match[0][0] in "。\uff01\uff1f" or match[0][0] == "." or not following[:1].islower()
    before = text[max(0, match.start() - 12) : match.end()]
    if _LIST_NUMBER.search(before):
        return False
    following = text[match.end() : match.end() + 40].lstrip()
    return not following or not (_ABBREVIATION.search(before) or following[0].islower())


def _is_complete(text: str) -> bool:
    tail = text.rstrip()
    last = _END.search(tail, max(0, len(tail) - 8))
    while last and last.end() < len(tail):
        last = _END.search(tail, last.end())
    if last is None:
        return False
    before = tail[max(0, last.start() - 12) : last.end()]
    return not (last[0] == "." and (_ABBREVIATION.search(before) or _LIST_NUMBER.search(before)))


def trim_to_sentence(text: str) -> tuple[str, float]:
    """A text that was cut at the cap, back to its last full sentence, and the share lost.

    An item of a list counts as full when another line follows it. Where there is no full
    sentence at all, the text stays up to its last whole word and the share is 1.0: nothing in
    it can be relied on.
    """
    text = text.rstrip()
    if not text or _is_complete(text):
        return text, 0.0
    ranges = sentences(text)
    for index in range(len(ranges) - 1, -1, -1):
        start, end = ranges[index]
        followed = index < len(ranges) - 1
        if _is_complete(text[start:end]) or (followed and _is_own_line(text, start, end)):
            return text[:end], (len(text) - end) / len(text)
    return re.sub(r"\s+\S*\Z", "", text), 1.0


def _is_own_line(text: str, start: int, end: int) -> bool:
    line = text[text.rfind("\n", 0, start) + 1 : end]
    return re.match(_BULLET, line) is not None and text[end : end + 1] == "\n"


# --- content ----------------------------------------------------------------------------------

_STOP_WORDS = """
    a about above after again against all also am an and any are as at be because been before
    being below between both but by can cannot could did do does doing down during each few for
    from further had has have having he her here hers herself him himself his how i if in into is
    it its itself just me more most my myself no nor not now of off on once only or other our ours
    out over own same she should so some such than that the their theirs them themselves then
    there these they this those through to too under until up very was we were what when where
    which while who whom why will with would you your yours text passage summary document chunk
    story information question mentioned states
"""
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def _content_words(text: str) -> set[str]:
    words = (re.sub(r"['\u2019]s\Z", "", w) for w in _WORD.findall(text.casefold()))
    return set(words).difference(_STOP_WORDS.split())


def content_overlap(a: str, b: str) -> float:
    """Share (0 to 1) of the different content words of ``a`` that also stand in ``b``.

    Words like "the" and "of" do not count. 1.0 where ``a`` has no content word to be lost.
    """
    words = _content_words(a)
    return len(words & _content_words(b)) / len(words) if words else 1.0
