"""Nodes whose DHT runs over UDP on loopback."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from aitorrent_dht import health
from aitorrent_dht.methods import FindParams, GetParams, NameParams, PutParams
from aitorrentd.api import DIRECTORY, NotFound, Record, TooLarge
from tests.support.dht.dht_nodes import DhtTestNode, dht_node
from tests.support.nodes import wait_for

CALL: Any = None


async def line_of_three(stack: AsyncExitStack, path: Path) -> list[DhtTestNode]:
    """Three nodes, the outer two of which were told only of the one in the middle."""
    hub = await stack.enter_async_context(dht_node(path, "hub"))
    outer = [
        await stack.enter_async_context(dht_node(path, seed, bootstrap=[hub.address]))
        for seed in ("a", "c")
    ]
    a, c = outer
    await wait_for(lambda: a.knows(hub) and c.knows(hub) and hub.knows(a, c))
    return [a, hub, c]


async def test_peers_of_a_channel_meet_in_the_dht_without_configuration(tmp_path: Path) -> None:
    async with dht_node(tmp_path, "a") as a, dht_node(tmp_path, "b", dht={"port": 0}) as b:
        await a.transport.connect(b.address)
        await wait_for(lambda: a.knows(b) and b.knows(a))
        assert (a.methods.stats(CALL, CALL)).nodes == 1
        assert health.check(b.dht).status == "ok"
        assert list(a.dht.endpoint.bound.values()) == [a.port]
        assert list(b.dht.endpoint.bound.values()) != [b.port]


async def test_bootstrap_addresses_of_the_transport_are_asked_by_udp(tmp_path: Path) -> None:
    async with dht_node(tmp_path, "b", max_peers=1) as b, dht_node(tmp_path, "x") as x:
        await x.transport.connect(b.address)  # no more channels
        async with dht_node(tmp_path, "a", bootstrap=[b.address]) as a:
            await wait_for(lambda: a.knows(b) and b.knows(a))
            assert a.transport.peers() == []


async def test_what_one_node_offers_another_finds_through_a_third(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await line_of_three(stack, tmp_path)
        a.kernel.service(DIRECTORY).publish("ait:cap:m", {"v": 1, "model": "m"})
        directory = c.kernel.service(DIRECTORY)

        async def found() -> Sequence[Record]:
            return await directory.find("ait:cap:m")

        records: Sequence[Record] = await wait_for(found)
        (record,) = records
        assert (record.peer, dict(record.value)) == (a.id, {"v": 1, "model": "m"})
        assert record.addresses == (a.address,)
        assert c.transport.peer(a.id) is None
        assert directory.known("ait:cap:") == [record]
        params = FindParams(key="ait:cap:m")
        (row,) = (await c.methods.find(CALL, params)).providers
        assert (row.peer, row.addresses) == (a.id, [a.address])

        a.kernel.service(DIRECTORY).withdraw("ait:cap:m")

        async def gone() -> Any:
            c.dht.source._fresh.clear()
            return not await directory.find("ait:cap:m")

        await wait_for(gone)


@pytest.mark.parametrize("listen", ["::1", ["127.0.0.1", "::1"]], ids=["IPv6 only", "both"])
async def test_records_are_found_over_ip6_sockets(tmp_path: Path, listen: Any) -> None:
    async with (
        dht_node(tmp_path, "b", listen=listen) as b,
        dht_node(tmp_path, "a", listen="::1") as a,
    ):
        (place,) = [text for text in b.transport.addresses() if text.startswith("/ip6/")]
        await a.transport.connect(place)
        await wait_for(lambda: a.knows(b) and b.knows(a))
        assert set(a.dht.endpoint.bound) == {"::1"}
        assert [contact.host for contact in a.dht.node.contacts()] == ["::1"]
        b.kernel.service(DIRECTORY).publish("ait:cap:m", {"v": 1, "model": "m"})

        async def found() -> Any:
            return (await a.methods.find(CALL, FindParams(key="ait:cap:m"))).providers

        (row,) = await wait_for(found)
        assert row.peer == b.id and place in row.addresses


async def test_values_are_put_found_changed_and_deleted(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await line_of_three(stack, tmp_path)
        get = GetParams(name="motto", publisher=a.id)
        put = await a.methods.put(CALL, PutParams(name="motto", value="one"))
        assert put.stored == 2
        assert (await c.methods.get(CALL, get)).value == "one"
        await a.methods.put(CALL, PutParams(name="motto", value="zwei ✓"))
        assert (await c.methods.get(CALL, get)).value == "zwei ✓"
        assert (await a.methods.get(CALL, GetParams(name="motto"))).value == "zwei ✓"
        with pytest.raises(NotFound, match="no published value of this node named 'motto'"):
            await c.methods.get(CALL, GetParams(name="motto"))
        with pytest.raises(NotFound, match="publishes no value named 'motto'"):
            await c.methods.delete(CALL, NameParams(name="motto"))
        assert (await a.methods.delete(CALL, NameParams(name="motto"))).stored == 2
        with pytest.raises(NotFound, match="was found"):
            await c.methods.get(CALL, get)
        with pytest.raises(TooLarge, match="the value has 1400 bytes; the limit is 700"):
            await a.methods.put(CALL, PutParams(name="x", value="é" * 700))


async def test_value_put_before_a_restart_is_published_after_it(tmp_path: Path) -> None:
    async with dht_node(tmp_path, "hub") as hub:
        async with dht_node(tmp_path, "a") as a:
            put = await a.methods.put(CALL, PutParams(name="n", value="v", timeout_s=0.1))
            assert put.stored == 0  # nobody was there
        async with dht_node(tmp_path, "a", bootstrap=[hub.address]) as a:
            await wait_for(lambda: len(hub.dht.node.state.store) == 1)
            get = GetParams(name="n", publisher=a.id)
            assert (await hub.methods.get(CALL, get)).value == "v"


async def test_nodes_find_back_after_a_restart_without_any_bootstrap(tmp_path: Path) -> None:
    async with dht_node(tmp_path, "hub", dht={"port": 0}) as hub:
        async with dht_node(tmp_path, "a") as a:
            await a.transport.connect(hub.address)
            await wait_for(lambda: a.knows(hub))
            await a.transport.disconnect(hub.id)
        async with dht_node(tmp_path, "a") as a:
            await wait_for(lambda: a.knows(hub))
            assert a.transport.peers() == []


async def test_damaged_contacts_are_set_aside_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with dht_node(tmp_path, "hub") as hub:
        async with dht_node(tmp_path, "a", bootstrap=[hub.address]) as a:
            await wait_for(lambda: a.knows(hub))
        (file,) = (tmp_path / "a").rglob("contacts")
        raw = bytearray(file.read_bytes())
        raw[40] ^= 1
        file.write_bytes(raw)
        async with dht_node(tmp_path, "a", bootstrap=[hub.address]) as a:
            assert file.with_name("contacts.damaged").read_bytes() == raw
            (warning,) = health.warnings(a.dht)
            assert "contacts of the DHT were damaged; the file is now" in warning.text
            await wait_for(lambda: a.knows(hub))
        assert file.exists()
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert sum("contacts of the DHT were damaged" in text for text in told) == 1


async def test_udp_port_that_is_taken_is_told_and_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taker:
        taker.bind(("127.0.0.1", 0))
        port = taker.getsockname()[1]
        async with (
            dht_node(tmp_path, "hub") as hub,
            dht_node(tmp_path, "a", dht={"port": port}, bootstrap=[hub.address]) as a,
        ):
            (warning,) = health.warnings(a.dht)
            assert f"cannot listen on 127.0.0.1:{port}/udp: address already in use" in warning.text
            assert "set plugins.dht.port" in warning.text
            assert health.check(a.dht).status == "fail"
            await wait_for(a.transport.peers)  # the rest runs
            taker.close()
            await wait_for(lambda: a.knows(hub), 15)
            assert list(health.warnings(a.dht)) == []


async def test_node_of_another_network_or_without_the_secret_is_not_heard(tmp_path: Path) -> None:
    psk: dict[str, Any] = {"psk": "a long shared secret"}
    async with (
        dht_node(tmp_path, "a", **psk) as a,
        dht_node(tmp_path, "b", **psk) as b,
        dht_node(tmp_path, "open") as stranger,
        dht_node(tmp_path, "other", network="other", **psk) as foreign,
    ):
        for each in (b, stranger, foreign):
            each.dht.node.add_places([("127.0.0.1", a.port)], each.dht.now())
            each.dht.shell.flush()
        await wait_for(lambda: a.knows(b) and b.knows(a))
        await wait_for(lambda: a.dht.gate.dropped["foreign"] >= 2)
        assert len(a.dht.node.state.table) == 1


async def test_client_finds_others_and_is_in_nobodys_table(tmp_path: Path) -> None:
    async with (
        dht_node(tmp_path, "hub") as hub,
        dht_node(tmp_path, "a", dht={"mode": "client"}, bootstrap=[hub.address]) as a,
    ):
        await wait_for(lambda: a.knows(hub))
        put = await a.methods.put(CALL, PutParams(name="n", value="v"))
        assert put.stored == 1
        assert not hub.knows(a)
        assert health.check(a.dht).status == "warn"
        assert a.methods.stats(CALL, CALL).mode == "client"


async def test_network_that_is_unreachable_ends_no_socket(tmp_path: Path) -> None:
    """kotlin-ipv8 issue 39: ENETUNREACH on sending ended the program."""
    async with dht_node(tmp_path, "a") as a, dht_node(tmp_path, "b") as b:
        for host in ("255.255.255.255", "2001:db8::1", "192.0.2.1"):
            a.dht.endpoint.send(b"x", host, 9)
        a.dht.node.add_places([("127.0.0.1", b.port)], a.dht.now())
        a.dht.shell.flush()
        await wait_for(lambda: a.knows(b))


async def test_record_too_large_for_the_dht_is_told_once_it_is_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with dht_node(tmp_path, "a") as a:
        a.kernel.service(DIRECTORY).publish("ait:cap:m", {"filler": "x" * 900})
        assert a.dht.node.publishing.records() == []
        assert "too large for the DHT" in caplog.text
