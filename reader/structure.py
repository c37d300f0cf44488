"""Where the pieces of a text lie: spans, sections, pages, parts; and finding headings.

Ranges are characters of the text, end exclusive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple


class Span(NamedTuple):
    """A range of characters."""

    start: int
    end: int


class Section(NamedTuple):
    """A heading and what stands under it, deeper sections included. Level 1 is the highest."""

    title: str
    level: int
    start: int
    end: int


class Page(NamedTuple):
    """A page of the original, numbered from 1. Pages of one file touch each other."""

    number: int
    start: int
    end: int


class Part(NamedTuple):
    """One document of a collection. Names are unique within it."""

    name: str
    title: str
    start: int
    end: int


class Location(NamedTuple):
    """A range within a part: ``document.text[part.start + start : part.start + end]``."""

    name: str
    start: int
    end: int


class Heading(NamedTuple):
    """A heading, before it is known where its section ends."""

    title: str
    level: int
    start: int


_LONGEST_HEADING = 300
_FENCE_OR_HEADING = re.compile(
    r"^ {0,3}(?:(?P<fence>`{3,}|~{3,})|(?P<hashes>\#{1,6})[ \t]|(?P<underline>=+|-{3,})[ \t]*$)",
    re.MULTILINE,
)
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")
_EMPHASIS = re.compile(r"(\*{1,3}|`+)([^*`]+)\1")
_ESCAPE = re.compile(r"\\([^\w\s])")

# Ranks of the words that open a heading in plain text. Those that occur become levels 1, 2, ...
_RANKS = {
    **dict.fromkeys(("volume",), 1),
    **dict.fromkeys(("book",), 2),
    **dict.fromkeys(("part", "act"), 3),
    **dict.fromkeys(("section", "scene"), 5),
}
_CHAPTER_RANK = 4
_NUMBER_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|"
    "sixteen|seventeen|eighteen|nineteen|twenty|first|second|third|fourth|fifth|sixth|seventh|"
    "eighth|ninth|tenth|last"
)
# Every quantifier is bounded, so a heading costs at most a fixed time at each line.
_HEADING_LINE = (
    r"[ \t]{0,60}(?P<line>"
    r"(?:(?P<hashes>\#{1,6})[ \t]{1,8}(?P<words>\S[^\n]{0,200}))"
    r"|(?:(?P<word>volume|book|part|act|section|scene|chapter|letter|canto|stave|essay|article)"
    r"[ \t]{1,4}(?:the[ \t])?(?:\d{1,4}|[ivxlc]{1,9}|" + _NUMBER_WORDS + r")\b"
    # Nothing more, or punctuation and a title; a sentence goes on with a plain word.
    r"(?:[.:]?(?P<bare>)[ \t]{0,8}(?=\n|\Z)"
    r"|(?:[.:]|[ \t]{0,4}[-\u2013\u2014(])[^\n]{1,120}"
    r"|[ \t](?-i:[A-Z][^a-z\n]{2,100}(?=\n|\Z))))"
    r"|(?:(?-i:(?:\d{1,3}|[IVXLC]{1,7})[ \t]{0,2}[.\u2013\u2014-][ \t]{1,4}[A-Z]{2}[^a-z\n]{2,100}"
    r"(?=\n|\Z)))"
    r"|(?:(?-i:[A-Z]{4,20}[ \t]No\.)[ \t]\d{1,4}\b[^\n]{0,120})"
    r"|(?-i:(?:PREFACE|FOREWORD|INTRODUCTION|PROLOGUE|EPILOGUE|CONCLUSION|AFTERWORD|GLOSSARY|"
    r"(?:APPENDIX(?:[ \t](?:[A-Z]|[IVX]{1,5}|\d{1,2}))?))(?:\.|:[^\n]{1,100})?)"
    r"|(?-i:(?:APPENDIX|SCHEDULE|ANNEX|EXHIBIT)[ \t](?:[A-Z]|[IVX]{1,5}|\d{1,2})"
    r"(?:[.:][ \t][^\n]{1,100}|[.:]?))"
    r")[ \t]{0,60}"
    # Some books put a chapter's title on the line below: it must be one short line.
    r"(?P<below>\n[ \t]{0,60}[^\s][^\n]{0,80})?(?=\n[ \t]{0,60}\n|\n?\Z)"
)
_FIRST_HEADING = re.compile(_HEADING_LINE, re.IGNORECASE)
_LATER_HEADING = re.compile(r"\n[ \t]{0,60}\n" + _HEADING_LINE, re.IGNORECASE)
_TITLE_LINE = re.compile(r"^Title:[ \t]{1,8}(\S[^\n]{0,200})$", re.MULTILINE)


def normalised(text: str) -> str:
    r"""Newlines as ``\n``; surrogates, which are no characters, joined or replaced by U+FFFD."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def text_headings(text: str) -> tuple[list[Heading], bool]:
    """The unmistakable headings of plain text, and whether some are in Markdown's form.

    Unmistakable is a line between blank lines that reads like ``CHAPTER IV``, ``Book 2. Title``,
    ``II. THE RIVER``, ``PREFACE`` or ``## Title``. Linear time.
    """
    found: list[tuple[str, int, int]] = []
    markdown = False
    # A line alone at the very top may be a heading too, without the blank line above.
    first = _FIRST_HEADING.match(text)
    for match in chain(filter(None, [first]), _LATER_HEADING.finditer(text)):
        below = match["below"]
        if below and match["bare"] is None:
            continue
        line = match["line"].rstrip()
        if line[0].islower():
            continue
        if match["hashes"]:
            markdown = True
            rank = len(match["hashes"]) + 10
            line = match["words"].rstrip("# \t")
        else:
            rank = _RANKS.get((match["word"] or "").lower(), _CHAPTER_RANK)
        found.append((" ".join((line + (below or "")).split()), rank, match.start("line")))
    levels = {rank: level for level, rank in enumerate(sorted({f[1] for f in found}), 1)}
    return [Heading(title, levels[rank], start) for title, rank, start in found], markdown


