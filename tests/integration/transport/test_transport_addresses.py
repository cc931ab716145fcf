"""Addresses that come and go while peers are connected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aitorrent_transport.peers import own
from aitorrent_transport.protocols import addresses
from aitorrentd.api import DirectoryChanged, PeerGone, WireProtocol, encode_frame
from tests.support.nodes import wait_for
from tests.support.transport.transport_nodes import TestNode, node


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The IPv4 addresses that nodes listening everywhere find."""
    found = ["10.0.0.1"]
    monkeypatch.setattr(own, "own_addresses", lambda version: list(found))
    monkeypatch.setattr(own, "INTERFACES_S", 0.0)
    monkeypatch.setattr(addresses, "LOOK_S", 0.05)
    yield found


def known(at: TestNode, of: TestNode) -> list[str]:
    return [address.host for address in at.transport.table.told(of.id)]


async def test_connected_peers_learn_addresses_that_come_and_go(
    tmp_path: Path, interfaces: list[str]
) -> None:
    async with (
        node(tmp_path, "hub", listen="0.0.0.0") as hub,
        node(tmp_path, "one", bootstrap=[hub.address]) as one,
        node(tmp_path, "two", bootstrap=[hub.address]) as two,
    ):
        hub.transport.directory.publish("ait:shard:x", {"layers": 6})
        await wait_for(lambda: one.transport.directory.known("ait:shard:x"))
        await wait_for(lambda: two.transport.directory.known("ait:shard:x"))
        assert "10.0.0.1" in known(one, hub)
        assert "10.0.0.1" in known(two, hub)
        before = one.count(DirectoryChanged), hub.count(DirectoryChanged)
        interfaces.append("10.0.0.2")
        await wait_for(lambda: "10.0.0.2" in known(one, hub))
        await wait_for(lambda: "10.0.0.2" in known(two, hub))
        (record,) = one.transport.directory.known("ait:shard:x")
        assert any("/10.0.0.2/" in address for address in record.addresses)
        await wait_for(lambda: one.count(DirectoryChanged) == before[0] + 1)
        await wait_for(lambda: hub.count(DirectoryChanged) == before[1] + 1)
        interfaces.remove("10.0.0.1")
        await wait_for(lambda: "10.0.0.1" not in known(one, hub))
        assert "10.0.0.2" in known(one, hub)


async def test_peer_that_does_not_know_the_message_keeps_its_channel_and_is_asked_once(
    tmp_path: Path, interfaces: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        node(tmp_path, "hub", listen="0.0.0.0") as hub,
        node(tmp_path, "old", bootstrap=[hub.address]) as old,
    ):
        server = old.transport._server
        monkeypatch.delitem(server._own, addresses.PROTOCOL)
        asked: list[str] = []
        find = server.find

        def recorded(protocol: str) -> WireProtocol | None:
            asked.append(protocol)
            return find(protocol)

        monkeypatch.setattr(server, "find", recorded)
        await wait_for(lambda: old.transport.peers() and hub.transport.peers())
        interfaces.append("10.0.0.2")
        await wait_for(lambda: addresses.PROTOCOL in asked)
        await wait_for(lambda: not hub.transport._addresses.news.outdated())
        assert asked.count(addresses.PROTOCOL) == 1
        assert len(hub.transport.peers()) == 1
        assert "10.0.0.2" not in known(old, hub)


@pytest.mark.parametrize(
    ("listed", "hosts"),
    [
        (["/ip4/10.0.0.9/tcp/1"], ["10.0.0.9"]),
        ([f"/ip4/10.0.1.{i}/tcp/1" for i in range(200)], None),
        (["nonsense", 7, None, {}, "/ip4/127.0.0.1/tcp/0", "/ip4/1.2.3.4/tcp/65536"], []),
        ({"a": 1}, []),
        (None, []),
    ],
)
async def test_lists_of_any_shape_are_bounded_and_cost_no_channel(
    tmp_path: Path, listed: object, hosts: list[str] | None
) -> None:
    async with (
        node(tmp_path, "hub") as hub,
        node(tmp_path, "one", bootstrap=[hub.address]) as one,
    ):
        await wait_for(lambda: one.transport.peers() and hub.transport.peers())
        stream = await one.transport.open_stream(hub.id, addresses.PROTOCOL)
        await stream.write(encode_frame({"addresses": listed}))
        assert await stream.read(1) == b""
        heard = [host for host in known(hub, one) if host != "127.0.0.1"]
        assert heard == hosts if hosts is not None else 0 < len(heard) <= 16
        assert len(hub.transport.peers()) == 1


async def test_addresses_told_too_often_are_refused(tmp_path: Path) -> None:
    async with (
        node(tmp_path, "hub") as hub,
        node(tmp_path, "one", bootstrap=[hub.address]) as one,
    ):
        await wait_for(lambda: one.transport.peers() and hub.transport.peers())
        refused = 0
        for i in range(20):
            stream = await one.transport.open_stream(hub.id, addresses.PROTOCOL)
            await stream.write(encode_frame({"addresses": [f"/ip4/10.0.0.{i + 1}/tcp/1"]}))
            try:
                await stream.read(1)
            except PeerGone as e:
                assert "addresses change too often" in e.message
                refused += 1
        assert 8 <= refused <= 10
        assert "10.0.0.10" in known(hub, one)
