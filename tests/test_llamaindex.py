"""LlamaIndex: the query engine and the attention reranker, with the real library."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document as LlamaDocument
from llama_index.core import Settings
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, TextNode

from attention_words import GOOD, SHAPE, WordAttention
from conftest import tale
from reader import Reader
from reader.attention.heads import HeadTable
from reader.errors import EmptyDocument, InvalidOption, MissingExtra
from reader.integrations.llamaindex import AttentionRerank, ReadingQueryEngine, as_document
from reader.testing import FunctionModel

FACT = "The fact of part 3 is number 333."
QUESTION = "What is the fact of part 3?"
TABLE = HeadTable(model="words", shape=SHAPE, probe="test", source="test", heads=(GOOD,))


@pytest.fixture
def r(store):
    model = FunctionModel(lambda request: f"It is 333.\nQuote: {FACT}", identity="says")
    with Reader(model, store=store) as opened:
        yield opened


def test_the_engine_answers_with_source_nodes_that_carry_offsets(r, tmp_path: Path):
    path = tmp_path / "book.md"
    path.write_text("# Facts\n\n" + tale(6))
    engine = ReadingQueryEngine(r, path, strategy="rag")
    response = engine.query(QUESTION)
    assert str(response) == "It is 333."
    [source] = response.source_nodes
    node: Any = source.node
    assert path.read_text()[node.start_char_idx : node.end_char_idx] == node.text == FACT
    assert (node.metadata["source"], node.metadata["section"]) == (str(path), "Facts")
    assert (response.metadata["status"], response.metadata["calls"]) == ("answered", 1)
    assert response.metadata["reading"].citations[0].text == FACT
    again = asyncio.run(engine.aquery(QueryBundle(QUESTION)))
    assert again.source_nodes[0].node.text == FACT
    assert again.metadata["calls"] == 0


def test_documents_of_llamaindex_go_in_as_they_are(r):
    parts = tale(4).split("\n\n")
    documents = [
        LlamaDocument(text=part, metadata={"file_name": "a.txt", "page_label": str(n)})
        for n, part in enumerate([parts[0], " ", *parts[1:]], 1)
    ]
    response = ReadingQueryEngine(r, documents, strategy="rag", around=30).query(QUESTION)
    node: Any = response.source_nodes[0].node
    origin = documents[3]
    assert node.text == origin.text[node.start_char_idx : node.end_char_idx]
    assert node.text.startswith(FACT)
    assert (node.metadata["page_label"], node.metadata["quote"]) == ("4", FACT)
    assert node.relationships[NodeRelationship.SOURCE].node_id == origin.node_id
    with pytest.raises(EmptyDocument):
        as_document([LlamaDocument(text=" ")])


def passages() -> list[NodeWithScore]:
    filler = "The road went on over the hill and the wind blew from the sea."
    texts = [filler, "The keeper of the lighthouse was Oren Tallis.", filler + " Again."]
    return [
        NodeWithScore(node=TextNode(text=text), score=1 - n / 10) for n, text in enumerate(texts)
    ]


def test_the_reranker_puts_what_the_heads_look_at_first():
    scorer = WordAttention()
    rerank = AttentionRerank(scorer=scorer, table=TABLE, top_n=2)
    nodes = passages()
    query = "Who was the keeper of the lighthouse?"
    best = rerank.postprocess_nodes(nodes, query_str=query)
    assert len(best) == 2
    assert best[0].node is nodes[1].node
    assert best[0].score > best[1].score
    again = asyncio.run(rerank.apostprocess_nodes(nodes, query_str=query))
    assert [n.score for n in again] == [n.score for n in best]
    assert [n.score for n in nodes] == [1.0, 0.9, 0.8]  # the retriever's own are left alone
    assert rerank.postprocess_nodes([], query_str=query) == []
    with pytest.raises(InvalidOption, match="query"):
        rerank.postprocess_nodes(nodes)


def test_the_reranker_stands_in_a_query_engine_of_llamaindex(monkeypatch):
    monkeypatch.setattr(Settings, "_llm", MockLLM())  # it makes an OpenAI client otherwise

    class Fixed(BaseRetriever):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            return passages()

    engine = RetrieverQueryEngine(
        Fixed(),
        get_response_synthesizer(response_mode=ResponseMode.NO_TEXT),
        node_postprocessors=[AttentionRerank(scorer=WordAttention(), table=TABLE, top_n=1)],
    )
    [found] = engine.query("Who was the keeper of the lighthouse?").source_nodes
    assert "Oren Tallis" in found.node.get_content()


def test_without_torch_the_reranker_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "torch", None)
    rerank = AttentionRerank(scorer=f"transformers:{tmp_path}", table=TABLE)
    with pytest.raises(MissingExtra, match=r"longdoc-reader\[attention\]"):
        rerank.postprocess_nodes(passages(), query_str="Who?")


def test_without_llamaindex_the_module_says_what_to_install():
    code = (
        "import sys, json; sys.modules['llama_index'] = None\n"
        "from reader.errors import MissingExtra\n"
        "try:\n    import reader.integrations.llamaindex\n"
        "except MissingExtra as error: print(json.dumps(error.hint))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == "pip install 'longdoc-reader[llamaindex]'"
