"""The ciphers of records, and which of them two nodes use.

The handshake is always ChaCha20-Poly1305, and so are records unless both nodes say that their
processors have AES instructions: then AES-256-GCM, which is about three times faster there (and
several times slower, and harder to make free of timing leaks, without them). What each node says
is inside the handshake's encrypted payload, so nobody in between can change the choice. AES keys
are derived, so that no key serves two ciphers.
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
    """A cipher for records; `nonce` packs (0, counter) as Noise has it for this cipher (12.3,
    12.4)."""

    name: str
    aead: type[ChaCha20Poly1305] | type[AESGCM]
    nonce: struct.Struct
    label: bytes = b""

    def first_key(self, handshake_key: bytes) -> bytes:
        """The key of the first record, from the key that the handshake split off."""
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
    """Whether this processor has AES instructions, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = (line.partition(":") for line in lines)
    return any(
        k.strip().lower() in ("flags", "features") and "aes" in v.split() for k, _, v in flags
    )


def own_capabilities() -> tuple[str, ...]:
    """What this node says in its handshake."""
    return (AES.name,) if aes_in_hardware() else ()


def choose(ours: Collection[str], theirs: Collection[str]) -> Suite:
    """The cipher that both nodes come to."""
    return AES if AES.name in ours and AES.name in theirs else CHACHA
