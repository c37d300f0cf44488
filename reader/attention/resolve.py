"""From what a user writes as ``scorer=`` to an attention model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reader.attention.model import AttentionModel, AttentionSpec
from reader.errors import UnknownModel

if TYPE_CHECKING:
    from reader.llm.transfer import OnProgress

EMBEDDED = ("embedded", "embedded:tiny", "embedded:large")
FORMS = (*EMBEDDED, "transformers:PATH", "vllm:http://HOST:PORT", "vllm:PATH")


def open_attention(
    spec: AttentionSpec = None,
    *,
    on_progress: OnProgress | None = None,
) -> AttentionModel:
    """The attention model that a user means; nothing is contacted, loaded or fetched yet.

    Args:
        spec: "transformers:PATH" (a folder or a GGUF file), "embedded", "embedded:tiny" or
            "embedded:large" (the same files that answer), "vllm:URL" (a server started with the
            extension), "vllm:PATH" (vLLM in this process), an ``AttentionModel``; None for
            "embedded".
        on_progress: Told (label, bytes done, bytes in all) while weights are fetched.

    Raises:
        UnknownModel: it is none of these.
    """
    if isinstance(spec, AttentionModel):
        return spec
    name = EMBEDDED[0] if spec is None else spec
    if not isinstance(name, str):
        raise UnknownModel(
            f"A {type(spec).__name__} is no scorer.", hint=f"Write one of: {', '.join(FORMS)}."
        )
    kind, _, rest = name.strip().partition(":")
    if kind == "vllm" and rest:
        if rest.startswith(("http://", "https://")):
            from reader.attention.vllm_served import ServedAttention

            return ServedAttention(rest)
        from reader.attention.vllm_engine import EngineAttention

        return EngineAttention(rest)
    from reader.attention.transformers_model import TransformersAttention

    if name.strip() in EMBEDDED:
        from reader.llm.catalogue import entry
        from reader.llm.weights import CatalogueWeights

        return TransformersAttention(CatalogueWeights(entry(name.strip()), on_progress=on_progress))
    if kind in ("transformers", "gguf") and rest:
        return TransformersAttention(LocalFiles(Path(rest)))
    raise UnknownModel(f"There is no scorer {name!r}.", hint=f"Write one of: {', '.join(FORMS)}.")


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """A model folder or a GGUF file on disk."""

    file: Path

    @property
    def identity(self) -> None:
        """Known once the model is loaded."""

    async def path(self) -> Path:
        """The folder or file."""
        return self.file
