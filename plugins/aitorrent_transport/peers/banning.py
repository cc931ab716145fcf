"""What follows from a ban: channels end, redialling stops, and the database remembers it."""

from __future__ import annotations

from typing import Final

from aitorrent_transport.peers.keeper import Keeper
from aitorrent_transport.peers.known_peers import PeerStore, SavedBan
from aitorrent_transport.peers.table import PeerTable
from aitorrent_transport.protection.bans import Ban
from aitorrent_transport.protection.guard import Guard
from aitorrentd.api import Clock, NotFound, PeerId, parse_peer_id
from aitorrentd.api.tasks import Tasks

MAX_RESTORED_S: Final = 366 * 86_400.0
"Longest rest of a saved ban, in case the clock was wrong when it was saved or is wrong now."


class Banning:
    """Enforces the guard's bans and keeps them across restarts."""

    def __init__(
        self,
        guard: Guard,
        table: PeerTable,
        keeper: Keeper,
        store: PeerStore,
        tasks: Tasks,
        clock: Clock,
    ) -> None:
        self._guard = guard
        self._table = table
        self._keeper = keeper
        self._store = store
        self._tasks = tasks
        self._clock = clock
        guard.on_ban = self._on_ban

    async def restore(self) -> None:
        """Put the bans of earlier runs back into effect."""
        now, wall = self._clock.monotonic(), self._clock.time()
        self._guard.restore(
            [
                Ban(
                    saved.subject,
                    # A clock that was set back does not extend a ban.
                    now + min(saved.until - wall, saved.seconds, MAX_RESTORED_S),
                    saved.reason,
                    saved.times,
                    saved.by_operator,
                )
                for saved in await self._store.bans()
            ]
        )
        self._end_refused()

    async def ban(self, subject: str, seconds: float, reason: str) -> Ban:
        """Ban on the operator's behalf; saved when this returns."""
        if (peer := _peer(subject)) is not None:
            self._keeper.release(peer)
            await self._store.unwant(peer)
        ban = self._guard.ban(subject, seconds, reason)
        await self._save(ban)
        return ban

    async def unban(self, subject: str) -> None:
        """Lift a ban.

        Raises:
            NotFound: there is none.
        """
        lifted = self._guard.unban(subject)
        await self._store.unban(subject)
        if not lifted:
            raise NotFound(f"{subject} is not banned; see `aitorrentctl peers --banned`")

    def _on_ban(self, ban: Ban) -> None:
        self._end_refused()
        if not ban.by_operator:
            self._tasks.spawn(self._save(ban), f"save the ban of {ban.subject}")

    def _end_refused(self) -> None:
        for peer in self._table:
            for channel in list(peer.channels):
                if reason := self._guard.refusal(channel.link.route.host, peer.id):
                    channel.close(reason)

    async def _save(self, ban: Ban) -> None:
        left_s = ban.left_s(self._clock.monotonic())
        saved = SavedBan(
            ban.subject,
            self._clock.time() + left_s,
            left_s,
            ban.reason,
            ban.times,
            ban.by_operator,
        )
        await self._store.ban(saved)


def _peer(subject: str) -> PeerId | None:
    try:
        return parse_peer_id(subject)
    except ValueError:
        return None
