"""What a GraphReader run fixes before its first call: options, token budget, prompts, keys.

Li et al. 2024, arXiv 2406.14550, sections 3 and 4.1. Nothing that the graph depends on depends on
the question: a second question finds the graph in the store.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator

from reader.bm25 import BM25Index
from reader.chunking import ChunkOptions, chunk_key, room
from reader.errors import (
    BadReply,
    ContextOverflow,
    InvalidOption,
    ModelTimeout,
    RateLimited,
    RequestRefused,
    ServerFailed,
)
from reader.llm.choice import render
from reader.llm.schemas import instructions
from reader.prompts import load_prompts, versions
from reader.strategy import Reading, StrategyOptions

from .atomic_facts import FACTS_VERSION, ExtractionForm
from .fact_graph import GRAPH_VERSION, FactGraph
from .graphreader_functions import FORMS, Kind, Starts, Weighed

CALL_FAILED = (
    ServerFailed,
    ModelTimeout,
    BadReply,
    RateLimited,
    RequestRefused,
    ContextOverflow,
)
"""Errors of one call that say nothing about the next one."""
PROMPTS = load_prompts("reader.strategies", "graphreader")
REPLIES: dict[str, Any] = {
    **{str(kind): form for kind, form in FORMS.items()},
    "initial_nodes": Starts,
    "answer": Weighed,
}
MEASURED = ("extract", "rational_plan", "initial_nodes", "facts", "chunk", "neighbors", "answer")
PAPER_WINDOW = 5120
"""4k of prompt as in the paper, and 1k of reply."""
PAPER_CHUNK = 2000
REQUIREMENT = "Answer the question in as few words as it needs."
UNKNOWN = " If the texts above do not hold the answer, answer only: Not found in the document."
ACTION_TOKENS = 160  # of a reply beside the notebook: rationale, action, the JSON around them
PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "robust": {"similar_chunks": 3}}


class GraphReaderOptions(StrategyOptions):
    """Options of GraphReader; the defaults are the paper's form (section 4.1)."""

    preset: Literal["paper", "robust"] = Field(
        default="paper", description="robust: similar_chunks=3"
    )
    notebooks: Literal["separate", "shared"] = Field(
        default="separate",
        description="shared: one agent with one notebook explores all initial nodes together",
    )
    facts: Literal["model", "sentences"] = Field(
        default="model",
        description="sentences: a graph without a call, of sentences with their names and numbers",
    )
    start_nodes: int = Field(default=5, ge=1, le=20, description="initial nodes, an agent each")
    max_calls: int = Field(default=10, ge=1, le=50, description="function calls of an agent")
    preselect: int = Field(
        default=200, ge=10, le=1000, description="key elements listed where all are too many"
    )
    shown_neighbors: int = Field(default=30, ge=1, le=200, description="neighbours listed")
    notebook_tokens: int = Field(
        default=1024, ge=32, description="cap of a notebook; at most 1/8 of the window"
    )
    facts_tokens: int = Field(
        default=1024, ge=64, description="cap of the facts of a chunk; at most 1/4 of the window"
    )
    answer_tokens: int = Field(
        default=1024, ge=16, description="cap of the answer; at most 1/8 of the window"
    )
    requirement: str | None = Field(
        default=None, description="what is told about the answer's form"
    )
    temperature: float = Field(default=0.2, ge=0, le=2, description="of all calls")
    seed: int = Field(default=0, description="of sampling")
    similar_chunks: int = Field(
        default=0, ge=0, le=20, description="one more agent begins at so many similar chunks"
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {**PRESETS.get(values.get("preset", "paper"), {}), **values}
        return values


class Plan:
    """What is fixed for a run: caps in tokens, forms of the prompts, the graph once there is one.

    Raises:
        InvalidOption: there is no question.
    """

    def __init__(self, reading: Reading) -> None:
        if reading.question is None:
            raise InvalidOption(
                "GraphReader needs a question: its plan and its search begin with one.",
                hint="strategy='coa' summarises a document without a question.",
            )
        options: GraphReaderOptions = reading.options
        self.options = options
        self.reading = reading
        self.question = reading.question
        if reading.choices:
            self.question = f"{self.question}\n{render(reading.choices)}"
        self.window = window = min(options.window or PAPER_WINDOW, reading.info.window)
        self.notebook_tokens = min(options.notebook_tokens, max(window // 8, 32))
        self.facts_tokens = min(options.facts_tokens, max(window // 4, 64))
        self.answer_tokens = min(options.answer_tokens, max(window // 8, 32))
        self.plan_tokens = self.history_tokens = min(256, max(window // 16, 32))
        self.start_tokens = min(512, max(window // 8, 48))
        self.step_tokens = self.notebook_tokens + min(ACTION_TOKENS, max(window // 16, 48))
        self.seed = options.seed if options.temperature > 0 else None
        self.form = ExtractionForm(
            prompt=PROMPTS["extract"],
            tokens=self.facts_tokens,
            fixed_tokens=0,
            temperature=options.temperature,
            seed=self.seed,
            by_model=options.facts == "model",
        )
        self.fixed: dict[str, int] = {}
        self.asked = self.chunk_tokens = 0
        self.finder = reading.finder
        self.graph: FactGraph | None = None
        self._relevance: dict[str, Relevance] = {}

    async def measure(self) -> int:
        """Count the fixed parts of the prompts; returns the tokens of a chunk.

        Raises:
            WindowTooSmall: no room for a chunk.
            InvalidOption: ``chunk_tokens`` is more than there is room for.
        """
        counter = self.reading.info.counter
        for kind in MEASURED:
            self.fixed[kind] = await counter.count_messages([("user", self._bare(kind))])
        (self.asked,) = await counter.count([self.question])
        # Questions of usual length must cut the document alike: room is kept in coarse steps.
        kept = max(self.window // 16, 32)
        while kept < self.asked:
            kept *= 2
        self.form = replace(self.form, fixed_tokens=self.fixed["extract"])
        for_extraction = room(
            self.window,
            fixed_tokens=self.fixed["extract"],
            memory_tokens=0,
            output_tokens=self.facts_tokens,
        )
        for_agents = room(
            self.window,
            fixed_tokens=self.fixed["chunk"] + kept,
            memory_tokens=self.notebook_tokens + self.plan_tokens + self.history_tokens,
            output_tokens=self.step_tokens,
        )
        most = min(for_extraction, for_agents) if self.form.by_model else for_agents
        wanted = self.options.chunk_tokens
        if wanted is not None and wanted > most:
            raise InvalidOption(
                f"chunk_tokens={wanted} does not fit a window of {self.window} tokens.",
                hint=f"At most {most} fit beside the prompt, the notebook and the reply.",
            )
        self.chunk_tokens = wanted or min(PAPER_CHUNK, most)
        return self.chunk_tokens

    def _bare(self, kind: str) -> str:
        """A prompt with its places empty, and the words about the reply's form."""
        prompt = PROMPTS[kind]
        names = prompt.template.get_identifiers()
        form = REPLIES.get(kind)
        words = instructions(form) if form else ""
        return f"{prompt.fill(**dict.fromkeys(names, ''))}\n\n{words}"

    def around(self, kind: Kind) -> int:
        """Tokens of an agent's prompt beside what it reads."""
        return self.fixed[kind] + self.asked + self.notebook_tokens + 2 * self.plan_tokens

    def space(self, kind: Kind) -> int:
        """Tokens that facts or neighbours may take in an agent's prompt."""
        return max(int(self.window * 0.97) - self.around(kind) - self.step_tokens, 64)

    @property
    def agents(self) -> int:
        """Agents that run side by side, at most."""
        searching = 1 if self.options.notebooks == "shared" else self.options.start_nodes
        return searching + (self.options.similar_chunks > 0)

    @property
    def calls_of_an_agent(self) -> int:
        """Function calls that one agent may make; a shared notebook has those of all."""
        shared = self.options.notebooks == "shared"
        return self.options.max_calls * (self.options.start_nodes if shared else 1)

    @property
    def requirement(self) -> str:
        """What is told about the answer's form."""
        return REQUIREMENT if self.options.requirement is None else self.options.requirement

    @property
    def graph_key(self) -> str:
        """Of the graph in the store."""
        reading = self.reading
        chunks = chunk_key(
            reading.document.sha256,
            ChunkOptions(chunk_tokens=self.chunk_tokens),
            reading.info.counter.name,
        )
        form = self.form.key(reading.info.identity, "")
        extract = versions({"extract": PROMPTS["extract"]})
        parts = (FACTS_VERSION, chunks, form, extract)
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()
        return f"fact graph/{GRAPH_VERSION}|{digest}"

    def relevance(self, graph: FactGraph, plan: str) -> Relevance:
        """How much facts and nodes have to do with the question and the rational plan."""
        if plan not in self._relevance:
            self._relevance[plan] = Relevance(graph, f"{self.question}\n{plan}")
        return self._relevance[plan]


class Relevance:
    """Facts and nodes ranked by the words they share with a query (BM25)."""

    def __init__(self, graph: FactGraph, query: str) -> None:
        self._graph = graph
        self.facts: dict[int, float] = dict(
            BM25Index([fact.text for fact in graph.facts]).rank(query)
        )
        nodes = list(graph.graph)
        names = BM25Index([graph.name(node) for node in nodes])
        self._names = {nodes[i]: score for i, score in names.rank(query)}

    def node(self, node: str) -> float:
        """The best of its facts, and its own name."""
        best = max((self.facts.get(i, 0.0) for i in self._graph.facts_of(node)), default=0.0)
        return best + self._names.get(node, 0.0)

    def ranked(self, nodes: list[str]) -> list[str]:
        """Nodes, the most relevant first; of equals, the one with more facts."""
        return sorted(nodes, key=lambda n: (-self.node(n), -len(self._graph.facts_of(n))))
