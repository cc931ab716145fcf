"""Routers that forward ports on request: the real miniupnpd, and some that misbehave."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aitorrent_nat.reach.part import RETRY_S
from tests.support import cli_runs
from tests.support.nat.asking_router import asking
from tests.support.nat.daemons import daemon_at, peer_id, peers
from tests.support.nat.lab import Host, Lab
from tests.support.nat.namespaces import CAN_MAKE, REASON, socket_in
from tests.support.nat.upnp_router import UpnpRouter, firewalled, upnp_router
from tests.support.nodes import Daemon, DaemonFactory, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE or not shutil.which("miniupnpd"), reason=REASON),
]
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
WAYS = {"pcp": "PCP", "nat_pmp": "NAT-PMP", "upnp": "UPnP"}
PORTS = ("8468/tcp", "8468/udp", "8469/udp")


def comes_in(net: Lab, host: Host, place: list[Any], port: int) -> bool:
    """Whether a stranger's datagram to the external place reaches the host."""
    stranger = net.public()
    with host.socket(UDP, port) as inner, stranger.socket(UDP) as outer:
        inner.settimeout(1)
        outer.sendto(b"in", tuple(place))
        try:
            return inner.recv(10) == b"in"
        except TimeoutError:
            return False


async def is_ready(router: UpnpRouter, host: Host) -> None:
    """Wait until the router answers on the port of its descriptions or of PCP."""
    gateway = host.nat.inside if host.nat else ""

    def answers() -> bool:
        with host.socket(UDP) as sock:
            sock.settimeout(0.2)
            sock.sendto(bytes(2), (gateway, 5351))
            with host.socket(TCP) as web:
                web.settimeout(0.2)
                try:
                    web.connect((gateway, 5000))
                    return True
                except OSError:
                    pass
            try:
                return bool(sock.recv(100))
            except OSError:
                return False

    await wait_for(answers, 10, every_s=0.1)


@pytest.mark.parametrize("way", WAYS)
async def test_router_forwards_by_each_protocol_and_takes_the_ports_back(
    nat_lab: Lab, tmp_path: Path, way: str
) -> None:
    host = nat_lab.place("portrestricted")
    assert host.nat is not None
    with upnp_router(host.nat, tmp_path) as router:
        await is_ready(router, host)
        async with asking(host, way) as node:
            found = await node.ensure(*PORTS)
            assert (found["works"], found["protocol"]) == (True, WAYS[way])
            assert found["leases"] == {
                text: [host.public, int(text.split("/")[0])] for text in PORTS
            }
            assert comes_in(nat_lab, host, found["leases"]["8469/udp"], 8469)
            # What is no longer wanted is given back, the rest stays.
            await node.ensure("8468/tcp")
            assert router.forwarded().count("dnat") == 1
            await node.release()
            await wait_for(lambda: "dnat" not in router.forwarded(), 5)


async def test_firewall_of_an_ip6_router_is_opened_by_pcp_and_closed_again(tmp_path: Path) -> None:
    with firewalled(tmp_path) as site:
        inner = socket_in(site.host, UDP, socket.AF_INET6)

        def lets_in() -> bool:
            # From a new port each time: what once came in is let in for a while.
            with socket_in(site.stranger, UDP, socket.AF_INET6) as outer:
                outer.sendto(b"in", (site.address, 8468))
            try:
                return inner.recv(10) == b"in"
            except TimeoutError:
                return False

        with inner:
            inner.settimeout(0.5)
            inner.bind((site.address, 8468))
            assert not lets_in()
            async with asking(site.host, "pcp", own6=site.address) as node:

                async def opened() -> Any:
                    found = await node.ensure("8468/udp", "8468/tcp")
                    return found if found["works"] else None

                found = await wait_for(opened, 20)
                assert found["protocol"] == "PCP"
                assert found["leases"]["8468/udp"] == [site.address, 8468]
                assert lets_in()
                # Not renewed before: miniupnpd 2.3.1 takes a renewed one back when it ends.
                await node.release()
                await wait_for(lambda: not lets_in(), 10)


@pytest.mark.parametrize("way", WAYS)
async def test_router_that_restarts_forwards_again(nat_lab: Lab, tmp_path: Path, way: str) -> None:
    host = nat_lab.place("portrestricted")
    assert host.nat is not None
    with upnp_router(host.nat, tmp_path) as router:
        await is_ready(router, host)
        async with asking(host, way) as node:
            assert (await node.ensure(*PORTS))["works"]
            router.restart()
            assert "dnat" not in router.forwarded()
            await is_ready(router, host)
            assert (await node.ensure(*PORTS))["works"]
            assert router.forwarded().count("dnat") == 3
            router.stop()
            gone = await node.ensure(*PORTS)
            assert not gone["works"] and not gone["leases"] and gone["problem"]


