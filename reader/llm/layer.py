"""A chat model around a chat model."""

from __future__ import annotations

from reader.llm.types import ChatModel, ChatReply, ChatRequest, ModelInfo, OnToken


class Layer:
    """Passes everything on; a layer overrides ``generate`` and adds its one thing."""

    def __init__(self, inner: ChatModel) -> None:
        self.inner = inner

    async def info(self) -> ModelInfo:
        """What the model inside says."""
        return await self.inner.info()

    async def generate(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatReply:
        """What the model inside answers."""
        return await self.inner.generate(request, on_token)

    async def aclose(self) -> None:
        """Close the model inside."""
        await self.inner.aclose()
