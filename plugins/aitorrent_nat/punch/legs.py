"""Runs the legs of a plan: each in its turn, until one has connected the peer.

Each leg leaves an entry in the traces, also one that was not needed in the end.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from aitorrent_nat.punch.birthday import Turns, guess, open_many
from aitorrent_nat.punch.candidates import Allowance, Candidate, Kind
from aitorrent_nat.punch.gathering import Gathered
from aitorrent_nat.punch.messages import Result, Terms
from aitorrent_nat.punch.paths.datagrams import Path, SocketPath
from aitorrent_nat.punch.paths.probing import ProbedPath
from aitorrent_nat.punch.paths.quic_transport import QuicTransport
from aitorrent_nat.punch.plan import Leg, Plan, Step
from aitorrent_nat.punch.surroundings import Surroundings
from aitorrentd.api import AitorrentError, PeerId, PeerView, Unavailable
from aitorrentd.api.network.attempts import Attempt
from aitorrentd.api.network.routes import MakeProtocol, Route

SECURE_S: Final = 5.0
"For the handshake on a connection that is open."
RTT_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Match:
    """Both ends of a session that is about to start."""

    peer: PeerId
    key: bytes
    terms: Terms
    "The peer's."
    allowance: Allowance
    plan: Plan


class Legs:
    """The legs of one session."""

    def __init__(
        self, around: Surroundings, match: Match, gathered: Gathered, turns: Turns
    ) -> None:
        self._around = around
        self._match = match
        self._gathered = gathered
        self._turns = turns
        self._is_dialer = around.node_id < match.peer
        self._tried: dict[Leg, str] = {}
        "What a leg tries, as a multiaddr."

    async def run(self) -> Result:
        """Run the plan; whether it connected the peer, and by what."""
        plan = self._match.plan
        if not plan.steps:
            return Result(False, f"nothing to try: {plan.reason}")
        tasks = {
            asyncio.create_task(self._step(step), name=f"leg {step.leg}"): step.leg
            for step in plan.steps
        }
        said: dict[Leg, str] = {}
        pending = set(tasks)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.result()
                    if error is None:
                        return Result(True, tasks[task].value)
                    said[tasks[task]] = error
        finally:
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending)
        if self._around.is_direct(self._match.peer):
            return Result(True, "connected by the peer")
        return Result(False, "; ".join(f"{leg}: {why}" for leg, why in said.items()))

    async def _step(self, step: Step) -> str | None:
        """Run one leg; None if it connected, else why not. Its outcome is in the traces."""
        await asyncio.sleep(step.delay_s)
        if self._around.is_direct(self._match.peer):
            return "connected already"
        loop = asyncio.get_running_loop()
        at, began = self._around.unix_s(), loop.time()
        outcome = "not needed: another way was faster"
        ok = False
        try:
            view = await self._leg(step.leg)
            outcome, ok = f"connected ({view.route})", True
            return None
        except AitorrentError as e:
            outcome = e.message
            return outcome
        except OSError as e:
            outcome = e.strerror or str(e)
            return outcome
        finally:
            where = self._tried.get(step.leg, "")
            took_s = loop.time() - began
            attempt = Attempt(at, step.leg.value, where, ok, outcome, took_s)
            self._around.note(self._match.peer, attempt)

    async def _leg(self, leg: Leg) -> PeerView:
        run = {
            Leg.DIAL: self._dial,
            Leg.TCP: self._tcp,
            Leg.UDP: self._udp,
            Leg.BIRTHDAY: self._birthday,
        }[leg]
        return await run()

    def _permitted(self, leg: Leg, *kinds: Kind) -> list[Candidate]:
        """The peer's candidates that this node may use for `leg`.

        Raises:
            Unavailable: there are none.
        """
        selected = [
            each
            for each in self._match.allowance.select(self._match.terms.candidates)
            if each.kind in kinds
        ]
        if not selected:
            public = ", ".join(sorted(self._match.allowance.public))
            raise Unavailable(
                f"the peer offers no address at {public}, where it is seen"
                if public
                else "no common peer says where this peer connects from"
            )
        self._tried[leg] = selected[0].location
        return selected

    async def _dial(self) -> PeerView:
        errors = []
        for place in self._permitted(Leg.DIAL, Kind.LISTEN):
            try:
                return await self._around.peer_port.secure(
                    partial(_connect, place),
                    self._match.peer,
                    Route(Leg.DIAL, place.location, place.host),
                    dialer=True,
                    timeout_s=SECURE_S,
                )
            except AitorrentError as e:
                errors.append(e.message)
        raise Unavailable("; ".join(errors))

    async def _tcp(self) -> PeerView:
        remotes = self._permitted(Leg.TCP, Kind.TCP, Kind.TCP_HOST)
        if self._gathered.punch is None:
            raise Unavailable(self._gathered.problems.get(Leg.TCP, "no mirror answered"))
        sock, remote = await self._gathered.punch.connect(
            remotes, self._match.key, dialer=self._is_dialer
        )
        self._tried[Leg.TCP] = remote.location
        loop = asyncio.get_running_loop()

        async def connect(make: MakeProtocol) -> asyncio.Transport:
            transport, _ = await loop.create_connection(make, sock=sock)
            return transport

        route = Route("punched", remote.location, remote.host)
        return await self._secure(connect, route)

    async def _udp(self) -> PeerView:
        kinds = (Kind.UDP, Kind.UDP_HOST, Kind.TURN)
        remotes = self._permitted(Leg.UDP, *kinds)
        terms, allowed = self._match.terms, self._match.allowance
        path = await self._gathered.agent.connect(
            terms.user, terms.password, remotes, allowed.hosts(terms.candidates)
        )
        return await self._over(path, Leg.UDP, "turn" if path.is_turn else "quic")

    async def _birthday(self) -> PeerView:
        [remote] = self._permitted(Leg.BIRTHDAY, Kind.MANY)
        own = self._gathered.terms.nat
        key = self._match.key
        with self._turns.taken():
            if own.is_symmetric:
                sock, hit = await open_many((remote.host, remote.port), key)
            elif self._gathered.many is None:
                raise Unavailable(
                    self._gathered.problems.get(Leg.BIRTHDAY, "no STUN server answered")
                )
            else:
                sock = self._gathered.many
                hit = await guess(sock, remote.host, key, random.Random(secrets.token_bytes(16)))
                self._gathered.many = None
            path = await SocketPath.over(sock, hit)
        return await self._over(path, Leg.BIRTHDAY, "quic")

    async def _over(self, path: Path, leg: Leg, name: str) -> PeerView:
        """Run QUIC on a path, and the handshake on it."""
        host, port = path.remote
        self._tried[leg] = f"/ip4/{host}/udp/{port}/quic-v1"
        probed = ProbedPath(path, self._match.key, is_client=self._is_dialer)

        async def connect(make: MakeProtocol) -> asyncio.Transport:
            size, rtt_s = await probed.measure()
            return await QuicTransport.over(
                probed,
                make,
                is_client=self._is_dialer,
                datagram_bytes=size,
                rtt_s=rtt_s or RTT_S,
            )

        try:
            return await self._secure(connect, Route(name, self._tried[leg], host))
        except BaseException:
            path.close()
            raise

    async def _secure(
        self, connect: Callable[[MakeProtocol], Awaitable[asyncio.Transport]], route: Route
    ) -> PeerView:
        return await self._around.peer_port.secure(
            connect, self._match.peer, route, dialer=self._is_dialer, timeout_s=SECURE_S
        )


async def _connect(place: Candidate, make: MakeProtocol) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(make, place.host, place.port)
    return transport
