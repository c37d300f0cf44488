"""LangGraph: each strategy as a compiled subgraph for a graph of one's own.

    from reader.integrations.langgraph import ReadingState, reading_graph

    builder = StateGraph(ReadingState)
    builder.add_node("read", reading_graph("coa", r))

The strategy's steps are checkpointed by the parent's checkpointer, under the parent's thread, and
stream with its ``stream(..., subgraphs=True)``; progress and pieces of the answer come with
``stream_mode="custom"``. Document text is never in a checkpoint: the state names the document, and
replies and notes stay in the reader's store. The caller closes the ``Reader``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

from reader.answers import Answer
from reader.calls import checked
from reader.documents import Document
from reader.errors import DocumentNotFound, InvalidOption, RunNotFound
from reader.events import AnswerToken, ChunkRead, Emit, Event, Notice, Progress
from reader.memory.checkpoints import InPlace
from reader.prepared import Shared
from reader.run import Machine, compiled, drive, replay
from reader.session import Reader
from reader.strategy import Reading, Strategy, find_strategy, read_options

if TYPE_CHECKING:
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata
    from langgraph.graph.state import CompiledStateGraph

    from reader.calls import Call

__all__ = ["Place", "ReadAnswer", "ReadingState", "full_answer", "reading_graph"]


class Place(TypedDict):
    """Where evidence stands: characters of the document, end exclusive; not the text itself."""

    start: int
    end: int
    match: str
    document: str | None
    page: int | None
    section: str | None


class ReadAnswer(TypedDict):
    """The answer as it goes into the state: plain values, without the document's text.

    ``full_answer`` gives the ``reader.Answer`` with quotes, trace and coverage for it.
    """

    text: str
    status: str
    choice: int | None
    citations: list[Place]
    share_read: float
    usage: dict[str, Any]
    run_id: str


class ReadingState(TypedDict, total=False):
    """In: ``document`` (a key of ``documents``, or a path), ``question``; out: ``answer``.

    ``question`` None asks for a summary; ``choices`` makes it multiple choice. A parent whose state
    has these keys can add the subgraph as a node; another one calls it from a node of its own.
    """

    document: str
    question: str | None
    choices: list[str]
    answer: ReadAnswer


def reading_graph(
    strategy: str,
    reader: Reader,
    *,
    documents: Mapping[str, Any] | None = None,
    budget: Any = None,
    deadline: float | None = None,
    **options: Any,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A strategy as a compiled graph over ``ReadingState``, to be a node of another graph.

    Run it with ``ainvoke`` or ``invoke``. Where the graph has a checkpointer, a reading that was
    interrupted goes on at its last step when the parent is resumed, also in another process with
    the same store; where it has none, at its last step in the store. A question that was answered
    before costs nothing and takes no steps.

    Args:
        strategy: Name of a reading method.
        reader: Model and store.
        documents: What ``state["document"]`` may name, each as ``reader.answer`` takes it. Where
            it is not given, ``state["document"]`` is the path of a file.
        budget: Limits of each reading.
        deadline: Seconds of each reading.
        options: The strategy's options.

    Raises:
        UnknownStrategy: there is none of that name.
        InvalidOption: an option that it does not have.
    """
    kind = find_strategy(strategy)
    read_options(kind, dict(options))
    # A name that both functions below hold: so LangGraph finds the subgraph within the node.
    machine = compiled(kind)

    async def call(state: ReadingState) -> Call:
        return await checked(
            _document(state.get("document"), documents),
            state.get("question"),
            strategy,
            choices=state.get("choices") or None,
            budget=budget,
            deadline=deadline,
            options=dict(options),
        )

    async def aread(state: ReadingState, config: RunnableConfig) -> ReadingState:
        emit = _told(get_stream_writer())
        answer = await reader.arun(await call(state), emit, _in_parent(machine, config))
        return {"answer": _brief(answer)}

    def read(state: ReadingState, config: RunnableConfig) -> ReadingState:
        emit = _told(get_stream_writer())
        inner = _in_parent(machine, _with_asynchronous_saver(config))
        asked = reader.portal.run(lambda: call(state))
        return {"answer": _brief(reader.run(asked, emit, inner))}

    builder = StateGraph(ReadingState)
    builder.add_node("read", RunnableLambda(read, aread))
    builder.add_edge(START, "read")
    builder.add_edge("read", END)
    return builder.compile(name=f"read_{strategy}")


