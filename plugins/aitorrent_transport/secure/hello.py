"""What the two sides tell each other inside the encrypted handshake payloads.

A msgpack map: `id` Ed25519 identity (32 bytes), `nbf`, `exp`, `cert` the certificate of the X25519
key, `sig` the identity's signature over role and transcript, `v` the chosen version, `agent`,
`seen` the address at which the sender sees the receiver, `caps` capabilities. Keys and capabilities
that the reader does not know are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from aitorrent_transport.secure.certificate import MAX_AGENT_CHARS
from aitorrentd.api import ProtocolError, pack, unpack_map

SIGNATURE_BYTES: Final = 64
IDENTITY_BYTES: Final = 32
MAX_ENTRIES: Final = 32
MAX_CAP_CHARS: Final = 32
MAX_HOST_CHARS: Final = 64

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

    def encode(self) -> bytes:
        """The payload."""
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
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """The introduction in `payload`.

        Raises:
            ProtocolError: not a well-formed one.
        """
        fields = unpack_map(payload, max_items=MAX_ENTRIES)
        return cls(
            identity=_blob(fields, "id", IDENTITY_BYTES),
            not_before=_whole(fields, "nbf", 2**63 - 1),
            expires=_whole(fields, "exp", 2**63 - 1),
            certificate=_blob(fields, "cert", SIGNATURE_BYTES),
            signature=_blob(fields, "sig", SIGNATURE_BYTES),
            version=_whole(fields, "v", 255),
            agent=_text(fields.get("agent"), "agent", MAX_AGENT_CHARS),
            seen=_address(fields.get("seen")),
            capabilities=_capabilities(fields.get("caps", [])),
        )


def _blob(fields: dict[str, Any], name: str, length: int) -> bytes:
    value = fields.get(name)
    if not isinstance(value, bytes) or len(value) != length:
        raise ProtocolError(f"handshake field {name!r} is not {length} bytes")
    return value


def _whole(fields: dict[str, Any], name: str, most: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise ProtocolError(f"handshake field {name!r} is not a whole number up to {most}")
    return value


def _text(value: object, name: str, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ProtocolError(f"handshake field {name!r} is not printable text up to {most}")
    return value


def _address(value: object) -> HostPort | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise ProtocolError("handshake field 'seen' is not a pair of host and port")
    host, port = value
    if type(port) is not int or not 0 <= port <= 65_535:
        raise ProtocolError("handshake field 'seen' has an impossible port")
    return _text(host, "seen", MAX_HOST_CHARS), port


def _capabilities(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ProtocolError("handshake field 'caps' is not a list")
    return tuple(_text(v, "caps", MAX_CAP_CHARS) for v in value)