def markdown_headings(text: str) -> list[Heading]:
    """Headings of Markdown (``# Title`` and underlined ones), not those in code. Linear time."""
    found: list[Heading] = []
    fence = ""
    for match in _FENCE_OR_HEADING.finditer(text):
        if match["fence"]:
            if not fence:
                fence = match["fence"]
            elif match["fence"].startswith(fence):
                fence = ""
            continue
        if fence:
            continue
        if match["hashes"]:
            start, level = match.start(), len(match["hashes"])
            end = text.find("\n", start)
            line = text[match.end() : len(text) if end < 0 else end].rstrip().rstrip("#")
        else:
            # One line of text with a blank line above; more would be a table or a paragraph.
            end = match.start() - 1
            start = text.rfind("\n", 0, max(end, 0)) + 1
            above = text[text.rfind("\n", 0, max(start - 1, 0)) + 1 : start]
            if end <= start or above.strip():
                continue
            line, level = text[start:end], 1 if match["underline"][0] == "=" else 2
        title = _plain(line) if len(line) <= _LONGEST_HEADING else ""
        if title:
            found.append(Heading(title, level, start))
    return found


def sections(headings: Iterable[Heading], end: int) -> tuple[Section, ...]:
    """Each section runs to the next heading of its own level or above, or to ``end``.

    Headings with nothing at all under them, the heading's own line included, open none.
    """
    heads = list(headings)
    ends = [end] * len(heads)
    open_: list[int] = []
    for i, head in enumerate(heads):
        while open_ and heads[open_[-1]].level >= head.level:
            ends[open_.pop()] = head.start
        open_.append(i)
    return tuple(
        Section(*head, stop) for head, stop in zip(heads, ends, strict=True) if head.start < stop
    )


def title_line(text: str) -> str | None:
    """The title from a line such as ``Title: Walden`` near the top of a plain text."""
    match = _TITLE_LINE.search(text, 0, 2_000)
    return " ".join(match[1].split()) if match else None


def _plain(line: str) -> str:
    """A Markdown heading's words without the marks around them."""
    line = _EMPHASIS.sub(r"\2", _LINK.sub(r"\1", line))
    return " ".join(_ESCAPE.sub(r"\1", line).split())
