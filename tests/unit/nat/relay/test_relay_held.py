"""A node and a relay that breaks the rules: what the node believes, and when it leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest

from aitorrent_nat.relay.held import REPLY_S, Held
from aitorrent_nat.relay.legs import Circuit
from aitorrent_nat.relay.messages import (
    PROTOCOL,
    TOKEN_BYTES,
    Closing,
    Decline,
    Ended,
    FromRelay,
    Incoming,
    Joined,
    Opened,
    Refused,
    Release,
    Reserve,
    Reserved,
    encode,
    read_from_client,
    read_request,
)
from aitorrent_nat.relay.reservation import LIFETIME_S, Terms, issue
from aitorrentd.api import (
    AitorrentError,
    Busy,
    PeerGone,
    PluginContext,
    ProtocolError,
    Stream,
    TimedOut,
    Unavailable,
    WireProtocol,
    read_frame,
)
from tests.support.nodes import wait_for
from tests.support.transport.memory_network import MemoryNetwork
from tests.support.transport.transport_nodes import Identity

RELAY, CLIENT, OTHER = Identity("relay"), Identity("client"), Identity("other")
TERMS = Terms(rate=2**21, bytes_per_hour=2**28, circuits=2)
TOKEN = bytes(TOKEN_BYTES)
EPOCH = 1_800_000_000.0
Script = Callable[[Stream], Awaitable[None]]

pytestmark = pytest.mark.jump_clock


def reserved(identity: Identity = RELAY, client: Identity = CLIENT, *addresses: str) -> Reserved:
    now = EPOCH + asyncio.get_running_loop().time()
    raw = issue(identity, client.peer_id, TERMS, now).raw
    return Reserved(raw, addresses or ("/ip4/203.0.113.1/tcp/8468",))


@dataclass
class Scene:
    """A client's hold on a relay, and what it told."""

    held: Held
    incoming: list[Incoming] = field(default_factory=list)
    ended: list[tuple[int, str]] = field(default_factory=list)

    async def fails(self, kind: type[AitorrentError], match: str) -> None:
        with pytest.raises(kind, match=match):
            await self.held.run()
        assert not self.held.is_live


@asynccontextmanager
async def scene(script: Script) -> AsyncIterator[Scene]:
    """A relay that answers its stream by `script`."""
    network = MemoryNetwork()
    network.join(RELAY.peer_id, WireProtocol(PROTOCOL, script))
    transport = network.join(CLIENT.peer_id)
    loop = asyncio.get_running_loop()
    clock = SimpleNamespace(monotonic=loop.time, time=lambda: EPOCH + loop.time())
    log = logging.getLogger("test")
    ctx = cast(PluginContext, SimpleNamespace(clock=clock, identity=CLIENT, log=log))
    made = Scene(Held(ctx, transport, RELAY.peer_id, (), b""))
    made.held.on_incoming = lambda held, circuit, message: made.incoming.append(message)
    made.held.on_ended = lambda held, circuit, reason: made.ended.append((circuit.number, reason))
    try:
        yield made
    finally:
        await network.close()


def saying(*messages: FromRelay, then: Script | None = None) -> Script:
    """Answers the request with these messages, then goes on with `then`, or waits for ever."""

    async def script(stream: Stream) -> None:
        read_request(await read_frame(stream))
        for message in messages:
            await stream.write(encode(message))
        await (then(stream) if then is not None else asyncio.Event().wait())

    return script


async def test_a_refusal_is_the_relays_own_error() -> None:
    async with scene(saying(Refused(Busy("128 reservations, its limit")))) as made:
        await made.fails(Busy, "128 reservations")


async def test_only_the_relays_own_signature_for_this_node_counts() -> None:
    for identity, client, match in (
        (OTHER, CLIENT, "another relay"),
        (RELAY, OTHER, "another node"),
    ):
        async with scene(saying(reserved(identity, client))) as made:
            await made.fails(ProtocolError, match)
    async with scene(saying(Reserved(b"x" * 100, ()))) as made:
        await made.fails(ProtocolError, "reservation")


async def test_a_silent_relay_is_left() -> None:
    async with scene(saying()) as made:
        await made.fails(TimedOut, f"within {REPLY_S:g} s")


@pytest.mark.parametrize(
    "message", [Incoming(1, TOKEN, OTHER.peer_id), Joined(1), Opened(1, TOKEN, 1.0)]
)
async def test_a_relay_begins_with_the_reservation(message: FromRelay) -> None:
    async with scene(saying(message)) as made:
        await made.fails(ProtocolError, "circuit that cannot be|did not answer|not for the holder")
        assert made.incoming == []


async def test_bytes_that_are_no_message_end_the_reservation() -> None:
    async def junk(stream: Stream) -> None:
        await stream.write(b"\xff" * 100)
        await asyncio.Event().wait()

    async with scene(saying(reserved(), then=junk)) as made:
        await made.fails(ProtocolError, "frame of")


