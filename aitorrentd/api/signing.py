"""Domain-separated Ed25519 signatures.

The signed bytes are `aitorrentd-sig/1 NUL domain NUL message`, so a signature made for one purpose
is never valid for another.
"""

from __future__ import annotations

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey


def signed_bytes(domain: str, message: bytes) -> bytes:
    """The bytes that a signature for `domain` covers."""
    return b"aitorrentd-sig/1\0" + domain.encode() + b"\0" + message


def verify(public_key: bytes, domain: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) by `public_key` covers domain and message; never raises."""
    try:
        VerifyKey(public_key).verify(signed_bytes(domain, message), signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True
