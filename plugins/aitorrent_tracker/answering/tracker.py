"""A tracker without sockets: requests in, replies out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aitorrent_tracker.answering.access import ANNOUNCE, Access
from aitorrent_tracker.answering.sources import Proxies, Rates
from aitorrent_tracker.swarms.storage import Announce, Found, Full, Storage
from aitorrent_tracker.wire import http_replies, query, udp
from aitorrent_tracker.wire.http_requests import Request
from aitorrent_tracker.wire.refusals import Refused
from aitorrent_tracker.wire.usual import UsualAnnounces

_OK: Final = http_replies.OK
_ANNOUNCE: Final = udp.ANNOUNCE
_CONNECT: Final = udp.CONNECT


@dataclass(frozen=True, slots=True)
class Intervals:
    """When clients announce themselves again, in seconds."""

    usual_s: int = 900
    least_s: int = 60


class Tracker:
    """Answers announces and scrapes. `draw` returns a random number in [0, 1)."""

    def __init__(
        self,
        storage: Storage,
        access: Access,
        rates: Rates,
        proxies: Proxies,
        ids: udp.ConnectionIds,
        intervals: Intervals,
        draw: Callable[[], float],
    ) -> None:
        self.storage = storage
        self.access = access
        self.counts: Counter[str] = Counter()
        "Events since the start, by name."
        self.rates = rates
        self.proxies = proxies
        self._ids = ids
        self._intervals = intervals
        self._draw = draw
        self._spread_s = intervals.usual_s / 8
        self._read_usual = UsualAnnounces().read
        self._has_gates = access.is_private or not proxies.is_empty

    def http(self, request: Request, host: bytes, now: float) -> tuple[bytes, bytes]:
        """Status and body of the answer to a request from a packed address."""
        try:
            action = self.access.action(request.path)
            host = self.proxies.client(host, request.forwarded)
            if not self.rates.take(host, now):
                raise Refused("rate", "too many requests from your network", retry_min=1)
            if action == ANNOUNCE:
                return _OK, self._http_announce(request.query, host, now)
            hashes = query.read_scrape(request.query)
        except Refused as e:
            self.counts[f"refused_{e.kind}"] += 1
            status = b"404 Not Found" if e.kind == "path" else _OK
            return status, http_replies.failure_reply(e)
        self.counts["http_scrapes"] += 1
        listed = filter(self.access.is_listed, hashes)
        return _OK, http_replies.scrape_reply({h: self.storage.counts(h) for h in listed})

    def usual_http(self, raw: bytes, host: bytes, now: float) -> tuple[bytes, bool] | None:
        """The whole response to a usual announce, and whether its connection stays open.

        None for all other bytes, which are to be read and answered by `http`, to the same end.
        """
        read = self._read_usual(raw, host)
        if (
            read is None
            or (self._has_gates and (self.access.is_private or self.proxies.is_trusted(host)))
            or not self.rates.take(host, now)
        ):
            return None
        announce, keeps_alive = read
        try:
            found = self._announce(announce, now)
        except Refused as e:
            self.counts[f"refused_{e.kind}"] += 1
            reply = http_replies.http_reply(
                http_replies.failure_reply(e), is_head=False, keeps_alive=keeps_alive
            )
            return reply, keeps_alive
        self.counts["http_announces"] += 1
        # `_interval_s`, without the call.
        interval_s = int(self._intervals.usual_s - self._draw() * self._spread_s)
        least_s = self._intervals.least_s
        return http_replies.usual_reply(found, interval_s, least_s, keeps_alive), keeps_alive

    def _http_announce(self, raw: bytes, host: bytes, now: float) -> bytes:
        announce, is_compact, has_ids = query.read_announce(raw, host)
        found = self._announce(announce, now)
        self.counts["http_announces"] += 1
        least_s = self._intervals.least_s
        if is_compact:
            return http_replies.compact_reply(found, self._interval_s(), least_s)

        def id_of(entry: bytes) -> bytes:
            return self.storage.peer_id(announce.info_hash, entry)

        return http_replies.full_reply(
            found, self._interval_s(), least_s, id_of if has_ids else None
        )

    def _announce(self, announce: Announce, now: float) -> Found:
        access = self.access
        if access.torrents is not None and not access.is_listed(announce[0]):
            raise Refused("unregistered", "unregistered torrent")
        try:
            return self.storage.announce(announce, now)
        except Full:
            raise Refused("full", "this tracker has no room for another torrent") from None

    def _interval_s(self) -> int:
        """An eighth of it is random, so that clients that started together drift apart."""
        return int(self._intervals.usual_s - self._draw() * self._spread_s)

    def udp(self, raw: bytes, host: bytes, now: float) -> bytes | None:
        """The answer to a datagram from a packed address, or none."""
        whole = udp.read_whole_announce(raw, host)
        if (
            whole is None
            or self.access.is_private
            or not self._ids.is_valid(whole[0], host, now)
            or not self.rates.take(host, now)
        ):
            return self._unusual_udp(raw, host, now)
        _, transaction, announce = whole
        try:
            found = self._announce(announce, now)
        except Refused as e:
            return self._udp_refusal(transaction, e)
        self.counts["udp_announces"] += 1
        # `_interval_s`, without the call.
        interval_s = int(self._intervals.usual_s - self._draw() * self._spread_s)
        return udp.announce_reply(transaction, found, interval_s, len(host))

    def _unusual_udp(self, raw: bytes, host: bytes, now: float) -> bytes | None:
        """The answer to any datagram; of an announce without options, there is less to read."""
        head = udp.read_head(raw)
        if head is None:
            self.counts["udp_ignored"] += 1
            return None
        connection, action, transaction = head
        if action == _CONNECT and connection == udp.PROTOCOL_ID:
            # Not limited: the sender's address may be forged, and its owner must not pay for that.
            self.counts["udp_connects"] += 1
            return udp.connect_reply(transaction, self._ids.make(host, now))
        if action != _ANNOUNCE and action != udp.SCRAPE:
            self.counts["udp_ignored"] += 1
            return None
        if not self._ids.is_valid(connection, host, now):
            self.counts["udp_unproven"] += 1
            # At 15 bytes no longer than any request.
            return udp.error_reply(transaction, "expired")
        if not self.rates.take(host, now):
            self.counts["refused_rate"] += 1
            return None
        try:
            if action == _ANNOUNCE:
                return self._udp_announce(raw, transaction, host, now)
            return self._udp_scrape(raw, transaction)
        except Refused as e:
            return self._udp_refusal(transaction, e)

    def _udp_refusal(self, transaction: int, refused: Refused) -> bytes:
        self.counts[f"refused_{refused.kind}"] += 1
        return udp.error_reply(transaction, refused.text)

    def _udp_announce(self, raw: bytes, transaction: int, host: bytes, now: float) -> bytes:
        announce, path = udp.read_announce(raw, host), udp.url_path(raw)
        if path or self.access.is_private:
            self.access.action(path.partition(b"?")[0] or b"/announce")
        found = self._announce(announce, now)
        self.counts["udp_announces"] += 1
        return udp.announce_reply(transaction, found, self._interval_s(), len(host))

    def _udp_scrape(self, raw: bytes, transaction: int) -> bytes:
        hashes = udp.read_scrape(raw)
        if self.access.is_private:
            raise Refused("key", "scrape over HTTP, with your key")
        counts = [
            self.storage.counts(h) if self.access.is_listed(h) else udp.NO_COUNTS for h in hashes
        ]
        self.counts["udp_scrapes"] += 1
        return udp.scrape_reply(transaction, counts)
