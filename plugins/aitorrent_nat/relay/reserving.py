"""Holding reservations: this node keeps as many relays as it wants while nobody can dial it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from aitorrent_nat.relay.choosing import Candidate, Setbacks, choose
from aitorrent_nat.relay.dialing import NAME, note_end
from aitorrent_nat.relay.held import Held
from aitorrent_nat.relay.legs import Circuit, open_leg
from aitorrent_nat.relay.messages import Decline, Incoming
from aitorrent_nat.relay.reservation import check, read_reservation
from aitorrentd.api import (
    AitorrentError,
    PeerId,
    PluginContext,
    ProtocolError,
    Transport,
    short,
)
from aitorrentd.api.network.addresses import Address
from aitorrentd.api.network.attempts import Attempt, Attempts
from aitorrentd.api.network.peer_port import PeerPort
from aitorrentd.api.network.resolver import Resolver
from aitorrentd.api.network.routes import Route
from aitorrentd.api.tasks import Tasks

LOOK_S: Final = 2.0
"Interval at which relays are looked for; news wake the search earlier."
LOST_S: Final = 2.0
"Clients of a relay that died look for another one within this time, not all at once."
LEFT_ALONE_S: Final = 60.0
"A relay that said it would stop is not asked again for this long."
MAX_REMEMBERED: Final = 8
SECURE_S: Final = 15.0
"From the announcement of a circuit to a channel over it."


class Reserver:
    """The relays of this node. Implements `Advertiser`: it lists the circuit addresses."""

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        transport: Transport,
        port: PeerPort,
        attempts: Attempts,
        *,
        wanted: int,
        candidates: Callable[[], Iterable[Candidate]],
        is_needed: Callable[[], bool],
    ) -> None:
        """`candidates()` are connected peers that relay; `is_needed()` says whether to reserve."""
        self.wake = asyncio.Event()
        "Set when candidates appeared or the need changed."
        self.on_change: Callable[[], None] = lambda: None
        self.remembered: dict[PeerId, tuple[bytes, tuple[Address, ...]]] = {}
        "Reservations of the last run, or at relays that were lost, with the addresses of each."
        self.problems: dict[PeerId, str] = {}
        "Why relays could not be used, the last few."
        self._ctx = ctx
        self._tasks = tasks
        self._transport = transport
        self._port = port
        self._attempts = attempts
        self._wanted = wanted
        self._candidates = candidates
        self._is_needed = is_needed
        self._resolver = Resolver()
        self._setbacks = Setbacks(ctx.random.random)
        self._held: dict[PeerId, Held] = {}

    @property
    def held(self) -> Sequence[Held]:
        """Relays at which a reservation is held, or being made."""
        return list(self._held.values())

    def addresses(self) -> Sequence[Address]:
        """Addresses that lead to this node through its relays."""
        me = self._transport.node_id
        return [
            replace(place, peer=me, relay=held.relay)
            for held in self._held.values()
            if held.is_live
            for place in held.places
        ]

    async def run(self) -> None:
        """Hold reservations until cancelled."""
        while True:
            self._adjust()
            self.wake.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self.wake.wait()
            except TimeoutError:
                continue

    def _adjust(self) -> None:
        if not self._is_needed() or not self._wanted:
            for held in self.held:
                held.leave()
            return
        now = self._ctx.clock.monotonic()
        for relay in list(self.remembered):
            if len(self._held) < self._wanted and self._setbacks.may_try(relay, now):
                raw, places = self.remembered.pop(relay)
                if relay not in self._held:
                    self._hold(relay, places, raw)
        missing = self._wanted - len(self._held)
        if missing <= 0:
            return
        usable = [
            each
            for each in self._candidates()
            if each.peer not in self._held and self._setbacks.may_try(each.peer, now)
        ]
        hosts = [place.host for held in self.held for place in held.places[:1]]
        for candidate in choose(usable, hosts, missing):
            self._hold(candidate.peer, (), b"")

    def _hold(self, relay: PeerId, places: tuple[Address, ...], raw: bytes) -> None:
        held = Held(self._ctx, self._transport, relay, places, raw)
        held.on_incoming = self._incoming
        held.on_ended = self._ended
        held.on_change = self.on_change
        self._held[relay] = held
        self._tasks.spawn(self._keep(held), f"reservation at {short(relay)}")

    async def _keep(self, held: Held) -> None:
        now = self._ctx.clock.monotonic
        try:
            await held.run()
        except AitorrentError as e:
            had = held.reservation is not None
            if had and now() - held.received_at > LEFT_ALONE_S:
                self._setbacks.worked(held.relay)
            if held.closing_until or not held.is_left:
                # Also after a success: a relay that ends streams at once is not asked in a loop.
                at_least_s = LEFT_ALONE_S if held.closing_until else 0.0
                self._setbacks.failed(held.relay, now(), at_least_s)
            self._note(held, "" if held.is_left else e.message)
            if had and not held.is_left:
                draw = self._ctx.random.random()
                await asyncio.sleep(max(held.closing_until - now(), draw * LOST_S))
            if not held.is_left:
                self._remember(held)
        # Not after a cancellation: what is held when the node stops is saved.
        del self._held[held.relay]
        self.on_change()
        self.wake.set()

    def _remember(self, held: Held) -> None:
        """A relay that died may come back, and still have the slot."""
        me, now = self._transport.node_id, self._ctx.clock.time()
        try:
            check(read_reservation(held.raw), held.relay, me, now)
        except ProtocolError:
            return  # none, or it expired
        self.remembered[held.relay] = held.raw, held.places
        while len(self.remembered) > MAX_REMEMBERED:
            del self.remembered[next(iter(self.remembered))]

    def _note(self, held: Held, problem: str) -> None:
        if not problem:
            self._ctx.log.info("gave up the reservation at %s", short(held.relay))
            return
        self.problems.pop(held.relay, None)
        self.problems[held.relay] = problem
        while len(self.problems) > MAX_REMEMBERED:
            del self.problems[next(iter(self.problems))]
        what = "lost the reservation at" if held.reservation is not None else "no reservation at"
        # A node that stops loses them all, which is no news.
        level = logging.DEBUG if self._ctx.draining else logging.INFO
        self._ctx.log.log(level, "%s %s: %s", what, short(held.relay), problem)

    # Circuits

    def _incoming(self, held: Held, circuit: Circuit, message: Incoming) -> None:
        self._tasks.spawn(self._take(held, circuit, message), f"circuit from {short(circuit.peer)}")

    async def _take(self, held: Held, circuit: Circuit, message: Incoming) -> None:
        places = held.legs_to
        location = replace(places[0], peer=None, relay=held.relay).location
        connect = partial(open_leg, places, message.token, circuit, self._resolver)
        began = self._ctx.clock.time(), self._ctx.clock.monotonic()
        outcome = "connected"
        try:
            await self._port.secure(
                connect,
                message.peer,
                Route(NAME, location, is_relayed=True, renews=message.renews),
                dialer=False,
                timeout_s=SECURE_S,
            )
        except AitorrentError as e:
            outcome = e.message
            if not circuit.is_joined:
                held.say(Decline(message.circuit, e.message))
            self._ctx.log.debug("circuit from %s: %s", short(message.peer), e.message)
        took_s = self._ctx.clock.monotonic() - began[1]
        ok = outcome == "connected"
        self._attempts.note(message.peer, Attempt(began[0], NAME, location, ok, outcome, took_s))

    def _ended(self, held: Held, circuit: Circuit, reason: str) -> None:
        location = replace(held.places[0], peer=None, relay=held.relay).location
        note_end(self._ctx, self._attempts, circuit, location, reason)
