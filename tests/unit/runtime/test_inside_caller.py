"""Callers inside the process: what they may call, and that descriptions are made once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from aitorrentd.api import Denied, InvalidParams, Role
from aitorrentd.kernel.found import PluginSource
from aitorrentd.methods.inside import InsideDoor
from tests.support.cli_nodes import CountPlugin
from tests.support.nodes import NodeFactory


async def test_caller_describes_calls_and_streams(node_factory: NodeFactory) -> None:
    node = await node_factory(sources=[PluginSource.of(CountPlugin)])
    door = InsideDoor(node)
    reader, admin = door.caller(Role.READ), door.caller(Role.ADMIN)
    described = reader.describe()
    assert door.caller(Role.READ).describe() is described
    by_name = {view["name"]: view for view in described}
    assert by_name["count.up"]["stream"] is True
    assert by_name["count.up"]["params"]["type"] == "object"
    assert "node.stop" not in by_name
    assert "node.stop" in {view["name"] for view in admin.describe()}
    summary: dict[str, Any] = {}
    items = [item async for item in reader.stream("count.up", summary=summary)]
    assert ([item["n"] for item in items], summary) == ([0, 1, 2], {"count": 3})
    heard: list[Mapping[str, Any]] = []
    assert await reader.call("rpc.ping", progress=heard.append) == {"pong": True}
    with pytest.raises(Denied, match="needs the role admin; this caller has read"):
        await reader.call("node.stop")
    with pytest.raises(InvalidParams, match="answers with a stream"):
        await reader.call("count.up")
    with pytest.raises(InvalidParams, match="answers once"):
        await anext(reader.stream("rpc.ping"))
    await admin.call("plugin.disable", {"name": "count"})
    assert "count.up" not in {view["name"] for view in reader.describe()}
