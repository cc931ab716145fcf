"""Judging a NAT with peers, on loopback, where each 127.N.0.1 is in a network of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aitorrent_nat.networks import Place
from aitorrent_nat.reach.assisted import Witness, classify_with_peers, filtering_with_peers
from aitorrent_nat.reach.messages import SendDatagram
from aitorrent_nat.reach.part import ReachPart
from aitorrent_nat.reach.servers import Servers
from aitorrent_nat.stun.behaviour import UNKNOWN, Filtering, Mapping
from aitorrent_nat.stun.codec import Request, Response, encode_response, read
from aitorrent_nat.stun.sockets import UdpSocket
from aitorrentd.api import REACHABILITY, Busy, PeerId, PluginContext
from tests.support import cli_runs
from tests.support.nat.stun_servers import rfc3489_server, server
from tests.support.nodes import DaemonFactory, NodeFactory, wait_for

LOCAL = "127.0.0.1"
OWN = frozenset({LOCAL})
LIE = ("6.6.6.6", 6)


class Peers:
    """Peers that answer STUN requests at two ports, and send datagrams on request."""

    def __init__(self) -> None:
        self.witnesses: list[Witness] = []
        self.refuses: set[str] = set()
        self._sockets: dict[Place, UdpSocket] = {}

    def add(self, host: str, *, lies: bool = False) -> None:
        """A peer at this address."""
        places = [self._listen(host, lies=lies) for _ in range(2)]
        self.witnesses.append(Witness(PeerId(host), places[0], places[1][1]))

    def _listen(self, host: str, *, lies: bool) -> Place:
        def received(raw: bytes, source: Place, own: str) -> None:
            request = read(raw)
            assert isinstance(request, Request)
            mapped = LIE if lies else source
            sock.send(encode_response(Response(request.transaction, mapped)), source)

        sock = UdpSocket(host, 0, received)
        self._sockets[host, sock.port] = sock
        return host, sock.port

    async def assist(self, peer: PeerId, ask: SendDatagram) -> bool:
        """Send a datagram for this node, as a peer does."""
        if peer in self.refuses:
            raise Busy("not now")
        (witness,) = [each for each in self.witnesses if each.peer == peer]
        port = witness.alternate if ask.from_alternate else witness.place[1]
        raw = encode_response(Response(ask.transaction, (LOCAL, ask.port)))
        return self._sockets[peer, port].send(raw, (LOCAL, ask.port))

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()


@contextmanager
def peers(*hosts: str, liars: tuple[str, ...] = ()) -> Iterator[Peers]:
    with ExitStack() as stack:
        made = Peers()
        stack.callback(made.close)
        for host in (*hosts, *liars):
            made.add(host, lies=host in liars)
        yield made


HONEST = ("127.1.0.1", "127.2.0.1", "127.3.0.1")


async def test_honest_peers_find_that_there_is_no_nat() -> None:
    with peers(*HONEST) as some:
        found, seen = await classify_with_peers(some.witnesses, OWN, LOCAL, some.assist)
    assert (found.mapping, found.filtering) == (Mapping.NONE, Filtering.ENDPOINT_INDEPENDENT)
    assert (found.external, found.keeps_ports) == (LOCAL, True)
    assert len(seen) == 5, "three peers, and the second port of two"


async def test_lying_peers_move_neither_address_nor_mapping() -> None:
    """Appendix C, number 21: many liars in one network, and one in another."""
    crowd = (*(f"127.9.0.{n}" for n in range(1, 4)), "127.10.0.1")
    with peers(*HONEST, "127.4.0.1", liars=crowd) as some:
        found, _ = await classify_with_peers(some.witnesses, OWN, LOCAL, some.assist)
    assert (found.mapping, found.external) == (Mapping.NONE, LOCAL)


async def test_too_few_honest_peers_say_nothing() -> None:
    with peers(*HONEST[:2], liars=("127.9.0.1",)) as some:
        found, _ = await classify_with_peers(some.witnesses, OWN, LOCAL, some.assist)
    assert (found.mapping, found.filtering) == (Mapping.UNKNOWN, Filtering.UNKNOWN)
    assert found.external == ""


async def test_filtering_is_unknown_if_peers_refuse_to_help() -> None:
    with peers(*HONEST) as some:
        some.refuses = {*HONEST[1:]}
        assert await filtering_with_peers(some.witnesses, LOCAL, some.assist) is Filtering.UNKNOWN
        some.refuses = {HONEST[1]}
        found = await filtering_with_peers(some.witnesses, LOCAL, some.assist)
        assert found is Filtering.ENDPOINT_INDEPENDENT, "another one helped"


def reach_of(node: Any) -> ReachPart:
    part = node.service(REACHABILITY)
    assert isinstance(part, ReachPart)
    return part


async def test_configured_server_of_the_old_standard_classifies(node_factory: NodeFactory) -> None:
    async with rfc3489_server() as (host, port):
        stun = {"plugins": {"nat": {"stun": f"{host}:{port}"}}}
        part = reach_of(await node_factory(stun))
        await wait_for(lambda: part.behaviour.is_known, 20)
        learned: list[bool] = []
        part.on_learned = lambda: learned.append(True)
        await part.look()
        assert not learned, "nothing is new"
        part.behaviour = UNKNOWN
        await part.look()
        assert learned == [True]
        assert part.behaviour.filtering is Filtering.ENDPOINT_INDEPENDENT
        assert (part.behaviour.external, part.servers.problems) == (LOCAL, {})
        part.behaviour = replace(part.behaviour, lifetime_s=90.0)
        await part.look()
        assert part.behaviour.lifetime_s == 90.0, "measured on request only, and kept"


async def test_configured_server_that_lies_is_warned_of(node_factory: NodeFactory) -> None:
    def lies(raw: bytes, source: Place) -> list[tuple[bytes, Place]]:
        request = read(raw)
        return [(encode_response(Response(request.transaction, LIE)), source)]

    with server(lies) as (host, port):
        part = reach_of(await node_factory({"plugins": {"nat": {"stun": f"{host}:{port}"}}}))
        await wait_for(lambda: part.servers.observed, 20)
        (warning,) = part.servers.warnings("203.0.113.7")
        assert warning.code == "stun_disagrees"
        assert f"{host}:{port} sees this node at 6.6.6.6, others at 203.0.113.7" in warning.text
        assert list(part.servers.warnings("6.6.6.6")) == []


async def test_server_without_an_address_is_a_problem() -> None:
    context = cast(PluginContext, SimpleNamespace(log=logging.getLogger("test")))
    asked = Servers(context, [("stun.invalid", 3478)])
    found = await asked.classify(lambda host: "0.0.0.0")
    assert not found.is_known
    assert "stun.invalid does not resolve" in asked.problems["stun.invalid", 3478]


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), "there is nobody to ask: no peer outside this network answers STUN requests"),
        (("--server", "/ip4/1.2.3.4/tcp/5"), "is not HOST:PORT"),
        (("--server", "127.0.0.1:9"), "127.0.0.1:9/udp did not answer within 3 s"),
    ],
)
async def test_probe_says_what_is_wrong(
    daemon_factory: DaemonFactory, args: tuple[str, ...], error: str
) -> None:
    daemon = await daemon_factory()
    code, out, err = await cli_runs.run(daemon, "nat", "probe", *args)
    assert (code != 0, out) == (True, "")
    assert error in err
