"""Replies that hold no answer: refusals, and the many ways of saying "not in the text".

A reply counts only if *every* clause of it is of that kind: a fact beside it makes it an answer.
The patterns are for English; a reply in another language always counts as an answer.
"""

from __future__ import annotations

import re

from reader.folding import PART
from reader.llm.cleaning import (
    clean,
    content_overlap,
    sentences,
    strip_reasoning,
    trim_to_sentence,
)

__all__ = [
    "clean",
    "content_overlap",
    "is_refusal_or_empty",
    "repeats",
    "says_nothing_found",
    "sentences",
    "strip_reasoning",
    "trim_to_sentence",
]

_NO_CASE = re.IGNORECASE

# What a reply can call the thing that was read.
_TEXT = (
    r"(?:text|texts|passage|passages|document|documents|chunk|chunks|context|summary|story"
    r"|excerpt|excerpts|section|sections|article|book|source|sources|paragraph|paragraphs|content"
    r"|material|conversation|chapter|novel|tale|narrative|memory|notes|report|paper|part|pages?"
    r"|information|source text|data|snippet|transcript)"
)
_THE_TEXT = (
    r"(?:(?:either|any|none|neither|all|most|the rest) of )?(?:the |this |these |my |your |that )?"
    r"(?:(?:provided|given|above|current|previous|source|available|supplied|present|whole|entire"
    r"|retrieved|updated|earlier|new|following|next|last|first|full|cited|quoted|original) )*"
    rf"(?:{_TEXT}|\w+ {_TEXT})(?: (?:provided|given|above|itself|(?:that )?(?:i|you) \w+"
    rf"(?: \w+)?|so far|(?:of|from) the {_TEXT}))?"
)
_IN_TEXT = rf"(?:(?:anywhere |here )?(?:in|within|by|from|based on|throughout|on) {_THE_TEXT}|here)"
_ADVERB = (
    r"(?:(?:explicitly|directly|clearly|specifically|actually|really|even|ever|yet|also|itself"
    r"|currently|further|fully|definitively) )*"
)
_FACT = (
    r"(?:(?:relevant|specific|additional|new|further|explicit|direct|clear|useful|such|other"
    r"|definitive|enough|sufficient|related|concrete|pertinent|helpful|useful) (?:or )?)*"
    r"(?:information|mentions?|details?|answers?|data|facts?|references?|context|content|text"
    r"|clues?|passages?|statements?|quotes?)"
)
_IS_NOT = r"(?:is|are|was|were|has been|have been) (?:not|never)|(?:is|are|was|were)n't"
_NOT = r"(?:(?:do|does|did) ?(?:not|n't)|never|fails? to|failed to)"
_TELL = (
    r"(?:mention|state|specify|provide|contain|discuss|indicate|describe|disclose|reveal|address"
    r"|include|say|tell|answer|explain|name|identify|clarify|make (?:it )?clear|help|cover|refer"
    r"|elaborate|(?:give|offer|have|present|shed)(?= (?:us |me )?(?:(?:any|the|a|an|enough|his|her"
    rf"|its|their|much|clear|light) ?)*(?:{_FACT}|name|age|date|year|number|reason|light)))\b"
)
_FIND = r"(?:determine|answer|find|locate|identify|infer|tell|say|know|establish|conclude|provide)"
_TOLD = r"(?:mentioned|stated|specified|disclosed|indicated|discussed|addressed|provided|described)"
_TOLD_THERE = (
    r"(?:found|given|present|available|included|known|named|identified|revealed|explained|clear"
    r"|defined|answered|covered|contained|detailed|referenced|supported|listed|elaborated on)"
)
_ASKED = r"(?:answer(?: to (?:the|this|that|your) question)?|question|information|detail|details)"

