"""libtorrent's session on asyncio.

libtorrent has threads of its own. It writes a byte into a pipe when alerts are waiting, so the
event loop learns of them like of any other input, and nothing here waits for libtorrent's thread:
calls that do wait run on a thread of `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import libtorrent as lt

from aitorrent_seeding.session import alerts, counting
from aitorrent_seeding.session.names import Names
from aitorrent_seeding.session.refusing import Refusing
from aitorrent_seeding.session.serving import Serving
from aitorrent_seeding.session.torrent import Awaited, Torrent
from aitorrentd.api import Conflict, ProtocolError, TimedOut
from aitorrentd.api.tasks import beside

_POLL_S: Final = 0.5
_ADD_S: Final = 30.0
_LISTEN_S: Final = 5.0
_FAILURES: Final = 3
"Attempts before a peer is given up: libtorrent's default."
_END_S: Final = 12.0
_PIPE: Final = 65_536
_GLOBAL_CLASS: Final = 1
"The bit of `lt.session.global_peer_class_id`, which is 0."
_COUNTERS: Final = lt.status_flags_t.query_accurate_download_counters


class Engine:
    """A running session; create it with `running`."""

    def __init__(self, session: Any, addresses: int, names: Names, log: logging.Logger) -> None:
        self._session = session
        self._log = log
        self._torrents: dict[Any, Torrent] = {}
        self._serving = Serving(self._torrents)
        self._refusing = Refusing(self._filter, log)
        self._adding: dict[str, tuple[int, Awaited[Torrent]]] = {}
        self._bound = asyncio.Event()
        self._unbound = addresses
        self.met: set[Torrent] = set()
        "Torrents whose connections appeared or ended; whoever looks at one takes it out."
        self.on_moved: Callable[[int, int], None] = lambda received, sent: None
        "Called with the payload that torrents exchanged since the last call."
        self._failures = _FAILURES
        self._names = names
        self.port = 0
        "The TCP port that is bound; 0 = none."
        self.listen_problem = ""
        "Why a port or address could not be bound; empty if nothing went wrong."

    @classmethod
    @asynccontextmanager
    async def running(
        cls, settings: Mapping[str, Any], log: logging.Logger
    ) -> AsyncIterator[Engine]:
        """A session with these settings while the block runs."""
        readable, writable = os.pipe()
        os.set_blocking(readable, False)
        os.set_blocking(writable, False)
        loop = asyncio.get_running_loop()
        addresses = str(settings["listen_interfaces"]).count(",") + 1
        names = Names(str(lt.default_settings()["peer_fingerprint"]), loop.time())
        named = {**settings, "peer_fingerprint": names.renew(loop.time())}
        engine = cls(await asyncio.to_thread(lt.session, named), addresses, names, log)
        engine._serving.limit_bps = settings["upload_rate_limit"]
        loop.add_reader(readable, engine._drain, readable)
        engine._session.set_alert_fd(writable)
        if settings["upload_rate_limit"] or settings["download_rate_limit"]:
            engine._session.set_peer_class_filter(_one_class())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LISTEN_S):
                    await engine._bound.wait()
            async with (
                beside(engine._poll(), "seeding: state of torrents"),
                beside(engine._serve(), "seeding: slots"),
            ):
                yield engine
        finally:
            loop.remove_reader(readable)
            engine._refusing.close()
            for torrent in engine._torrents.values():
                torrent.gone()
            engine._torrents.clear()
            last, engine._session = [engine._session], None
            await ended(last, log)
            os.close(readable)
            os.close(writable)

    async def _poll(self) -> None:
        """Ask for the state of the torrents that changed, as long as there are any."""
        while True:
            await asyncio.sleep(_POLL_S)
            if self._torrents:
                self._session.post_torrent_updates(_COUNTERS)

    async def _serve(self) -> None:
        async for settings in self._serving.settings():
            self._session.apply_settings(settings)

    def __len__(self) -> int:
        return len(self._torrents)

    async def add(self, params: Any, pieces: int) -> Torrent:
        """Add a torrent of `pieces` pieces; 0 = unknown.

        Raises:
            Conflict: it is there already. ProtocolError, TimedOut: libtorrent did not take it.
        """
        key = str(params.info_hashes.get_best())
        if key in self._adding:
            raise Conflict(f"the torrent {key} is being added")
        added = Awaited[Torrent]()
        self._adding[key] = pieces, added
        try:
            future = added.future()
            self._session.async_add_torrent(params)
            async with asyncio.timeout(_ADD_S):
                return await future
        except TimeoutError:
            raise TimedOut(f"libtorrent did not add the torrent within {_ADD_S:g} s") from None
        finally:
            del self._adding[key]

    async def remove(self, torrent: Torrent) -> None:
        """Remove a torrent from the session; its files stay."""
        is_here = self._torrents.pop(torrent.handle, None) is not None
        torrent.gone()
        self.met.discard(torrent)
        if is_here:
            await asyncio.to_thread(self._session.remove_torrent, torrent.handle)

    async def count(self, torrent: Torrent) -> None:
        """Count what went through the connections of a torrent; `Torrent.links` has them."""
        at = asyncio.get_running_loop().time()
        with suppress(RuntimeError):  # the handle became invalid meanwhile
            sample = await asyncio.to_thread(counting.sample, torrent.handle)
            torrent.links.sampled(sample, self._names.possible(at), at)

    async def partial(self, torrent: Torrent) -> set[int]:
        """Pieces that peers are sending now; none of a removed torrent."""
        try:
            queue = await asyncio.to_thread(torrent.handle.get_download_queue)
        except RuntimeError:
            return set()
        return {int(one["piece_index"]) for one in queue}

    def reconsider_peers(self) -> None:
        """Dial known peers again that libtorrent has written off.

        A torrent that wants nothing counts seeds as useless. When it wants more, they stay so
        (2.1.1), unless a change of this setting makes libtorrent look at all of them again.
        """
        self._failures = _FAILURES + (self._failures == _FAILURES)
        self._session.apply_settings({"max_failcount": self._failures})

    def _filter(self, rules: Any) -> None:
        self._session.set_ip_filter(rules)

    # Alerts

    def _drain(self, readable: int) -> None:
        with suppress(BlockingIOError):
            while len(os.read(readable, _PIPE)) == _PIPE:
                pass
        has_met = False
        for alert in self._session.pop_alerts():
            self._hear(alert)
            has_met = has_met or isinstance(alert, counting.MEETINGS)
        if has_met:
            name = self._names.renew(asyncio.get_running_loop().time())
            self._session.apply_settings({"peer_fingerprint": name})

    def _hear(self, alert: Any) -> None:
        kind = type(alert).__name__
        if kind == "add_torrent_alert":
            self._added(alert)
        elif kind == "state_update_alert":
            for status in alert.status:
                if torrent := self._torrents.get(status.handle):
                    torrent.updated(status)
                    received, sent = torrent.moved(status)
                    self._serving.sent(sent)
                    self.on_moved(received, sent)
        elif kind == "listen_succeeded_alert":
            if "[TCP]" in alert.message():
                self.port = self.port or int(alert.port)
                self._bound.set()
        elif kind == "listen_failed_alert":
            self.listen_problem = alert.message()
            self._unbound -= "TCP" in self.listen_problem
            if self._unbound <= 0:
                self._bound.set()
        elif kind == "alerts_dropped_alert":
            self._log.warning("libtorrent dropped alerts; asking for the state of all torrents")
            for torrent in self._torrents.values():
                torrent.handle.post_status(lt.status_flags_t.query_pieces)
        elif torrent := self._torrents.get(getattr(alert, "handle", None)):
            if isinstance(alert, counting.PEERS):
                now = asyncio.get_running_loop().time()
                counting.hear(torrent.links, alert, self._names, now)
                self.met.add(torrent)
                if isinstance(alert, lt.peer_ban_alert):
                    every = [one.links for one in self._torrents.values()]
                    self._refusing.corrupt((str(alert.ip[0]), int(alert.ip[1])), every)
            else:
                alerts.hear(torrent, alert)

    def _added(self, alert: Any) -> None:
        key = str(alert.params.info_hashes.get_best())
        pieces, waiting = self._adding.get(key, (0, None))
        if waiting is None:
            return
        if alert.error.value():
            text = alert.error.message()
            is_there = "exists" in text or "duplicate" in text.lower()
            waiting.fail(Conflict(text) if is_there else ProtocolError(text))
            return
        torrent = self._torrents[alert.handle] = Torrent(alert.handle, pieces)
        waiting.settle(torrent)


async def ended(last: list[Any], log: logging.Logger, *, within_s: float = _END_S) -> None:
    """Let go of the only reference to a session, which then waits for trackers and the disk.

    It may wait for ever after a write found no space (libtorrent 2.1.1), so the thread is a daemon.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        last.clear()
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=end, name="seeding: end of the session", daemon=True).start()
    try:
        async with asyncio.timeout(within_s):
            await ended.wait()
    except TimeoutError:
        log.warning("libtorrent did not stop within %g s; left behind", within_s)


def _one_class() -> Any:
    """Peers of the local network count towards the limits of rate, like all others."""
    everyone, every_class = lt.ip_filter(), _GLOBAL_CLASS
    everyone.add_rule("0.0.0.0", "255.255.255.255", every_class)
    everyone.add_rule("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", every_class)
    return everyone
