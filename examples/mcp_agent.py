"""An agent that reads through MCP: it sees tools only, and the text that they return.

    pip install 'longdoc-reader[mcp]'
    python examples/mcp_agent.py FOLDER "What do the files say about ...?" http://HOST:PORT/v1 MODEL

The model decides which tools of `reader mcp` to call; the server reads with the same model, may
open files below FOLDER only, and spends at most 40 calls on a question.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from typing import Any

from mcp import Client, StdioServerParameters
from openai import AsyncOpenAI

MOST_TURNS = 8


async def agent(folder: str, task: str, address: str, model: str) -> str:
    server = StdioServerParameters(
        command=sys.executable,
        args=[
            *("-c", "from reader.cli import main; main()"),  # what the command `reader` runs
            *("mcp", "--allow", folder, "--model", f"{address}#{model}", "--budget", "calls=40"),
        ],
        env=dict(os.environ),
    )
    names = ", ".join(sorted(os.listdir(folder)))
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": f"Answer from the files, with quotes. Files: {names}."},
        {"role": "user", "content": task},
    ]
    async with Client(server) as reader, AsyncOpenAI(base_url=address, api_key="none") as llm:
        tools = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.input_schema,
                },
            }
            for tool in (await reader.list_tools()).tools
        ]
        for _ in range(MOST_TURNS):
            reply = await llm.chat.completions.create(model=model, messages=messages, tools=tools)
            message = reply.choices[0].message
            if not message.tool_calls:
                return message.content or ""
            messages.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls:
                arguments = json.loads(call.function.arguments)
                print(f"-> {call.function.name} {json.dumps(arguments)}")
                result = await reader.call_tool(
                    call.function.name, arguments, progress_callback=progress
                )
                said = "\n".join(part.text for part in result.content)
                print(f"<- {shown(result.structured_content or said)}")
                messages.append({"role": "tool", "tool_call_id": call.id, "content": said})
    return "No answer within the turns allowed."


async def progress(done: float, total: float | None, message: str | None) -> None:
    print(f"   {message}")


def shown(result: Any) -> str:
    """The fields of a tool's result that a person wants to see."""
    if isinstance(result, str):
        return result
    wanted = ("title", "characters", "answer", "status", "citations", "calls", "text")
    return json.dumps({name: result[name] for name in wanted if name in result})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="with the files that it may open")
    parser.add_argument("task")
    parser.add_argument("address", help="of an OpenAI-compatible server, with /v1")
    parser.add_argument("model", help="which calls tools")
    asked = parser.parse_args()
    print(asyncio.run(agent(asked.folder, asked.task, asked.address, asked.model)))


if __name__ == "__main__":
    main()
