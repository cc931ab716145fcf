"""What this node does as a relay: it gives reservations, and opens circuits to their holders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from aitorrent_nat.config import RelayLimits
from aitorrent_nat.relay.control import Control
from aitorrent_nat.relay.grants import Grants
from aitorrent_nat.relay.lines import Line, Lines
from aitorrent_nat.relay.messages import (
    MAX_ADDRESSES,
    MAX_MESSAGE_BYTES,
    PROTOCOL,
    Closing,
    Connect,
    Decline,
    Refused,
    Release,
    Reserve,
    Reserved,
    encode,
    read_from_client,
    read_request,
)
from aitorrent_nat.relay.reservation import Terms
from aitorrentd.api import (
    AitorrentError,
    Frame,
    Offence,
    PeerGone,
    PeerId,
    PluginContext,
    Priority,
    Protection,
    ProtocolError,
    Stream,
    TimedOut,
    Transport,
    Unavailable,
    WireProtocol,
    read_frame,
    short,
)
from aitorrentd.api.network.addresses import Address, parse_address

REQUEST_S: Final = 10.0
SMEAR_S: Final = 10.0
"Clients of a relay that stops reserve elsewhere within this time, not all at once."


class RelayServer:
    """The relay. `refusal()` says why this node does not relay now; "" if it does."""

    def __init__(
        self,
        ctx: PluginContext,
        limits: RelayLimits,
        transport: Transport,
        guard: Protection,
        refusal: Callable[[], str],
    ) -> None:
        terms = Terms(limits.rate, limits.bytes_per_hour, limits.circuits_per_peer)
        self.grants = Grants(ctx.identity, terms, limits.reservations)
        self.lines = Lines(limits, ctx.clock.monotonic)
        self.refusal = refusal
        self._ctx = ctx
        self._limits = limits
        self._transport = transport
        self._guard = guard
        self._clients: dict[PeerId, Control] = {}

    def protocol(self) -> WireProtocol:
        """What this node serves as a relay."""
        # One reservation, a second one that replaces it, and the control streams of circuits.
        streams = self._limits.circuits_per_peer + 2
        return WireProtocol(PROTOCOL, self._serve, max_streams=streams, priority=Priority.CONTROL)

    def is_connected(self, client: PeerId) -> bool:
        """Whether the client waits for circuits now."""
        return client in self._clients

    async def _serve(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(REQUEST_S):
                request = read_request(await self._frame(stream))
        except TimeoutError:
            raise TimedOut(f"no request within {REQUEST_S:g} s") from None
        except ProtocolError as e:
            self._fault(stream, e)
            raise
        try:
            self._guard.admit_call(stream.peer)
            if refusal := self.refusal():
                raise Unavailable(f"this node relays for nobody: {refusal}")
            if isinstance(request, Reserve):
                await self._reserve(stream, request)
            else:
                await self._connect(stream, request)
        except PeerGone:
            raise
        except AitorrentError as e:
            if isinstance(e, ProtocolError):
                self._fault(stream, e)
            await stream.write(encode(Refused(e)))

    async def _frame(self, stream: Stream) -> Frame:
        return await read_frame(stream, max_bytes=MAX_MESSAGE_BYTES)

    def _fault(self, stream: Stream, error: ProtocolError) -> None:
        self._guard.report(stream.peer, Offence.INVALID_MESSAGE, error.message)

    # Reservations

    async def _reserve(self, stream: Stream, request: Reserve) -> None:
        client = Control(stream)
        self._renew(client, request)
        self._ctx.log.info("gave %s a reservation", short(stream.peer))
        before = self._clients.get(stream.peer)
        self._clients[stream.peer] = client
        if before is not None:
            before.stream.reset("replaced by a newer stream")
        try:
            while True:
                message = read_from_client(await self._frame(stream))
                if isinstance(message, Decline):
                    self.lines.declined(client, message.circuit, message.reason)
                elif isinstance(message, Release):
                    self.grants.release(stream.peer)
                    return
                else:
                    self._guard.admit_call(stream.peer)
                    self._renew(client, message)
        finally:
            if self._clients.get(stream.peer) is client:
                del self._clients[stream.peer]

    def _renew(self, client: Control, request: Reserve) -> None:
        view = self._transport.peer(client.peer)
        if view is None:
            raise PeerGone("the channel ended")
        if not view.host:
            raise Unavailable("a relay cannot be used through another relay")
        now = self._ctx.clock.time()
        reservation = self.grants.reserve(client.peer, view.host, request.held, now)
        client.send(Reserved(reservation.raw, tuple(map(str, self.places()))))

    def expire(self) -> None:
        """Forget expired reservations; clients that think they still have one learn it."""
        self.grants.expire(self._ctx.clock.time())
        for client in list(self._clients.values()):
            if client.peer not in self.grants:
                client.stream.reset("the reservation expired")

    def places(self) -> Sequence[Address]:
        """Where others can connect to this relay: unmasked TCP addresses."""
        listed = [parse_address(text) for text in self._transport.addresses()]
        return [a for a in listed if a.relay is None and not a.masked][:MAX_ADDRESSES]

    def stopping(self) -> None:
        """Tell each client to reserve elsewhere, each at a time of its own."""
        for client in self._clients.values():
            client.send(Closing(self._ctx.random.random() * SMEAR_S))

    # Circuits

    async def _connect(self, stream: Stream, request: Connect) -> None:
        client = self._clients.get(request.target)
        if client is None or request.target not in self.grants:
            raise Unavailable(f"{short(request.target)} has no reservation at this relay now")
        line = self.lines.open(Control(stream), client, renews=request.renews)
        try:
            await self._until_over(line)
        except asyncio.CancelledError:
            self.lines.end(line, "the relay is stopping")
            raise

    async def _until_over(self, line: Line) -> None:
        reason = await asyncio.shield(line.over)
        circuit = line.circuit
        self._ctx.log.debug(
            "circuit %s to %s ended after %d bytes: %s",
            short(circuit.dialer),
            short(circuit.target),
            line.passed,
            reason or "closed",
        )

    def close(self) -> None:
        """End all circuits at once."""
        self.stopping()
        self.lines.close("the relay is stopping")
        for client in list(self._clients.values()):
            client.stream.reset("the relay is stopping")
