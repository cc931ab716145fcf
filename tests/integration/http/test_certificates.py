"""A certificate that cannot be used: what is wrong with it, and nothing asked on a terminal."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
)
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from aitorrent_http.certificate import UnusableCertificate, load_certificate
from tests.support.servers.hub.certificates import tls_for


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


def _pair(directory: Path) -> Pair:
    directory.mkdir()
    _, certificate = tls_for(directory)
    return Pair(certificate, certificate.with_suffix(".key"))


Change = Callable[[Pair, Pair], object]


def _encrypt(ours: Pair, _: Pair) -> None:
    key = load_pem_private_key(ours.key.read_bytes(), None)
    how = BestAvailableEncryption(b"secret")
    ours.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))


def _other_algorithm(ours: Pair, _: Pair) -> None:
    key = load_pem_private_key(ours.key.read_bytes(), None)
    is_elliptic = isinstance(key, EllipticCurvePrivateKey)
    other = rsa.generate_private_key(65537, 2048) if is_elliptic else generate_ec(SECP256R1())
    how = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    ours.key.write_bytes(other.private_bytes(*how))


def _swap(ours: Pair, _: Pair) -> None:
    texts = ours.certificate.read_bytes(), ours.key.read_bytes()
    ours.key.write_bytes(texts[0])
    ours.certificate.write_bytes(texts[1])


def _weaken(ours: Pair, _: Pair) -> None:
    key, name = rsa.generate_private_key(65537, 1024), x509.Name([])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=9))
    ours.certificate.write_bytes(made.sign(key, SHA256()).public_bytes(Encoding.PEM))
    how = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    ours.key.write_bytes(key.private_bytes(*how))


def _damage(ours: Pair, _: Pair) -> None:
    lines = ours.certificate.read_text().splitlines(keepends=True)
    ours.certificate.write_text("".join(lines[:3] + lines[-1:]))


def shakes_hands(context: ssl.SSLContext) -> bool:
    """Whether a server with this context gets through a TLS handshake."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    server = context.wrap_bio(there, back, server_side=True)
    client = trusting.wrap_bio(back, there)
    done = set[ssl.SSLObject]()
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return len(done) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda ours, _: ours.certificate.unlink(), "cannot read .*hub.pem: No such file"),
        (lambda ours, _: ours.key.unlink(), "cannot read .*hub.key: No such file"),
        (_encrypt, "hub.key has a pass phrase; remove it: openssl pkey"),
        (_other_algorithm, "do not belong together"),
        (_swap, "hub.pem has no certificate in PEM format"),
        (lambda ours, _: ours.key.write_text("x"), "hub.key has no private key in PEM format"),
        (
            lambda ours, other: ours.key.write_bytes(other.key.read_bytes()),
            "do not belong together",
        ),
        (  # the renewed certificate is there, its key is not yet
            lambda ours, other: ours.certificate.write_bytes(other.certificate.read_bytes()),
            "do not belong together",
        ),
        (_weaken, "hub.pem is too weak .EE_KEY_TOO_SMALL.; make one with a key of 2048 bits"),
        (_damage, "hub.pem or .*hub.key is damaged: "),
    ],
)
def test_certificate_that_cannot_be_used_says_why(
    tmp_path: Path, change: Change, told: str
) -> None:
    ours, other = _pair(tmp_path / "ours"), _pair(tmp_path / "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, ours.certificate, ours.key)
    change(ours, other)
    with pytest.raises(UnusableCertificate, match=told):
        load_certificate(context, ours.certificate, ours.key)
    assert shakes_hands(context)  # with the certificate that it had
