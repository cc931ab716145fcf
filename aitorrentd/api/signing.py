"""Domain-separated Ed25519 signatures.

The signed bytes are `aitorrentd-sig/1 NUL domain NUL message`, so a signature made for one purpose
is never valid for another.
"""

from __future__ import annotations

from typing import Final

from nacl.bindings import crypto_sign_BYTES, crypto_sign_open, crypto_sign_PUBLICKEYBYTES
from nacl.exceptions import BadSignatureError

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
