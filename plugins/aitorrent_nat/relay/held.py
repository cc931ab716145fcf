"""A reservation that this node holds at a relay: the stream on which the relay announces circuits.

The reservation is renewed at half its life. When the stream ends, the relay can announce nothing
any more, and the reservation is of no use until another stream shows it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from aitorrent_nat.networks import is_inside
from aitorrent_nat.relay.legs import Circuit, dialled_place
from aitorrent_nat.relay.messages import (
    MAX_MESSAGE_BYTES,
    PROTOCOL,
    Closing,
    Decline,
    Ended,
    FromClient,
    FromRelay,
    Incoming,
    Joined,
    Refused,
    Release,
    Reserve,
    Reserved,
    encode,
    read_from_relay,
)
from aitorrent_nat.relay.reservation import SKEW_S, Reservation, check, read_reservation
from aitorrentd.api import (
    AitorrentError,
    Conflict,
    InvalidParams,
    PeerGone,
    PeerId,
    PluginContext,
    ProtocolError,
    Stream,
    TimedOut,
    Transport,
    Unavailable,
    read_frame,
    short,
)
from aitorrentd.api.network.addresses import Address, parse_address

REPLY_S: Final = 10.0
MAX_PLACES: Final = 2
"Addresses of one relay that are announced: one of each version of IP."


class Held:
    """A reservation at `relay` while its stream is open.

    `on_incoming(held, circuit, message)` starts to take a circuit; `on_change()` is called when a
    reservation was given, renewed or lost.
    """

    def __init__(
        self,
        ctx: PluginContext,
        transport: Transport,
        relay: PeerId,
        known: tuple[Address, ...],
        raw: bytes,
    ) -> None:
        """`known` is where the relay was last, and `raw` the reservation that it gave then."""
        self.relay = relay
        self.places = known
        "Where others can dial the relay; announced while `is_live`."
        self.raw = raw
        self.reservation: Reservation | None = None
        self.received_at = 0.0
        "When it was given or renewed, in seconds of the monotonic clock."
        self.closing_until = 0.0
        "Until when a relay that is stopping wants its clients to wait; monotonic."
        self.is_left = False
        "Whether this node gave the reservation up."
        self.circuits: dict[int, Circuit] = {}
        "Circuits that the relay announced, until it says that they ended."
        self.on_incoming: Callable[[Held, Circuit, Incoming], None] = _ignore
        self.on_change: Callable[[], None] = lambda: None
        self.on_ended: Callable[[Held, Circuit, str], None] = lambda held, circuit, reason: None
        self._ctx = ctx
        self._transport = transport
        self._stream: Stream | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_live(self) -> bool:
        """Whether the relay can announce circuits now."""
        return self._stream is not None and self.reservation is not None and not self.is_left

    @property
    def legs_to(self) -> tuple[Address, ...]:
        """Where this node connects to the relay: first where its channel leads."""
        here = dialled_place(self._transport.peer(self.relay))
        return tuple(dict.fromkeys(here + self.places))

    async def run(self) -> None:
        """Reserve, and hold the reservation until the stream ends.

        Raises:
            AitorrentError: the relay refused, cannot be reached, ended the stream, or broke the
            protocol.
        """
        addresses = [str(place.of(self.relay)) for place in self.places]
        stream = await self._transport.open_stream(self.relay, PROTOCOL, addresses=addresses)
        reason = ""
        try:
            self._check_way()
            await stream.write(encode(Reserve(self.raw)))
            try:
                async with asyncio.timeout(REPLY_S):
                    await self._handle(await self._read(stream))
            except TimeoutError:
                raise TimedOut(f"the relay did not answer within {REPLY_S:g} s") from None
            if self.reservation is None:
                raise ProtocolError("the relay did not answer the request")
            self._stream = stream
            self.on_change()
            while True:
                await self._handle(await self._read(stream))
        except AitorrentError as e:
            reason = e.message
            raise
        finally:
            self._stream = None
            if self._timer is not None:
                self._timer.cancel()
            for circuit in self.circuits.values():
                circuit.note_ended(f"the relay was lost: {reason}")
            stream.reset(reason[:100] or "no longer needed")
            self.on_change()

    def say(self, message: FromClient) -> None:
        """Send a message to the relay, if it still listens."""
        if self._stream is None:
            return
        try:
            if not self._stream.write_now(encode(message)):
                self._stream.reset("the relay does not read")
        except (PeerGone, Conflict):
            return  # the reading side notices

    def leave(self) -> None:
        """Give the reservation up; the relay then ends the stream."""
        if not self.is_left and self._stream is not None:
            self.is_left = True
            self.say(Release())
            self._later(REPLY_S, self._silent)

    def _check_way(self) -> None:
        view = self._transport.peer(self.relay)
        if view is None:
            raise PeerGone("the channel to the relay ended")
        if not view.host:
            raise Unavailable("a relay cannot be used through another relay")

    async def _read(self, stream: Stream) -> FromRelay:
        return read_from_relay(await read_frame(stream, max_bytes=MAX_MESSAGE_BYTES))

    async def _handle(self, message: FromRelay) -> None:
        match message:
            case Refused(error):
                raise error
            case Reserved(raw, addresses):
                self._take_up(raw, addresses)
            case Incoming():
                self._take(message)
            case Joined(number):
                if number in self.circuits:
                    self.circuits[number].note_joined()
            case Ended(number, reason):
                circuit = self.circuits.pop(number, None)
                if circuit is not None:
                    circuit.note_ended(reason)
                    self.on_ended(self, circuit, reason)
            case Closing(after_s):
                self.closing_until = self._ctx.clock.monotonic() + after_s
                self._later(after_s, self.leave)
            case _:
                raise ProtocolError("a message that is not for the holder of a reservation")

    def _take_up(self, raw: bytes, addresses: tuple[str, ...]) -> None:
        reservation = read_reservation(raw)
        # The clocks may differ: the lifetime counts from now.
        check(reservation, self.relay, self._ctx.identity.peer_id, reservation.issued)
        ahead_s = abs(reservation.issued - self._ctx.clock.time())
        if ahead_s > SKEW_S:
            self._ctx.log.debug("the clock of %s differs by %.0f s", short(self.relay), ahead_s)
        self.places = self._announced(addresses)
        self.reservation, self.raw = reservation, raw
        self.received_at = self._ctx.clock.monotonic()
        self._later(reservation.lifetime_s / 2, self._renew)
        self.on_change()

    def _announced(self, addresses: tuple[str, ...]) -> tuple[Address, ...]:
        """One address of each version of IP, those that mean the same everywhere first.

        Raises:
            Unavailable: the relay has none.
        """
        found = list(dialled_place(self._transport.peer(self.relay)))
        for text in addresses:
            try:
                found.append(parse_address(text))
            except InvalidParams:
                continue  # a kind that this version does not know
        usable = [
            replace(each, peer=None)
            for each in found
            if each.relay is None and not each.masked and each.peer in (None, self.relay)
        ]
        usable.sort(key=lambda each: is_inside(each.host))  # stable
        chosen = {each.family: each for each in reversed(usable)}
        places = tuple(each for each in usable if chosen[each.family] == each)
        if not places:
            raise Unavailable("the relay has no address that others can connect to")
        return tuple(dict.fromkeys(places))[:MAX_PLACES]

    def _take(self, message: Incoming) -> None:
        reservation = self.reservation
        if reservation is None or message.circuit in self.circuits:
            raise ProtocolError("a circuit that cannot be")
        if len(self.circuits) >= reservation.terms.circuits:
            self.say(Decline(message.circuit, "too many circuits"))
            return
        circuit = self.circuits[message.circuit] = Circuit(message.circuit, message.peer)
        self.on_incoming(self, circuit, message)

    def _renew(self) -> None:
        self.say(Reserve(self.raw))
        if self._stream is not None:
            # `_take_up` cancels this.
            self._later(REPLY_S, self._silent)

    def _silent(self) -> None:
        if self._stream is not None:
            self._stream.reset("the relay does not answer")

    def _later(self, delay_s: float, call: Callable[[], object]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, call)


def _ignore(held: Held, circuit: Circuit, message: Incoming) -> None:
    """Default of a callback."""
