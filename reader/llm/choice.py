"""Multiple choice: showing the options, understanding the choice, and choosing in any case."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from reader.budget import Ledger
from reader.errors import ContextOverflow, InvalidOption, LimitReached, RequestRefused
from reader.llm.replies import clean, strip_reasoning
from reader.llm.structured import SHOWN_OUTPUT
from reader.llm.types import ChatModel, ChatReply, ChatRequest, Message

ChoiceLevel: TypeAlias = Literal["strict", "repaired", "reasked", "logprob", "forced"]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NEAR = 90.0  # rapidfuzz ratio from which a text is an option misspelt
_MARGIN = 5.0  # by which it must beat the next option

# A letter between marks, "(B)", "**B**", "B.", "B:", or alone; "A" before a word is an article.
_LABEL = (
    r"[\"'`*_\[({\s]*(?:option |choice |answer )?[\"'`*_\[({]*"
    r"([A-Za-z])(?![\w'])([\"'`*_\])}.:,;]*)"
)
_EXPLICIT = re.compile(
    r"(?:\b(?:final |correct |best |right |my )*(?:answer|choice|option|selection|letter)\b"
    r"(?: (?:to|for) (?:the|this) question)?(?: (?:that|which) [\w ]{1,40}?)?"
    r"\s*[*_\"']*\s*(?:is|would be|must be|should be|seems to be|:|=|-|\u2013)+[\s:*]*"
    r"|\b(?:i (?:would |will |'ll )?(?:choose|select|pick|go with)|therefore,?)\s*:?\s*"
    r"|\\boxed\s*)"
    rf"{_LABEL}",
    re.IGNORECASE,
)
_LEADING = re.compile(
    r"\A[\"'`*_\[({\s]*([A-Z])(?:[\"'`*_]*[)\].:][)\]*_\"'`]*|[*_`\"'\]})]+)(?=\s|\Z)"
)
_BARE = re.compile(r"\A\W*([A-Za-z])\W*\Z")
_MENTION = re.compile(
    r"\b(?:option|choice|letter|answer)\s+[\"'`*(]*([A-Z])\b(?!')|\(([A-Z])\)", re.IGNORECASE
)
_ANOTHER = re.compile(r"\A\s*(?:or|and|/|,|&)\s*(?:option |choice )?[\"'`*(\[]*([A-Z])\b(?!')")
_REASON = re.compile(r"\A(?:because|as|since|is|and|for|which|due|given|based|according|the)\b")
_DENIED_BEFORE = re.compile(
    r"\b(?:not|never|neither|nor|no|isn't|wasn't|cannot be|can't be|than)\s+"
    r"(?:(?!but\b)\w+\s+){0,2}\W*\Z",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"\A\W*(?:is|are|was|can|seems|would be)\s*"
    r"(?:not|n't|incorrect|wrong|false|ruled out|unlikely)",
    re.IGNORECASE,
)
_NEGATIONS = frozenset({"not", "no", "never", "none", "cannot", "neither", "nor", "without"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceReply:
    """A choice and how it was come by.

    Attributes:
        index: Of the chosen option, from 0.
        level: The lowest rung that was needed: "strict" (a letter), "repaired" (the option in
            words), "reasked", "logprob" (the likeliest letter) or "forced" (the nearest option).
        reply: The last call's.
        calls: Calls made, all in series.
    """

    index: int
    level: ChoiceLevel
    reply: ChatReply
    calls: int


def labels(choices: Sequence[str]) -> tuple[str, ...]:
    """A, B, C, ... for the options.

    Raises:
        InvalidOption: fewer than 2 or more than 26, or one without text.
    """
    if not 2 <= len(choices) <= len(_LETTERS):
        raise InvalidOption(
            f"{len(choices)} choices were given.", hint=f"Pass between 2 and {len(_LETTERS)}."
        )
    if not all(choice.strip() for choice in choices):
        raise InvalidOption("A choice is empty.", hint="Give every choice a text.")
    return tuple(_LETTERS[: len(choices)])


def render(choices: Sequence[str]) -> str:
    """The options as lines like "(A) Paris"."""
    return "\n".join(
        f"({label}) {' '.join(choice.split())}"
        for label, choice in zip(labels(choices), choices, strict=True)
    )


def parse_choice(text: str, choices: Sequence[str]) -> int | None:
    """Index of the option that the reply chooses, None where it is not clear which.

    The last explicit "answer: (B)" counts, else a letter at the start or alone, else the only
    option that is spoken of, by letter or by its own text. A letter beside another option's text
    contradicts itself and is no choice.
    """
    found = _parse(text, choices)
    return None if found is None else found[0]


def _parse(text: str, choices: Sequence[str]) -> tuple[int, bool] | None:
    """The index, and whether a letter named it."""
    known = labels(choices)
    text = strip_reasoning(text).replace("\u2019", "'").strip()
    explicit = [m for m in _EXPLICIT.finditer(text) if _is_label(text, m, known, choices)]
    leading = _LEADING.match(text)
    if not explicit and not leading and (whole := _by_text(text, choices, exact=True)) is not None:
        return whole, False
    if explicit:
        last = explicit[-1]
        if not _denied(text, last):
            return _letter(last[1], text[last.end() :], known, choices)
        return None
    bare = _BARE.match(text)
    if bare and bare[1].upper() in known:
        return known.index(bare[1].upper()), True
    lines = [m for m in map(_LEADING.match, text.splitlines()) if m and m[1] in known]
    if len({m[1] for m in lines}) == 1 and leading and leading[1] in known:
        return _letter(leading[1], text[leading.end() :], known, choices)
    # A reply that names several labels, or lists the options, has not chosen by letter.
    mentions = {
        (m[1] or m[2]).upper()
        for m in _MENTION.finditer(text)
        if (m[1] or m[2]).upper() in known and not _denied(text, m)
    }
    if len(mentions) == 1:
        return known.index(mentions.pop()), True
    if mentions:
        return None
    index = _by_text(_last_answer(text), choices)
    return None if index is None else (index, False)


def _is_label(
    text: str, match: re.Match[str], known: Sequence[str], choices: Sequence[str]
) -> bool:
    letter, marks, rest = match[1], match[2], text[match.end() :]
    if letter.upper() not in known:
        return False
    marked = bool(marks) or not rest.strip() or text[match.start(1) - 1] in "([*\"'`{_"
    if letter.islower() or letter in "AI":  # may well be a word
        after = rest.lstrip()
        index = known.index(letter.upper())
        return marked or (
            letter.isupper()
            and (_REASON.match(after) is not None or _begins_with(after, choices[index]))
        )
    return True


def _begins_with(text: str, option: str) -> bool:
    return _plain(text).startswith(_plain(option))


def _letter(
    letter: str, rest: str, known: Sequence[str], choices: Sequence[str]
) -> tuple[int, bool] | None:
    index = known.index(letter.upper())
    another = _ANOTHER.match(rest)
    if another and another[1] in known:
        return None
    beside = _by_text(rest.split("\n")[0].strip(" -\u2013:.)*"), choices, exact=True)
    return None if beside not in (None, index) else (index, True)


def _denied(text: str, match: re.Match[str]) -> bool:
    return bool(
        _DENIED_BEFORE.search(text[max(0, match.start() - 60) : match.start()])
        or _DENIED_AFTER.match(text[match.end() : match.end() + 40])
    )


def _last_answer(text: str) -> str:
    """What stands after the last "answer is", else everything."""
    found = re.split(r"\banswer(?: is|:)\s*", text, flags=re.IGNORECASE)
    return found[-1] if found[-1].strip() else text


def _plain(text: str) -> str:
    words = re.findall(r"[^\W_]+(?:[.,][0-9]+)*", text.casefold())
    return " ".join(w for w in words if w not in ("a", "an", "the"))


def _must_agree(text: str) -> tuple[list[str], bool]:
    """Numbers and negations: what no misspelling changes."""
    words = text.split()
    return sorted(w for w in words if w[0].isdigit()), bool(_NEGATIONS.intersection(words))


def _by_text(text: str, choices: Sequence[str], *, exact: bool = False) -> int | None:
    said = _plain(clean(text))
    plain = [_plain(choice) for choice in choices]
    if not said:
        return None
    same = [i for i, option in enumerate(plain) if option == said]
    if same or exact:
        return same[0] if len(same) == 1 else None
    inside = [i for i, option in enumerate(plain) if option and _affirmed(option, said)]
    longest = [
        i
        for i in inside
        if not any(j != i and f" {plain[i]} " in f" {plain[j]} " for j in inside)
        or _affirmed(plain[i], _without(said, [plain[j] for j in inside if j != i]))
    ]
    if longest:
        return longest[0] if len(longest) == 1 else None
    return _nearest_certain(said, plain)


def _affirmed(option: str, said: str) -> bool:
    return any(
        not _DENIED_BEFORE.search(said[: m.start()])
        for m in re.finditer(rf"(?<!\w){re.escape(option)}(?!\w)", said)
    )


def _without(said: str, options: list[str]) -> str:
    for option in sorted(options, key=len, reverse=True):
        said = said.replace(option, "|")
    return said


def _nearest_certain(said: str, plain: list[str]) -> int | None:
    from rapidfuzz.fuzz import ratio

    ranked = sorted(((ratio(said, option), -i) for i, option in enumerate(plain)), reverse=True)
    (best, index), (second, _) = ranked[0], ranked[1]
    certain = best >= _NEAR and best - second >= _MARGIN
    return -index if certain and _must_agree(said) == _must_agree(plain[-index]) else None


async def choose(
    model: ChatModel,
    request: ChatRequest,
    choices: Sequence[str],
    *,
    counts: Ledger,
    max_reasks: int = 1,
    use_logprobs: bool = True,
) -> ChoiceReply:
    """Ask for one of the options and get one in any case.

    The rungs: a letter; the option in other words; asking again; the likeliest letter where the
    endpoint gives log-probabilities; the option whose text is nearest to what was said.

    Args:
        model: The model to ask.
        request: A prompt that shows the options as ``render`` writes them.
        choices: The options.
        counts: Where the reply is counted as structured, repaired, reasked, forced.
        max_reasks: Times that the model is asked again after an unclear reply.
        use_logprobs: Ask for log-probabilities before the nearest option is forced.

    Raises:
        InvalidOption: as ``labels``.
        ModelError: the first call failed, or a later one in a way that says nothing about it.
            Where another call does not fit the window or the budget, it is left out.
    """
    known = labels(choices)
    reply = await model.generate(request)
    counts.structured += 1
    calls, said = 1, [reply.text]
    found = _parse(reply.text, choices)
    if found is not None:
        counts.repaired += not found[1]
        level: ChoiceLevel = "strict" if found[1] else "repaired"
        return ChoiceReply(index=found[0], level=level, reply=reply, calls=1)
    legal = f"one letter of {', '.join(known)}"
    steps = [_ask_again(request, legal, attempt) for attempt in range(max_reasks)]
    if use_logprobs:
        steps.append(_ask_for_letter(request, legal))
    for step in steps:
        try:
            reply = await model.generate(_shown(step, said[-1]))
        except (ContextOverflow, LimitReached, RequestRefused):
            continue
        counts.reasked += calls == 1
        calls += 1
        if step.top_logprobs and reply.top_logprobs:
            likeliest = _likeliest(reply.top_logprobs, known)
            if likeliest is not None:
                return ChoiceReply(index=likeliest, level="logprob", reply=reply, calls=calls)
        found = _parse(reply.text, choices)
        if found is not None:
            counts.repaired += not found[1]
            return ChoiceReply(index=found[0], level="reasked", reply=reply, calls=calls)
        said.append(reply.text)
    counts.forced += 1
    index = _nearest("\n".join(said), choices)
    return ChoiceReply(index=index, level="forced", reply=reply, calls=calls)


def _ask_again(request: ChatRequest, legal: str, attempt: int) -> ChatRequest:
    words = f"That does not say clearly which option you choose. Reply with {legal}, only."
    return replace(
        request,
        messages=(*request.messages, Message("user", words)),
        prompt_tokens=None,
        temperature=max(request.temperature, 0.3 * attempt),
    )


def _shown(request: ChatRequest, output: str) -> ChatRequest:
    """The request with the model's own output before its last turn."""
    if request.top_logprobs:
        return request
    *before, last = request.messages
    output = clean(output).strip()[-SHOWN_OUTPUT:] or "(nothing)"
    return replace(request, messages=(*before, Message("assistant", output), last))


def _ask_for_letter(request: ChatRequest, legal: str) -> ChatRequest:
    *before, last = request.messages
    last = last._replace(content=f"{last.content}\n\nReply with {legal}, and nothing else.")
    return replace(
        request, messages=(*before, last), max_tokens=1, top_logprobs=20, prompt_tokens=None
    )


def _likeliest(logprobs: Mapping[str, float], known: Sequence[str]) -> int | None:
    """The label with the largest sum of probability over its spellings (" B", "b", "(B")."""
    mass = dict.fromkeys(known, 0.0)
    for token, logprob in logprobs.items():
        label = token.strip(" \t\n▁Ġ()[]*\"'`.:").upper()
        if label in mass:
            mass[label] += math.exp(logprob)
    best = max(known, key=lambda label: mass[label])
    return known.index(best) if mass[best] > 0 else None


def _nearest(said: str, choices: Sequence[str]) -> int:
    from rapidfuzz.fuzz import token_set_ratio

    plain = _plain(clean(said))
    scores = [token_set_ratio(plain, _plain(choice)) for choice in choices]
    return scores.index(max(scores))