def full_answer(answer: ReadAnswer, reader: Reader) -> Answer:
    """The whole ``reader.Answer`` of what the state holds, from the reader's store.

    Raises:
        RunNotFound: the store does not have it (another store, or it was pruned).
    """
    record = reader.store.run(answer["run_id"])
    if record is None or record.answer is None:
        raise RunNotFound(
            f"The store has no answer of run {answer['run_id']!r}.",
            hint="Use a Reader with the store that the graph ran with.",
        )
    return Answer.from_json(record.answer)


def _document(name: str | None, documents: Mapping[str, Any] | None) -> Any:
    if not isinstance(name, str) or not name:
        raise InvalidOption(
            "The state names no document.", hint='Put a path or a key into state["document"].'
        )
    if documents is None:
        return Path(name)
    if name not in documents:
        raise DocumentNotFound(
            f"There is no document {name!r}.", hint=f"There are: {', '.join(documents)}."
        )
    found = documents[name]
    return found if isinstance(found, Document) else Document.load(found)


def _brief(answer: Answer) -> ReadAnswer:
    return ReadAnswer(
        text=answer.text,
        status=answer.status,
        choice=answer.choice,
        citations=[
            Place(
                start=c.start,
                end=c.end,
                match=c.match,
                document=c.document,
                page=c.page,
                section=c.section,
            )
            for c in answer.citations
        ],
        share_read=answer.coverage.share,
        usage=answer.usage.model_dump(mode="json"),
        run_id=answer.run_id,
    )


def _told(write: Any) -> Emit:
    """Events for ``stream_mode="custom"``, as mappings with a ``type``."""

    def emit(event: Event) -> None:
        if isinstance(event, Progress):
            write(
                {
                    "type": "reading_progress",
                    "done": event.done,
                    "total": event.total,
                    "seconds_left": event.seconds_left,
                }
            )
        elif isinstance(event, ChunkRead):
            write(
                {
                    "type": "chunk_read",
                    "start": event.start,
                    "end": event.end,
                    "outcome": event.outcome,
                }
            )
        elif isinstance(event, AnswerToken):
            write({"type": "answer_token", "text": event.text})
        elif isinstance(event, Notice):
            write({"type": "notice", "text": event.text})

    return emit


# Running a strategy under the parent's checkpointer ------------------------------------------


def _in_parent(graph: CompiledStateGraph[Any, Any, Any, Any], config: RunnableConfig) -> Machine:
    """Runs a strategy's graph as a subgraph of the running node.

    What the strategy needs beside its state, the notes of what it read, lies in the store under the
    id of the run. They belong to one line of checkpoints: where the store's notes are those of
    another thread, or gone, the reading begins anew with the replies that the store has.
    """
    found = config.get("configurable", {})
    saver = next((v for v in found.values() if isinstance(v, BaseCheckpointSaver)), None)
    line = f"{found.get('thread_id')}|{found.get('checkpoint_ns')}"

    async def machine(
        strategy: Strategy[Any], reading: Reading, shared: Shared, resumed: bool
    ) -> dict[str, Any]:
        owner = f"langgraph:{reading.run_id}"
        if saver is None or _is_second(reading.run_id):
            return await drive(strategy, reading, shared, resumed)
        kept = await saver.aget_tuple(
            {
                "configurable": {
                    "thread_id": found["thread_id"],
                    "checkpoint_ns": found.get("checkpoint_ns", ""),
                }
            }
        )
        if kept is None:
            shared.store.drop_notes(reading.run_id)
            shared.store.keep_artifact(owner, "line", line)
        elif resumed and shared.store.artifact(owner) == line:
            replay(reading)
        else:
            return await drive(strategy, reading, shared, False)
        inner: RunnableConfig = {**config, "recursion_limit": strategy.max_supersteps(reading)}
        final: dict[str, Any] = await graph.ainvoke(strategy.start(reading), inner, context=reading)
        return final

    return machine


def _is_second(run_id: str) -> bool:
    """Whether the same run is in progress already, so that this one has an id for itself."""
    from reader.memory.claims import ASIDE

    return ASIDE in run_id


def _with_asynchronous_saver(config: RunnableConfig) -> RunnableConfig:
    """The config with a saver that has both faces: strategies are asynchronous inside."""
    found = {
        name: _InPlace(value) if isinstance(value, BaseCheckpointSaver) else value
        for name, value in config.get("configurable", {}).items()
    }
    return {**config, "configurable": found}


class _InPlace(InPlace):
    """Another saver in place."""

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        super().__init__(serde=saver.serde)
        self._saver = saver

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self._saver.get_next_version(current, channel)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._saver.get_tuple(config)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return self._saver.put(config, checkpoint, metadata, new_versions)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        self._saver.put_writes(config, writes, task_id, task_path)

    def list(self, config: RunnableConfig | None, **options: Any) -> Iterator[CheckpointTuple]:
        return self._saver.list(config, **options)
