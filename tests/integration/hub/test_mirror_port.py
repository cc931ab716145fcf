"""The mirror's port: taken, chosen, and started with the first program only."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from aitorrent_hub import health
from aitorrent_hub.config import HubConfig
from aitorrentd.api import Unavailable
from tests.support.nodes import DaemonFactory, NodeFactory, wait_for
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import Program, called, mirror_config


async def test_a_node_without_the_default_port_runs_and_says_so(
    daemon_factory: DaemonFactory,
) -> None:
    with FakeHub() as hub, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # taken already is as good
            stack.enter_context(socket.create_server(("127.0.0.1", 8042)))
        daemon = await daemon_factory(mirror_config(hub, port=None))
        status = await daemon.call("hub.status")
        assert status["listening"] == []
        assert "127.0.0.1:8042/tcp: address already in use" in status["problem"]
        warnings = (await daemon.call("node.status"))["warnings"]
        assert [w for w in warnings if "plugins.hub.port" in w["text"]]


@pytest.mark.allow_error_log
async def test_a_chosen_port_that_is_taken_stops_the_plugin_with_the_reason(
    daemon_factory: DaemonFactory,
) -> None:
    with FakeHub() as hub:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            daemon = await daemon_factory(mirror_config(hub, port=port))
            said = f"127.0.0.1:{port}/tcp: address already in use"
            await wait_for(lambda: said in daemon.log())
            assert "set plugins.hub.port" in daemon.log()

        async def listens() -> bool:
            with contextlib.suppress(Unavailable):
                status = await daemon.call("hub.status")
                return bool(status["listening"] == [f"127.0.0.1:{port}"])
            return False

        await wait_for(listens, 30)  # once the port is free


async def test_ipv6_and_several_addresses(node_factory: NodeFactory) -> None:
    with FakeHub() as hub:
        hub.add("org/model", {"config.json": b"{}"})
        node = await node_factory(mirror_config(hub, listen=["127.0.0.1", "::1"]))
        addresses = (await called(node, "hub.status"))["listening"]
        assert [a.rpartition(":")[0] for a in addresses] == ["127.0.0.1", "[::1]"]
        for address in addresses:
            assert await Program(f"http://{address}").snapshot() == {"config.json": b"{}"}


async def test_a_daemon_without_programs_does_not_load_the_server(
    daemon_factory: DaemonFactory,
) -> None:
    with FakeHub() as hub:
        daemon = await daemon_factory(mirror_config(hub))
        maps = Path(f"/proc/{daemon.pid}/maps")
        assert "httptools" not in maps.read_text()
        hub.add("org/model", {"config.json": b"{}"})
        address = (await daemon.call("hub.status"))["listening"][0]
        assert await Program(f"http://{address}").snapshot() == {"config.json": b"{}"}
        assert "httptools" in maps.read_text()


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("upstream", "huggingface.co", "is not a URL"),
        ("upstream", "https://user:secret@huggingface.co", "must have no user"),
        ("listen", ["localhost"], "'localhost' is not an IP address"),
        ("hosts", ["a b"], "is not a host name"),
        ("hosts", ["name:8042"], "without a port"),
    ],
)
def test_settings_that_cannot_work(setting: str, value: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        HubConfig.model_validate({setting: value})


def test_doctor_without_the_plugin() -> None:
    assert health.check_mirror(None).status == "warn"