_LEAD_IN = re.compile(
    r"(?:(?:unfortunately|sorry|however|therefore|thus|so|hence|overall|but|and|then|yet|as such"
    r"|in (?:summary|conclusion|short)|based (?:solely )?on [^,]{1,80}|according to [^,]{1,80}"
    r"|from [^,]{1,80}|(?:as|since|because|while|although) [^,]{1,120}|given [^,]{1,80}"
    r"|after \w+ing [^,]{1,80}|i(?:'m| am) sorry|i apologi[sz]e|my apologies"
    r"|in the [^,]{1,60}|(?:the|my) (?:final )?answer(?: to [^,:]{1,80})? is:?)\s*[,:]?\s+"
    r"(?:but |that )?)+",
    _NO_CASE,
)
_NOTHING_FORMS = (
    # "The passage does not mention ...", "It never says ..."
    rf"(?:{_THE_TEXT}|it|this) {_NOT} {_ADVERB}(?:(?:appear|seem) to )?{_TELL}.*",
    (
        rf"(?:{_THE_TEXT}|it|this) (?:only |mainly )?(?:contains?|provides?|offers?|gives?|has"
        rf"|includes?|makes?) (?:no(?! difference)|nothing|insufficient|too little|not enough)\b.*"
    ),
    (
        rf"(?:{_THE_TEXT}|this|it) (?:is|are|was|seems?|appears?)(?: to be)? "
        r"(?:not (?:directly )?(?:relevant|related)|irrelevant|unrelated|silent|insufficient"
        r"|not sufficient)\b.*"
    ),
    # "The name of the king is not mentioned (in the text)."
    (
        rf"[^.;]{{0,150}}?\b(?:{_IS_NOT}) {_ADVERB}{_TOLD}"
        rf"(?: (?:{_IN_TEXT}.*|anywhere|explicitly|directly|at all))?"
    ),
    rf"[^.;]{{0,150}}?\b(?:{_IS_NOT}) {_ADVERB}{_TOLD_THERE} {_IN_TEXT}.*",
    (
        rf"[^.;]{{0,80}}\b(?:name|identity|age|date|year|number|reason|place|location|title|author)"
        rf"\b[^.;]{{0,80}} (?:{_IS_NOT}) {_ADVERB}(?:given|known|revealed|identified|explained)"
    ),
    (
        rf"(?:the |this |that |any )?(?:relevant |requested )?{_ASKED} (?:{_IS_NOT}) {_ADVERB}"
        rf"(?:{_TOLD}|{_TOLD_THERE})(?: (?:{_IN_TEXT}|from|with)\b.*)?"
    ),
    (
        rf"(?:the |this |that |any )?(?:relevant |requested )?{_ASKED} (?:can ?not|can't|could not)"
        r" be \w+.*"
    ),
    rf"{_THE_TEXT} (?:is about|discusses|focuses on|only) [^;]{{1,150}} and {_NOT} {_TELL}.*",
    # "There is no information about ...", "No mention of ..."
    (
        rf"there(?: is| are| was| were| has been) (?:no|not any|not enough|insufficient"
        rf"|nothing in|not (?:a|any|enough)) ?(?:{_FACT}|{_THE_TEXT})\b.*"
    ),
    rf"there (?:isn|aren|wasn)'t (?:any |enough |a )?{_FACT}\b.*",
    rf"there(?: is| was) (?:no|nothing)\b.* {_IN_TEXT}.*",
    (
        rf"(?:no|not enough|insufficient) (?:{_FACT}|evidence)"
        r"(?: (?:about|of|on|regarding|to|for|that|which|in|here|concerning|related|found|available"
        rf"|(?:(?:is|are|was|were|can be|could be|has been|have been) )?{_ADVERB}(?:{_TOLD}"
        rf"|{_TOLD_THERE}))\b.*)?"
    ),
    rf"no (?:[\w'-]+ ){{1,5}}(?:is|are|was|were) {_ADVERB}(?:{_TOLD}|{_TOLD_THERE}) {_IN_TEXT}.*",
    (
        rf"nothing (?:relevant|new|useful|related|else|was found|is (?:said|mentioned|stated)"
        rf"|(?:about|on) .* {_IN_TEXT}|in {_THE_TEXT}|found)\b.*"
    ),
    rf"(?:none|neither) of {_THE_TEXT} {_ADVERB}(?:{_TELL}|\w+s) .*",
    (
        rf"not {_ADVERB}(?:{_TOLD}|{_TOLD_THERE}|found|applicable|determinable|answerable"
        rf"|enough {_FACT}|sure|known|certain)(?: (?:{_IN_TEXT}|to answer|to determine|for)"
        r".*)?"
    ),
    r"(?:n/?a|unknown|null|unanswerable|undetermined|unspecified|unclear|\?+)",
    rf"(?:unknown|unclear|unspecified|undetermined|unanswerable) {_IN_TEXT}.*",
    (
        rf"(?:(?:the|this|that) )?(?:{_ASKED}|it)(?: (?:is|remains|was)| would be)"
        r"(?: considered)? (?:unanswerable|unknown|unclear|undetermined|unspecified"
        r"|not answerable)\b.*"
    ),
    # "It cannot be determined", "I could not find any ..."
    (
        r"[^.;]{0,150}?\b(?:can ?not|can't|could not|couldn't) be "
        r"(?:\w+ly )?(?:determined|answered|inferred|ascertained|deduced|concluded)\b.*"
    ),
    (
        r"(?:it(?: is| was)|this is) (?:not possible|impossible|difficult|hard) (?:for me )?"
        rf"to (?:\w+ly )?{_FIND}\b.*"
    ),
    rf"(?:it(?: is| was)) (?:unclear|not clear|unknown|not known) {_IN_TEXT}.*",
    (
        rf"(?:i|we) (?:can ?not|can't|could not|couldn't|am unable to|was unable to|am"
        rf" not able to) (?:\w+ly )?(?:{_FIND} (?:any|an?|the|this|that|whether|what|who|where"
        rf"|when|how|why|if|for (?:sure|certain)|{_FACT}|your|from|based)\b.*|{_FIND})"
    ),
    rf"i(?:'m| am) (?:unable|not able) to {_FIND}\b.*",
    rf"(?:unable to|can ?not|can't|could not) {_FIND}(?: (?:{_IN_TEXT}|from|the|this|it).*)?",
    (
        r"i (?:do not|don't|did not|didn't) (?:know|have (?:any |enough |sufficient |the )"
        rf"?{_FACT}.*|(?:find|see) (?:any |the |an )?{_FACT}.*)"
    ),
    r"i (?:do not|don't) know (?:the answer|who|what|where|when|why|how|if|whether)\b.*",
    (
        r"(?:more|additional|further) (?:information|context|details?|text) (?:is|are|would be) "
        r"(?:needed|required|necessary).*"
    ),
)
_NOTHING = re.compile("|".join(f"(?:{form})" for form in _NOTHING_FORMS), _NO_CASE)
# Says nothing about the matter either way, so it may stand beside a "not found".
_FILLER = re.compile(
    rf"(?:question:.*|please (?:provide|share|let|check|consult|refer)\b.*"
    rf"|(?:if you|let me know|i would need|i'd need|i need|you (?:may|might|could) (?:want|need)"
    rf"|feel free)\b.*"
    rf"|(?:sorry|i(?:'m| am) sorry|i apologi[sz]e)(?: for .*)?"
    rf"|(?:the )?(?:previous |updated |current |existing )?summary (?:is|remains|stays)"
    rf" (?:unchanged|the same|empty|as is)"
    rf"|{_THE_TEXT} (?:only|mainly|primarily|mostly|merely|just|simply|instead) .*"
    rf"|(?:{_THE_TEXT}|it) (?:discusses|focuses on|is about|talks about|deals with)\b.*"
    rf"|(?:only|instead|it (?:only|mainly|just|instead))\b.*)",
    _NO_CASE,
)
_REFUSAL = re.compile(
    r"(?:(?:i(?:'m| am) (?:very |really )?sorry|i apologi[sz]e|sorry|my apologies|unfortunately)"
    r"[,.]? ?(?:but )?)?"
    r"(?:i(?: am|'m)? (?:can ?not|can't|could not|won't|will not|unable to|not able to)"
    r" (?:assist|help(?! \w+ing\b| it\b| but\b)|fulfill?|comply|process|complete"
    r"|provide|create|generate|summari[sz]e|access"
    r"|continue|engage|do that|answer that|read)\b.*"
    r"|as an? (?:ai|artificial intelligence|language model|large language model)\b.*"
    r"|i (?:do not|don't) have (?:access|the ability)\b.*"
    r"|i(?:'m| am) (?:just )?an? (?:ai|language model)\b.*"
    r"|(?:it (?:seems|looks like|appears)(?: that)? )?you (?:have not|haven't|did not|didn't)"
    r" (?:provided?|shared?|included?|attach(?:ed)?)\b.*"
    r"|please provide (?:me with )?(?:the|a|your|more)\b.*)",
    _NO_CASE,
)
# Every form above holds one of these; most replies hold none and need no second look.
_MAY_REFUSE = re.compile(
    r"n['\u2019]t\b|not\b|\bunable\b|\bai\b|\bintelligence\b|\bmodel\b|\bplease\b", _NO_CASE
)
_OFFER = re.compile(
    r"(?:(?:however|but),? )?(?:i(?:'d| would| can|'m| am| will|'ll)? (?:be )?"
    r"(?:happy|glad|able to|can|would|could|help|assist|hope)\b.*"
    r"|(?:please|let me know|is there anything|feel free|if you|how can i|once you|sorry"
    r"|i(?:'m| am) sorry|thank you|could you)\b.*)",
    _NO_CASE,
)
_CLAUSES = re.compile(
    r"\s+because\s+|[,;:]?\s+(?:but|although|though|whereas|nevertheless)\s+|;\s*(?:however,?)?\s*"
    r"|,\s+(?:so|and|yet|however|only|thus|therefore|as|since|because)[,]?\s+|\s+[\u2014\u2013]+\s+|\s+--\s+",
    _NO_CASE,
)
_NEXT_QUESTION = re.compile(
    r"\n[^\w\n]*question[*_ ]*\d*[*_ ]*:[^\n]*\n\s*[^\w\n]*answer[*_ ]*\d*[*_ ]*:", _NO_CASE
)
_MARKUP = re.compile(r"\A(?:[-*•\u2013#>\s]|\d{1,3}[.)]\s)+|[*_`\"\u201c\u201d]")


