"""Metrics and health over HTTP: who may read what, probes, drains, and labels from strangers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from aitorrent_gateway.plugin import GatewayPlugin
from aitorrent_http import service as http_service
from aitorrent_inference.plugin import InferencePlugin
from aitorrent_monitor import readiness
from aitorrent_monitor.plugin import MonitorPlugin
from aitorrentd.api import NotFound, Unavailable
from aitorrentd.api.faces.asgi import WebLimits
from aitorrentd.node import Node
from tests.support import cli_runs
from tests.support.clients.raw_http import connection, exchange, request
from tests.support.gateway_nodes import BackendPlugin
from tests.support.http_nodes import Probe, http_node, new_token
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import REPOSITORY, DaemonFactory, NodeFactory, free_port, wait_for
from tests.support.scraping import scraped
from tools.metrics_page import families

STRANGERS = {"X-Forwarded-For": "192.0.2.1"}


async def monitored(
    factory: NodeFactory, *plugins: tuple[str, Any], **settings: Any
) -> tuple[Node, str]:
    return await http_node(factory, ("monitor", MonitorPlugin()), *plugins, **settings)


async def got(address: str, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    answer = await exchange(address, request("GET", path, headers))
    return answer.status, json.loads(answer.body)


async def test_scrape_needs_the_role_read(node_factory: NodeFactory) -> None:
    node, address = await monitored(node_factory, anonymous=[])
    token = await new_token(node, "read")
    for headers, status in (
        ({}, 401),
        ({"Authorization": f"Bearer {await new_token(node, 'generate')}"}, 403),
        ({"Authorization": f"Bearer {token}"}, 200),
        ({"x-api-key": token}, 200),
    ):
        assert (await exchange(address, request("GET", "/metrics", headers))).status == status
    shown = await scraped(address, Authorization=f"Bearer {token}")
    codes = shown.of("aitorrent_http_requests_total")
    assert codes == {
        '{route="/metrics",code="401"}': 1,
        '{route="/metrics",code="403"}': 1,
        '{route="/metrics",code="200"}': 2,
    }
    assert shown.of("aitorrent_plugin_state") == {
        '{plugin="http",state="running"}': 1,
        '{plugin="monitor",state="running"}': 1,
    }
    assert shown.values["process_open_fds"] > 3
    assert shown.values["process_resident_memory_bytes"] > 2**20


@pytest.mark.parametrize(
    ("headers", "kind", "ends"),
    [
        ({}, "text/plain; version=0.0.4; charset=utf-8", False),
        ({"Accept-Encoding": "gzip"}, "text/plain; version=0.0.4; charset=utf-8", False),
        (
            {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"},
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            True,
        ),
    ],
)
async def test_format_is_the_one_that_was_asked_for(
    node_factory: NodeFactory, headers: dict[str, str], kind: str, ends: bool
) -> None:
    _, address = await monitored(node_factory)
    answer = await exchange(address, request("GET", "/metrics", headers))
    assert answer.headers["content-type"] == kind
    assert answer.body.endswith(b"\n# EOF\n") is ends
    assert "content-encoding" not in answer.headers
    assert (b"# TYPE process_cpu_seconds counter" in answer.body) is ends


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
async def test_probe_gets_the_status_alone(node_factory: NodeFactory, path: str) -> None:
    """A kubelet names the pod's address, has no token, and follows no redirect."""
    node, address = await monitored(node_factory)
    port = address.rpartition(":")[2]
    await wait_for(lambda: node.state == "running")
    probe = {"User-Agent": "kube-probe/1.31", "Accept": "*/*", "Connection": "close"}
    raw = request("GET", path, {**probe, **STRANGERS}, host=f"10.42.0.17:{port}")
    answer = await exchange(address, raw)
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})
    head = await exchange(address, request("HEAD", path, STRANGERS))
    assert (head.status, head.body) == (200, b"")
    status, body = await got(address, path)  # from this machine
    assert (status, body["status"]) == (200, "ok")
    assert {name for name, check in body["checks"].items() if not check["ok"]} == set()


