"""The server's certificate: loads it, or says what is wrong with it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

_MISMATCHES: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"What OpenSSL says of a key of another certificate, the last of one for another algorithm."
_WEAK: Final = ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK")


class UnusableCertificate(Exception):
    """What is wrong with a certificate or its key, and what to do."""


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Have `context` serve the certificate, with its private key.

    OpenSSL says "Invalid argument" or "PEM lib" of most mistakes.

    Raises:
        UnusableCertificate: a file cannot be read, is of another kind, or has a pass phrase.
    """
    texts = [_read(certificate), _read(key)]
    if b"CERTIFICATE-" not in texts[0]:
        raise UnusableCertificate(f"{certificate} has no certificate in PEM format")
    if b"PRIVATE KEY-" not in texts[1]:
        raise UnusableCertificate(f"{key} has no private key in PEM format")
    try:
        # Tried elsewhere first: OpenSSL drops the key in use before it finds that the new one does
        # not fit. Without a password it would ask for one on the terminal, and wait.
        for each in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
            each.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as e:
        if b"ENCRYPTED" in texts[1]:
            raise UnusableCertificate(
                f"{key} has a pass phrase; remove it: openssl pkey -in FILE -out NEW"
            ) from None
        if getattr(e, "reason", None) in _MISMATCHES:
            raise UnusableCertificate(
                "the certificate and the key do not belong together"
            ) from None
        reason = getattr(e, "reason", None) or getattr(e, "strerror", None) or str(e)
        if reason in _WEAK:
            raise UnusableCertificate(
                f"{certificate} is too weak ({reason}); make one with a key of 2048 bits or more,"
                " and SHA-256"
            ) from None
        raise UnusableCertificate(f"{certificate} or {key} is damaged: {reason}") from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise UnusableCertificate(f"cannot read {file}: {e.strerror}") from None
