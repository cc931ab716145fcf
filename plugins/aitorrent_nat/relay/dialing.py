"""The dialer `relay`: reaches a peer through the relay that its address names."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Final

from aitorrent_nat.relay.legs import Circuit, dialled_place, open_leg
from aitorrent_nat.relay.messages import (
    MAX_MESSAGE_BYTES,
    PROTOCOL,
    Connect,
    Ended,
    FromRelay,
    Joined,
    Opened,
    Refused,
    encode,
    read_from_relay,
)
from aitorrentd.api import (
    AitorrentError,
    PeerGone,
    PeerId,
    PluginContext,
    ProtocolError,
    Stream,
    Transport,
    Unavailable,
    read_frame,
    short,
)
from aitorrentd.api.network.addresses import Address
from aitorrentd.api.network.attempts import Attempt, Attempts
from aitorrentd.api.network.peer_port import PeerPort
from aitorrentd.api.network.resolver import Resolver
from aitorrentd.api.network.routes import MakeProtocol, Route
from aitorrentd.api.tasks import Tasks, beside

NAME: Final = "relay"
RENEW_AT: Final = 0.9
"Share of its time after which a circuit is renewed: channels do not notice its end."
MIN_RENEW_S: Final = 30.0
"Whatever time a relay gives, circuits do not follow each other faster."


class RelayDialer:
    """Implements `aitorrentd.api.Dialer`."""

    name = NAME

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        transport: Transport,
        port: PeerPort,
        attempts: Attempts,
    ) -> None:
        self._port = port
        self._ctx = ctx
        self._tasks = tasks
        self._transport = transport
        self._attempts = attempts
        self._resolver = Resolver()

    def can_try(self, address: Address) -> bool:
        """Whether the address leads through a relay other than this node.

        A leg is never masked: its first four bytes name the protocol. So a node that masks its
        connections opens none, and none leads to an address where the relay expects the disguise.
        """
        me = self._transport.node_id
        return (
            address.relay is not None
            and address.relay != me
            and address.peer not in (None, me, address.relay)
            and not address.masked
            and not self._transport.is_masking
        )

    def route(self, address: Address) -> Route | None:
        """The route of a connection to `address`."""
        return Route(NAME, address.location, is_relayed=True)

    async def connect(self, address: Address, make_protocol: MakeProtocol) -> asyncio.Transport:
        """See `aitorrentd.api.Dialer.connect`."""
        return await self._connect(address, make_protocol, renews=False)

    async def _connect(
        self, address: Address, make_protocol: MakeProtocol, *, renews: bool
    ) -> asyncio.Transport:
        if address.relay is None or address.peer is None:
            raise Unavailable("the address names no relay, or no peer behind it")
        place = replace(address, relay=None, peer=address.relay)
        stream = await self._transport.open_stream(address.relay, PROTOCOL, addresses=[str(place)])
        try:
            places = self._places(place, address.relay)
            await stream.write(encode(Connect(address.peer, renews)))
            opened = await self._read(stream)
            if isinstance(opened, Refused):
                raise Unavailable(
                    f"the relay {short(address.relay)} refused: {opened.error.message}"
                )
            if not isinstance(opened, Opened):
                raise ProtocolError("the relay did not answer the request")
            circuit = Circuit(opened.circuit, address.peer)
            following = self._tasks.spawn(
                self._follow(stream, circuit, address, opened.seconds),
                f"circuit to {short(address.peer)}",
            )
        except BaseException:
            stream.reset("gave up")
            raise
        try:
            return await open_leg(places, opened.token, circuit, self._resolver, make_protocol)
        except BaseException:
            following.cancel()
            raise

    def _places(self, place: Address, relay: PeerId) -> tuple[Address, ...]:
        """Where to connect: first where the channel to the relay leads."""
        view = self._transport.peer(relay)
        if view is None:
            raise PeerGone("the channel to the relay ended")
        if not view.host:
            raise Unavailable(f"the relay {short(relay)} is itself reached through a relay")
        return tuple(dict.fromkeys((*dialled_place(view), place)))

    async def _follow(
        self, stream: Stream, circuit: Circuit, address: Address, seconds: float
    ) -> None:
        """Read what the relay says about the circuit, until it is over; renew it before."""
        async with beside(self._renew(circuit, address, seconds), "renewal of a circuit"):
            await self._read_on(stream, circuit, address)

    async def _renew(self, circuit: Circuit, address: Address, seconds: float) -> None:
        """Open the next circuit before this one reaches its time limit."""
        await asyncio.sleep(max(seconds * RENEW_AT, MIN_RENEW_S))
        view = self._transport.peer(circuit.peer)
        if view is None or view.address != address.location or not circuit.is_joined:
            return  # the channel has moved, or is gone
        try:
            await self._port.secure(
                partial(self._connect, address, renews=True),
                circuit.peer,
                Route(NAME, address.location, is_relayed=True, renews=True),
                dialer=True,
            )
        except AitorrentError as e:
            self._ctx.log.info(
                "cannot renew the relayed connection to %s: %s", short(circuit.peer), e.message
            )

    async def _read_on(self, stream: Stream, circuit: Circuit, address: Address) -> None:
        reason = ""
        try:
            while True:
                message = await self._read(stream)
                if isinstance(message, Joined):
                    circuit.note_joined()
                elif isinstance(message, Ended):
                    reason = message.reason
                    break
        except AitorrentError as e:
            # The circuit may outlive its control stream; its own bytes say when it ends.
            circuit.note_ended(f"the relay was lost: {e.message}")
        else:
            circuit.note_ended(reason)
            note_end(self._ctx, self._attempts, circuit, address.location, reason)
        finally:
            stream.reset("the circuit is over")

    async def _read(self, stream: Stream) -> FromRelay:
        return read_from_relay(await read_frame(stream, max_bytes=MAX_MESSAGE_BYTES))


def note_end(
    ctx: PluginContext, attempts: Attempts, circuit: Circuit, location: str, reason: str
) -> None:
    """Say why a relay ended a circuit that was in use; without a reason, its ends closed it."""
    if not reason or not circuit.is_joined:
        return
    ctx.log.info("the relayed connection to %s ended: %s", short(circuit.peer), reason)
    outcome = f"ended by the relay: {reason}"
    attempts.note(circuit.peer, Attempt(ctx.clock.time(), NAME, location, False, outcome, 0.0))
