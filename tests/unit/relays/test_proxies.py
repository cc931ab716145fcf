"""Proxies and certificates from the environment, in the forms that people write."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from aitorrent_openai.backend import OpenaiBackend
from aitorrent_openai.config import ServerConfig
from aitorrentd.api import GenerateRequest, Unavailable
from aitorrentd.api.models.proxies import proxy_for, shown
from tests.support.clocks import FakeClock
from tests.support.servers.http_server import HttpServer, Reply, Request
from tests.support.servers.openai_server import FakeOpenai
from tests.support.servers.relays import answer, closed_after

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
ASKED = GenerateRequest(model="gpt-4o-mini", prompt="hi")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def backend_at(url: str) -> OpenaiBackend:
    config = ServerConfig(name="test", url=url, models=("gpt-4o-mini",))
    log = logging.getLogger("test.proxies")
    return OpenaiBackend(config, clock=FakeClock(), log=log, node="12D3KooWme")


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("http://llm.example.org/v1", {}, None),
        ("http://llm.example.org/v1", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://llm.example.org/v1", {"HTTPS_PROXY": "http://p:1"}, None),
        ("https://llm.example.org/v1", {"https_proxy": "p:1", "HTTPS_PROXY": "q:2"}, "http://p:1"),
        ("https://llm.example.org/v1", {"ALL_PROXY": "socks://p:1/"}, "socks5://p:1/"),
        ("https://llm.example.org/v1", {"ALL_PROXY": " "}, None),
        ("http://127.0.0.1:8080/v1", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://localhost:8080/v1", {"ALL_PROXY": "http://p:1"}, None),
        ("http://[::1]:8080/v1", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://192.168.1.7/v1", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://192.168.1.7/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "192.168.0.0/16"}, None),
        ("http://192.168.1.7/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "10.0.0.0/8"}, "http://p:1"),
        ("http://[fd00::7]/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "::1,fd00::/8"}, None),
        ("http://[fd00::7]/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "[fd00::7]"}, None),
        ("http://llm.example.org/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "example.org"}, None),
        ("http://llm.example.org/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "x, .Example.org"}, None),
        ("http://llm.example.org/v1", {"HTTP_PROXY": "p:1", "no_proxy": "*.example.org"}, None),
        ("http://example.org/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "ample.org"}, "http://p:1"),
        ("http://llm.example.org/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "*"}, None),
        ("http://h:8080/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "h:8080"}, None),
        ("http://h:8080/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "h:80"}, "http://p:1"),
    ],
)
def test_proxy_is_the_one_that_the_environment_means(
    url: str, environment: dict[str, str], proxy: str | None
) -> None:
    assert proxy_for(url, environment) == proxy


def test_password_of_a_proxy_is_not_shown() -> None:
    assert shown("http://me:secret@proxy:3128/") == shown("me:secret@proxy:3128") == "proxy:3128"


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks://127.0.0.1:9", "gopher://x"])
async def test_server_on_this_machine_needs_no_proxy(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("SSL_CERT_FILE", "/does/not/exist")
    async with FakeOpenai() as server, closed_after(backend_at(server.url)) as backend:
        assert (await answer(backend, ASKED))[-1].done


async def test_other_servers_are_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.send(200, b'{"data": [{"id": "gpt-4o-mini"}]}', "application/json")

    async with HttpServer(handler) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with closed_after(backend_at("http://llm.example.org/v1")) as backend:
            assert [view.name for view in await backend.models()] == ["gpt-4o-mini"]
    assert [r.path for r in proxy.requests] == ["http://llm.example.org/v1/models"]
    async with closed_after(backend_at("http://llm.example.org/v1")) as backend:
        with pytest.raises(Unavailable, match=r"cannot connect to .*; through the proxy 127\.0"):
            await backend.models()


@pytest.mark.parametrize("proxy", ["socks4://user:pw@p:1", "gopher://user:pw@p:1", "http://p:x"])
async def test_proxy_that_cannot_be_used_is_told_and_harms_nothing(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    async with closed_after(backend_at("http://llm.example.org/v1")) as backend:
        for _ in range(2):
            with pytest.raises(Unavailable, match="cannot use the proxy p:") as caught:
                await backend.models()
    assert "NO_PROXY" in caught.value.message
    assert "pw" not in caught.value.message


async def test_certificates_that_are_not_there_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    async with closed_after(backend_at("https://llm.example.org/v1")) as backend:
        with pytest.raises(Unavailable, match="certificates that SSL_CERT_FILE"):
            await backend.models()


@pytest.mark.parametrize(("host", "told"), [("gpu.local", True), ("llm.example.org", False)])
async def test_only_servers_nearby_learn_which_node_asks(
    monkeypatch: pytest.MonkeyPatch, host: str, told: bool
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.send(200, b'{"data": [{"id": "gpt-4o-mini"}]}', "application/json")

    async with HttpServer(handler) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with closed_after(backend_at(f"http://{host}/v1")) as backend:
            await backend.models()
    (request,) = proxy.requests
    assert request.headers.get("x-aitorrent-node") == ("12D3KooWme" if told else None)
