"""``reader mcp``: the tools for agents, over standard input and output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def mcp(
    allow: Annotated[
        list[Path] | None,
        typer.Option(
            "--allow",
            metavar="DIR",
            help="Folder whose files may be read; repeatable. The working directory by default.",
        ),
    ] = None,
    strategy: Annotated[
        str, typer.Option("--strategy", "-s", help="Reading strategy, unless a call names one.")
    ] = "coa",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="openai:NAME, http://HOST/v1[#NAME], gguf:PATH."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help='Never exceeded by a call: "calls=20,usd=0.1".'),
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds after which a call gives its best answer.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens of prompt and reply a model call may use.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder of the store; the user's cache by default."),
    ] = None,
) -> None:
    """Serve tools to agents over MCP: open a document, estimate, ask, ask many, text around."""
    import asyncio
    import logging

    from reader.budget import Budget
    from reader.errors import InvalidOption
    from reader.integrations.mcp import Limits, Shelf, build_server
    from reader.session import Reader
    from reader.strategy import find_strategy, read_options

    if deadline is not None and deadline <= 0:
        raise InvalidOption("deadline must be above 0 seconds.", hint="")
    options = {} if window is None else {"window": window}
    read_options(find_strategy(strategy), options)
    shelf = Shelf.of(allow or [Path.cwd()])
    limits = Limits(budget=Budget.parse(budget) if budget else None, deadline=deadline)

    async def serve() -> None:
        async with Reader(model, store=store) as reader:
            server = build_server(reader, shelf, strategy=strategy, limits=limits, options=options)
            for handler in logging.getLogger().handlers:  # the SDK's, on standard error
                handler.setLevel(logging.WARNING)  # some libraries log at a level of their own
            await server.run_stdio_async()

    asyncio.run(serve())