async def test_drain_is_not_ready_at_once_but_alive(node_factory: NodeFactory) -> None:
    node, address = await monitored(node_factory)
    assert (await got(address, "/readyz"))[0] == 200
    await node.drain(timeout_s=0)
    status, body = await got(address, "/readyz")
    assert status == 503
    assert body["status"] == "unavailable"
    assert body["checks"]["draining"] == {
        "ok": False,
        "text": "the node drains: it ends its work and takes no more",
    }
    assert await got(address, "/readyz", **STRANGERS) == (503, {"status": "unavailable"})
    assert (await got(address, "/health"))[0] == 503
    assert (await got(address, "/livez"))[0] == 200
    assert (await scraped(address)).values["aitorrent_draining"] == 1
    node.undrain()
    assert (await got(address, "/readyz"))[0] == 200


async def test_health_sums_up_the_node(node_factory: NodeFactory) -> None:
    _, address = await monitored(node_factory)
    _, body = await got(address, "/health")
    assert body["state"] == "running"
    assert body["plugins"]["running"] == 2
    assert set(body["checks"]) == {"draining", "node", "control", "storage", "overlay"}
    assert body["checks"]["overlay"]["text"] == "this node has no peers"


async def test_node_without_what_it_needs_is_not_ready(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "KEEP_S", 0.0)
    node, address = await monitored(node_factory)
    monkeypatch.setattr(readiness, "LEAST_FREE_BYTES", 2**80)
    _, body = await got(address, "/readyz")
    assert not body["checks"]["storage"]["ok"]
    assert body["checks"]["storage"]["text"].endswith(" are free")
    monkeypatch.undo()
    monkeypatch.setattr(readiness, "KEEP_S", 0.0)
    assert (await got(address, "/readyz"))[0] == 200
    if node.control_path is not None:
        node.control_path.unlink()
        _, body = await got(address, "/readyz")
        assert body["checks"]["control"]["text"] == f"{node.control_path} was removed"


