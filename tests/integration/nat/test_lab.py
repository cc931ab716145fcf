"""The lab itself: NAT boxes map and filter as their names say, in TCP and in UDP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.nat.lab import Host, Lab, lab
from tests.support.nat.namespaces import CAN_MAKE, REASON
from tests.support.nat.rules import KINDS
from tests.support.nodes import REPOSITORY

pytestmark = [pytest.mark.root, pytest.mark.skipif(not CAN_MAKE, reason=REASON)]
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
PORT = 4000
# Long enough for a packet to pass where it may; silence is what the tests of filtering wait for.
SILENCE_S = 0.4
BEHIND = KINDS[1:]
Place = tuple[str, int]
# RFC 4787: which remote ends reach a mapping that was opened towards another end.
LETS_IN = {
    "fullcone": ("same address", "other address"),
    "addrrestricted": ("same address",),
    "portrestricted": (),
    "symmetric": (),
}


@contextmanager
def closing(*sockets: socket.socket) -> Iterator[None]:
    with ExitStack() as stack:
        for each in sockets:
            stack.enter_context(each)
        yield


def udp_seen_by(sender: socket.socket, host: Host, port: int) -> Place:
    """The address from which a datagram of `sender` arrives at a public host."""
    with host.socket(UDP, port) as listener:
        listener.settimeout(5)
        sender.sendto(b"hello", (host.address, port))
        place: Place = listener.recvfrom(100)[1]
        return place


@dataclass
class Reached:
    """A TCP connection to a public host, from a known port."""

    ours: socket.socket
    theirs: socket.socket
    seen: Place


def tcp_reach(host: Host, source: Host, source_port: int, port: int) -> Reached:
    listener, ours = host.socket(TCP, port), source.socket(TCP, source_port)
    with listener:
        listener.listen()
        listener.settimeout(5)
        ours.settimeout(5)
        ours.connect((host.address, port))
        theirs, seen = listener.accept()
        return Reached(ours, theirs, seen)


@pytest.mark.parametrize("keeps_ports", [True, False])
@pytest.mark.parametrize("kind", BEHIND)
def test_kind_maps_as_it_says(kind: str, keeps_ports: bool) -> None:
    with lab() as net:
        one, two = net.public(), net.public()
        nat = net.nat(kind, keeps_ports=keeps_ports)
        host = net.host(nat)
        with host.socket(UDP, 5000) as sender:
            over_udp = {
                udp_seen_by(sender, one, PORT),
                udp_seen_by(sender, one, PORT + 1),
                udp_seen_by(sender, two, PORT),
            }
        reached = [
            tcp_reach(one, host, 5000, PORT),
            tcp_reach(one, host, 5000, PORT + 1),
            tcp_reach(two, host, 5000, PORT),
        ]
        with closing(*(each for r in reached for each in (r.ours, r.theirs))):
            over_tcp = {r.seen for r in reached}
        for seen in (over_udp, over_tcp):
            assert {address for address, _ in seen} == {nat.public}
            if kind == "symmetric":
                assert len(seen) == 3
            else:
                ((_, port),) = seen
                assert (port == 5000) is keeps_ports


@pytest.mark.parametrize("kind", BEHIND)
def test_kind_filters_datagrams_as_it_says(kind: str) -> None:
    with lab() as net:
        one, two, host = net.public(), net.public(), net.place(kind, keeps_ports=False)
        with host.socket(UDP) as inner:
            mapped = udp_seen_by(inner, one, PORT)
            inner.settimeout(SILENCE_S)
            got = set()
            for name, source, port in (
                ("same end", one, PORT),
                ("same address", one, PORT + 1),
                ("other address", two, PORT),
            ):
                with source.socket(UDP, port) as outer:
                    outer.sendto(name.encode(), mapped)
                    with suppress(TimeoutError):
                        got.add(inner.recv(100).decode())
            assert got == {"same end", *LETS_IN[kind]}


@pytest.mark.parametrize("kind", BEHIND)
def test_kind_filters_connections_as_it_says(kind: str) -> None:
    with lab() as net:
        one, two, host = net.public(), net.public(), net.place(kind, keeps_ports=False)
        reached = tcp_reach(one, host, 5001, PORT)
        with closing(reached.ours, reached.theirs):
            reached.ours.close()
            with host.socket(TCP, 5001) as listener:
                listener.listen()
                got = set()
                for name, source in (("same address", one), ("other address", two)):
                    with source.socket(TCP) as outer:
                        outer.settimeout(SILENCE_S)
                        with suppress(TimeoutError):
                            outer.connect(reached.seen)
                            got.add(name)
                assert got == set(LETS_IN[kind])


def open_at_once(a: Host, a_port: int, a_seen: Place, b: Host, b_port: int, b_seen: Place) -> bool:
    """Whether two hosts that dial each other's mapped address at the same time connect."""
    one, two = a.socket(TCP, a_port), b.socket(TCP, b_port)
    with closing(one, two):
        for sock, remote in ((one, b_seen), (two, a_seen)):
            sock.setblocking(False)
            sock.connect_ex(remote)
        try:
            for sock in (one, two):
                sock.settimeout(2)
                sock.sendall(b"hello")
            return one.recv(5) == two.recv(5) == b"hello"
        except OSError:
            return False


