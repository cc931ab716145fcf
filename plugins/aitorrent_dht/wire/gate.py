"""The gate: what of the datagrams that anybody may send reaches the node.

In the order of cost: length, magic and network; fields; whether an answer was asked for, or whether
the sender's network may have another proof checked; the proof of the sender, a signature or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from aitorrent_dht.core.contact import scope_of, subnet_of
from aitorrent_dht.wire.codec import Codec, Message
from aitorrent_dht.wire.messages import Reply
from aitorrentd.api import ProtocolError
from aitorrentd.api.limits import PerPeer, TokenBucket

CHECKS_PER_S: Final = 3000.0
"A third of one processor, if each is of a node with which a secret is to be agreed."
SUBNET_CHECKS_PER_S: Final = 200.0
"For each /24 or /56; private networks share only the limit for all."


class Gate:
    """Lets valid messages through, for a node that `expects` answers."""

    def __init__(
        self, codec: Codec, expects: Callable[[Reply, str, int], bool], now: float
    ) -> None:
        self.dropped: Counter[str] = Counter()
        "Datagrams by the reason why they were ignored."
        self.checked = 0
        "Messages with a valid proof of their sender."
        self._codec = codec
        self._expects = expects
        self._now = now
        self._all = TokenBucket(CHECKS_PER_S, CHECKS_PER_S, now)
        self._subnets = PerPeer(self._bucket)

    def _bucket(self) -> TokenBucket:
        return TokenBucket(SUBNET_CHECKS_PER_S, SUBNET_CHECKS_PER_S, self._now)

    def admit(self, datagram: bytes, host: str, port: int, now: float) -> Message | None:
        """The message in a datagram from this address, or None if it is to be ignored."""
        reason, message = self._admit(datagram, host, port, now)
        if reason:
            self.dropped[reason] += 1
            return None
        self.checked += 1
        return message

    def _admit(
        self, datagram: bytes, host: str, port: int, now: float
    ) -> tuple[str, Message | None]:
        if not scope_of(host) or not port:
            return "address", None
        if not self._codec.is_ours(datagram):
            return "foreign", None
        try:
            message = self._codec.decode(datagram)
        except ProtocolError:
            return "malformed", None
        if isinstance(message, Reply):
            if not self._expects(message, host, port):
                return "unexpected", None
        elif not self._may_check(host, now):
            return "flood", None
        if not self._codec.is_proven(datagram):
            return "unsigned", None
        return "", message

    def _may_check(self, host: str, now: float) -> bool:
        self._now = now
        subnet = subnet_of(host)
        if subnet and not self._subnets.of(subnet).take(now):
            return False
        return self._all.take(now)