async def test_loop_that_is_late_is_not_alive(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = await monitored(node_factory)

    async def late_s() -> float:
        return 1.2

    monkeypatch.setattr("aitorrent_monitor.service.loop_lag_s", late_s)
    status, body = await got(address, "/livez")
    assert (status, body["checks"]["loop"]["text"]) == (
        503,
        "the event loop answered after 1.200 s",
    )
    assert (await got(address, "/readyz"))[0] == 200


async def test_checks_run_once_for_a_flood_of_probes(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may ask whether the node is ready; it looks at most once a second."""
    looked = []
    real = readiness.check_storage

    def counted(at: Path) -> readiness.Check:
        looked.append(at)
        return real(at)

    monkeypatch.setattr(readiness, "check_storage", counted)
    monkeypatch.setattr(readiness, "KEEP_S", 60.0)
    _, address = await monitored(node_factory)
    answers = await asyncio.gather(*(got(address, "/readyz", **STRANGERS) for _ in range(30)))
    assert answers == [(200, {"status": "ok"})] * 30
    assert len(looked) == 1


async def test_counters_begin_again_when_a_plugin_is_restarted(node_factory: NodeFactory) -> None:
    """As after a restart of the daemon: from 0, which `rate` knows how to read."""
    node, address = await monitored(node_factory, ("inference", InferencePlugin()))
    for _ in range(3):
        with contextlib.suppress(NotFound, Unavailable):
            await node.ask("x")
    name = "aitorrent_generations_total"
    assert (await scraped(address)).of(name) == {'{backend="none",reason="error"}': 3}
    await node.kernel.restart("inference")
    assert (await scraped(address)).of(name) == {}
    restarts = (await scraped(address)).of("aitorrent_plugin_restarts_total")
    assert restarts['{plugin="inference"}'] == 0  # asked for, so no failure


@pytest.mark.parametrize(
    ("row", "is_ok"),
    [
        (None, True),
        ({"state": "running", "detail": ""}, True),
        ({"state": "disabled", "detail": ""}, True),
        ({"state": "starting", "detail": ""}, False),
        ({"state": "failed", "detail": "port 8468 is taken"}, False),
        ({"state": "blocked", "detail": ""}, False),
    ],
)
def test_overlay_is_ready_when_the_transport_runs(row: dict[str, str] | None, is_ok: bool) -> None:
    found = readiness.check_overlay({} if row is None else {"transport": row})
    assert found.is_ok is is_ok
    if row and row["detail"]:
        assert found.text == "transport is failed: port 8468 is taken"


def test_storage_that_is_gone_is_told(tmp_path: Path) -> None:
    found = readiness.check_storage(tmp_path / "gone")
    assert (found.is_ok, found.text) == (False, f"{tmp_path}/gone: no such file or directory")


async def test_strangers_cannot_add_series(node_factory: NodeFactory) -> None:
    """metrics_cardinality: 10,000 paths and 10,000 models, and not a line more for each."""
    plugins = (
        ("inference", InferencePlugin()),
        ("gateway", GatewayPlugin()),
        ("fake", BackendPlugin(FakeBackend("local", models=["m"]))),
    )
    node, address = await monitored(node_factory, *plugins)
    asked = {"messages": [{"role": "user", "content": "x"}]}
    bodies = [json.dumps({"model": f"strange{i}", **asked}).encode() for i in range(100)]
    async with connection(address) as (reader, writer):
        for i in range(0, 10_000, 100):
            writer.writelines(
                f"GET /strange{n}?strange{n} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
                for n in range(i, i + 100)
            )
            await drained(reader, 100)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        writer.writelines(head % (len(body), body) for body in bodies)
        await drained(reader, 100)
    for i in range(100, 10_000):
        with contextlib.suppress(NotFound):
            await node.ask("x", model=f"strange{i}")
    shown = await scraped(address)
    requests = shown.of("aitorrent_http_requests_total")
    assert requests['{route="none",code="404"}'] == 10_000
    assert requests['{route="/v1/chat/completions",code="404"}'] == 100
    assert shown.of("aitorrent_generations_total") == {'{backend="none",reason="error"}': 10_000}
    assert "strange" not in shown.text
    assert len(shown.values) < 200


async def drained(reader: asyncio.StreamReader, answers: int) -> None:
    """Read so many answers."""
    for _ in range(answers):
        head = await reader.readuntil(b"\r\n\r\n")
        size = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        await reader.readexactly(int(size))


async def test_clients_that_leave_are_counted_as_such(node_factory: NodeFactory) -> None:
    probe = Probe()
    _, address = await monitored(node_factory, ("probe", probe))
    for path in ("/hang", "/stream"):
        async with connection(address) as (_, writer):
            writer.write(request("GET", path))
            await wait_for(lambda: probe.running == 1)
        await wait_for(lambda: probe.running == 0)

    async def counted() -> dict[str, float]:
        return (await scraped(address)).of("aitorrent_http_requests_total")

    found = await counted()
    assert found['{route="/hang",code="499"}'] == 1
    assert found['{route="/stream",code="200"}'] == 1


async def test_requests_refused_before_routing_are_counted(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By status, whatever they ask for; one whose route is known counts there, and once."""
    limits = WebLimits(header_s=0.3, body_s=0.3, header_bytes=999, one_host=True, cancels=True)
    monkeypatch.setattr(http_service, "LIMITS", limits)
    _, address = await monitored(node_factory, ("probe", Probe()))
    slow = b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nabc"
    for raw, status in (
        (b"", 408),
        (request("GET", "/", {"X-Large": "x" * 2000}), 431),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"no HTTP\r\n\r\n", 400),
        (request("GET", "/", host="elsewhere.example"), 421),
        (request("POST", "/echo", body=b"x" * 1001), 413),
        (slow, 408),
    ):
        assert (await exchange(address, raw)).status == status

    async def counted() -> dict[str, float]:
        return (await scraped(address)).of("aitorrent_http_requests_total")

    found = await wait_for(counted)
    expected = {("none", 408): 1, ("none", 431): 1, ("none", 400): 2, ("none", 421): 1}
    expected |= {("/echo", 413): 1, ("/echo", 408): 1}
    named = {f'{{route="{route}",code="{code}"}}': n for (route, code), n in expected.items()}
    assert {key: n for key, n in found.items() if "/metrics" not in key} == named


@pytest.mark.allow_error_log
async def test_endpoint_that_raises_is_counted_as_500(node_factory: NodeFactory) -> None:
    _, address = await monitored(node_factory, ("probe", Probe()))
    await exchange(address, request("GET", "/bug"))
    codes = (await scraped(address)).of("aitorrent_http_requests_total")
    assert codes['{route="/bug",code="500"}'] == 1


async def test_daemon_is_scraped_by_prometheus(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """A real Prometheus, with the configuration of the documentation, and promtool's lint."""
    prometheus, promtool = shutil.which("prometheus"), shutil.which("promtool")
    if prometheus is None or promtool is None:
        pytest.skip("needs Prometheus (apt install prometheus)")
    on = {"enabled": True, "port": 0, "anonymous": []}
    daemon = await daemon_factory({"plugins": {"http": on}})
    address = (await daemon.call("http.status"))["listening"][0]
    token = (await daemon.call("http.tokens.new", {"name": "p", "role": "read"}))["token"]
    page = await exchange(address, request("GET", "/metrics", {"x-api-key": token}))
    lint = [promtool, "check", "metrics"]
    done = await asyncio.to_thread(subprocess.run, lint, input=page.body, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")

    code, out, _ = await cli_runs.run(daemon, "metrics", "build")
    assert (code, out.splitlines()[1].split()[0].partition("{")[0]) == (0, "aitorrent_build_info")
    code, out, _ = await cli_runs.run(daemon, "--json", "metrics", "loop_lag")
    metric = json.loads(out)["metrics"][0]
    assert (code, metric["name"], metric["kind"]) == (0, "aitorrent_loop_lag_seconds", "histogram")
    assert metric["series"][0]["buckets"]["+Inf"] == metric["series"][0]["count"]
    code, out, _ = await cli_runs.run(daemon, "metrics", "nothing")
    assert (code, out) == (0, "no metric starts with 'nothing'\n")

    config, secret, port = tmp_path / "prometheus.yml", tmp_path / "token", free_port()
    secret.write_text(token)
    config.write_text(
        documented("scrape_configs")
        .replace("/etc/prometheus/aitorrentd.token", str(secret))
        .replace("127.0.0.1:8000", address)
        .replace("15s", "1s")
    )
    process = await asyncio.create_subprocess_exec(
        prometheus,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False
        ) as client:

            async def target() -> dict[str, Any] | None:
                with contextlib.suppress(httpx.TransportError):
                    answer = await client.get("/api/v1/targets")
                    if answer.status_code == 503:  # it still reads its data
                        return None
                    found = answer.json()["data"]["activeTargets"]
                    return next((t for t in found if t["health"] == "up"), None)
                return None

            scraped_target = await wait_for(target, 30)
            assert scraped_target is not None
            assert (scraped_target["health"], scraped_target["lastError"]) == ("up", "")

            async def query(text: str) -> list[dict[str, Any]]:
                found = await client.get("/api/v1/query", params={"query": text})
                rows: list[dict[str, Any]] = found.json()["data"]["result"]
                return rows

            (built,) = await wait_for(lambda: query("aitorrent_build_info"))
            assert built["metric"]["job"] == "aitorrentd"
            assert await query('aitorrent_plugin_state{plugin="monitor",state="running"} == 1')
            assert await query("histogram_quantile(0.5, aitorrent_loop_lag_seconds_bucket) > 0")
            metadata = (await client.get("/api/v1/metadata")).json()["data"]
            declared = {f.name: f for listed in families().values() for f in listed}
            for name, (known, *_) in metadata.items():
                if name.startswith("aitorrent_"):
                    family = next(f for f in declared.values() if name in (f.name, f.base))
                    assert (known["type"], known["help"]) == (family.kind, family.help)
    finally:
        process.terminate()
        await process.wait()


def documented(begin: str) -> str:
    """The YAML block of docs/monitoring.md that begins with this key."""
    page = (REPOSITORY / "docs" / "monitoring.md").read_text()
    blocks: list[str] = re.findall(r"```yaml\n(.*?)```", page, re.S)
    return next(block for block in blocks if block.startswith(begin))
