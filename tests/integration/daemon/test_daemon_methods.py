"""The core's control methods: every answer has the shape that rpc.describe promises."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from aitorrentd.api.plugin import Method
from aitorrentd.control.aclient import AsyncClient
from aitorrentd.errors import (
    AitorrentError,
    ConfigError,
    Conflict,
    InvalidParams,
    MethodNotFound,
    NotFound,
    TimedOut,
    Unavailable,
)
from aitorrentd.methods.shapes import ConfigKey
from aitorrentd.methods.source import Methods
from aitorrentd.node import Node
from aitorrentd.runtime.reload import change_setting, reload
from tests.support.nodes import (
    REPOSITORY,
    Daemon,
    DaemonFactory,
    NodeFactory,
    merged,
    wait_for,
)
from tests.support.process_plugins import install

OFF = ("transport", "dht", "discovery", "nat", "inference", "ollama", "openai", "shards")
QUIET: dict[str, Any] = {"plugins": {name: {"enabled": False} for name in OFF}}


@pytest.fixture
async def daemon(daemon_factory: DaemonFactory, tmp_path: Path) -> Daemon:
    return await daemon_factory(QUIET, env=install(tmp_path / "third-party"))


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[AsyncClient]:
    async with await daemon.client() as connected:
        yield connected


def model(node: Node, method: str) -> type[BaseModel]:
    found: Method = Methods(node).method(method)[1]
    return found.result


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("rpc.ping", {}),
        ("rpc.list", {}),
        ("rpc.describe", {"prefix": "node."}),
        ("node.status", {}),
        ("node.id", {}),
        ("node.version", {}),
        ("node.wait", {}),
        ("node.wait", {"plugin": "odd"}),
        ("node.reload", {}),
        ("plugin.list", {}),
        ("plugin.info", {"name": "odd"}),
        ("plugin.restart", {"name": "odd"}),
        ("plugin.disable", {"name": "odd"}),
        ("plugin.enable", {"name": "odd"}),
        ("config.show", {}),
        ("config.show", {"origin": True}),
        ("config.get", {"key": "log.level"}),
        ("config.set", {"key": "log.level", "value": "warning"}),
        ("config.check", {}),
    ],
)
async def test_answer_has_exactly_the_promised_fields(
    client: AsyncClient, node_factory: NodeFactory, method: str, params: dict[str, Any]
) -> None:
    promised = model(await node_factory(sources=[]), method)
    answer = await client.call(method, params)
    promised.model_validate(answer)
    optional = {"params", "result"}
    assert set(answer) == set(promised.model_fields) - (optional - set(answer))


async def test_describe_lists_core_and_plugin_methods_with_schemas(client: AsyncClient) -> None:
    methods = (await client.call("rpc.describe"))["methods"]
    by_name = {m["name"]: m for m in methods}
    assert list(by_name) == sorted(by_name)
    assert by_name["config.set"]["role"] == "admin"
    assert by_name["plugin.enable"]["role"] == "operate"
    assert by_name["node.events"]["stream"] is True
    assert by_name["odd.shown"]["plugin"] == "odd"
    assert by_name["node.wait"]["params"]["properties"]["timeout_s"]["default"] == 30.0
    for method in methods:
        assert method["summary"].endswith(".")
        assert method["params"]["type"] == method["result"]["type"] == "object"
    listed = (await client.call("rpc.list", {"prefix": "odd."}))["methods"]
    assert [m["name"] for m in listed] == ["odd.block", "odd.shown"]
    assert "params" not in listed[0]


async def test_wait_says_why_a_plugin_will_never_run(client: AsyncClient) -> None:
    with pytest.raises(Unavailable, match="plugin transport is disabled"):
        await client.call("node.wait", {"plugin": "transport"})
    with pytest.raises(NotFound, match="nonesuch"):
        await client.call("node.wait", {"plugin": "nonesuch"})
    with pytest.raises(InvalidParams, match="unknown state 'flying'; known states: running"):
        await client.call("node.wait", {"plugin": "odd", "state": "flying"})
    with pytest.raises(TimedOut, match=r"odd is running, not stopped, after 0\.05 s"):
        await client.call("node.wait", {"plugin": "odd", "state": "stopped", "timeout_s": 0.05})


async def test_wait_ends_when_the_plugin_gets_there(client: AsyncClient) -> None:
    await client.call("plugin.disable", {"name": "odd"})
    params = {"plugin": "odd", "state": "disabled"}
    assert await client.call("node.wait", params) == {"name": "odd", "state": "disabled"}
    waiting = asyncio.create_task(client.call("node.wait", {"plugin": "odd", "state": "running"}))
    with pytest.raises(Unavailable, match="plugin odd is disabled"):
        await waiting
    await client.call("plugin.enable", {"name": "odd"})
    assert await client.call("node.wait", {"plugin": "odd"}) == {"name": "odd", "state": "running"}


async def test_events_are_followed_by_topic(client: AsyncClient) -> None:
    events = client.stream("node.events", {"topics": ["plugin."]})
    first = asyncio.ensure_future(anext(events))
    await client.call("rpc.ping")
    await client.call("plugin.restart", {"name": "odd"})
    event = await asyncio.wait_for(first, 10)
    assert event["topic"] == "plugin.changed"
    assert event["event"]["plugin"] == "odd"
    assert event["at"] > 1_700_000_000
    await events.aclose()  # type: ignore[attr-defined]


async def test_logs_are_filtered_and_followed(client: AsyncClient) -> None:
    old = [line async for line in client.stream("node.logs", {"plugin": "odd"})]
    assert [line["text"] for line in old] == ["my secret is default-psk"]
    few = [line async for line in client.stream("node.logs", {"lines": 1})]
    assert len(few) == 1
    none = [line async for line in client.stream("node.logs", {"level": "error"})]
    assert none == []
    new = client.stream("node.logs", {"follow": True, "lines": 0, "plugin": "odd"})
    following = asyncio.ensure_future(anext(new))
    await client.call("rpc.ping")
    await client.call("plugin.restart", {"name": "odd"})
    assert (await asyncio.wait_for(following, 10))["text"] == "my secret is default-psk"
    await new.aclose()  # type: ignore[attr-defined]


async def test_setting_takes_effect_and_is_still_there_after_a_restart(
    daemon_factory: DaemonFactory, daemon: Daemon, tmp_path: Path
) -> None:
    changed = await daemon.call("config.set", {"key": "plugins.odd.seconds", "value": "2.5"})
    assert changed["applied"] == changed["changed"] == ["plugins.odd.seconds"]
    assert (await daemon.call("odd.shown"))["seconds"] == 2.5
    network = await daemon.call("config.set", {"key": "node.network", "value": "lab"})
    assert network["restart"] == ["node.network"]
    renamed = await daemon.call("config.set", {"key": "node.name", "value": "zoe"})
    assert renamed["restart"] == ["node.name"]
    now = await daemon.call("node.status")
    assert now["name"] != "zoe", "peers are still told the old name"
    assert now["network"] != "lab"
    original = (daemon.directory / "aitorrent.yaml").read_text()
    await daemon.stop()
    environ = {"PYTHONPATH": str(tmp_path / "third-party")}
    again = await daemon_factory(directory=daemon.directory, env=environ)
    then = await again.call("node.status")
    assert (then["name"], then["network"]) == ("zoe", "lab")
    assert (await again.call("odd.shown"))["seconds"] == 2.5
    assert (daemon.directory / "aitorrent.yaml").read_text() == original


async def test_setting_that_no_file_gives_is_shown_with_its_default(client: AsyncClient) -> None:
    answer = await client.call("config.get", {"key": "plugins.odd.seconds"})
    assert (answer["value"], answer["origin"]) == (0.0, "default")
    with pytest.raises(NotFound, match=r"plugins\.odd\.secnds is not set"):
        await client.call("config.get", {"key": "plugins.odd.secnds"})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("plugins.odd.secnds", 1, r"plugins\.odd\.secnds: unknown key; did you mean seconds\?"),
        ("plugins.odd.seconds", "fast", r"plugins\.odd\.seconds: should be a number"),
        ("plugins.ood.seconds", 1, r"plugins\.ood: no such plugin is installed"),
        ("log.level", "[", "not YAML"),
        ("control.max_connections", 0, "should be greater than or equal to 1"),
    ],
)
async def test_setting_that_does_not_fit_is_refused_and_nothing_changes(
    daemon: Daemon, client: AsyncClient, key: str, value: Any, said: str
) -> None:
    before = await client.call("config.show")
    with pytest.raises(InvalidParams, match=said):
        await client.call("config.set", {"key": key, "value": value})
    assert await client.call("config.show") == before
    assert not (daemon.directory / "aitorrent.yaml.d").exists()


async def test_disabled_plugin_stays_disabled_over_a_restart(
    daemon_factory: DaemonFactory, daemon: Daemon, tmp_path: Path
) -> None:
    assert (await daemon.call("plugin.disable", {"name": "odd"}))["state"] == "disabled"
    await daemon.stop()
    environ = {"PYTHONPATH": str(tmp_path / "third-party")}
    again = await daemon_factory(directory=daemon.directory, env=environ)
    rows = (await again.call("plugin.list"))["plugins"]
    assert {r["name"]: r["state"] for r in rows}["odd"] == "disabled"
    counts = (await again.call("node.status"))["plugins"]
    assert (counts["total"], counts["disabled"] >= 1) == (len(rows), True)
    assert (await again.call("plugin.enable", {"name": "odd"}))["state"] == "running"


async def test_required_plugin_cannot_be_disabled_and_the_file_stays(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    environ = install(tmp_path / "another")
    daemon = await daemon_factory({**QUIET, "required": ["odd"]}, env=environ)
    with pytest.raises(Conflict, match="odd is listed in `required`"):
        await daemon.call("plugin.disable", {"name": "odd"})
    assert not (daemon.directory / "aitorrent.yaml.d").exists()


@pytest.mark.allow_error_log
async def test_doctor_survives_a_check_with_a_bug(client: AsyncClient) -> None:
    checks = (await client.call("node.doctor"))["checks"]
    by_name = {check["name"]: check for check in checks}
    assert by_name["identity"]["status"] == "ok"
    assert by_name["bad"]["text"] == "the check itself failed: RuntimeError"
    assert (by_name["good"]["status"], by_name["good"]["remedy"]) == ("warn", "leave it out")
    only = (await client.call("node.doctor", {"plugin": "odd"}))["checks"]
    assert [check["name"] for check in only] == ["bad", "good"]
    with pytest.raises(NotFound, match="no plugin 'nonesuch' is installed"):
        await client.call("node.doctor", {"plugin": "nonesuch"})


async def test_unknown_methods_and_parameters_are_refused(client: AsyncClient) -> None:
    with pytest.raises(MethodNotFound, match=r"no method 'node\.nothing'"):
        await client.call("node.nothing")
    with pytest.raises(InvalidParams, match="nonesuch"):
        await client.call("node.status", {"nonesuch": 1})


async def test_node_made_in_code_can_be_shown_but_not_rewritten(node_factory: NodeFactory) -> None:
    node = await node_factory({"log": {"level": "debug"}}, sources=[])
    methods = Methods(node)
    shown: Any = methods.method("config.get")[1].handler
    assert shown(None, ConfigKey(key="log.level"))["origin"] == "code"
    with pytest.raises(ConfigError, match="configured in code"):
        await change_setting(node, "log.level", "info")
    with pytest.raises(AitorrentError, match="configured in code"):
        await reload(node)


async def test_command_of_a_plugin_waits_while_the_node_starts(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    odd = {"plugins": {"odd": {"way": "slow_start", "seconds": 1.5}}}
    env = install(tmp_path / "third-party")
    daemon = await daemon_factory(merged(QUIET, odd), env=env, ready=False)
    await wait_for(daemon.socket.exists)
    with pytest.raises(Unavailable, match="the node is starting") as refused:
        await daemon.call("odd.shown")
    assert refused.value.data["starting"] is True
    code, out, err = await run_ctl(daemon, "call", "odd.shown")
    assert (code, json.loads(out)["way"], err) == (0, "slow_start", "")
    assert daemon.notify.has("READY=1")
    with pytest.raises(MethodNotFound, match=r"no method 'odd\.none'"):
        await daemon.call("odd.none")


async def test_command_gives_up_on_a_node_that_starts_too_slowly(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    odd = {"plugins": {"odd": {"way": "slow_start", "seconds": 20.0}}}
    env = install(tmp_path / "third-party")
    daemon = await daemon_factory(merged(QUIET, odd), env=env, ready=False)
    await wait_for(daemon.socket.exists)
    code, out, err = await run_ctl(daemon, "--timeout", "0.3", "call", "odd.shown")
    assert (code, out) == (1, "")
    assert err.startswith("Error: the node is starting: ")


async def run_ctl(daemon: Daemon, *words: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aitorrentd.cli.main", "--socket", str(daemon.socket), *words),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()