@pytest.mark.parametrize("way", WAYS)
async def test_port_of_another_machine_is_left_to_it(
    nat_lab: Lab, tmp_path: Path, way: str
) -> None:
    nat = nat_lab.nat("portrestricted")
    one, two = nat_lab.host(nat), nat_lab.host(nat)
    with upnp_router(nat, tmp_path) as router:
        await is_ready(router, one)
        async with asking(one, way) as first, asking(two, way) as second:
            assert (await first.ensure("8468/udp"))["leases"]["8468/udp"][1] == 8468
            other = (await second.ensure("8468/udp"))["leases"]["8468/udp"]
            assert other[1] != 8468
            assert comes_in(nat_lab, two, other, 8468)
            assert comes_in(nat_lab, one, [nat.public, 8468], 8468)
            # The choice lasts: peers were told of it.
            assert (await second.ensure("8468/udp"))["leases"]["8468/udp"] == other


async def test_router_is_asked_by_the_protocols_that_it_has(nat_lab: Lab, tmp_path: Path) -> None:
    for upnp, pcp, protocol in ((True, False, "UPnP"), (False, True, "PCP")):
        host = nat_lab.place("portrestricted")
        assert host.nat is not None
        with upnp_router(host.nat, tmp_path, upnp=upnp, pcp=pcp) as router:
            await is_ready(router, host)
            async with asking(host, *WAYS) as node:
                found = await node.ensure("8468/tcp")
                assert (found["works"], found["protocol"]) == (True, protocol)


async def test_router_that_refuses_is_told_and_asked_again(nat_lab: Lab, tmp_path: Path) -> None:
    host = nat_lab.place("portrestricted")
    assert host.nat is not None
    with upnp_router(host.nat, tmp_path, allows=False) as router:
        await is_ready(router, host)
        for way in WAYS:
            async with asking(host, way) as node:
                found = await node.ensure("8468/tcp")
                assert not found["works"] and not found["leases"]
                assert "refuses" in found["problem"], way


@contextmanager
def serving_garbage(host: Host, replies: list[bytes]) -> Iterator[None]:
    """A router that answers everything with the same bytes: UDP on 5351 and 1900, HTTP on 5000."""
    assert host.nat is not None
    namespace, inside = host.nat.namespace, host.nat.inside
    found = f"HTTP/1.1 200 OK\r\nLOCATION: http://{inside}:5000/desc.xml\r\n\r\n".encode()
    pmp, ssdp = socket_in(namespace, UDP), socket_in(namespace, UDP)
    web = socket_in(namespace, TCP)
    pmp.bind((inside, 5351))
    ssdp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    group = socket.inet_aton("239.255.255.250") + socket.inet_aton(inside)
    ssdp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    ssdp.bind(("", 1900))
    web.bind((inside, 5000))
    web.listen()
    sockets = (pmp, ssdp, web)
    ends = threading.Event()

    def answer(sock: socket.socket) -> None:
        sock.settimeout(0.1)
        while not ends.is_set():
            try:
                if sock is web:
                    client, _ = sock.accept()
                    with client:
                        client.settimeout(1)
                        client.recv(65_536)
                        client.sendall(replies[0])
                else:
                    _, client_place = sock.recvfrom(65_536)
                    sock.sendto(found if sock is ssdp else replies[0][:1400], client_place)
            except OSError:
                continue

    threads = [threading.Thread(target=answer, args=(sock,)) for sock in sockets]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        for thread in threads:
            thread.join()
        for sock in sockets:
            sock.close()


