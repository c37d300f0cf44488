"""The graph of GraphReader: key elements as nodes, the atomic facts that list them as contents.

Li et al. 2024, arXiv 2406.14550, section 3.2: a node is a key element k with the set A of atomic
facts that list it; two nodes are neighbours when each one's key element occurs in the facts of the
other. The graph knows nothing of any question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import networkx as nx
from rapidfuzz import fuzz, process

from reader.folding import same_facts

from .key_elements import Names, lowercase_words, tokens

GRAPH_VERSION = 1
LONGEST_NAME = 6  # words of a key element that is looked for in facts that do not list it
_FUZZY = 90.0  # of 100: a name misspelt


class Fact(NamedTuple):
    """An atomic fact: the chunk it was taken from (index from 0), its words, its key elements."""

    chunk: int
    text: str
    elements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FactGraph:
    """Facts and the graph over their key elements.

    Attributes:
        facts: In the order of the document.
        graph: Undirected; a node has ``name`` (to show), ``also`` (other forms of it, as they are
            compared) and ``facts`` (indices into ``facts``).
    """

    facts: tuple[Fact, ...]
    graph: nx.Graph

    def name(self, node: str) -> str:
        """The key element as it is shown."""
        return str(self.graph.nodes[node]["name"])

    def facts_of(self, node: str) -> list[int]:
        """Indices of the facts that list the node."""
        return list(self.graph.nodes[node]["facts"])

    def neighbors(self, nodes: Sequence[str]) -> list[str]:
        """Neighbours of any of the nodes, those of the first ones first, each once."""
        found = dict.fromkeys(n for node in nodes for n in self.graph.neighbors(node))
        return [n for n in found if n not in nodes]

    def find(self, name: str, among: Iterable[str] | None = None) -> str | None:
        """The node that a model means, else None.

        In turn: as shown; without case, plural or articles, or an acronym; misspelt; the nearest
        of those that hold all its words, or whose words it all holds. Numbers and negations of a
        name must agree in any case.

        Args:
            name: What the model wrote.
            among: Nodes that may be meant; all by default.
        """
        nodes = list(self.graph) if among is None else list(among)
        wanted = " ".join(name.split()).strip(" .\"'`*-\u2022")
        if not wanted:
            return None
        shown = {node: self.name(node) for node in nodes}
        for node, known in shown.items():
            if known == wanted:
                return node
        low = wanted.casefold()
        plain = {" ".join(tokens(form, frozenset())) for form in (wanted, low)}
        for node, known in shown.items():
            also = self.graph.nodes[node]["also"]
            if known.casefold() == low or node in plain or plain.intersection(also):
                return node
        folded = {node: known.casefold() for node, known in shown.items()}
        for known, score, node in process.extract(low, folded, scorer=fuzz.ratio, limit=5):
            if score >= _FUZZY and same_facts(low, known):
                return str(node)
        words = set(low.split())
        within = {
            node: known
            for node, known in folded.items()
            if (words <= (parts := set(known.split())) or parts <= words) and same_facts(low, known)
        }
        nearest = process.extractOne(low, within, scorer=fuzz.token_sort_ratio)
        return str(nearest[2]) if nearest else None

    def to_json(self) -> dict[str, Any]:
        """JSON values, for the store."""
        return {
            "version": GRAPH_VERSION,
            "facts": [[fact.chunk, fact.text, list(fact.elements)] for fact in self.facts],
            "graph": nx.node_link_data(self.graph, edges="edges"),
        }

    @classmethod
    def from_json(cls, payload: Any) -> FactGraph:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: it is of another version, or damaged.
        """
        try:
            if payload["version"] != GRAPH_VERSION:
                raise ValueError(f"version {payload['version']!r}")
            facts = tuple(Fact(int(c), str(t), tuple(map(str, e))) for c, t, e in payload["facts"])
            graph = nx.node_link_graph(payload["graph"], edges="edges")
            for _, data in graph.nodes(data=True):
                known = isinstance(data["name"], str) and isinstance(data["also"], list)
                if not known or any(not 0 <= i < len(facts) for i in data["facts"]):
                    raise ValueError("a node without its facts")
            return cls(facts, graph)
        except (KeyError, TypeError, AttributeError, IndexError, nx.NetworkXError) as error:
            raise ValueError(f"damaged: {error!r}") from error


def build_graph(facts: Sequence[Fact], text: str) -> FactGraph:
    """The graph of facts that were taken from a text.

    Args:
        facts: Of all chunks, in the order of the document.
        text: The document, which tells common words from names.
    """
    common = lowercase_words(text)
    names = Names((e for fact in facts for e in fact.elements), common)
    listed = [
        list(dict.fromkeys(k for e in fact.elements if (k := names.key(e)) is not None))
        for fact in facts
    ]
    graph: nx.Graph = nx.Graph()
    for key in names.keys():  # noqa: SIM118 (not a dictionary)
        graph.add_node(key, name=names.shown(key), also=[], facts=[])
    for alias, key in names.aliases.items():
        if alias != key:
            graph.nodes[key]["also"].append(alias)
    occurs: set[tuple[str, str]] = set()
    for index, (fact, keys) in enumerate(zip(facts, listed, strict=True)):
        spoken_of = {*keys, *_spoken_of(fact.text, names, common)}
        for key in keys:
            graph.nodes[key]["facts"].append(index)
            occurs.update((key, other) for other in spoken_of if other != key)
    graph.add_edges_from(
        sorted(pair for pair in occurs if pair[0] < pair[1] and pair[::-1] in occurs)
    )
    return FactGraph(tuple(facts), graph)


def _spoken_of(text: str, names: Names, common: frozenset[str]) -> set[str]:
    """Nodes whose key element stands in a text."""
    words = tokens(text, common)
    runs = (
        " ".join(words[start : start + length])
        for start in range(len(words))
        for length in range(1, min(LONGEST_NAME, len(words) - start) + 1)
    )
    return {names.aliases[run] for run in runs if run in names.aliases}