async def test_a_relay_announces_no_more_circuits_than_agreed() -> None:
    answers: list[object] = []

    async def more(stream: Stream) -> None:
        answers.append(read_from_client(await read_frame(stream)))
        await stream.write(encode(Ended(1, "")))
        await stream.write(encode(Incoming(4, TOKEN, OTHER.peer_id)))
        await stream.write(encode(Incoming(4, TOKEN, OTHER.peer_id)))
        await asyncio.Event().wait()

    three = [Incoming(n, TOKEN, OTHER.peer_id) for n in (1, 2, 3)]
    async with scene(saying(reserved(), *three, then=more)) as made:
        await made.fails(ProtocolError, "a circuit that cannot be")  # 4, twice
        assert [message.circuit for message in made.incoming] == [1, 2, 4]
        assert answers == [Decline(3, "too many circuits")]
        assert made.ended == [(1, "")]


async def test_circuits_that_wait_end_with_the_relay() -> None:
    async def leave(stream: Stream) -> None:
        await asyncio.sleep(1)
        stream.reset("gone")

    incoming = Incoming(1, TOKEN, OTHER.peer_id)
    async with scene(saying(reserved(), incoming, then=leave)) as made:
        running = asyncio.gather(made.held.run(), return_exceptions=True)
        await wait_for(lambda: made.incoming)
        circuit = made.held.circuits[1]
        with pytest.raises(Unavailable, match="the relay was lost"):
            await circuit.joined()
        assert isinstance((await running)[0], PeerGone)


async def test_a_joined_circuit_is_joined_once() -> None:
    messages: list[FromRelay] = [
        Incoming(1, TOKEN, OTHER.peer_id),
        Joined(1),
        Joined(1),
        Joined(9),
        Ended(9, "x"),
    ]
    async with scene(saying(reserved(), *messages)) as made:
        running = asyncio.gather(made.held.run(), return_exceptions=True)
        await wait_for(lambda: 1 in made.held.circuits and made.held.circuits[1].is_joined)
        await made.held.circuits[1].joined()
        assert made.ended == []
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_circuit_that_ends_at_once_is_still_one_to_whoever_takes_it() -> None:
    taken: list[Circuit] = []
    messages: list[FromRelay] = [Incoming(1, TOKEN, OTHER.peer_id), Ended(1, "changed its mind")]
    async with scene(saying(reserved(), *messages)) as made:
        made.held.on_incoming = lambda held, circuit, message: taken.append(circuit)
        running = asyncio.gather(made.held.run(), return_exceptions=True)
        await wait_for(lambda: made.ended)
        with pytest.raises(Unavailable, match="changed its mind"):
            await taken[0].joined()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("told", "announced"),
    [
        # Addresses that mean the same everywhere come first, one of each version of IP.
        (
            ("/ip4/10.0.0.1/tcp/1", "/ip4/203.0.113.1/tcp/2", "/ip6/2001:db9::1/tcp/3"),
            ["/ip4/203.0.113.1/tcp/2", "/ip6/2001:db9::1/tcp/3"],
        ),
        # Masked ones, those of other nodes, relayed ones and junk are left out.
        (
            (
                "/ip4/203.0.113.1/tcp/443/ws",
                f"/ip4/203.0.113.2/tcp/2/p2p/{OTHER.peer_id}",
                f"/ip4/203.0.113.3/tcp/3/p2p/{OTHER.peer_id}/p2p-circuit",
                "junk",
            ),
            ["/ip4/127.0.0.1/tcp/1"],
        ),
    ],
)
async def test_which_addresses_of_a_relay_are_announced(
    told: tuple[str, ...], announced: list[str]
) -> None:
    async with scene(saying(reserved(RELAY, CLIENT, *told))) as made:
        running = asyncio.gather(made.held.run(), return_exceptions=True)
        await wait_for(lambda: made.held.is_live)
        assert [place.location for place in made.held.places] == announced
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_reservation_is_renewed_at_half_its_life_and_lost_without_an_answer() -> None:
    renewals: list[float] = []
    loop = asyncio.get_running_loop()

    async def renew_twice(stream: Stream) -> None:
        while True:
            message = read_from_client(await read_frame(stream))
            assert isinstance(message, Reserve) and message.held
            renewals.append(loop.time() - began)
            if len(renewals) < 3:
                await stream.write(encode(reserved()))

    async with scene(saying(reserved(), then=renew_twice)) as made:
        began = loop.time()
        await made.fails(PeerGone, ".")
        assert renewals == pytest.approx([LIFETIME_S / 2 * n for n in (1, 2, 3)], abs=2)
        assert loop.time() - began == pytest.approx(1.5 * LIFETIME_S + REPLY_S, abs=2)


async def test_a_node_leaves_when_the_relay_says_so() -> None:
    loop = asyncio.get_running_loop()
    answers: list[object] = []

    async def until_released(stream: Stream) -> None:
        answers.append(read_from_client(await read_frame(stream)))

    async with scene(saying(reserved(), Closing(7.0), then=until_released)) as made:
        began = loop.time()
        await made.fails(PeerGone, ".")
        assert answers == [Release()]
        assert loop.time() - began == pytest.approx(7.0, abs=0.1)
        assert made.held.closing_until == pytest.approx(began + 7.0, abs=0.1)
