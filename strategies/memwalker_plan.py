"""What a MemWalker run fixes before its first call: options, token budget, tree, keys.

Sections 3 and 4 of Chen et al., arXiv 2310.05029. Everything that decides the tree is free of the
question and of the options of the walk, so that every question finds the same tree in the store.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any, Literal

from pydantic import Field, model_validator

from reader.chunking import MIN_ROOM
from reader.errors import InvalidOption, WindowTooSmall
from reader.llm.choice import render
from reader.prompts import load_prompts, versions
from reader.strategy import Reading, StrategyOptions

from .memwalker_tree import Tree, plain_tree, section_tree

PROMPTS = load_prompts("reader.strategies", "memwalker")
TREE_VERSION = 1
PAPER_WINDOW = 4096
SEGMENT = 1000
ENTITY_TOKENS = 32  # of the line of names beside a summary
LEAST_SUMMARY = 48  # tokens; a shorter one tells nothing
FORM_TOKENS = 170  # how the reply must look, in words, and the marks around the texts
SAFETY = 0.97
REQUIREMENT = "Answer in as few words as it needs."
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "evidence": {"quotes": True, "none_of_these": True, "entities": True},
    "small": {"reasoning": False},
}


class MemWalkerOptions(StrategyOptions):
    """Options of MemWalker; the defaults are the paper's form (section 4, appendix)."""

    preset: Literal["paper", "evidence", "small"] = Field(
        default="paper",
        description="evidence: quotes, none_of_these, entities on; small: reasoning off",
    )
    children: int = Field(default=8, ge=2, le=20, description="children of a node at most")
    summary_tokens: int = Field(
        default=240, ge=LEAST_SUMMARY, description="cap of a summary; less in a small window"
    )
    reply_tokens: int = Field(
        default=512, ge=16, description="cap of a reply of the walk; at most 1/8 of the window"
    )
    requirement: str | None = Field(
        default=None, description="what the leaf prompt says about the answer's form"
    )
    reasoning: bool = Field(
        default=True, description="reasoning before each action; off for small models"
    )
    memory: bool = Field(
        default=True, description="summaries of visited nodes as background at a leaf"
    )
    max_invalid: int = Field(default=3, ge=0, le=10, description="times an action is asked again")
    on_invalid: Literal["similar", "stop"] = Field(
        default="similar",
        description="still invalid: the child most like the question, or no answer (the paper)",
    )
    max_leaves: int = Field(default=6, ge=1, description="leaves a walk may read")
    none_of_these: bool = Field(default=False, description="going back is possible in triage")
    notes: bool = Field(default=False, description="a leaf may note a piece and walk on")
    beam: int = Field(default=1, ge=1, le=2, description="2: two children of the root, in parallel")
    sections: bool = Field(
        default=False, description="headings as upper levels of the tree, without calls"
    )
    entities: bool = Field(
        default=False, description="names and numbers of the text beside each summary"
    )
    quotes: bool = Field(
        default=False, description="an answer needs a quote that stands in the leaf"
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {**PRESETS.get(values.get("preset", "paper"), {}), **values}
        return values


class Plan:
    """What is fixed for a run. ``texts`` grows while the tree is built.

    Attributes:
        texts: The description of each node: its summary, or what stands in for it.
        sizes: Tokens of each, at most.
        missing: Nodes that still need a call.
    """

    tree: Tree
    tree_key: str
    triage_now: int
    read_now: int

    def __init__(self, reading: Reading) -> None:
        options: MemWalkerOptions = reading.options
        self.options = options
        self.reading = reading
        self.window = min(options.window or PAPER_WINDOW, reading.info.window)
        self.usable = int(self.window * SAFETY)
        self.share = self.window // 8  # kept for the question, and again for a reply
        self.reply_tokens = min(options.reply_tokens, max(self.share, 32))
        self.requirement = REQUIREMENT if options.requirement is None else options.requirement
        self.question = reading.question or ""
        if reading.choices:
            self.question = f"{self.question}\n{render(reading.choices)}"
            if options.requirement is None:
                self.requirement = "Answer with the letter of the one right option."
        self.note_tokens = self.share // 2 if options.notes else 0
        self.finder = reading.finder
        self.texts: dict[int, str] = {}
        self.sizes: dict[int, int] = {}
        self.missing: set[int] = set()
        self.names: dict[int, Counter[str]] = {}
        self.hints: list[str] = []

    async def measure(self) -> int:
        """Count the prompts, divide the window; returns the tokens of a segment.

        Raises:
            WindowTooSmall: two summaries, a segment or the question do not fit.
            InvalidOption: ``chunk_tokens`` does not fit.
        """
        counter = self.reading.info.counter
        names = list(PROMPTS)
        frame = await counter.count_messages([("user", "")])
        bodies = [PROMPTS[name].template.template for name in names]
        *counts, asked = await counter.count([*bodies, f"{self.question}\n{self.requirement}"])
        words = dict(zip(names, counts, strict=True))
        self.asked = asked
        self.leaf_fixed = frame + words["leaf_summary"]
        self.merge_fixed = frame + words["merge"]
        pieces = max(words["must_choose"], words["none_of_these"]) + words["second"]
        self.triage_fixed = frame + words["triage"] + words["notes"] + pieces + FORM_TOKENS
        pieces = words["take_note"] + words["quote"] + words["memory"] + words["notes"]
        self.read_fixed = frame + words["leaf"] + pieces + FORM_TOKENS
        self.answer_fixed = frame + max(words["answer"], words["join"])
        self._divide()
        return self._segment()

    def _divide(self) -> None:
        """Tokens of a summary and children of a node, so that a triage prompt fits."""
        names = ENTITY_TOKENS if self.options.entities else 0
        left = self.usable - self.triage_fixed - 2 * self.share - self.note_tokens
        self.children = self.options.children
        while self.children > 2 and left // self.children - names < LEAST_SUMMARY:
            self.children -= 1
        self.summary_tokens = min(self.options.summary_tokens, left // self.children - names)
        if self.summary_tokens < LEAST_SUMMARY:
            raise WindowTooSmall(
                f"A window of {self.window} tokens does not hold two summaries beside the prompt.",
                hint=f"At least {self._least_window()} tokens are needed.",
            )
        if self.children < self.options.children:
            self.hints.append(
                f"The window of {self.window} tokens allows {self.children} children of a node,"
                f" not {self.options.children}."
            )

    def _least_window(self) -> int:
        names = ENTITY_TOKENS if self.options.entities else 0
        need = self.triage_fixed + 2 * (LEAST_SUMMARY + names)
        return int(need / (SAFETY - 0.25)) + 8

    def _segment(self) -> int:
        fixed = max(self.read_fixed + 2 * self.share, self.leaf_fixed)
        room = self.usable - fixed - self.summary_tokens
        if room < MIN_ROOM:
            raise WindowTooSmall(
                f"A window of {self.window} tokens leaves {max(room, 0)} for a segment, and"
                f" {MIN_ROOM} are needed.",
                hint="Use a larger window= or smaller summary_tokens.",
            )
        wanted = self.options.chunk_tokens
        if wanted is not None and wanted > room:
            raise InvalidOption(
                f"chunk_tokens={wanted} does not fit a window of {self.window} tokens.",
                hint=f"At most {room} fit beside the prompt, a summary and the reply.",
            )
        if self.asked > self.share:
            raise WindowTooSmall(
                f"The question takes {self.asked} tokens; a window of {self.window} has room for"
                f" {self.share}.",
                hint=f"Use window={self.asked * 8} or larger, or a shorter question.",
            )
        return min(wanted or SEGMENT, room)

    async def cut(self, size: int) -> None:
        """Cut the document and fix the tree's shape."""
        reading, options = self.reading, self.options
        reading.chunks = await reading.cut(size)
        tree = None
        if options.sections:
            if self.reading.question is None:
                raise InvalidOption(
                    "A summary cannot be made of a tree of headings: nothing sums them up.",
                    hint="Leave out sections=, or ask a question.",
                )
            tree = section_tree(reading.document, reading.chunks, self.children)
            if tree is None:
                self.hints.append("No headings divide the document; the tree is a plain one.")
        self.tree = tree or plain_tree(len(reading.chunks), self.children)
        shape = [
            [(c.start, c.end) for c in reading.chunks],
            [(n.kind, n.children, n.title) for n in self.tree if n.kind != "leaf"],
            self.summary_tokens,
            versions({name: PROMPTS[name] for name in ("leaf_summary", "merge")}),
            reading.info.identity,
            reading.document.sha256,
        ]
        digest = hashlib.sha256(json.dumps(shape).encode()).hexdigest()
        self.tree_key = f"memwalker-tree/{TREE_VERSION}|{digest}"

    @property
    def words(self) -> str:
        """The cap of a summary in words, as models understand it."""
        return str(max(int(self.summary_tokens * 0.6), 20))

    def memory_room(self, chunk: int) -> int:
        """Tokens left for working memory beside that segment."""
        taken = self.read_fixed + self.asked + self.reply_tokens + self.note_tokens
        return max(self.usable - taken - int(self.reading.chunks[chunk].tokens * 1.03), 0)

    @property
    def closing_room(self) -> int:
        """Tokens of working memory and notes that the closing call is shown."""
        left = self.usable - self.answer_fixed - self.asked - self.reply_tokens
        return max(min(left, max(4 * self.summary_tokens, self.share)), 0)

    @property
    def needs_tree(self) -> bool:
        """A document of one segment has nothing to walk; its summary is wanted all the same."""
        return len(self.reading.chunks) > 1 or self.reading.question is None

    @property
    def most_steps(self) -> int:
        """Calls of one walk at most: 4 x depth + 2 x leaves allowed."""
        return 4 * max(self.tree.depth, 1) + 2 * self.options.max_leaves
