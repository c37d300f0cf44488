"""One run of each kind that a report has a picture for, with scripted models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graphreader_script import Script as GraphScript
from graphreader_script import facts, neighbor, open_first, starts
from graphreader_script import run as run_graph
from test_memagent import article, fact_of
from test_memagent_revisions import by_part, patches, revise
from test_memwalker import Script as TreeScript
from test_memwalker import going_to
from test_memwalker import run as run_tree

from attention_words import GOOD, SHAPE, WordAttention
from conftest import tale
from reader import Reader, Store
from reader.answers import Answer
from reader.attention.heads import HeadTable
from reader.testing import FunctionModel

FILLER = "The road went on over the hill and the wind blew from the sea all day long. "
FACT = "The keeper of the lighthouse was called Oren Tallis."
PLANTED = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"


def graph_run(store: Store, **options: Any) -> Answer:
    """Two agents, from part 1 over "road" and from part 5 over "fact", that open chunk 3."""

    def at_facts(request: Any) -> str:
        there = "Went to the neighbour part 3" in request.messages[0].content
        return open_first(request) if there else facts("stop_and_read_neighbor")

    def at_neighbors(request: Any) -> str:
        prompt = request.messages[0].content
        if "Went to the neighbour" in prompt:
            return neighbor("part 3")
        return neighbor("road" if "Facts of part 1:" in prompt else "fact")

    script = GraphScript(
        initial_nodes=starts("part 1", "part 5"), facts=at_facts, neighbors=at_neighbors
    )
    return run_graph(script, store, tale(8), **options)


def tree_run(store: Store, **options: Any) -> Answer:
    """A walk that begins in the wrong part and goes back."""
    right, asked = going_to(13), []

    def triage(request: Any) -> str:
        asked.append(request)
        return (
            json.dumps({"reasoning": "a guess", "action": 0}) if len(asked) == 2 else right(request)
        )

    return run_tree(TreeScript(13, triage=triage), store, tale(24), children=4, **options)


def memory_run(store: Store, **options: Any) -> Answer:
    """Facts added, changed and dropped."""
    script = by_part(
        p1=patches(
            {"op": "add", "id": 0, "fact": "Part 1 has number 111.", "quote": fact_of("1")},
            ("add", 0, "Bob is a smith."),
        ),
        p2=patches(
            ("change", 1, "Parts 1 and 2 have numbers 111 and 222."), ("drop", 2, "He left.")
        ),
        p4=patches(
            {"op": "add", "id": 0, "fact": "Part 4 has number 444.", "quote": fact_of("4")},
            {"op": "add", "id": 0, "fact": "A dragon sleeps.", "quote": "The dragon slept here."},
        ),
    )
    return revise(script, store, parts=6, **options)


def overwriting_run(store: Store) -> Answer:
    """A memory that is written anew at each part."""
    from test_memagent import Script, run

    said = iter(
        [
            "Part 1 has 111. Bob J. Smith is a smith.",
            "Part 1 has 111. Part 2 has 222.",
            "Part 2 has 222. Nothing else was found that would be of use here.",
        ]
    )
    script = Script(lambda r: next(said, "Part 2 has 222. Nothing else came after it so far."))
    return run(script, store, article(5))


def lighthouse(parts: int = 40, at: int = 17) -> str:
    """A text with one fact, and a script that must not run."""
    return "\n\n".join(
        f"Part {i}. {PLANTED if i == at else ''}{FILLER * 3}{FACT + ' ' if i == at else ''}{FILLER}"
        for i in range(parts)
    )


def attention_run(store: Store, folder: Path, **options: Any) -> Answer:
    """Heads that look at equal words."""
    path = folder / "heads.json"
    made = HeadTable(model="words", shape=SHAPE, probe="test", source="test", heads=(GOOD,))
    path.write_text(made.model_dump_json())
    model = FunctionModel(
        lambda r: f"Oren Tallis\nQuote: {FACT}", window=1024, identity="answerer", name="answerer"
    )
    settings = {"scorer_window": 400, "k": 2, "chunk_tokens": 64, "heads": str(path)}
    question = "Who was the keeper of the lighthouse?"
    keep = options.pop("keep_prompts", False)
    with Reader(model, store=store, keep_prompts=keep) as r:
        return r.answer(
            lighthouse(), question, "attention", scorer=WordAttention(), **settings | options
        )
