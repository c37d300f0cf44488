"""The shape of MemWalker's tree: fixed before any call, from the chunks and the headings alone.

Section 3.1 of Chen et al., arXiv 2310.05029: consecutive nodes are grouped, at most so many to a
parent, until one is left. Groups of a level are equally large, so no parent has a lone child.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from reader.chunking import Chunk
from reader.documents import Document
from reader.structure import Section


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the tree. Leaves have the numbers of their chunks, the root has the last one.

    Attributes:
        id: Its number.
        kind: "leaf" (a chunk, summarised), "merge" (summary of summaries), "section" (from the
            document's headings, no call).
        children: Their numbers, in the order of the text.
        first: Its first chunk.
        last: Its last chunk.
        level: 0 for a leaf, else one more than its highest child.
        title: The headings it stands for, "" for none.
    """

    id: int
    kind: Literal["leaf", "merge", "section"]
    children: tuple[int, ...]
    first: int
    last: int
    level: int
    title: str = ""


class Tree:
    """The nodes, children before parents."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self.root = len(self.nodes) - 1
        self.parents = {child: node.id for node in self.nodes for child in node.children}

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number]

    @property
    def depth(self) -> int:
        """Choices on the longest way from the root to a leaf."""
        return self.nodes[self.root].level

    def way(self, number: int) -> list[int]:
        """From the root to the node."""
        way = [number]
        while way[-1] in self.parents:
            way.append(self.parents[way[-1]])
        return way[::-1]


def balanced(items: Sequence[int], most: int) -> list[Sequence[int]]:
    """Consecutive groups of at most ``most``, as few as possible, as equal as possible."""
    groups = -(-len(items) // most)
    size, larger = divmod(len(items), groups)
    starts = [i * size + min(i, larger) for i in range(groups + 1)]
    return [items[a:b] for a, b in pairwise(starts)]


def plain_tree(chunks: int, most: int) -> Tree:
    """Groups of at most ``most`` neighbours, level by level, to one root."""
    grower = _Grower(chunks, most)
    grower.gather(range(chunks), single=True)
    return Tree(grower.nodes)


def section_tree(document: Document, chunks: Sequence[Chunk], most: int) -> Tree | None:
    """The headings as the upper levels; None where no heading divides the chunks.

    A chunk belongs to the deepest section that holds all of it. A section of one chunk is that
    leaf; one with more than ``most`` children gets levels in between.
    """
    chains = _chains(document, chunks)
    grower = _Grower(len(chunks), most)
    children = grower.under(chains, 0, len(chunks), 0)
    if not any(grower.nodes[child].title for child in children):
        return None
    top = grower.gather(children)
    if len(top) > 1:
        grower.add("section", top, document.title)
    return Tree(grower.nodes)


class _Grower:
    def __init__(self, chunks: int, most: int) -> None:
        self.nodes = [Node(i, "leaf", (), i, i, 0) for i in range(chunks)]
        self.most = most

    def add(self, kind: Literal["merge", "section"], children: Sequence[int], title: str) -> int:
        """A new parent of these nodes."""
        below = [self.nodes[child] for child in children]
        level = 1 + max(node.level for node in below)
        self.nodes.append(
            Node(
                len(self.nodes),
                kind,
                tuple(children),
                below[0].first,
                below[-1].last,
                level,
                title,
            )
        )
        return len(self.nodes) - 1

    def gather(self, items: Sequence[int], *, single: bool = False) -> Sequence[int]:
        """Parents above the nodes until at most ``most`` are left, or one."""
        while len(items) > (1 if single else self.most):
            items = [self._parent(group) for group in balanced(items, self.most)]
        return items

    def _parent(self, group: Sequence[int]) -> int:
        if len(group) == 1:  # a summary of one summary tells nothing new
            return group[0]
        titles = [self.nodes[item].title for item in group]
        if all(titles):
            return self.add("section", group, f"{titles[0]} to {titles[-1]}")
        return self.add("merge", group, "")

    def under(
        self, chains: Sequence[tuple[Section, ...]], first: int, stop: int, depth: int
    ) -> Sequence[int]:
        """The children of a section: its own chunks and its subsections."""
        items: list[int] = []
        at = first
        while at < stop:
            if len(chains[at]) <= depth:
                items.append(at)
                at += 1
                continue
            section, end = chains[at][depth], at
            while end < stop and chains[end][depth : depth + 1] == (section,):
                end += 1
            items.append(self._section(section, self.under(chains, at, end, depth + 1)))
            at = end
        return items

    def _section(self, section: Section, children: Sequence[int]) -> int:
        if len(children) == 1:
            only = self.nodes[children[0]]
            title = f"{section.title} - {only.title}" if only.title else section.title
            self.nodes[only.id] = replace(only, title=title)
            return only.id
        return self.add("section", self.gather(children), section.title)


def _chains(document: Document, chunks: Sequence[Chunk]) -> list[tuple[Section, ...]]:
    """For each chunk the sections that hold all of its words, the outermost first."""
    parts = [Section(p.title, 0, p.start, p.end) for p in document.parts]
    sections = [*(parts if len(parts) > 1 else ()), *document.sections]
    sections.sort(key=lambda s: (s.start, -s.end, s.level))
    chains: list[tuple[Section, ...]] = []
    open_: list[Section] = []
    following = 0
    for chunk in chunks:
        text = document.text[chunk.start : chunk.end]
        start = chunk.end - len(text.lstrip())
        end = chunk.start + len(text.rstrip())
        while following < len(sections) and sections[following].start <= start:
            open_.append(sections[following])
            following += 1
        open_ = [s for s in open_ if s.end > start]
        chains.append(tuple(s for s in open_ if s.end >= end))
    return chains
