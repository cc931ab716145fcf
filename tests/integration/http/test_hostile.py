"""Attacks that take resources: silence, descriptors, streams at the wrong time; and secrets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hmac
import json
import logging
import os
import re
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from aitorrent_gateway.plugin import GatewayPlugin
from aitorrent_http import service, tokens
from aitorrent_inference.plugin import InferencePlugin
from aitorrentd.api.faces.asgi import WebLimits
from aitorrentd.api.faces.routes import GRANTS, Scope
from tests.support.clients.raw_http import connection, exchange, parsed, request
from tests.support.gateway_nodes import BackendPlugin
from tests.support.http_nodes import Probe, called, http_node, new_token
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import DaemonFactory, NodeFactory, wait_for

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
ADDRESSES = [f"127.0.0.{i}" for i in range(1, 17)]
"One may have 64 connections."


@asynccontextmanager
async def opened(address: str, count: int) -> AsyncIterator[list[Pair]]:
    """So many connections, spread over addresses; closed at the end."""
    host, _, port = address.rpartition(":")
    pairs: list[Pair] = []
    try:
        for i in range(count):
            source = (ADDRESSES[i % len(ADDRESSES)], 0)
            pairs.append(await asyncio.open_connection(host, int(port), local_addr=source))
        yield pairs
    finally:
        for _, writer in pairs:
            writer.close()


async def test_silent_connections_1000(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream goes on meanwhile, all of them are closed, and then there is room again."""
    limits = WebLimits(connections=256, per_address=64, header_s=1.0, one_host=True, cancels=True)
    monkeypatch.setattr(service, "LIMITS", limits)
    _, address = await http_node(node_factory, ("probe", Probe()))
    async with connection(address) as (reader, writer):
        writer.write(request("GET", "/stream"))
        await reader.readuntil(b"data: 1")
        async with opened(address, 1000) as pairs:
            for _ in range(20):
                await reader.readuntil(b"data: 1")
            ends = await asyncio.wait_for(asyncio.gather(*map(last_words, pairs)), 10)
        closed_at_once = ends.count(b"")
        assert closed_at_once >= 1000 - limits.connections
        assert {end[:12] for end in ends if end} == {b"HTTP/1.1 408"}
        assert closed_at_once + sum(map(bool, ends)) == 1000
        await reader.readuntil(b"data: 1")

    async def has_room() -> bool:
        return (await exchange(address, request("GET", "/scope/public"))).status == 200

    await wait_for(has_room)


async def last_words(pair: Pair) -> bytes:
    """What the server sent until it closed the connection."""
    try:
        return await pair[0].read()
    except ConnectionError:
        return b""


@pytest.mark.allow_error_log
async def test_fd_exhaustion(daemon_factory: DaemonFactory) -> None:
    """Descriptors run out: the daemon lives, and accepts again once there are some."""
    on = {"enabled": True, "port": 0}
    daemon = await daemon_factory({"plugins": {"http": on}}, files=96)
    address = (await daemon.call("http.status"))["listening"][0]
    probe = request("GET", "/livez")
    assert (await exchange(address, probe)).status == 200

    def is_full() -> bool:
        return len(os.listdir(f"/proc/{daemon.pid}/fd")) >= 90

    async with opened(address, 200):
        await wait_for(is_full)
        assert daemon.process.poll() is None

    async def is_well() -> bool:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            return (await exchange(address, probe, timeout_s=2)).status == 200
        return False

    await wait_for(is_well, 15)
    assert (await daemon.call("node.status"))["state"] == "running"