def is_refusal_or_empty(text: str) -> bool:
    """Whether the reply holds no word, or only declines or asks for the text it was given."""
    text = clean(text)
    if not re.search(r"\w", text):
        return True
    if not _MAY_REFUSE.search(text):
        return False
    parts = [_plain(text[start:end]) for start, end in sentences(text)]
    if not any(_REFUSAL.fullmatch(part) for part in parts):
        return False
    return all(_REFUSAL.fullmatch(part) or _OFFER.fullmatch(part) for part in parts if part)


def before_next_question(text: str) -> str:
    """The reply up to where the model goes on to ask, and answer, questions of its own.

    Small models do: they repeat the form of the prompt until their cap. A reply that begins so
    is left alone.
    """
    found = _NEXT_QUESTION.search(text)
    return (text[: found.start()].rstrip() or text) if found else text


def repeats(text: str, question: str) -> bool:
    """Whether the reply is the question again, word for word, and nothing else."""
    words = PART.findall(clean(text).lower())
    return bool(words) and words == PART.findall(question.lower())


def says_nothing_found(text: str) -> bool:
    """Whether the reply says that the text does not tell, and tells nothing else.

    An empty reply says nothing at all, so this is False for it.
    """
    text = clean(text)
    if text.strip(" .*_\"'") == "NONE":  # lower case "None." may be an answer
        return True
    clauses = [
        clause
        for start, end in sentences(text)
        for part in _CLAUSES.split(_plain(text[start:end]))
        if (clause := part.strip(" .,;:!"))
    ]
    kinds = [_says_nothing(clause) for clause in clauses]
    return any(kinds) and all(
        nothing or _FILLER.fullmatch(clause) or _FILLER.fullmatch(_LEAD_IN.sub("", clause, count=1))
        for nothing, clause in zip(kinds, clauses, strict=True)
    )


def _plain(sentence: str) -> str:
    """One line without markup; a leading quotation mark stays, as it makes somebody's words."""
    line = " ".join(sentence.replace("\u2019", "'").split())
    line = re.sub(r"\b(it|that|there)'s\b", r"\1 is", line, flags=_NO_CASE)
    quoted = line[:1] in '"\u201c' and line.rstrip(".")[-1:] not in '"\u201d'
    line = _MARKUP.sub("", line).strip()
    return f'"{line}' if quoted else line.rstrip(".! ")


def _says_nothing(clause: str) -> bool:
    # the patterns end in what may follow; only those for whole clauses are closed by fullmatch
    bare = clause
    lead = _LEAD_IN.match(clause)
    if lead:
        bare = clause[lead.end() :]
    label = re.match(r"[^:?]{1,60}[:?]\s+(.+)", bare)
    return any(_matches(part) for part in (clause, bare, label[1] if label else "") if part)


def _matches(clause: str) -> bool:
    return _NOTHING.fullmatch(clause) is not None
