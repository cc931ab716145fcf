"""The reservations that this node gave as a relay, and their limits. No I/O.

A client keeps its slot until its reservation expires, also while it is not connected: it may be
restarting. `now` is in seconds since the epoch, since reservations outlive the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from aitorrent_nat.networks import region_of, subnet_of
from aitorrent_nat.relay.reservation import Reservation, Terms, check, issue, read_reservation
from aitorrentd.api import Busy, PeerId, ProtocolError, Signer
from aitorrentd.api.network.addresses import is_loopback

PER_SUBNET: Final = 8
PER_REGION: Final = 32
"go-libp2p allows as many per autonomous system; a /16 stands for one here."


@dataclass(frozen=True, slots=True)
class Grant:
    """A reservation that this node gave, and the host to which it counts."""

    reservation: Reservation
    host: str

    @property
    def client(self) -> PeerId:
        """Whose reservation it is."""
        return self.reservation.client


class Grants:
    """Reservations by client. `on_change` is called whenever they changed."""

    def __init__(self, signer: Signer, terms: Terms, most: int) -> None:
        self.on_change = _nobody
        self._signer = signer
        self._terms = terms
        self._most = most
        self._grants: dict[PeerId, Grant] = {}

    def __len__(self) -> int:
        return len(self._grants)

    def __iter__(self) -> Iterator[Grant]:
        return iter(list(self._grants.values()))

    def __contains__(self, client: object) -> bool:
        return client in self._grants

    def reserve(self, client: PeerId, host: str, held: bytes, now: float) -> Reservation:
        """A reservation for `client` at `host`, which renews the one that it has.

        `held` is the reservation that the client shows, if any.

        Raises:
            Busy: a limit is reached. ProtocolError: `held` is not one that this node gave the
            client.
        """
        if held:
            self._check_held(client, held)
        self.expire(now)
        if client not in self._grants:
            self._check_room(host)
        elif self._grants[client].host != host:
            self._check_subnets(host, without=client)
        reservation = issue(self._signer, client, self._terms, now)
        self._grants[client] = Grant(reservation, host)
        self.on_change()
        return reservation

    def _check_held(self, client: PeerId, held: bytes) -> None:
        reservation = read_reservation(held)
        # An expired one is honest: the client was away.
        check(reservation, self._signer.peer_id, client, reservation.issued)

    def _check_room(self, host: str) -> None:
        if len(self._grants) >= self._most:
            raise Busy(f"this relay has {self._most} reservations, its limit; try another one")
        self._check_subnets(host)

    def _check_subnets(self, host: str, without: PeerId | None = None) -> None:
        if is_loopback(host):
            return  # strangers cannot connect from there
        hosts = [grant.host for grant in self._grants.values() if grant.client != without]
        for network_of, most in ((subnet_of, PER_SUBNET), (region_of, PER_REGION)):
            network = network_of(host)
            if sum(network_of(each) == network for each in hosts) >= most:
                raise Busy(
                    f"this relay has {most} reservations of {network}, its limit per network; try"
                    " another one"
                )

    def release(self, client: PeerId) -> None:
        """The client no longer needs its reservation."""
        if self._grants.pop(client, None) is not None:
            self.on_change()

    def expire(self, now: float) -> None:
        """Forget reservations that were not renewed."""
        for grant in self:
            if grant.reservation.expires <= now:
                self.release(grant.client)

    def restore(self, entries: Iterable[tuple[bytes, str]], now: float) -> int:
        """Take up reservations of an earlier run, as (raw, host); returns how many are current."""
        restored = 0
        for raw, host in entries:
            try:
                reservation = read_reservation(raw)
                check(reservation, self._signer.peer_id, reservation.client, now)
                self._check_room(host)
            except (ProtocolError, Busy):
                continue
            if reservation.client not in self._grants:
                self._grants[reservation.client] = Grant(reservation, host)
                restored += 1
        return restored


def _nobody() -> None:
    """Default of a callback that nobody set."""
