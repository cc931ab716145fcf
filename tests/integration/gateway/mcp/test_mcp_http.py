"""`POST /mcp` over HTTP: statuses, who may use which tool, clients that leave or lie."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import pytest

from aitorrent_gateway.mcp.eras import CAPABILITIES_KEY, VERSION_KEY
from aitorrent_gateway.mcp.toolbox import PRIVATE, tool_name
from aitorrent_gateway.plugin import GatewayPlugin
from aitorrentd.api import (
    CallContext,
    Method,
    NoParams,
    PluginContext,
    PluginInfo,
    hookimpl,
)
from aitorrentd.node import Node
from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import called, http_node, new_token, served
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory, wait_for

MODERN: Final = {VERSION_KEY: "2026-07-28", CAPABILITIES_KEY: {}}
NEVER: Final = {"node.stop", "config.set", "hub.acquire", "inference.generate", "gateway.mcp"}
OWN: Final = {"generate", "search_models"}


def rpc(method: str, params: Any = None, ident: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}


def generate(token: str = "") -> dict[str, Any]:
    call = {"name": "generate", "arguments": {"prompt": "hi", "model": "m"}}
    return rpc("tools/call", {**call, "_meta": {"progressToken": token}} if token else call)


@asynccontextmanager
async def client_of(address: str, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://{address}", headers=headers, trust_env=False
    ) as client:
        yield client


async def tools(client: httpx.AsyncClient) -> set[str]:
    answer = await client.post("/mcp", json=rpc("tools/list"))
    assert answer.status_code == 200, answer.text
    return {tool["name"] for tool in answer.json()["result"]["tools"]}


async def test_statuses(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    async with client_of(address) as client:
        for method in ("GET", "DELETE"):
            answer = await client.request(method, "/mcp", headers={"Accept": "text/event-stream"})
            assert answer.status_code == 405
            assert answer.headers["allow"] == "POST"
        answer = await client.post("/mcp", json=rpc("tools/list", ident="a"))
        assert (answer.status_code, answer.json()["id"]) == (200, "a")
        assert answer.headers["content-type"] == "application/json"
        assert "mcp-session-id" not in answer.headers
        # typescript-sdk 389: a session that the server has never heard of ends many clients.
        stale = {"Mcp-Session-Id": "of-another-server"}
        answer = await client.post("/mcp", json=rpc("tools/list"), headers=stale)
        assert answer.status_code == 200
        told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        answer = await client.post("/mcp", json=told)
        assert (answer.status_code, answer.content) == (202, b"")
        for body, status, code in (
            (b"{", 400, -32700),
            (b"[]", 400, -32600),
            (json.dumps(rpc("no/such")).encode(), 200, -32601),
            (json.dumps(rpc("no/such", {"_meta": MODERN})).encode(), 400, -32020),
        ):
            sent = {"Content-Type": "application/json"}
            answer = await client.post("/mcp", content=body, headers=sent)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        new = {"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "no/such"}
        call = rpc("no/such", {"_meta": MODERN})
        answer = await client.post("/mcp", json=call, headers=new)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601)
        answer = await client.post("/mcp", json=rpc("no/such"), headers=new)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
        answer = await client.post("/mcp", content=b"{}", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 415
        big = {"Content-Type": "application/json"}
        answer = await client.post("/mcp", content=b" " * (2**20 + 1), headers=big)
        assert (answer.status_code, answer.json()["jsonrpc"]) == (413, "2.0")


class BuggyPlugin:
    """A method with a bug, and a stream with one."""

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("buggy", "has bugs")

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        def once(call: CallContext, params: NoParams) -> dict[str, Any]:
            raise ZeroDivisionError

        async def items(call: CallContext, params: NoParams) -> AsyncIterator[Any]:
            yield {"n": 1}
            raise ZeroDivisionError

        return [
            Method("buggy.once", once, "Fails."),
            Method("buggy.items", items, "F.", stream=True),
        ]


@pytest.mark.allow_error_log
@pytest.mark.parametrize("tool", ["buggy_once", "buggy_items"])
async def test_bug_in_a_method_is_told_as_a_result_and_logged_once(
    node_factory: NodeFactory, caplog: pytest.LogCaptureFixture, tool: str
) -> None:
    plugins = (("gateway", GatewayPlugin()), ("buggy", BuggyPlugin()))
    _, address = await http_node(node_factory, *plugins)
    async with client_of(address) as client:
        for params in ({"name": tool}, {"name": tool, "_meta": {"progressToken": "p"}}):
            caplog.clear()
            accept = {"Accept": "application/json, text/event-stream"}
            answer = await client.post("/mcp", json=rpc("tools/call", params), headers=accept)
            assert answer.status_code == 200
            text = answer.text.rpartition("data: ")[2]
            result = json.loads(text)["result"]
            assert result["isError"] is True
            said = result["content"][0]["text"]
            assert said.startswith("a bug in buggy; the log has the details under error id ")
            assert said.endswith(" (aitorrentctl logs, or journalctl -u aitorrentd)")
            (record,) = [r for r in caplog.records if r.exc_info]
            assert said.split()[12] in record.getMessage()
        assert await tools(client) > OWN


async def test_pages_and_foreign_hosts_are_refused(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    async with client_of(address) as client:
        for headers, status in (
            ({"Origin": "https://evil.example"}, 403),
            ({"Host": "evil.example"}, 421),
            ({"X-Forwarded-For": "203.0.113.9"}, 401),
            ({"Authorization": "Bearer ait_wrong"}, 401),
        ):
            answer = await client.post("/mcp", json=rpc("tools/list"), headers=headers)
            assert answer.status_code == status


async def test_every_role_sees_its_tools(node_factory: NodeFactory) -> None:
    node = await node_factory()
    address = await served(node)
    methods = (await called(node, "rpc.describe"))["methods"]
    offered = [
        m
        for m in methods
        if m["name"] not in NEVER and not m["name"].startswith(("plugin.", "rpc.", "http.tokens."))
    ]
    assert len(offered) > 40

    def of(*roles: str) -> set[str]:
        return {tool_name(m["name"]) for m in offered if m["role"] in roles}

    public = {
        tool_name(m["name"])
        for m in offered
        if m["role"] == "read" and not m["name"].startswith(PRIVATE)
    }
    assert {"node_status", "inference_models"} <= public
    assert public.isdisjoint({"node_logs", "config_show", "transport_peers"})
    expected = {
        "": public | OWN,
        "generate": OWN,
        "read": of("read"),
        "operate": of("read", "operate") | OWN,
        "admin": of("read", "operate", "admin") | OWN,
    }
    every = expected["admin"] | {tool_name(m["name"]) for m in methods}
    for role, seen in expected.items():
        headers = {"Authorization": f"Bearer {await new_token(node, role)}"} if role else {}
        async with client_of(address, **headers) as client:
            assert await tools(client) == seen
            hidden = sorted(every - seen)[0]
            answer = await client.post("/mcp", json=rpc("tools/call", {"name": hidden}))
            assert answer.json()["error"]["message"] == f"Unknown tool: {hidden}"


async def test_progress_is_streamed_to_clients_that_want_it(node_factory: NodeFactory) -> None:
    backend = FakeBackend("f", words=("Hé\u2028", "\n\ntwo"))
    _, address = await gateway_node(node_factory, backend)
    async with client_of(address, Accept="application/json, text/event-stream") as client:
        answer = await client.post("/mcp", json=generate("p"))
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = [
            json.loads(line.removeprefix("data: "))
            for line in answer.text.split("\n")
            if line.startswith("data: ")
        ]
        kinds = [each.get("method", "result") for each in found]
        assert (kinds[0], {*kinds[:-1]}, kinds[-1]) == (
            *("notifications/progress", {"notifications/progress"}, "result"),
        )
        assert found[-1]["result"]["content"][0]["text"] == "Hé\ufffd\n\ntwo"
        answer = await client.post("/mcp", json=generate())
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("token", ["", "p"])
async def test_a_client_that_leaves_cancels_its_request(
    node_factory: NodeFactory, token: str
) -> None:
    backend = FakeBackend("f", words=(), hangs=True)
    _, address = await gateway_node(node_factory, backend)
    accept = "application/json, text/event-stream"
    async with client_of(address, Accept=accept) as client:
        task = asyncio.create_task(client.post("/mcp", json=generate(token), timeout=30))
        await wait_for(lambda: backend.running == 1)
        task.cancel()
        await asyncio.wait({task})
    left = asyncio.get_running_loop().time()
    await wait_for(lambda: backend.running == 0, every_s=0.005)
    assert asyncio.get_running_loop().time() - left < 0.5


async def test_what_godot_ai_sends(node_factory: NodeFactory) -> None:
    """Its own test: plain JSON, no handshake, no version, no Accept."""
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    hello = {
        "protocolVersion": "2024-11-05",
        "capabilities": {},
        "clientInfo": {"name": "TestClient", "version": "0.0.1"},
    }
    async with client_of(address) as client:
        answer = await client.post("/mcp", json=rpc("initialize", hello))
        assert (answer.status_code, answer.json()["id"]) == (200, 1)
        assert answer.json()["result"]["protocolVersion"] == "2024-11-05"
        for key in ("prompts", "resources", "tools"):
            bare = {"jsonrpc": "2.0", "id": 99, "method": f"{key}/list"}
            answer = await client.post("/mcp", json=bare)
            assert answer.status_code == 200
            assert answer.json()["result"][key]


async def test_tools_leave_with_their_plugin(node_factory: NodeFactory) -> None:
    node, address = await gateway_node(node_factory, FakeBackend("f"))
    async with client_of(address) as client:
        assert "inference_models" in await tools(client)
        await _disabled(node, "inference")
        assert "inference_models" not in await tools(client)


async def _disabled(node: Node, plugin: str) -> None:
    await called(node, "plugin.disable", name=plugin)
