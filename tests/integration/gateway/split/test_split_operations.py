"""Prometheus, curl, and what Open WebUI and VS Code send, in a namespace without an internet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from aitorrent_gateway.images.pictures import picture
from tests.integration.gateway.ollama.test_ollama_stream import REPLAYED
from tests.support.clients.sealed import PORT, sealed
from tests.support.gateway_nodes import code_blocks
from tests.support.shards.split_daemons import URL, Split

JSON: Final = ("-H", "Content-Type: application/json")
SCRAPED: Final = """prometheus --config.file=prometheus.yml --storage.tsdb.path=data \\
    --web.listen-address=127.0.0.1:9090 2>prometheus.log &
until curl -sS --fail-with-body -G 127.0.0.1:9090/api/v1/query 2>/dev/null \\
    --data-urlencode 'query=sum(aitorrent_http_requests_total)' | grep -s '"value"'
do sleep 0.2; done
until curl -sS 127.0.0.1:9090/api/v1/targets | grep '"health":"up"'
do sleep 0.2; done
"""


async def test_prometheus_scrapes(split: Split, tmp_path: Path) -> None:
    """By the configuration of the documentation; promtool finds nothing to say."""
    if shutil.which("prometheus") is None:
        pytest.skip("needs Prometheus (apt install prometheus)")
    checked = f"curl -sS {URL}/metrics | promtool check metrics"
    assert await split.run("sh", "-c", checked, cwd=tmp_path) == ""
    (config,) = (c for c in code_blocks("monitoring", "yaml") if "scrape_configs" in c)
    token = (await split.daemons[0].call("http.tokens.new", {"name": "p", "role": "read"}))["token"]
    (tmp_path / "token").write_text(token)
    config = config.replace("/etc/prometheus/aitorrentd.token", str(tmp_path / "token"))
    (tmp_path / "prometheus.yml").write_text(config.replace("15s", "1s"))
    out = await split.run("sh", "-c", SCRAPED, cwd=tmp_path)
    first, targets = out.splitlines()
    assert json.loads(first)["data"]["result"]
    (target,) = json.loads(targets)["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    for path in ("livez", "readyz"):
        assert await split.run("curl", "-sS", f"{URL}/{path}", cwd=tmp_path)


async def test_curl(split: Split, tmp_path: Path) -> None:
    """Over the Unix socket, and for a picture."""
    unix = ("curl", "-sS", "--unix-socket", str(split.socket))
    asked = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
    path = "http://localhost/v1/chat/completions"
    answer = json.loads(await split.run(*unix, *JSON, "-d", asked, path, cwd=tmp_path))
    assert answer["x_aitorrent"]["stages"] == [[0, 1], [1, 2], [2, 3]]
    wanted = ("-H", "Accept: image/png", "-d", '{"prompt": "a cave"}', "-o", "image.png")
    await split.run("curl", "-sS", *JSON, *wanted, f"{URL}/img", cwd=tmp_path)
    assert picture((tmp_path / "image.png").read_bytes(), "node").media_type == "image/png"


@contextlib.asynccontextmanager
async def through(address: str, socket: Path) -> AsyncIterator[None]:
    """A Unix socket that leads to a TCP port, for a namespace that has none of it."""
    host, _, port = address.rpartition(":")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))

        async def copied(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while received := await source.read(65_536):
                sink.write(received)
                await sink.drain()
            sink.close()

        with contextlib.suppress(ConnectionError):
            await asyncio.gather(copied(reader, back), copied(there, writer))

    async with await asyncio.start_unix_server(connected, socket):
        yield


async def test_curl_with_tls(split: Split, tmp_path: Path) -> None:
    """The second node serves it, and coordinates the same model."""
    second = split.daemons[1]
    address = (await second.call("http.status"))["listening"][0]
    asked = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
    socket = tmp_path / "tls.sock"
    command = (
        "curl",
        "-sS",
        "--cacert",
        str(split.socket.with_name("hub.pem")),
        "--connect-to",
        f"::127.0.0.1:{PORT}",
    )
    async with through(address, socket):
        status, out, err = await sealed(
            (*command, *JSON, "-d", asked, f"https://{address}/v1/chat/completions"),
            socket,
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin"},
        )
    assert status == 0, err
    assert json.loads(out)["x_aitorrent"]["stages"] == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize("program", ["open webui", "copilot"])
async def test_requests_of(split: Split, tmp_path: Path, program: str) -> None:
    """What it asks to begin with, and then sends, as its code says."""
    for path in ("/api/version", "/api/tags", "/api/ps", "/v1/models"):
        assert json.loads(await split.run("curl", "-sS", "-f", URL + path, cwd=tmp_path))
    for request in REPLAYED[program]:
        body: dict[str, Any] = request.body
        command = ("curl", "-sS", "-f", *JSON, "-d", json.dumps(body), URL + request.path)
        lines = (await split.run(*command, cwd=tmp_path)).splitlines()
        if "messages" in body:
            assert (final := json.loads(lines[-1]))["done"]
            assert final["done_reason"] in ("stop", "length")
