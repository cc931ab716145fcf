"""Hole punching, as a part of the NAT plugin: sessions, the mirror, and what this node has seen."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from aitorrent_nat.config import NatConfig
from aitorrent_nat.punch import messages, sighting
from aitorrent_nat.punch.around import Around, Reached
from aitorrent_nat.punch.birthday import Turns
from aitorrent_nat.punch.messages import Refuse, Result
from aitorrent_nat.punch.mirror import Mirror
from aitorrent_nat.punch.upgrading import Upgrades
from aitorrentd.api import (
    PEER_PORT,
    AitorrentError,
    Attempt,
    Busy,
    HealthWarning,
    Offence,
    PeerGone,
    PeerId,
    PluginContext,
    Protection,
    ProtocolError,
    Stream,
    Transport,
    WireProtocol,
    called,
)
from aitorrentd.api.limits import PerPeer, TokenBucket
from aitorrentd.api.tasks import Tasks, beside

if TYPE_CHECKING:
    from aitorrent_nat.punch.session import Session

MAX_SESSIONS: Final = 8
"At the same time: each has a dozen sockets, or 256 for a birthday punch."
SESSION_RATE: Final = 1 / 15
"Sessions of one peer per second, on average."
SESSION_BURST: Final = 4
WAY: Final = "punch"
_PEER_IS_OFF: Final = "the peer does not punch: it is set so, or its version cannot"


class PunchPart:
    """Implements `aitorrent_nat.parts.Part`."""

    name = "hole punching"

    def __init__(
        self, ctx: PluginContext, transport: Transport, guard: Protection, reached: Reached
    ) -> None:
        self._ctx = ctx
        self._config: NatConfig = ctx.config
        self._transport = transport
        self._guard = guard
        self._tasks = Tasks(ctx.tasks)
        # What libraries do with strangers' bytes must not end the plugin.
        self._paths = Tasks(ctx.log)
        now = ctx.clock.monotonic
        self.around = Around(ctx, transport, reached)
        self.mirror = Mirror(now)
        self.upgrades = Upgrades(ctx, self._tasks, transport, self.around.is_relayed, self.punch)
        self.connected: Counter[str] = Counter()
        "Channels that became direct, by the leg that did it."
        self.failed = 0
        "Sessions without success."
        self._turns = Turns(now)
        self._running: dict[PeerId, asyncio.Task[Result]] = {}
        self._buckets = PerPeer(lambda: TokenBucket(SESSION_RATE, SESSION_BURST, now()))

    @property
    def is_on(self) -> bool:
        """Whether this node punches; not if its connections are to look like something else."""
        return self._config.punch and not self._transport.is_masking

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Punch while the block runs."""
        with self._ctx.service(PEER_PORT).prefaces.added("mirror", self.mirror):
            if self.is_on:
                self._tasks.spawn(self.upgrades.run(), "nat: upgrade relayed channels")
            try:
                yield
            finally:
                await self._tasks.close()
                await self._paths.close()

    def protocols(self) -> Iterable[WireProtocol]:
        """Sessions, and what this node has seen of the peer that asks."""
        yield WireProtocol(sighting.PROTOCOL, self._tell_sighting, max_streams=2)
        if self.is_on:
            yield WireProtocol(messages.PROTOCOL, self._serve, max_streams=2)

    def state(self) -> str:
        """What it did, in one line."""
        if not self._config.punch:
            return "off: plugins.nat.punch is false"
        if not self.is_on:
            return "off: connections are masked"
        how = ", ".join(f"{count} by {leg}" for leg, count in self.connected.most_common())
        return (
            f"relayed channels that became direct: {how or 'none'}; still relayed:"
            f" {self.upgrades.waiting}; failed attempts: {self.failed}"
        )

    def warnings(self) -> Iterable[HealthWarning]:
        """None of its own: what failed is in the traces of each peer."""
        return ()

    # Sessions

    async def punch(self, peer: PeerId) -> bool:
        """Begin a session with `peer`; whether another attempt may end differently soon."""
        if self._ctx.draining or peer in self._running or len(self._running) >= MAX_SESSIONS:
            return True
        session: Session | None = None
        began = self.around.unix_s()
        try:
            module = await _session_module()
            await self.around.find_turn()
            stream = await self._transport.open_stream(peer, messages.PROTOCOL)
            session = module.Session(self.around, stream, self._paths, self._turns, initiator=True)
            await self._follow(peer, stream, session)
        except Busy as e:
            self._note_failure(peer, began, e.message)
            return True
        except (AitorrentError, OSError) as e:
            if isinstance(e, ProtocolError):
                self._guard.report(peer, Offence.INVALID_MESSAGE, e.message)
            is_off = isinstance(e, PeerGone) and "no such protocol" in e.message
            self._note_failure(peer, began, _PEER_IS_OFF if is_off else str(e))
            return False  # most likely a node that does not punch
        return session.plan is None or bool(session.plan.steps)

    async def _serve(self, stream: Stream) -> None:
        peer = stream.peer
        self._guard.admit_call(peer)
        if refusal := self._refusal(peer):
            await stream.write(messages.encode(Refuse(refusal)))
            await stream.close()
            return
        # Both ends began at once: the offer of the lower id counts.
        if (mine := self._running.get(peer)) is not None:
            mine.cancel()
            await asyncio.wait({mine})
        module = await _session_module()
        await self.around.find_turn()
        session = module.Session(self.around, stream, self._paths, self._turns, initiator=False)
        try:
            await self._follow(peer, stream, session)
        except ProtocolError as e:
            self._guard.report(peer, Offence.INVALID_MESSAGE, e.message)
            raise

    def _refusal(self, peer: PeerId) -> str:
        """Why a session with `peer` cannot begin now; "" if it can."""
        if self._ctx.draining:
            return "this node is draining"
        if not self.around.is_relayed(peer):
            return "the channel does not pass a relay"
        if peer in self._running and self._transport.node_id < peer:
            return "a session is under way already"
        if len(self._running) >= MAX_SESSIONS:
            return f"{MAX_SESSIONS} sessions are under way, the limit"
        if not self._buckets.of(peer).take(self._ctx.clock.monotonic()):
            return "too many sessions; try again in a minute"
        return ""

    async def _follow(self, peer: PeerId, stream: Stream, session: Session) -> None:
        """Run a session, and count how it ended."""
        began = self.around.unix_s()
        try:
            async with beside(session.run(), f"nat: punch to {peer}") as task:
                self._running[peer] = task
                await asyncio.wait({task})
            if task.cancelled():
                raise Busy("another session replaced this one")
            result = task.result()
        except BaseException:
            stream.reset("the session failed")
            raise
        finally:
            if self._running.get(peer) is task:
                del self._running[peer]
            self.upgrades.session_ended(peer)
        if result.ok:
            view = self._transport.peer(peer)
            self.connected[result.said] += 1
            name = called(peer, view.name if view else "")
            self._ctx.log.info("connected directly to %s (%s)", name, result.said)
        else:
            self.failed += 1
            if session.plan is not None and not session.plan.steps:
                self._note_failure(peer, began, result.said)

    def _note_failure(self, peer: PeerId, began: float, outcome: str) -> None:
        self._ctx.log.debug("no direct connection to %s: %s", peer, outcome)
        took_s = self.around.unix_s() - began
        self.around.note(peer, Attempt(began, WAY, "", False, outcome, took_s))

    # Witnesses

    async def _tell_sighting(self, stream: Stream) -> None:
        self._guard.admit_call(stream.peer)
        view = self._transport.peer(stream.peer)
        if view is None or not view.host or self.around.is_relayed(stream.peer):
            raise Busy("this node does not see where you connect from")
        seen = sighting.attest(
            self._ctx.identity,
            self._ctx.network,
            stream.peer,
            view.host,
            self._ctx.clock.time(),
        )
        await stream.write(sighting.encode(seen))
        await stream.close()


async def _session_module() -> Any:
    """`session`, with the libraries of ICE and QUIC, which few nodes ever need: half a second."""
    return await asyncio.to_thread(importlib.import_module, "aitorrent_nat.punch.session")