def page(body: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


DEVICE = (
    '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>{}</device></root>'
)
GARBAGE = {
    "nothing": b"",
    "noise": bytes(range(256)) * 8,
    "zeros": bytes(60),
    "no HTTP": b"220 ftp ready\r\n",
    "an error": page("gone", "404 Not Found"),
    "no XML": page("<html><p>router"),
    "an empty document": page(""),
    "an empty device": page(DEVICE.format("")),
    "a bomb": page(
        '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><root>&b;</root>'
    ),
    "depth": page("<a>" * 50_000),
    "no end": page("x" * 600_000),
    "a redirect": page("", "302 Found\r\nLocation: http://11.1.0.2/"),
    "an elsewhere": page(
        DEVICE.format(
            "<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>"
            "<friendlyName>x</friendlyName><manufacturer>x</manufacturer><modelName>x</modelName>"
            "<UDN>uuid:1</UDN><serviceList><service>"
            "<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>"
            "<serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>"
            "<SCPDURL>http://11.1.0.2/scpd.xml</SCPDURL>"
            "<controlURL>http://11.1.0.2/ctl</controlURL><eventSubURL>/e</eventSubURL>"
            "</service></serviceList>"
        )
    ),
}


async def test_router_that_answers_garbage_is_of_no_use_and_no_harm(nat_lab: Lab) -> None:
    host = nat_lab.place("portrestricted")
    replies = [b""]
    with serving_garbage(host, replies):
        for way in WAYS:
            async with asking(host, way) as node:
                for name, reply in GARBAGE.items():
                    replies[0] = reply
                    found = await node.ensure("8468/tcp")
                    assert not found["works"] and not found["leases"], (name, way)


async def status(daemon: Daemon) -> str:
    """What `nat status` says about forwarded ports."""
    parts = (await daemon.call("nat.status"))["parts"]
    return str(parts["forwarded ports"])


async def test_daemon_behind_a_router_is_dialled_at_its_forwarded_port(
    nat_lab: Lab, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    nat = nat_lab.nat("portrestricted")
    one, two = nat_lab.host(nat), nat_lab.host(nat)
    public = nat_lab.public()
    with upnp_router(nat, tmp_path) as router:
        await is_ready(router, one)
        hub = await daemon_at(daemon_factory, public)
        first = await daemon_at(daemon_factory, one)
        await wait_for(lambda: forwards(first), 20, every_s=0.1)
        second = await daemon_at(daemon_factory, two)
        await wait_for(lambda: forwards(second), 20, every_s=0.1)
        assert f"{nat.public}:8468/tcp" in await status(first)
        assert "(here 8468)" in await status(second)
        for daemon in (first, second):
            (address,) = [
                text
                for text in (await daemon.call("transport.addresses"))["addresses"]
                if nat.public in text
            ]
            assert (address.split("/")[4] == "8468") is (daemon is first)
            code, out, err = await cli_runs.run(hub, "connect", address)
            assert code == 0, err
            assert {row["id"] for row in await peers(daemon)} == {await peer_id(hub)}
        code, out, _ = await cli_runs.run(first, "nat", "status")
        assert code == 0 and "forwarded ports" in out and "by PCP" in out
        for daemon in (first, second):
            await daemon.stop()
        await wait_for(lambda: "dnat" not in router.forwarded(), 5)


async def forwards(daemon: Daemon) -> bool:
    return " by " in await status(daemon)


async def test_daemon_says_why_no_port_is_forwarded(
    nat_lab: Lab, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    refused, silent = nat_lab.place("portrestricted"), nat_lab.place("portrestricted")
    public = nat_lab.public()
    assert refused.nat is not None
    off = {"plugins": {"nat": {"upnp": False}}}
    with upnp_router(refused.nat, tmp_path, allows=False) as router:
        await is_ready(router, refused)
        told = {}
        for name, host, config in (
            ("refused", refused, None),
            ("silent", silent, None),
            ("public", public, None),
            ("off", silent, off),
        ):
            daemon = await daemon_at(daemon_factory, host, config)

            async def said(daemon: Daemon = daemon) -> bool:
                text = await status(daemon)
                return "asking" not in text and "not looked" not in text

            await wait_for(said, 30, every_s=0.2)
            told[name] = await status(daemon)
            await daemon.stop()
    assert "refuses" in told["refused"]
    assert told["silent"] == "none: the router does not offer to forward ports"
    assert told["public"] == "not needed: this machine has a public address"
    assert told["off"] == "off: plugins.nat.upnp is false"


async def test_router_behind_another_nat_forwards_nothing(
    nat_lab: Lab, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    home = nat_lab.nat("portrestricted", behind=nat_lab.carrier())
    host = nat_lab.host(home)
    with upnp_router(home, tmp_path) as router:
        await is_ready(router, host)
        daemon = await daemon_at(daemon_factory, host)

        async def refused() -> bool:
            return "it has no connection to the internet (NAT-PMP)" in await status(daemon)

        await wait_for(refused, 20, every_s=0.1)
        addresses = (await daemon.call("transport.addresses"))["addresses"]
        assert not any(home.outside in text for text in addresses)


async def test_node_with_a_forwarded_port_is_public(
    nat_lab: Lab, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    host = nat_lab.place("portrestricted")
    assert host.nat is not None
    hubs = [nat_lab.public() for _ in range(3)]
    with upnp_router(host.nat, tmp_path, pcp=False) as router:
        await is_ready(router, host)
        for hub in hubs:
            await daemon_at(daemon_factory, hub)
        places = {"transport": {"bootstrap": [f"{hub.address}:8468" for hub in hubs]}}
        daemon = await daemon_at(daemon_factory, host, {"plugins": places})

        async def reach() -> bool:
            return str((await daemon.call("nat.status"))["reach"]) == "public"

        # On a busy machine the hubs may not answer the first questions in time.
        await wait_for(reach, 2 * RETRY_S, every_s=0.5)
        assert "by UPnP" in await status(daemon)
