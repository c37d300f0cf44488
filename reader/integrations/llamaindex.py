"""LlamaIndex: a query engine that reads, and a reranker that looks where a small model looks.

    from reader.integrations.llamaindex import AttentionRerank, ReadingQueryEngine

    engine = ReadingQueryEngine(reader, "contract.pdf")
    response = engine.query("When may the tenant end the lease?")
    response.source_nodes[0].node.start_char_idx

The caller closes the ``Reader``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reader.attention import arank, open_attention, rank
from reader.documents import Document
from reader.errors import EmptyDocument, InvalidOption, MissingExtra
from reader.integrations.passages import passages
from reader.memory.store import Store
from reader.session import Reader

try:
    from llama_index.core.base.base_query_engine import BaseQueryEngine
    from llama_index.core.base.response.schema import Response
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import (
        BaseNode,
        MetadataMode,
        NodeRelationship,
        NodeWithScore,
        QueryBundle,
        RelatedNodeInfo,
        TextNode,
    )
except ImportError as error:
    raise MissingExtra(
        "LlamaIndex is not installed, or too old.",
        hint="pip install 'longdoc-reader[llamaindex]'",
    ) from error

if TYPE_CHECKING:
    from llama_index.core.callbacks import CallbackManager

    from reader.answers import Answer
    from reader.attention.heads import HeadTable
    from reader.attention.model import AttentionModel

__all__ = ["AttentionRerank", "ReadingQueryEngine", "as_document"]

_NAMES = ("file_path", "source", "file_name", "url")


def as_document(nodes: Sequence[BaseNode]) -> Document:
    """LlamaIndex documents or nodes as one document to read, each a part named by its file.

    Blank ones are left out; a name that occurs twice gets a number.

    Raises:
        EmptyDocument: no text in any of them.
    """
    kept = _with_text(nodes)
    if not kept:
        raise EmptyDocument("There is no text in the documents.", hint="Check their loader.")
    return Document.collection([Document.from_text(_text(node), name=_name(node)) for node in kept])


def _with_text(nodes: Sequence[BaseNode]) -> list[BaseNode]:
    return [node for node in nodes if _text(node).strip()]


def _text(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.NONE)


def _name(node: BaseNode) -> str:
    named = (node.metadata.get(name) for name in _NAMES)
    return str(next((name for name in named if name), node.node_id))


class ReadingQueryEngine(BaseQueryEngine):
    """Reads a document for each query.

    The response's ``source_nodes`` are the evidence, the best first: ``start_char_idx`` and
    ``end_char_idx`` are characters of the source (end exclusive), ``metadata`` holds ``source``,
    ``match``, ``run_id``, and ``page`` (from 1) and ``section`` where there are such. A node has no
    score. ``response.metadata`` holds ``status``, ``run_id``, ``calls`` and the share that was
    read; ``reader.Answer`` itself is under ``reading``.

    Args:
        reader: Model and store.
        document: What ``reader.answer`` takes, or LlamaIndex documents or nodes.
        strategy: Name of a reading method.
        k: So many source nodes at most.
        around: Characters around the evidence on each side.
        budget: As in ``Reader.answer``.
        deadline: Seconds.
        callback_manager: LlamaIndex's.
        options: The strategy's options.

    Raises:
        DocumentError: the document cannot be read.
    """

    def __init__(
        self,
        reader: Reader,
        document: Any,
        *,
        strategy: str = "coa",
        k: int | None = None,
        around: int = 0,
        budget: Any = None,
        deadline: float | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        super().__init__(callback_manager)
        self._reader = reader
        if isinstance(document, BaseNode):
            document = [document]
        self._nodes: list[BaseNode] = []
        if isinstance(document, list | tuple) and document and isinstance(document[0], BaseNode):
            self._nodes, document = _with_text(document), as_document(document)
        self.document = Document.load(document)
        self._k = k
        self._around = around
        limits = {"budget": budget, "deadline": deadline}
        self._arguments: dict[str, Any] = {"strategy": strategy, **limits, **options}

    def _get_prompt_modules(self) -> dict[str, Any]:
        return {}

    def _query(self, query_bundle: QueryBundle) -> Response:
        question = query_bundle.query_str
        return self._response(self._reader.answer(self.document, question, **self._arguments))

    async def _aquery(self, query_bundle: QueryBundle) -> Response:
        question = query_bundle.query_str
        answer = await self._reader.aanswer(self.document, question, **self._arguments)
        return self._response(answer)

    def _response(self, answer: Answer) -> Response:
        return Response(
            response=answer.text,
            source_nodes=self._source_nodes(answer),
            metadata={
                "status": answer.status,
                "run_id": answer.run_id,
                "calls": answer.usage.calls,
                "share_read": answer.coverage.share,
                "reading": answer,
            },
        )

    def _source_nodes(self, answer: Answer) -> list[NodeWithScore]:
        found = []
        for passage in passages(answer, self.document, k=self._k, around=self._around):
            metadata = dict(passage.metadata)
            start, end = metadata.pop("start"), metadata.pop("end")
            node = TextNode(text=passage.text, start_char_idx=start, end_char_idx=end)
            if self._nodes:
                origin = self._nodes[passage.part]
                metadata = {**metadata, **origin.metadata}
                node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(
                    node_id=origin.node_id
                )
            node.metadata = metadata
            found.append(NodeWithScore(node=node))
        return found


class AttentionRerank(BaseNodePostprocessor):
    """Orders nodes by where a small model's heads look for the query (``reader.attention.rank``).

    The scorer is opened with the first query and kept. One without a table of heads is calibrated
    first, once where ``store`` is given. It needs torch: extra ``attention``, ``MissingExtra``
    otherwise.

    Attributes:
        scorer: "embedded", "embedded:tiny", "transformers:PATH", "vllm:URL" or an
            ``AttentionModel``; None is "embedded".
        top_n: So many nodes at most.
        window: Tokens read at once.
        table: Heads to use; the scorer's own by default.
        store: Where a calibration is kept.
    """

    scorer: Any = Field(default=None)
    top_n: int | None = Field(default=None, ge=1)
    window: int | None = Field(default=None, gt=0)
    table: Any = Field(default=None, exclude=True)
    store: Any = Field(default=None, exclude=True)
    _model: Any = PrivateAttr(default=None)

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name of the class."""
        return "AttentionRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        question, texts = self._asked(nodes, query_bundle)
        ranked = rank(question, texts, **self._arguments())
        return [NodeWithScore(node=nodes[r.index].node, score=r.score) for r in ranked]

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        question, texts = self._asked(nodes, query_bundle)
        ranked = await arank(question, texts, **self._arguments())
        return [NodeWithScore(node=nodes[r.index].node, score=r.score) for r in ranked]

    def _asked(
        self, nodes: list[NodeWithScore], query: QueryBundle | None
    ) -> tuple[str, list[str]]:
        if query is None:
            raise InvalidOption("Reranking needs the query.", hint="Pass query_str=.")
        return query.query_str, [_text(found.node) for found in nodes]

    def _arguments(self) -> dict[str, Any]:
        if self._model is None:
            self._model = open_attention(self.scorer)
            self.store = self.store or Store.in_memory()
        model: AttentionModel = self._model
        table: HeadTable | None = self.table
        return {
            "model": model,
            "window": self.window,
            "table": table,
            "store": self.store,
            "limit": self.top_n,
        }
