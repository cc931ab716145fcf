"""Record ciphers and their negotiation.

The handshake always uses ChaCha20-Poly1305, and so do records unless both nodes report AES
instructions: then records use AES-256-GCM, which is about three times faster with them (without
them it is several times slower and harder to protect against timing leaks). The capabilities are
inside the handshake's encrypted payload, so a third party cannot change the choice. AES keys are
derived, so no key serves two ciphers.
"""

from __future__ import annotations

import functools
import hmac
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from aitorrent_transport.secure.noise import KEY_BYTES, REKEY_NONCE

Aead = ChaCha20Poly1305 | AESGCM


@dataclass(frozen=True, slots=True)
class Suite:
    """A record cipher; `nonce` packs (0, counter) as Noise specifies (12.3, 12.4)."""

    name: str
    aead: type[ChaCha20Poly1305] | type[AESGCM]
    nonce: struct.Struct
    label: bytes = b""

    def first_key(self, handshake_key: bytes) -> bytes:
        """The first record key, from the key that the handshake's split returned."""
        if not self.label:
            return handshake_key
        return hmac.digest(handshake_key, self.label, "sha256")

    def next_key(self, key: bytes) -> bytes:
        """The key after `key` (Noise rev. 34, 4.2, REKEY)."""
        last = self.nonce.pack(0, REKEY_NONCE)
        return self.aead(key).encrypt(last, bytes(KEY_BYTES), b"")[:KEY_BYTES]


CHACHA: Final = Suite("chacha20poly1305", ChaCha20Poly1305, struct.Struct("<IQ"))
AES: Final = Suite("aes256gcm", AESGCM, struct.Struct(">IQ"), b"aitorrentd/1 records aes256gcm")


@functools.cache
def aes_in_hardware() -> bool:
    """Whether this processor has AES instructions, according to Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = (line.partition(":") for line in lines)
    return any(
        k.strip().lower() in ("flags", "features") and "aes" in v.split() for k, _, v in flags
    )


def own_capabilities() -> tuple[str, ...]:
    """The capabilities that this node sends in its handshake."""
    return (AES.name,) if aes_in_hardware() else ()


def choose(ours: Collection[str], theirs: Collection[str]) -> Suite:
    """The cipher that both nodes select."""
    return AES if AES.name in ours and AES.name in theirs else CHACHA
