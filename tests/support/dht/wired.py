"""Two or more DHT nodes that exchange real, signed datagrams in memory; the test is the network."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from random import Random
from typing import NamedTuple

from nacl.signing import SigningKey

from aitorrent_dht.core.node import DhtNode
from aitorrent_dht.core.reachability import Mode
from aitorrent_dht.core.record import SIGNATURE_DOMAIN, DhtRecord, Kind, provider_key
from aitorrent_dht.core.state import Tuning
from aitorrent_dht.wire.codec import Codec, Message
from aitorrent_dht.wire.gate import Gate
from aitorrentd.api.signing import agree, signed_bytes, verify

NETWORK = hashlib.sha256(b"test network").digest()
EPOCH_S = 1_800_000_000.0


class Datagram(NamedTuple):
    """Bytes on the way."""

    raw: bytes
    source: tuple[str, int]
    to: tuple[str, int]


class Wired:
    """A node as a daemon runs it, without a socket."""

    def __init__(
        self,
        seed: int,
        host: str = "127.0.0.1",
        *,
        network: bytes = NETWORK,
        tuning: Tuning | None = None,
        mode: Mode = "server",
    ) -> None:
        self.signer = SigningKey(hashlib.sha256(b"%d" % seed).digest())
        self.key = bytes(self.signer.verify_key)
        self.place = (host, 8000 + seed)
        self.network = network
        self.codec = Codec(network, self.sign, verify, self.agree)
        self.node = DhtNode(
            self.key,
            random=Random(seed),
            sign=self.sign_record,
            verify=self.verify_record,
            now=0.0,
            epoch_s=EPOCH_S,
            tuning=tuning or Tuning(),
            mode=mode,
        )
        self.gate = Gate(self.codec, self.node.expects, 0.0)

    def sign(self, domain: str, message: bytes) -> bytes:
        return self.signer.sign(signed_bytes(domain, message)).signature

    def agree(self, domain: str, public_key: bytes) -> bytes:
        return agree(bytes(self.signer), self.key, public_key, domain)

    def sign_record(self, record: DhtRecord) -> bytes:
        return self.sign(SIGNATURE_DOMAIN, record.signed_part(self.network))

    def verify_record(self, record: DhtRecord) -> bool:
        part = record.signed_part(self.network)
        return verify(record.publisher, SIGNATURE_DOMAIN, part, record.signature)

    def record(self, name: str = "thing", value: bytes = b"v", *, seq: int = 1) -> DhtRecord:
        """A valid provider record of this node."""
        raw = DhtRecord(
            Kind.PROVIDER, provider_key(name), self.key, seq, int(EPOCH_S) + 3600, value
        )
        return replace(raw, signature=self.sign_record(raw))

    def receive(self, raw: bytes, source: tuple[str, int], now: float = 1.0) -> list[Datagram]:
        """Let a datagram arrive; what the node sends because of it."""
        message = self.gate.admit(raw, *source, now)
        if message is not None:
            self.node.receive(message, *source, len(raw), now)
        return self.sent()

    def sent(self) -> list[Datagram]:
        """What the node wants to send."""
        return [
            Datagram(
                self.codec.encode(out.message, out.pad_bytes, recipient=out.recipient),
                self.place,
                out[1:3],
            )
            for out in self.node.take_outgoing()
        ]

    def datagram(self, message: Message, pad_bytes: int = 0) -> bytes:
        """A message of this node, signed."""
        return self.codec.encode(message, pad_bytes)


def deliver(datagrams: list[Datagram], *nodes: Wired, now: float = 1.0) -> int:
    """Deliver datagrams and all that follow from them; how many there were."""
    by_place = {node.place: node for node in nodes}
    count = 0
    while datagrams:
        each = datagrams.pop(0)
        count += 1
        assert count < 10_000, "nodes answer each other without an end"
        if each.to in by_place:
            datagrams += by_place[each.to].receive(each.raw, each.source, now)
    return count


def meet(*nodes: Wired, now: float = 1.0) -> None:
    """Let every node join through the first."""
    for node in nodes[1:]:
        node.node.add_places([nodes[0].place], now)
        deliver(node.sent(), *nodes, now=now)
