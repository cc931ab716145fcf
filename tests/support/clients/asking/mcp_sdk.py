"""Uses a node by the official Python SDK of MCP; ends with an error if something is not right.

python mcp_sdk.py http://127.0.0.1:8000
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from mcp import Client
from mcp.client.streamable_http import streamable_http_client

MODES: Final[Any] = ("legacy", "auto", "2026-07-28")


async def main(url: str) -> None:
    for mode in MODES:
        transport: Any = streamable_http_client(f"{url}/mcp")
        async with Client(transport, mode=mode) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert {"generate", "search_models", "node_status"} <= names
            asked = {"prompt": "hello", "model": "m", "max_tokens": 8}
            answer = (await client.call_tool("generate", asked)).model_dump()
            assert answer["content"][0]["text"] and not answer["is_error"], answer
            found = await client.call_tool("search_models", {"query": "m"})
            models = found.structured_content["result"]["models"]
            assert "m" in {model["name"] for model in models}
            assert (await client.list_resources()).resources
            assert (await client.list_prompts()).prompts
        print(mode)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
