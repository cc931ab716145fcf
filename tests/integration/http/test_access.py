"""Who may call which route of the HTTP server: names, pages, tokens, roles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aitorrent_http.plugin import HttpPlugin
from aitorrentd.api import Conflict, NotFound
from aitorrentd.api.faces.routes import GRANTS, Scope
from aitorrentd.kernel.found import PluginSource
from tests.support.clients.raw_http import exchange, request
from tests.support.http_nodes import Probe, called, http_node, new_token
from tests.support.nodes import NodeFactory


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_every_route_with_every_role(node_factory: NodeFactory) -> None:
    node, address = await http_node(node_factory, ("probe", Probe()))
    callers: dict[str, tuple[dict[str, str], frozenset[Scope]]] = {
        role: (bearer(await new_token(node, role)), scopes) for role, scopes in GRANTS.items()
    }
    here = frozenset({Scope.PUBLIC, Scope.GENERATE, Scope.READ})
    callers |= {
        "anonymous": ({}, here),
        "placeholder": (bearer("sk-none"), here),
        "key": ({"X-Api-Key": callers["read"][0]["Authorization"][7:]}, GRANTS["read"]),
        "key and placeholder": (
            bearer("none") | {"X-Api-Key": callers["read"][0]["Authorization"][7:]},
            GRANTS["read"],
        ),
        "proxied": ({"X-Forwarded-For": "192.0.2.1"}, frozenset({Scope.PUBLIC})),
        "forged": (bearer("ait_" + "x" * 43), frozenset()),
    }
    for who, (headers, scopes) in callers.items():
        for scope in Scope:
            for method in ("GET", "POST"):
                raw = request(method, f"/scope/{scope.value}", headers)
                answer = await exchange(address, raw)
                refusal = 401 if who in ("anonymous", "placeholder", "proxied", "forged") else 403
                assert answer.status == (200 if scope in scopes else refusal), (who, scope)
                if answer.status == 401:
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert answer.error["type"] == "authentication_error"
                if answer.status == 403:
                    assert f"needs the role {scope.value}" in answer.error["message"]


async def test_nobody_is_anonymous_if_the_settings_say_so(node_factory: NodeFactory) -> None:
    node, address = await http_node(node_factory, ("probe", Probe()), anonymous=[])
    answer = await exchange(address, request("GET", "/scope/generate"))
    assert answer.status == 401
    assert "aitorrentctl token new --role generate" not in answer.body.decode()
    assert "aitorrentctl token new NAME --role generate" in answer.error["message"]
    token = await new_token(node, "generate")
    assert (await exchange(address, request("GET", "/scope/generate", bearer(token)))).status == 200


async def test_token_is_stored_hashed_shown_once_and_revoked_at_once(
    node_factory: NodeFactory,
) -> None:
    node, address = await http_node(node_factory, ("probe", Probe()))
    token = await new_token(node, "operate")
    raw = request("GET", "/scope/operate", bearer(token))
    assert (await exchange(address, raw)).status == 200
    listed = await called(node, "http.tokens.list")
    assert [(t["name"], t["role"], t["expires"]) for t in listed["tokens"]] == [
        ("t-operate", "operate", None)
    ]
    for file in node.config.directories.state.rglob("*"):
        if file.is_file():
            assert token[4:].encode() not in file.read_bytes()
    assert token not in json.dumps(listed)
    with pytest.raises(Conflict, match="a token named t-operate already"):
        await new_token(node, "operate")
    await node.kernel.restart("http")
    address = (await called(node, "http.status"))["listening"][0]
    assert (await exchange(address, raw)).status == 200  # tokens outlive a restart
    await called(node, "http.tokens.revoke", name="t-operate")
    answer = await exchange(address, raw)
    assert (answer.status, answer.error["code"]) == (401, "denied")
    assert token not in answer.body.decode()
    with pytest.raises(NotFound, match="no token named t-operate"):
        await called(node, "http.tokens.revoke", name="t-operate")
    await node.kernel.restart("http")
    assert (await called(node, "http.tokens.list"))["tokens"] == []


async def test_token_expires(node_factory: NodeFactory) -> None:
    node, address = await http_node(node_factory, ("probe", Probe()))
    token = await new_token(node, "admin", lifetime_s=1e-6)
    answer = await exchange(address, request("GET", "/scope/admin", bearer(token)))
    assert (answer.status, "expired" in answer.error["message"]) == (401, True)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("localhost", 200),
        ("LOCALHOST.:8000", 200),
        ("[::1]:8000", 200),
        ("192.0.2.7", 200),  # an address, which no page can make its own
        ("ai.example.org:8000", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.1:8000@evil.example", 421),
        ("localhost evil.example", 421),
        ("", 421),
    ],
)
async def test_host_rebind(node_factory: NodeFactory, host: str, status: int) -> None:
    _, address = await http_node(node_factory, ("probe", Probe()), hosts=["ai.example.org"])
    answer = await exchange(address, request("GET", "/scope/public", host=host))
    assert answer.status == status
    if status == 421:
        assert "plugins.http.hosts" in answer.error["message"]
    if host == "ai.example.org:8000":  # it may be a proxy's name, so nobody is anonymous there
        assert (await exchange(address, request("GET", "/scope/read", host=host))).status == 401


CROSS = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/scope/generate", {}, 200),
        ("POST", "/scope/generate", {"Sec-Fetch-Mode": "cors"}, 200),  # Node's fetch
        pytest.param(
            *("POST", "/scope/generate", {**CROSS, "Content-Type": "text/plain"}, 403),
            id="csrf_text_plain",
        ),
        ("POST", "/page", CROSS, 403),
        pytest.param(*("POST", "/scope/generate", {"Origin": "null"}, 403), id="origin_null"),
        ("POST", "/scope/generate", {"Origin": "https://evil.example"}, 403),
        ("POST", "/scope/generate", {"Sec-Fetch-Site": "same-site"}, 403),
        ("POST", "/scope/generate", {"Sec-Fetch-Site": "same-origin", "Origin": "http://x"}, 200),
        ("POST", "/scope/generate", {"Origin": "http://127.0.0.1"}, 200),
        ("POST", "/scope/generate", {"Origin": "https://chat.example"}, 403),  # no page's route
        ("POST", "/page", {"Origin": "https://chat.example"}, 200),
        ("POST", "/page", {**CROSS, "Origin": "https://chat.example"}, 200),
        ("POST", "/page", {"Origin": "https://chat.example.evil"}, 403),
        ("GET", "/scope/read", CROSS, 200),  # a link; the other page cannot read the answer
    ],
)
async def test_csrf(
    node_factory: NodeFactory, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    _, address = await http_node(node_factory, ("probe", Probe()), origins=["https://chat.example"])
    answer = await exchange(address, request(method, path, headers))
    assert answer.status == status
    allowed = "https://chat.example" if path == "/page" and status == 200 else None
    assert answer.headers.get("access-control-allow-origin") == allowed
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("path", "origin", "status"),
    [
        ("/page", "https://chat.example", 204),
        ("/page", "https://evil.example", 403),
        ("/page", "null", 403),
        ("/scope/generate", "https://chat.example", 405),
        ("/nothing", "https://chat.example", 404),
    ],
)
async def test_cors_reflects_no_origin(
    node_factory: NodeFactory, path: str, origin: str, status: int
) -> None:
    _, address = await http_node(node_factory, ("probe", Probe()), origins=["https://chat.example"])
    asked: dict[str, Any] = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = await exchange(address, request("OPTIONS", path, asked))
    assert answer.status == status
    if status == 204:
        assert answer.headers["access-control-allow-origin"] == origin
        assert "authorization" in answer.headers["access-control-allow-headers"]
    else:
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.allow_error_log
async def test_server_that_strangers_reach_needs_a_token_or_tls(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    open_to_all = {"plugins": {"http": {"port": 0, "listen": "0.0.0.0"}}}
    sources = [PluginSource.of(HttpPlugin, name="http")]
    state_dir = tmp_path / "state"
    node = await node_factory(open_to_all, sources=sources, state_dir=state_dir)
    row = node.kernel.row("http")
    assert row.state == "invalid"
    assert "can be reached from other machines, and there is neither a token nor TLS" in row.detail
    assert "aitorrentctl token new NAME --role generate" in row.detail
    node.kernel.configure("http", {"port": 0})
    await node.kernel.restart("http")
    token = await new_token(node, "generate")
    node.kernel.configure("http", open_to_all["plugins"]["http"])
    assert (await node.kernel.restart("http")).state == "running"
    port = (await called(node, "http.status"))["listening"][0].rpartition(":")[2]
    for headers in (bearer(token), {"X-Real-IP": "192.0.2.1"}):
        raw = request("GET", "/", {"Accept": "application/json", **headers})
        answer = await exchange(f"127.0.0.1:{port}", raw)
        assert answer.status == 200
        assert "plugins" not in json.loads(answer.body)  # public, but it tells nothing of the node
