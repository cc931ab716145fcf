"""The introductions that both sides exchange in the encrypted handshake payloads.

A msgpack map: `id` Ed25519 identity (32 bytes), `nbf`, `exp`, `cert` the certificate of the X25519
key, `sig` the identity's signature over role and transcript, `v` the chosen version, `agent`,
`seen` the receiver's address as the sender sees it, `caps` capabilities, `inst` 8 random bytes
of the sender's process, which distinguish two machines with one identity, `mss` the largest TCP
segments that a listener asks for on this path, 0 for any. Unknown keys and capabilities are
ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aitorrent_transport.secure.certificate import INSTANCE_BYTES, MAX_AGENT_CHARS
from aitorrentd.api import ProtocolError, pack, unpack_map
from aitorrentd.api.fields import blob, text, texts, whole

SIGNATURE_BYTES: Final = 64
IDENTITY_BYTES: Final = 32
MAX_ENTRIES: Final = 32
MAX_CAP_CHARS: Final = 32
MAX_HOST_CHARS: Final = 64
MOVES: Final = "move"
"Capability: the node can move a channel to another link."

HostPort = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Hello:
    """One side's introduction, well-formed but not yet verified."""

    identity: bytes
    not_before: int
    expires: int
    certificate: bytes
    "The identity's signature over the X25519 key that the handshake itself carries."
    signature: bytes
    "The identity's signature over role and transcript."
    version: int
    agent: str
    seen: HostPort | None = None
    capabilities: tuple[str, ...] = ()
    instance: bytes = b""
    "Empty if the sender does not send it."
    segment_bytes: int = 0
    "Largest TCP segments that the sender asks for; 0 for any."

    def encode(self) -> bytes:
        """Encode the payload."""
        return pack(
            {
                "id": self.identity,
                "nbf": self.not_before,
                "exp": self.expires,
                "cert": self.certificate,
                "sig": self.signature,
                "v": self.version,
                "agent": self.agent,
                "seen": list(self.seen) if self.seen else None,
                "caps": list(self.capabilities),
                "inst": self.instance,
                "mss": self.segment_bytes,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """Decode the introduction in `payload`.

        Raises:
            ProtocolError: malformed.
        """
        fields = unpack_map(payload, max_items=MAX_ENTRIES)
        try:
            return cls(
                identity=blob(fields, "id", IDENTITY_BYTES, IDENTITY_BYTES),
                not_before=whole(fields, "nbf", 0, 2**63 - 1),
                expires=whole(fields, "exp", 0, 2**63 - 1),
                certificate=blob(fields, "cert", SIGNATURE_BYTES, SIGNATURE_BYTES),
                signature=blob(fields, "sig", SIGNATURE_BYTES, SIGNATURE_BYTES),
                version=whole(fields, "v", 0, 255),
                agent=text(fields, "agent", MAX_AGENT_CHARS, min_chars=0, printable=True),
                seen=_address(fields.get("seen")),
                capabilities=texts(
                    {"caps": [], **fields}, "caps", MAX_ENTRIES, MAX_CAP_CHARS, printable=True
                ),
                instance=blob({"inst": b"", **fields}, "inst", 0, INSTANCE_BYTES),
                segment_bytes=whole({"mss": 0, **fields}, "mss", 0, 65_535),
            )
        except ProtocolError as e:
            raise ProtocolError(f"invalid handshake payload: {e.message}") from None


def _address(value: object) -> HostPort | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise ProtocolError("seen must be a pair of host and port")
    host, port = ({"seen": part} for part in value)
    return (
        text(host, "seen", MAX_HOST_CHARS, min_chars=0, printable=True),
        whole(port, "seen", 0, 65_535),
    )
