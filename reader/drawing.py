"""The state machine of a strategy as a picture for notebooks and terminals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drawing:
    """A state machine in Mermaid's language; notebooks and many Markdown viewers draw it.

    Attributes:
        strategy: Whose it is.
        mermaid: The drawing as a text.
    """

    strategy: str
    mermaid: str

    def __str__(self) -> str:
        return self.mermaid

    def _repr_markdown_(self) -> str:
        return f"```mermaid\n{self.mermaid.strip()}\n```"


def draw(strategy: str) -> Drawing:
    """The state machine of a strategy, with the graphs inside it.

    Raises:
        UnknownStrategy: there is none of that name.
    """
    from reader.run import compiled
    from reader.strategy import find_strategy

    kind = find_strategy(strategy)
    return Drawing(kind.name, compiled(kind).get_graph(xray=True).draw_mermaid())
