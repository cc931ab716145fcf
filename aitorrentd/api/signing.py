"""Domain-separated Ed25519 signatures, and secrets that two identities share.

The signed bytes are `aitorrentd-sig/1 NUL domain NUL message`, so a signature made for one purpose
is never valid for another. The secret of two identities is X25519 (RFC 7748) over their keys,
converted to Curve25519; one key pair is safe for both (Thormarker, "On using the same key pair for
Ed25519 and an X25519 based KEM", 2021).
"""

from __future__ import annotations

import hashlib
from typing import Final

from nacl.bindings import (
    crypto_scalarmult,
    crypto_sign_BYTES,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
    crypto_sign_open,
    crypto_sign_PUBLICKEYBYTES,
)
from nacl.exceptions import BadSignatureError, CryptoError

_DOMAIN: Final = b"aitorrentd-sig/1\0"


def signed_bytes(domain: str, message: bytes) -> bytes:
    """The bytes that a signature for `domain` covers."""
    return b"%b%b\0%b" % (_DOMAIN, domain.encode(), message)


def verify(public_key: bytes, domain: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) by `public_key` covers domain and message; never raises."""
    # The binding reads that many bytes, whatever it gets.
    if len(public_key) != crypto_sign_PUBLICKEYBYTES or len(signature) != crypto_sign_BYTES:
        return False
    try:
        crypto_sign_open(signature + signed_bytes(domain, message), public_key)
    except (BadSignatureError, TypeError):
        return False
    return True


def agree(seed: bytes, own_key: bytes, public_key: bytes, domain: str) -> bytes:
    """The secret (32 bytes) that the owners of two identities share for `domain`; both compute the
    same. `seed` and `own_key` are the caller's private and public key.

    Raises:
        ValueError: `public_key` is not one that anybody can have.
    """
    try:
        theirs = crypto_sign_ed25519_pk_to_curve25519(public_key)
        shared = crypto_scalarmult(crypto_sign_ed25519_sk_to_curve25519(seed + own_key), theirs)
    except (CryptoError, ValueError):
        raise ValueError("not a valid Ed25519 public key") from None
    keys = b"".join(sorted((own_key, public_key)))
    message = b"aitorrentd-pair/1\0" + domain.encode() + b"\0" + keys
    return hashlib.blake2b(message, key=shared, digest_size=32).digest()
