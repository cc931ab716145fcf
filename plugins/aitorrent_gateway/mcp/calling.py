"""Runs tools: control methods that answer once, and those that stream for a while."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

from aitorrent_gateway.mcp import models
from aitorrent_gateway.mcp.reach import Reach, Report, content, of_strangers
from aitorrent_gateway.mcp.resources import Resource
from aitorrent_gateway.mcp.strangers import MOST_BYTES, cleaned, plain
from aitorrent_gateway.mcp.toolbox import Tool, tool_name
from aitorrentd.api import AitorrentError, NotFound, TimedOut
from aitorrentd.api.context import Caller

CALL_S: Final = 600.0
"The longest call."
STREAM_S: Final = 20.0
"How long items of a stream are collected; a transfer may take longer, and goes on by itself."
STREAM_ITEMS: Final = 200


async def call_tool(
    name: str, tool: Tool | None, arguments: Mapping[str, Any], reach: Reach, report: Report
) -> dict[str, Any]:
    """The result of a tool; what goes wrong in it is a result, too, so that a model reads it.
    `tool` is None for those of `models`."""
    limit = asyncio.timeout(CALL_S)
    try:
        async with limit:
            if tool is None:
                found: dict[str, Any] = await models.run(name, arguments, reach, report)
                return found
            if reach.caller is None:
                return content("this caller may not look at the node", failed=True)
            given = tool.given(arguments)
            structured, text = await method_result(tool, given, reach.caller, report)
            return content(text, structured)
    except AitorrentError as e:
        return content(plain(e.message), {"code": e.code, "message": plain(e.message)}, failed=True)
    except TimeoutError:
        if not limit.expired():
            raise
        late = TimedOut(f"{name} did not end within {CALL_S:g} s")
        return content(late.message, {"code": late.code, "message": late.message}, failed=True)


async def method_result(
    tool: Tool, arguments: Mapping[str, Any], caller: Caller, report: Report
) -> tuple[dict[str, Any], str]:
    """What a control method answers, as an object and as JSON.

    Raises:
        AitorrentError: its error.
    """

    def progress(state: Mapping[str, Any]) -> None:
        report(state["done"], state["total"], str(state["text"]))

    if not tool.is_stream:
        return of_strangers(await caller.call(tool.method, arguments, progress=progress))
    summary: dict[str, Any] = {}
    items = caller.stream(tool.method, arguments, progress=progress, summary=summary)
    found, ended = await _collected(items, report)
    return of_strangers({"items": found, "ended": ended, "summary": summary})


async def resource_text(
    resource: Resource, part: str, tools: Mapping[str, Tool], caller: Caller, report: Report
) -> str:
    """The JSON of a resource.

    Raises:
        AitorrentError: why there is none.
    """
    if resource.rows:
        reply = await caller.call(resource.method)
        named = {key: [r for r in reply[key] if r["name"] == part] for key in resource.rows}
        if not any(named.values()):
            raise NotFound(f"no model {plain(part, 200)}")
        return of_strangers(named)[1]
    arguments = {**resource.arguments, **({resource.takes: part} if resource.takes else {})}
    tool = tools[tool_name(resource.method)]
    return (await method_result(tool, arguments, caller, report))[1]


async def _collected(
    items: AsyncGenerator[dict[str, Any]], report: Report
) -> tuple[list[Any], bool]:
    """The first items, and whether there are no more."""
    found: list[Any] = []
    room = MOST_BYTES * 3 // 4
    async with aclosing(items):
        try:
            async with asyncio.timeout(STREAM_S) as limit:
                async for item in items:
                    shown = cleaned(item)
                    room -= len(json.dumps(shown))
                    if room < 0 or len(found) == STREAM_ITEMS:
                        return found, False
                    found.append(shown)
                    report(None, None, f"{len(found)} items")
        except TimeoutError:
            if not limit.expired():
                raise
            return found, False
    return found, True
