"""What this node answers to STUN requests of strangers (RFC 8489, RFC 5780 section 6). No I/O.

A reply has what the standards demand and nothing more: 56 bytes by IPv4, 92 by IPv6. Requests of
this software are padded to that size; to a bare request of 20 bytes the reply is larger, and the
number of replies to one subnet is limited, so that nobody gains from forging sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aitorrent_nat.networks import Place, is_inside, is_place, subnet_of
from aitorrent_nat.stun.codec import (
    Request,
    Response,
    encode_refusal,
    encode_response,
    may_be_request,
    read,
)
from aitorrentd.api import ProtocolError
from aitorrentd.api.limits import PerPeer, TokenBucket

REPLIES_PER_S: Final = 1000.0
SUBNET_REPLIES_PER_S: Final = 5.0
SUBNET_BURST: Final = 50.0
"A node that classifies its NAT sends about 20 requests at once; several may share a subnet."
_CHANGE_REQUEST: Final = 0x0003


@dataclass(frozen=True, slots=True)
class Reply:
    """A datagram to send."""

    raw: bytes
    to: Place
    host: str
    "The own address to send it from."
    from_alternate: bool
    "Whether to send it from the alternate port."


class Responder:
    """Answers binding requests within limits."""

    def __init__(self, now: float) -> None:
        self.served = 0
        "Replies so far, refusals included."
        self.dropped: Counter[str] = Counter()
        "Datagrams that got no reply, by reason."
        self.ports: tuple[int, int] = (0, 0)
        "The own port and the alternate one; 0 while not bound."
        self._now = now
        self._all = TokenBucket(REPLIES_PER_S, REPLIES_PER_S, now)
        self._subnets = PerPeer(self._bucket)

    def _bucket(self) -> TokenBucket:
        return TokenBucket(SUBNET_REPLIES_PER_S, SUBNET_BURST, self._now)

    def answer(
        self,
        datagram: bytes,
        source: Place,
        host: str,
        now: float,
        *,
        to_alternate: bool = False,
        hosts: Sequence[str] = (),
    ) -> Reply | None:
        """The reply to a datagram that arrived at the own address `host`, or None.

        `to_alternate` says that it arrived at the alternate port; `hosts` are all own addresses.
        """
        request, reason = self._admit(datagram, source, now)
        if request is None:
            self.dropped[reason] += 1
            return None
        self.served += 1
        other_host = _other(host, hosts)
        unknown = request.unknown
        if (request.change_ip and not other_host) or (request.change_port and not self.ports[1]):
            unknown = (*unknown, _CHANGE_REQUEST)
        if unknown:
            raw = encode_refusal(request.transaction, unknown)
            return Reply(raw, source, host, to_alternate)
        sender = other_host if request.change_ip else host
        from_alternate = to_alternate != request.change_port
        other = None
        if other_host and self.ports[1]:
            other = (other_host, self.ports[not to_alternate])
        response = Response(
            request.transaction,
            mapped=source,
            origin=(sender, self.ports[from_alternate]),
            other=other,
        )
        to = (source[0], request.response_port or source[1])
        return Reply(encode_response(response), to, sender, from_alternate)

    def _admit(self, datagram: bytes, source: Place, now: float) -> tuple[Request | None, str]:
        """In the order of cost: the head, the limits, the rest."""
        if not may_be_request(datagram) or not is_place(*source):
            return None, "not a request"
        if not self._may_reply(source[0], now):
            return None, "flood"
        try:
            request = read(datagram)
        except ProtocolError:
            return None, "malformed"
        return (request, "") if isinstance(request, Request) else (None, "not a request")

    def _may_reply(self, host: str, now: float) -> bool:
        self._now = now
        if not self._subnets.of(subnet_of(host)).take(now):
            return False
        return self._all.take(now)


def _other(host: str, hosts: Sequence[str]) -> str:
    """Another own address for clients that reach `host`, or the empty string."""
    for each in hosts:
        if each != host and (":" in each) == (":" in host) and is_inside(each) == is_inside(host):
            return each
    return ""
