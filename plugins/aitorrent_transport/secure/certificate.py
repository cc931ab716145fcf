"""Who a node is on its network: its identity, and the X25519 key that the identity vouches for.

Channels are set up with an X25519 key separate from the identity: it is generated in memory,
certified for a few days by the Ed25519 identity, and replaced daily. The identity key only signs
and never leaves its Signer.

A certificate is valid from an hour before its creation and is replaced days before it expires, so
peers whose clocks are off by up to an hour still connect. Outside its dates a certificate is
tolerated for `CLOCK_SKEW_S` and then rejected.
"""

from __future__ import annotations

import hmac
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from aitorrent_transport.secure.noise import KEY_BYTES, public_bytes
from aitorrentd.api import ProtocolError, Signer, verify

DOMAIN: Final = "aitd/dhcert/1"
CLOCK_SKEW_S: Final = 120
MAX_LIFETIME_S: Final = 30 * 86_400
LIFETIME_S: Final = 7 * 86_400
ROTATE_S: Final = 86_400
BACKDATE_S: Final = 3_600
MAX_NETWORK_BYTES: Final = 128
INSTANCE_BYTES: Final = 8
MAX_AGENT_CHARS: Final = 64

_DATES: Final = struct.Struct(">QQ")


def network_bytes(network: str) -> bytes:
    """The length-prefixed network id, for embedding in longer messages."""
    raw = network.encode()
    return len(raw).to_bytes(2, "big") + raw


def network_key(network: str, psk: bytes | None, purpose: str) -> bytes:
    """32 bytes that only nodes of a network, and those with its pre-shared key, derive."""
    message = f"aitd/network-key/1\0{purpose}\0{network}".encode()
    return hmac.digest(psk or bytes(32), message, "sha256")


@dataclass(frozen=True, slots=True)
class Certificate:
    """An identity's statement that an X25519 key (32 bytes) is its own, between two times.

    Times are whole seconds since the epoch.
    """

    key: bytes
    not_before: int
    expires: int
    signature: bytes

    @staticmethod
    def signed_part(network: str, key: bytes, not_before: int, expires: int) -> bytes:
        """The bytes that the identity signs."""
        return network_bytes(network) + key + _DATES.pack(not_before, expires)

    @classmethod
    def issue(
        cls, signer: Signer, network: str, key: bytes, *, not_before: int, expires: int
    ) -> Certificate:
        """Issue a certificate signed by `signer`."""
        part = cls.signed_part(network, key, not_before, expires)
        return cls(key, not_before, expires, signer.sign(DOMAIN, part))

    def check(self, identity: bytes, network: str, now: float) -> None:
        """Verify that `identity` issued this for `network` and that it is valid at `now`.

        Raises:
            ProtocolError: wrong signature, or `now` is outside its dates by more than
                CLOCK_SKEW_S.
        """
        if not 0 <= self.not_before < self.expires < 2**63:
            raise ProtocolError("the peer's key certificate has invalid dates")
        if self.expires - self.not_before > MAX_LIFETIME_S:
            raise ProtocolError("the peer's key certificate is valid for more than 30 days")
        if now < self.not_before - CLOCK_SKEW_S:
            early = self.not_before - now
            raise ProtocolError(
                f"the peer's key certificate becomes valid in {early:.0f} s; compare the clocks"
            )
        if now > self.expires + CLOCK_SKEW_S:
            late = now - self.expires
            raise ProtocolError(
                f"the peer's key certificate expired {late:.0f} s ago; compare the clocks"
            )
        part = self.signed_part(network, self.key, self.not_before, self.expires)
        if len(self.key) != KEY_BYTES or not verify(identity, DOMAIN, part, self.signature):
            raise ProtocolError("the peer's key certificate is not signed by its identity")


@dataclass(frozen=True, slots=True)
class StaticKey:
    """This node's current X25519 key and its certificate."""

    private: X25519PrivateKey
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Credentials:
    """This node's identity on its network; generates and rotates the certified X25519 key.

    `agent` is the advertised software, at most 64 printable characters. With `psk` (32 bytes) only
    nodes that know it can connect. `clock` returns seconds since the epoch.
    """

    signer: Signer
    network: str
    agent: str
    psk: bytes | None = field(default=None, repr=False)
    clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)
    instance: bytes = field(
        default_factory=lambda: os.urandom(INSTANCE_BYTES), repr=False, compare=False
    )
    "Distinguishes this process from another one with the same identity."
    _keys: list[StaticKey] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.network.encode()) <= MAX_NETWORK_BYTES:
            raise ValueError(f"a network id has 1 to {MAX_NETWORK_BYTES} bytes")
        if len(self.agent) > MAX_AGENT_CHARS or not self.agent.isprintable():
            raise ValueError(f"an agent has at most {MAX_AGENT_CHARS} printable characters")
        if self.psk is not None and len(self.psk) != KEY_BYTES:
            raise ValueError(f"a pre-shared key has {KEY_BYTES} bytes, got {len(self.psk)}")

    def static_key(self) -> StaticKey:
        """The key for a handshake that starts now."""
        now = int(self.clock())
        if self._keys:
            made = self._keys[0].certificate.not_before + BACKDATE_S
            # A clock set back also triggers a new key: the old one could look not yet valid.
            if made - CLOCK_SKEW_S <= now < made + ROTATE_S:
                return self._keys[0]
        private = X25519PrivateKey.generate()
        certificate = Certificate.issue(
            self.signer,
            self.network,
            public_bytes(private),
            not_before=max(0, now - BACKDATE_S),
            expires=now + LIFETIME_S,
        )
        self._keys[:] = [StaticKey(private, certificate)]
        return self._keys[0]