async def test_drain_with_streams(node_factory: NodeFactory) -> None:
    """Thirty answers that run end as they would have; a thirty-first is refused, with 503."""
    backend = FakeBackend("slow", words=["one ", "two ", "three"])
    backend.gate = asyncio.Event()
    plugins = {
        "inference": InferencePlugin(),
        "gateway": GatewayPlugin(),
        "fake": BackendPlugin(backend),
    }
    node, address = await http_node(node_factory, *plugins.items())
    body = json.dumps(
        {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    ).encode()
    raw = request("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, body)
    async with AsyncExitStack() as stack:
        readers = []
        for _ in range(30):
            reader, writer = await stack.enter_async_context(connection(address))
            writer.write(raw)
            readers.append(reader)
        await wait_for(lambda: backend.running == 30)
        draining = asyncio.ensure_future(node.drain(timeout_s=20))
        await wait_for(lambda: node.kernel.drain.active)
        refused = await exchange(address, raw)
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert not draining.done()
        backend.gate.set()
        answers = [parsed(await reader.read()) for reader in readers]
        assert await draining
    for answer in answers:
        assert answer.status == 200
        assert answer.body.endswith(b"data: [DONE]\n\n")
        texts = re.findall(rb'"content":"([^"]*)"', answer.body.replace(b'": "', b'":"'))
        assert b"".join(texts) == b"one two three"


async def test_server_that_stops_lets_streams_end_and_accepts_no_more(
    node_factory: NodeFactory,
) -> None:
    probe = Probe()
    node, address = await http_node(node_factory, ("probe", probe))
    async with AsyncExitStack() as stack:
        readers = []
        for _ in range(30):
            reader, writer = await stack.enter_async_context(connection(address))
            writer.write(request("GET", "/count"))
            readers.append(reader)
        await wait_for(lambda: probe.running == 30)
        stopping = asyncio.ensure_future(node.kernel.disable("http"))
        bodies = [parsed(await reader.read()).body for reader in readers]
        await stopping
    assert [body.count(b"data: 1") for body in bodies] == [30] * 30
    with pytest.raises(ConnectionError):
        await exchange(address, request("GET", "/"))


async def test_ui_get_flood(node_factory: NodeFactory) -> None:
    """The page at / keeps nothing of those who look at it: no session, no cookie, no memory."""
    _, address = await http_node(node_factory, ("probe", Probe()))
    look = request("GET", "/", {"Accept": "text/html"})
    for _ in range(20):
        assert "set-cookie" not in (await exchange(address, look)).headers
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(300):
            await exchange(address, look)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 300 * 256


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:8000"])
async def test_csrf_websocket(node_factory: NodeFactory, origin: str) -> None:
    """No path speaks WebSocket, so that no page can open one."""
    _, address = await http_node(node_factory, ("probe", Probe()))
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Origin": origin,
    }
    for path in ("/", "/scope/read", "/page", "/nothing"):
        async with connection(address) as (reader, writer):
            writer.write(request("GET", path, headers))
            first = await reader.readline()
            assert first.split()[1] in (b"200", b"404", b"405")


@pytest.mark.allow_error_log
async def test_token_in_log(node_factory: NodeFactory, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a valid token nor a mistyped one is logged or answered, at any level."""
    with caplog.at_level(logging.DEBUG):
        node, address = await http_node(node_factory, ("probe", Probe()))
        token = await new_token(node, "read")
        wrong = "ait_" + "w" * 43
        for secret in (token, wrong):
            for headers in ({"Authorization": f"Bearer {secret}"}, {"x-api-key": secret}):
                for path in ("/scope/admin", "/bug", f"/nothing/{secret}?key={secret}"):
                    answer = await exchange(address, request("GET", path, headers))
                    assert secret.encode() not in answer.body
        lines = [f"{r.getMessage()} {r.exc_text or ''}" for r in caplog.records]
        lines += [line.text for line in node.ring.lines()]
        assert [line for line in lines if token in line or wrong in line] == []


async def test_token_timing(node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token is compared, in constant time, whichever of them matches."""
    compared: list[str] = []

    def counted(a: Any, b: Any) -> bool:
        compared.append(a)
        return hmac.compare_digest(a, b)

    node, address = await http_node(node_factory, ("probe", Probe()))
    made = [await new_token(node, role) for role in ("generate", "read", "operate")]
    monkeypatch.setattr(tokens, "hmac", SimpleNamespace(compare_digest=counted))
    for secret in (*made, "ait_" + "x" * 43):
        compared.clear()
        await exchange(address, request("GET", "/scope/public", {"x-api-key": secret}))
        assert len(compared) == len(made)


async def test_role_escalation(node_factory: NodeFactory) -> None:
    """Every route of every built-in plugin refuses every caller whose role lacks its scope."""
    node = await node_factory({"plugins": {"http": {"enabled": True, "port": 0}}})
    address = (await called(node, "http.status"))["listening"][0]
    callers = {role: {"x-api-key": await new_token(node, role)} for role in GRANTS}
    scopes = {**GRANTS, "stranger": frozenset({Scope.PUBLIC})}
    callers["stranger"] = {"X-Forwarded-For": "192.0.2.1"}
    routes = node.kernel.routes()
    assert {"gateway", "http", "monitor"} <= {plugin for plugin, _ in routes}
    checked = 0
    for _, route in routes:
        path = re.sub(r"\{[^}]*\}", "x", route.path)
        for method in sorted(route.methods):
            for who, headers in callers.items():
                if route.scope in scopes[who]:
                    continue
                answer = await exchange(address, request(method, path, headers))
                assert answer.status == (401 if who == "stranger" else 403), (who, method, path)
                checked += 1
    assert checked > 20
    public = {route.path for _, route in routes if route.scope is Scope.PUBLIC}
    harmless = {"/", "/openapi.json", "/livez", "/readyz", "/health", "/api/version"}
    assert public - {"/mcp"} <= harmless, "a new public path is a decision: add it here"
    # Having a model unloaded needs more than the routes that take the request.
    body = b'{"model": "m", "keep_alive": 0}'
    for path in ("/api/generate", "/api/chat"):
        for who, headers in {**callers, "anonymous": {}}.items():
            sent = {"Content-Type": "application/json", **headers}
            answer = await exchange(address, request("POST", path, sent, body))
            may = Scope.OPERATE in scopes.get(who, ())
            refused = 401 if who in ("stranger", "anonymous") else 403
            assert answer.status == (404 if may else refused), (who, path)  # there is no model m
    # Each tool of MCP has a scope of its own; whoever may do nothing gets no further.
    answer = await exchange(address, request("POST", "/mcp", callers["stranger"], b"{}"))
    assert answer.status == 401