@pytest.mark.parametrize(
    ("left", "right", "works"),
    [
        ("portrestricted", "portrestricted", True),
        ("fullcone", "portrestricted", True),
        ("addrrestricted", "portrestricted", True),
        ("portrestricted", "symmetric", False),
    ],
)
def test_tcp_simultaneous_open_passes_cones_alone(left: str, right: str, works: bool) -> None:
    with lab() as net:
        mirror = net.public()
        a, b = net.place(left, keeps_ports=False), net.place(right, keeps_ports=False)
        first, second = (tcp_reach(mirror, h, 5000, PORT + i) for i, h in enumerate((a, b)))
        seen_a, seen_b = first.seen, second.seen
        for reached in (first, second):
            # RST, so that the port is free at once.
            for sock in (reached.ours, reached.theirs):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()
        assert open_at_once(a, 5000, seen_a, b, 5000, seen_b) is works


def echoed(net: Lab, source: Host, target: Host) -> bool:
    with source.socket(UDP) as sender, target.socket(UDP, PORT) as listener:
        listener.settimeout(SILENCE_S)
        sender.sendto(b"?", (target.address, PORT))
        try:
            listener.recv(10)
        except TimeoutError:
            return False
        return True


def test_cut_hits_two_hosts_only_and_heals() -> None:
    with lab() as net:
        mirror, other, host = net.public(), net.public(), net.place("portrestricted")
        with net.cut(host, mirror):
            assert not echoed(net, host, mirror)
            assert echoed(net, host, other)
        assert echoed(net, host, mirror)
        with net.offline(host):
            assert not echoed(net, host, other)
            assert echoed(net, mirror, other)
        host.down()
        with pytest.raises(OSError, match="unreachable"):
            echoed(net, host, other)
        host.up()
        assert echoed(net, host, other)


def test_host_behind_a_carrier_appears_with_the_carriers_address() -> None:
    with lab() as net:
        mirror = net.public()
        carrier = net.carrier()
        host = net.host(net.nat("fullcone", behind=carrier))
        with host.socket(UDP) as sender:
            assert udp_seen_by(sender, mirror, PORT)[0] == carrier.outside == host.public
        assert host.nat is not None and host.nat.outside.startswith("192.168.")


def test_public_hosts_are_in_networks_of_their_own() -> None:
    with lab() as net:
        hosts = [net.public(2), net.public(), net.place("public")]
        addresses = [a for host in hosts for a in (host.address, *host.others)]
        assert len({a.rsplit(".", 2)[0] for a in addresses}) == 4
        assert all(echoed(net, hosts[0], host) for host in hosts[1:])


def test_box_that_blocks_datagrams_lets_connections_pass() -> None:
    with lab() as net:
        mirror, host = net.public(), net.place("portrestricted", udp=False)
        assert not echoed(net, host, mirror)
        reached = tcp_reach(mirror, host, 0, PORT)
        with closing(reached.ours, reached.theirs):
            assert reached.seen[0] == host.public


def test_box_that_resets_refuses_at_once() -> None:
    with lab() as net:
        mirror, host = net.public(), net.place("portrestricted", resets=True)
        with mirror.socket(TCP) as sock:
            sock.settimeout(5)
            with pytest.raises(ConnectionRefusedError, match="refused"):
                sock.connect((host.public, 5000))


def test_hairpin_leads_two_hosts_to_each_other_by_the_outside_address() -> None:
    with lab() as net:
        mirror = net.public()
        nat = net.nat("fullcone", hairpin=True)
        a, b = net.host(nat), net.host(nat)
        with a.socket(UDP, 5000) as inner, b.socket(UDP, 5001) as other:
            mapped = udp_seen_by(inner, mirror, PORT)
            other.sendto(b"neighbour", mapped)
            inner.settimeout(2)
            data, seen = inner.recvfrom(100)
            assert (data, seen[0]) == (b"neighbour", nat.outside)


def test_holes_close_when_unused_and_at_a_power_cut() -> None:
    with lab() as net:
        mirror, host = net.public(), net.place("portrestricted", udp_s=1, keeps_ports=False)
        assert host.nat is not None
        with host.socket(UDP) as inner, mirror.socket(UDP, PORT) as outer:
            inner.settimeout(SILENCE_S)
            outer.settimeout(2)

            def opened() -> Place:
                inner.sendto(b"hello", (mirror.address, PORT))
                place: Place = outer.recvfrom(10)[1]
                return place

            def comes_in() -> bool:
                outer.sendto(b"in", mapped)
                try:
                    inner.recv(10)
                except TimeoutError:
                    return False
                return True

            mapped = opened()
            assert comes_in()
            host.nat.forget()
            assert not comes_in()
            mapped = opened()
            inner.settimeout(1.5)  # longer than a hole lasts without traffic
            with pytest.raises(TimeoutError, match="timed out"):
                inner.recv(10)
            assert not comes_in()


def test_namespaces_of_a_killed_process_are_removed_by_the_next() -> None:
    code = (
        "import os, subprocess; from tests.support.nat.lab import lab\n"
        "with lab() as net:\n"
        "    host = net.public()\n"
        "    command = ['ip', 'netns', 'exec', host.namespace, 'sleep', '600']\n"
        "    sleep = subprocess.Popen(command, stdout=subprocess.DEVNULL)\n"
        "    print(host.namespace, sleep.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE)
    left, pid = done.stdout.decode().split()
    assert left in os.listdir("/run/netns")
    with lab():
        assert left not in os.listdir("/run/netns")
        assert not Path("/proc", pid, "exe").exists(), "a zombie at most"
