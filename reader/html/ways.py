"""The way through a tree or a graph as a picture: places, and the numbers of the visits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reader.answers import Answer
from reader.trace import Place

ROW = 30  # pixels of a level of the tree
MOST_NODES = 60  # of a graph's picture
WIDTH, COLUMNS = 960, 5  # of a graph's picture, which grows with its nodes
MARGIN, STAGGER = 100, 40  # pixels; half of a name's length, and of every other row
CELL_WIDTH, CELL_HEIGHT = (WIDTH - 2 * MARGIN - STAGGER) / (COLUMNS - 1), 64  # a node, its name
LEAST_ROWS = 3


@dataclass(frozen=True, slots=True)
class TreeBox:
    """A node as a box over the characters that it stands for: percent, and pixels from above."""

    place: Place
    left: float
    width: float
    top: int
    visits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dot:
    """A node of a graph, in pixels."""

    place: Place
    x: float
    y: float
    visits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A line between two dots; ``walked`` where an agent went along it."""

    x1: float
    y1: float
    x2: float
    y2: float
    walked: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """The picture of a tree."""

    boxes: tuple[TreeBox, ...]
    height: int


@dataclass(frozen=True, slots=True)
class Graph:
    """The picture of a graph; ``more`` nodes are not drawn."""

    height: int
    dots: tuple[Dot, ...]
    lines: tuple[Line, ...]
    more: int


def visits_of(answer: Answer) -> dict[str, tuple[int, ...]]:
    """Numbers (from 1) of the steps that stood at each place."""
    found: dict[str, list[int]] = {}
    for number, step in enumerate(answer.trace.steps, 1):
        for name in step.places:
            found.setdefault(name, []).append(number)
    return {name: tuple(numbers) for name, numbers in found.items()}


def tree_of(answer: Answer, length: int) -> Tree | None:
    """The walked part of a tree, None where there was no tree."""
    nodes = [p for p in answer.trace.places if p.level is not None]
    if not nodes:
        return None
    top = max(p.level or 0 for p in nodes)
    visits = visits_of(answer)
    boxes = [
        TreeBox(
            place=place,
            left=100 * (place.start or 0) / length,
            width=max(100 * ((place.end or 0) - (place.start or 0)) / length, 0.25),
            top=(top - (place.level or 0)) * ROW,
            visits=visits.get(place.name, ()),
        )
        for place in nodes
    ]
    return Tree(tuple(boxes), (top + 1) * ROW)


def graph_of(answer: Answer) -> Graph | None:
    """The visited part of a graph, None where there was no graph."""
    every = [p for p in answer.trace.places if p.level is None]
    if not every:
        return None
    nodes = every[:MOST_NODES]
    names = {place.name for place in nodes}
    edges = {tuple(sorted((p.name, n))) for p in nodes for n in p.beside if n in names}
    walked = {
        tuple(sorted((here, to)))
        for step in answer.trace.steps
        for here in step.places
        for to in step.to
        if here in names and to in names and here != to
    }
    rows = max(-(-len(nodes) * 5 // (4 * COLUMNS)), LEAST_ROWS)
    height = rows * CELL_HEIGHT
    where = _laid_out(nodes, sorted(edges | walked), rows)
    visits = visits_of(answer)
    dots = tuple(Dot(p, *where[p.name], visits.get(p.name, ())) for p in nodes)
    lines = tuple(Line(*where[a], *where[b], (a, b) in walked) for a, b in sorted(edges | walked))
    return Graph(height, dots, lines, len(every) - len(nodes))


def _laid_out(
    nodes: Sequence[Place], edges: Sequence[tuple[str, ...]], rows: int
) -> dict[str, tuple[float, float]]:
    """Places in the picture; the same ones every time.

    Springs put neighbours near each other, but also names over names: each node then takes the free
    cell nearest to it. Rows are staggered, so that lines between cells pass beside those between.
    """
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(place.name for place in nodes)
    graph.add_edges_from(edges)
    spots = nx.spring_layout(graph, seed=7, k=1.6 / max(len(nodes), 1) ** 0.5, iterations=120)
    cells = [
        (MARGIN + column * CELL_WIDTH + row % 2 * STAGGER, (row + 0.4) * CELL_HEIGHT)
        for row in range(rows)
        for column in range(COLUMNS)
    ]
    xs, ys = [float(x) for x, _ in spots.values()], [float(y) for _, y in spots.values()]
    wanted = {
        name: (_share(float(x), xs) * WIDTH, _share(float(y), ys) * rows * CELL_HEIGHT)
        for name, (x, y) in spots.items()
    }
    where = {}
    for name in sorted(wanted, key=lambda name: (-graph.degree(name), name)):
        cell = min(cells, key=lambda cell: math.dist(cell, wanted[name]))
        cells.remove(cell)
        where[name] = (round(cell[0], 1), round(cell[1], 1))
    return where


def _share(value: float, among: Sequence[float]) -> float:
    span = max(among) - min(among)
    return (value - min(among)) / span if span else 0.5
