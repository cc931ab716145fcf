"""Signed statements of where a node connects from, by peers that see it.

A node that punches sends to its peer's public address. It must not take the peer's word for that
address, or a peer could direct it at anybody. So each end brings what others have seen, and
believes that of nodes to which it is itself connected, such as the relay between the two.

    ask     an empty stream for PROTOCOL, closed for writing
    reply   one frame with the sighting; nothing else is revealed but to the node itself
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from aitorrent_nat.punch.candidates import MAX_HOST_CHARS, canonical
from aitorrentd.api import (
    Frame,
    PeerId,
    ProtocolError,
    Signer,
    encode_frame,
    pack,
    parse_peer_id,
    public_key,
    verify,
)
from aitorrentd.api.fields import blob, text, whole

PROTOCOL: Final = "/ai-torrent/1/seen"
DOMAIN: Final = "aitd/seen/1"
MAX_BYTES: Final = 512
MAX_SIGHTINGS: Final = 3
VALID_S: Final = 3600
"Either way: clocks differ. A node keeps its address for longer, mostly."


@dataclass(frozen=True, slots=True)
class Sighting:
    """`witness` has seen a node connect from the IP address `host`."""

    witness: PeerId
    host: str
    at_unix_s: int
    signature: bytes

    def fields(self) -> dict[str, Any]:
        """As it travels."""
        return {
            "witness": self.witness,
            "host": self.host,
            "at": self.at_unix_s,
            "signature": self.signature,
        }

    def is_true(self, network: str, subject: PeerId, now_unix_s: float) -> bool:
        """Whether the witness signed this about `subject` recently."""
        if abs(now_unix_s - self.at_unix_s) > VALID_S:
            return False
        message = _message(network, subject, self.host, self.at_unix_s)
        return verify(public_key(self.witness), DOMAIN, message, self.signature)


def _message(network: str, subject: PeerId, host: str, at_unix_s: int) -> bytes:
    return pack([network, subject, host, at_unix_s])


def attest(signer: Signer, network: str, subject: PeerId, host: str, now_unix_s: float) -> Sighting:
    """This node's sighting that `subject` connects from `host`.

    Raises:
        ValueError: `host` is not a unicast IP address.
    """
    host, at = canonical(host), int(now_unix_s)
    signature = signer.sign(DOMAIN, _message(network, subject, host, at))
    return Sighting(signer.peer_id, host, at, signature)


def read_sighting(value: object) -> Sighting:
    """A sighting from an untrusted peer.

    Raises:
        ProtocolError: anything else.
    """
    if not isinstance(value, dict):
        raise ProtocolError("a sighting must be a map")
    try:
        witness = parse_peer_id(text(value, "witness", 100))
        host = canonical(text(value, "host", MAX_HOST_CHARS))
    except ValueError:
        raise ProtocolError("a sighting must name a peer id and an IP address") from None
    return Sighting(witness, host, whole(value, "at", 0, 2**40), blob(value, "signature", 64, 64))


def encode(sighting: Sighting) -> bytes:
    """The reply of a witness, as a frame."""
    return encode_frame(sighting.fields())


def decode(frame: Frame) -> Sighting:
    """The reply of a witness.

    Raises:
        ProtocolError: anything else.
    """
    return read_sighting(frame.header)
