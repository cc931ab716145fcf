"""The HTTP server: hostile bytes, limits, clients that leave, and what `/` shows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from aitorrent_http import service
from aitorrent_http.plugin import HttpPlugin
from aitorrentd.api.faces.asgi import WebLimits
from aitorrentd.kernel.found import PluginSource
from tests.support.clients.raw_http import connection, exchange, parsed, request
from tests.support.http_nodes import Probe, called, http_node
from tests.support.nodes import NodeFactory, wait_for
from tests.support.servers.hub.certificates import tls_for

HOST = b"Host: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    ("name", "raw", "status"),
    [
        ("no_host", b"GET / HTTP/1.1\r\n\r\n", 400),
        ("two_hosts", b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n", 400),
        ("absolute_uri", b"GET http://127.0.0.1/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        ("authority", b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (
            "cl_te",
            b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "two_cl",
            b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            400,
        ),
        ("bare_lf", b"GET / HTTP/1.1\nHost: 127.0.0.1\n\n", 400),
        ("obs_fold", b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n", 400),
        ("no_http", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        ("huge_header", b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 200_000, 431),
        ("huge_url", b"GET /" + b"a" * 200_000, 431),
        ("huge_body", request("POST", "/echo", {"Content-Length": "1001"}), 413),
        (
            "huge_chunks",
            b"POST /echo HTTP/1.1\r\n" + HOST + b"Connection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + b"a" * 1024 + b"\r\n0\r\n\r\n",
            413,
        ),
        ("zstd_bomb", request("POST", "/echo", {"Content-Encoding": "zstd"}, b"\x28\xb5"), 415),
        ("gzip_bomb", request("POST", "/echo", {"Content-Encoding": "gzip"}, b"\x1f\x8b"), 415),
        ("unknown_path", request("GET", "/nothing"), 404),
        ("path_traversal", request("GET", "/rest/..%2f..%2fetc"), 200),
        ("slash_in_name", request("GET", "/named/a%2Fb"), 200),
        ("more_segments", request("GET", "/named/a/b"), 404),
        ("wrong_method", request("GET", "/echo"), 405),
        ("trace", request("TRACE", "/"), 405),
        ("websocket", request("GET", "/", {"Upgrade": "websocket", "Connection": "Upgrade"}), 200),
        ("head", request("HEAD", "/"), 200),
        ("busy", request("GET", "/busy"), 429),
        ("wrong", request("GET", "/wrong"), 400),
    ],
)
async def test_hostile_bytes(node_factory: NodeFactory, name: str, raw: bytes, status: int) -> None:
    _, address = await http_node(node_factory, ("probe", Probe()))
    if name == "websocket":
        async with connection(address) as (reader, writer):
            writer.write(raw)
            answer = parsed(await reader.readuntil(b"\r\n\r\n"))
    else:
        answer = await exchange(address, raw)
    assert answer.status == status
    if status in (404, 405, 413, 415, 429, 431) and answer.body:
        assert answer.error["message"]
    if status in (404, 405, 415, 429) and answer.body:
        assert answer.headers["x-request-id"].startswith("req_")
    if name in ("no_host", "two_hosts", "absolute_uri"):
        assert "exactly one Host header" in answer.error["message"]
    if name == "busy":
        assert (answer.headers["retry-after"], answer.error["type"]) == ("1", "rate_limit_error")
    if name == "wrong":
        assert (answer.error["param"], answer.error["code"]) == ("n", "invalid_value")
    if name == "wrong_method":
        assert answer.headers["allow"] == "POST"
    if name == "path_traversal":
        assert json.loads(answer.body) == {"rest": "../../etc"}
    if name == "slash_in_name":
        assert json.loads(answer.body) == {"name": "a/b"}
    if name == "head":
        assert answer.body == b""
    assert (await exchange(address, request("GET", "/scope/public"))).status == 200


async def test_errors_of_a_dialect_have_its_shape_and_the_id(node_factory: NodeFactory) -> None:
    """Those of the endpoint, and those that come before it."""
    _, address = await http_node(node_factory, ("probe", Probe()))
    bad_key = {"x-api-key": "ait_" + "x" * 43}
    for raw, status in (
        (request("GET", "/dialect"), 429),
        (request("GET", "/dialect", bad_key), 401),
        (request("POST", "/dialect", body=b"x" * 1001), 413),
    ):
        answer = await exchange(address, raw)
        ident = answer.headers["request-id"]
        assert (answer.status, answer.body) == (status, f"{status} {ident}".encode())
        assert answer.headers["x-request-id"] == ident
    for path, status in (("/nothing", 404), ("/wrong", 400)):  # of no dialect: its clients say so
        answer = await exchange(address, request("GET", path, {"X-Dialect": "1"}))
        ident = answer.headers["request-id"]
        assert (answer.status, answer.body) == (status, f"{status} {ident}".encode())
        assert "error" in json.loads((await exchange(address, request("GET", path))).body)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/nothing", "no such path; GET / lists them"),
        ("/refuses", "no such path; the base URL ends in /v1"),
        ("/v1/v1/refuses", "no such path; the base URL has /v1 twice"),
    ],
)
async def test_a_wrong_base_url_is_told(node_factory: NodeFactory, path: str, said: str) -> None:
    _, address = await http_node(node_factory, ("probe", Probe()))
    answer = await exchange(address, request("GET", path))
    assert (answer.status, answer.error["message"]) == (404, said)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/scope/read/", 200),
        ("//scope//read", 200),
        ("/scope/read//", 200),
        ("/scope/admin/", 401),  # what a route asks of its callers does not depend on slashes
        ("//scope/admin", 401),
        ("/named/a/", 200),
        ("/scope%2Fread/", 404),
        ("/nothing/", 404),
    ],
)
async def test_slashes_too_many_do_not_matter(
    node_factory: NodeFactory, path: str, status: int
) -> None:
    """open-webui 16749, cline 12532, litellm 8350, aichat 767: a base URL that ends in a slash."""
    _, address = await http_node(node_factory, ("probe", Probe()))
    answer = await exchange(address, request("GET", path))
    assert answer.status == status
    if path.startswith("/named"):
        assert json.loads(answer.body) == {"name": "a"}


@pytest.mark.allow_error_log
async def test_endpoint_that_raises_answers_500_and_says_where_the_traceback_is(
    node_factory: NodeFactory, caplog: pytest.LogCaptureFixture
) -> None:
    _, address = await http_node(node_factory, ("probe", Probe()))
    answer = await exchange(address, request("GET", "/bug"))
    assert (answer.status, answer.error["type"]) == (500, "server_error")
    assert b"ZeroDivision" not in answer.body
    told = re.fullmatch(
        r"a bug in probe; the log has the details under error id ([0-9a-f]{8})"
        r" \(aitorrentctl logs, or journalctl -u aitorrentd\)",
        answer.error["message"],
    )
    assert told is not None
    (record,) = [r for r in caplog.records if r.exc_info]
    assert told[1] in record.getMessage()
    assert (await exchange(address, request("GET", "/scope/public"))).status == 200


@pytest.mark.parametrize(
    "drip",
    [
        b"",
        b"GET / HTTP/1.1\r\n" + HOST,
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc",
    ],
    ids=["silent", "slow_header", "slow_body"],
)
async def test_slow_clients_are_cut_off(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch, drip: bytes
) -> None:
    limits = WebLimits(header_s=0.3, body_s=0.3, one_host=True, cancels=True)
    monkeypatch.setattr(service, "LIMITS", limits)
    _, address = await http_node(node_factory, ("probe", Probe()))
    answer = await exchange(address, drip, timeout_s=5)
    assert answer.status == 408


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\n" + HOST + b"A: ",
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 999\r\n\r\n",
    ],
    ids=["header", "body"],
)
async def test_drip_feed(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    """Bytes that arrive one by one do not extend the time that a request has."""
    limits = WebLimits(header_s=0.4, body_s=0.4, one_host=True, cancels=True)
    monkeypatch.setattr(service, "LIMITS", limits)
    _, address = await http_node(node_factory, ("probe", Probe()))
    async with connection(address) as (reader, writer):
        writer.write(start)
        answer = asyncio.ensure_future(reader.read())
        for _ in range(200):
            if answer.done():
                break
            writer.write(b"a")
            await asyncio.sleep(0.02)
        assert answer.done()
        assert parsed(await answer).status == 408


async def test_one_address_has_so_many_connections(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LIMITS", WebLimits(per_address=2))
    _, address = await http_node(node_factory, ("probe", Probe()))
    async with connection(address) as first, connection(address) as second:
        for reader, writer in (first, second):
            writer.write(b"GET /scope/public HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with connection(address) as (reader, writer):
                writer.write(request("GET", "/scope/public"))
                await reader.readexactly(1)

    async def is_free() -> bool:
        try:
            return (await exchange(address, request("GET", "/scope/public"))).status == 200
        except ConnectionError:
            return False

    await wait_for(is_free)


@pytest.mark.parametrize("path", ["/hang", "/stream", "/flood"])
async def test_client_that_leaves_frees_its_handler_at_once(
    node_factory: NodeFactory, path: str
) -> None:
    probe = Probe()
    _, address = await http_node(node_factory, ("probe", probe))
    loop = asyncio.get_running_loop()
    async with connection(address) as (_, writer):
        writer.write(request("GET", path))
        await wait_for(lambda: probe.running == 1)
    left = loop.time()
    await wait_for(lambda: probe.running == 0, every_s=0.005)
    assert loop.time() - left < 0.5


async def test_full_slots_answer_429_until_one_is_free(node_factory: NodeFactory) -> None:
    probe = Probe()
    _, address = await http_node(node_factory, ("probe", probe))
    async with connection(address) as (_, first), connection(address) as (_, second):
        first.write(request("GET", "/hang"))
        second.write(request("GET", "/hang"))
        await wait_for(lambda: probe.running == 2)
        answer = await exchange(address, request("GET", "/hang"))
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert answer.error["code"] == "busy"
        text = "the limit of 2 concurrent requests on /hang is reached; try again later"
        assert answer.error["message"] == text
        first.close()
        await wait_for(lambda: probe.running == 1)
        async with connection(address) as (_, third):
            third.write(request("GET", "/hang"))
            await wait_for(lambda: probe.running == 2)


async def test_routes_leave_with_their_plugin(node_factory: NodeFactory) -> None:
    node, address = await http_node(node_factory, ("probe", Probe()))
    raw = request("GET", "/scope/public")
    assert (await exchange(address, raw)).status == 200
    await node.kernel.disable("probe")
    assert (await exchange(address, raw)).status == 404
    await node.kernel.enable("probe")
    assert (await exchange(address, raw)).status == 200
    assert (await called(node, "http.status"))["requests"] == {"probe": 2}


async def test_answers_that_run_when_the_server_stops_may_end(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = WebLimits(one_host=True, cancels=True, drain_s=0.3)
    monkeypatch.setattr(service, "LIMITS", limits)
    probe = Probe()
    node, address = await http_node(node_factory, ("probe", probe))
    async with connection(address) as (reader, writer):
        writer.write(request("GET", "/stream"))
        await reader.readuntil(b"data: 1")
        stopping = asyncio.ensure_future(node.kernel.disable("http"))
        await reader.readuntil(b"data: 1")
        await wait_for(lambda: probe.running == 0)  # cut off after drain_s
        await stopping
    with pytest.raises(ConnectionError):
        await exchange(address, request("GET", "/"))


async def test_page_says_what_runs(node_factory: NodeFactory) -> None:
    _, address = await http_node(node_factory, ("probe", Probe()))
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        assert (await client.get("/")).text == "aitorrentd is running\n"
        page = await client.get("/", headers={"Accept": "text/html"})
        assert '<a href="/scope/generate">/scope/generate</a>' in page.text
        assert "<td>/named/{name}</td>" in page.text  # no link: it lacks a name
        assert "<td>/rest/{rest}</td>" in page.text
        assert "<meta name=viewport" in page.text
        assert "color-scheme:light dark" in page.text
        assert "/scope/admin" not in page.text and "/v1/refuses" not in page.text
        assert "<td>probe</td><td>running</td><td>routes for tests</td>" in page.text
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        proxied = {"Accept": "application/json", "X-Forwarded-For": "192.0.2.1"}
        shown = (await client.get("/", headers=proxied)).json()
        assert "plugins" not in shown
        assert "/scope/public" in [route["path"] for route in shown["routes"]]
        assert "/scope/read" not in [route["path"] for route in shown["routes"]]


async def test_openapi_document_has_what_the_caller_may_use(node_factory: NodeFactory) -> None:
    _, address = await http_node(node_factory, ("probe", Probe()))
    answer = await exchange(address, request("GET", "/openapi.json"))
    found = json.loads(answer.body)
    assert answer.status == 200
    assert found["openapi"] == "3.1.0"
    assert set(found["paths"]["/scope/read"]) == {"get", "post"}
    assert not {"/scope/admin", "/v1/refuses"} & {*found["paths"]}
    assert found["servers"] == [{"url": "http://127.0.0.1"}]  # as the request named it
    assert found["paths"]["/rest/{rest}"]["get"]["parameters"] == [
        {"name": "rest", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    assert "security" not in found["paths"]["/"]["get"]
    assert found["paths"]["/echo"]["post"]["x-aitorrent-max-body"] == 1000
    proxied = await exchange(
        address, request("GET", "/openapi.json", {"X-Forwarded-For": "192.0.2.1"})
    )
    assert "/scope/read" not in json.loads(proxied.body)["paths"]
    assert json.loads(proxied.body)["servers"] == [{"url": "/"}]


async def test_unix_socket_has_the_roles_of_the_control_socket(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    path = tmp_path / "http.sock"
    node, _ = await http_node(node_factory, ("probe", Probe()), unix_socket=str(path), anonymous=[])
    assert str(path) in (await called(node, "http.status"))["listening"]
    raw = request("POST", "/scope/admin", host="whatever")
    assert (await exchange(str(path), raw)).status == 200  # this user runs the node
    await node.stop()
    assert not path.exists()


async def test_tls(node_factory: NodeFactory, tmp_path: Path) -> None:
    _, certificate = tls_for(tmp_path)
    key = tmp_path / "hub.key"
    probe = Probe()
    _, address = await http_node(
        node_factory, ("probe", probe), tls_cert=str(certificate), tls_key=str(key)
    )
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        assert (await client.get(f"https://{address}/scope/read")).text == "ok"
        too_long = await client.get(f"https://{address}/{'a' * 40_000}")
        assert too_long.status_code == 431
        with pytest.raises(httpx.ReadTimeout):
            await client.get(f"https://{address}/hang", timeout=0.5)
        await wait_for(lambda: probe.cancelled == 1)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(f"http://{address}/")


async def test_sockets_from_the_service_manager_are_served_by_name(
    node_factory: NodeFactory,
) -> None:
    given, stray = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    sources = [PluginSource.of(HttpPlugin, name="http")]
    settings = {"plugins": {"http": {"port": 0}}}
    node = node_factory.make(settings, sources=sources, given={"http": [given], "stray": [stray]})
    await node.start()
    address = f"127.0.0.1:{given.getsockname()[1]}"
    assert stray.fileno() == -1  # no plugin has that name
    for _ in range(2):
        assert address in (await called(node, "http.status"))["listening"]
        assert (await exchange(address, request("GET", "/"))).status == 200
        await node.kernel.restart("http")
    await node.stop()
    assert given.fileno() == -1


async def test_a_node_without_the_default_port_runs_and_says_so(
    node_factory: NodeFactory,
) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # taken already is as good
            stack.enter_context(socket.create_server(("127.0.0.1", 8000)))
        sources = [PluginSource.of(HttpPlugin, name="http")]
        node = await node_factory({}, sources=sources)
        assert node.kernel.row("http").state == "running"
        (warning,) = [w.text for _, w in node.health()]
        assert "cannot listen on 127.0.0.1:8000/tcp: address already in use" in warning
        assert "set plugins.http.port" in warning


@pytest.mark.allow_error_log
async def test_certificate_that_cannot_be_read_is_an_error_that_names_it(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    missing = str(tmp_path / "none.pem")
    settings = {"plugins": {"http": {"port": 0, "tls_cert": missing, "tls_key": missing}}}
    sources = [PluginSource.of(HttpPlugin, name="http")]
    row = (await node_factory(settings, sources=sources)).kernel.row("http")
    assert row.state == "invalid"
    assert f"cannot use the certificate {missing}" in row.detail


async def test_new_certificate_is_used_without_a_restart(
    node_factory: NodeFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CERT_S", 0.02)
    _, certificate = tls_for(tmp_path)
    key = tmp_path / "hub.key"
    _, address = await http_node(node_factory, tls_cert=str(certificate), tls_key=str(key))
    port = int(address.rpartition(":")[2])

    def served() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=5)

    first = await asyncio.to_thread(served)
    tls_for(tmp_path)
    await wait_for(lambda: _differs(served, first))


async def _differs(served: Callable[[], str], first: str) -> bool:
    return await asyncio.to_thread(served) != first
