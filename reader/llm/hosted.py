"""OpenAI's own models by name: key and address from the environment, prices from a table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reader.budget import Price
from reader.errors import MissingKey
from reader.llm.served import ServedModel
from reader.llm.types import ChatRequest, ModelInfo

if TYPE_CHECKING:
    from genai_prices.types import TieredPrices
    from openai import AsyncOpenAI

ADDRESS = "https://api.openai.com/v1"
# Every general chat model since gpt-4-turbo takes at least this much; a newer name is assumed to.
UNKNOWN_WINDOW = 128_000
CONCURRENCY = 32

# The first pattern that fits the name decides. Reasoning models want max_completion_tokens and
# refuse temperature, stop and log-probabilities; what they think counts against the cap, so they
# are asked for the least effort that their family takes (None: it takes none, or one only).
PLAIN = "plain"
RULES: tuple[tuple[str, str | None], ...] = (
    (r"gpt-\d[\d.]*-chat", PLAIN),
    (r"gpt-5(-mini|-nano)?(-\d{4}-.*)?$", "minimal"),
    (r"gpt-5\.\d+(-mini|-nano)?(-\d{4}-.*)?$", "none"),
    (r"gpt-[5-9]|codex|o1-(mini|preview)|o\d.*-(pro|deep)", None),
    (r"o\d", "low"),
    (r"", PLAIN),
)
NOT_FOR_REASONING = ("temperature", "stop", "logprobs", "top_logprobs")
NO_SCHEMA = re.compile(r"gpt-3|gpt-4($|-)|gpt-4o-2024-05-13|chatgpt|o1-(mini|preview)")


def openai_model(name: str, *, api_key: str | None = None) -> HostedModel:
    """The OpenAI model of that name, at ``OPENAI_BASE_URL`` where it is set.

    The key is read from ``OPENAI_API_KEY`` at the first call, unless it is given. Window and price
    come from the data of ``genai-prices``; a name that it does not know has no price and a window
    of 128,000 tokens.
    """
    return HostedModel(name, os.environ.get("OPENAI_BASE_URL") or ADDRESS, api_key=api_key)


class HostedModel(ServedModel):
    """One of OpenAI's models. ``info`` needs neither key nor network."""

    def __init__(self, name: str, base_url: str = ADDRESS, *, api_key: str | None = None) -> None:
        super().__init__(base_url, name, api_key=api_key)
        # A fine-tuned model is ft:BASE:organisation:...
        self._base = name.split(":")[1] if name.startswith("ft:") else name
        self._effort = next(effort for rule, effort in RULES if re.match(rule, self._base))

    def body(self, request: ChatRequest, info: ModelInfo) -> dict[str, Any]:
        """The request as this model takes it."""
        body = super().body(request, info)
        if request.json_schema is not None and info.json_schema:
            body["response_format"]["json_schema"]["strict"] = is_closed(request.json_schema)
        if self._effort != PLAIN:
            body["max_completion_tokens"] = body.pop("max_tokens")
            for field in NOT_FOR_REASONING:
                body.pop(field, None)
            if self._effort is not None:
                body["reasoning_effort"] = self._effort
        return body

    def open(self) -> AsyncOpenAI:
        """A client for the running loop.

        Raises:
            MissingKey: there is no key.
        """
        key = self._api_key or os.environ.get("OPENAI_API_KEY")
        if not key:
            raise MissingKey(
                "OpenAI's models need an API key.", hint="Set OPENAI_API_KEY and call again."
            )
        return self.connect(key)

    async def _describe(self) -> ModelInfo:
        from reader.tokens import counter_for_openai

        name = self._name
        window, price = known_facts(self._base)
        return ModelInfo(
            name=name,
            identity=f"{self.address}#{name}",
            window=window or UNKNOWN_WINDOW,
            counter=counter_for_openai(self._base),
            json_schema=not NO_SCHEMA.match(self._base),
            # A fine-tuned model has a price of its own, which the table does not hold.
            price=price if name == self._base else None,
            notice=""
            if window
            else f"The window of {name} is not known: {UNKNOWN_WINDOW} tokens are assumed.",
            concurrency=CONCURRENCY,
        )


def known_facts(name: str) -> tuple[int | None, Price | None]:
    """Window in tokens and price of an OpenAI model by the bundled table, None where unknown."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, model = get_snapshot().find_provider_model(name, None, "openai", None)
    except LookupError:
        return None, None
    prices = model.get_prices(datetime.now(UTC))
    window = model.context_window

    def dollars(price: Any) -> float | None:
        if price is None:
            return None
        return float(_dearest(price, window) if hasattr(price, "tiers") else price)

    prompt, completion = dollars(prices.input_mtok), dollars(prices.output_mtok)
    if prompt is None or completion is None:
        return window, None
    cached = dollars(prices.cache_read_mtok)
    return window, Price(prompt=prompt, completion=completion, cached_prompt=cached)


def _dearest(price: TieredPrices, window: int | None) -> Any:
    """A money budget is a promise, so long prompts decide where they cost more."""
    reachable = [t.price for t in price.tiers if window is None or t.start < window]
    return max([price.base, *reachable])


def is_closed(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes the schema: objects closed, all properties required."""
    if isinstance(schema, Mapping):
        properties = schema.get("properties")
        if isinstance(properties, Mapping) and (
            schema.get("additionalProperties") is not False
            or set(schema.get("required", ())) != set(properties)
        ):
            return False
        return all(map(is_closed, schema.values()))
    return not isinstance(schema, list | tuple) or all(map(is_closed, schema))
