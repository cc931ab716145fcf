"""The published Noise test vectors for the two patterns that links use.

Sources: cacophony.txt of haskell-cryptography/cacophony as mcginty/snow carries it, and snow.txt
of mcginty/snow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from aitorrent_transport.secure.noise import HandshakeState, nonce, rekeyed

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "noise_vectors.json").read_text()
)


def _side(vector: dict[str, Any], name: str) -> HandshakeState:
    def private(field: str) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(bytes.fromhex(vector[f"{name}_{field}"]))

    psks = vector.get(f"{name}_psks") or [None]
    return HandshakeState(
        initiator=name == "init",
        prologue=bytes.fromhex(vector[f"{name}_prologue"]),
        static=private("static"),
        ephemeral=private("ephemeral"),
        psk=bytes.fromhex(psks[0]) if psks[0] else None,
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['source']}-{v['protocol_name']}")
def test_published_vector_is_reproduced_byte_for_byte(vector: dict[str, Any]) -> None:
    sides = [_side(vector, "init"), _side(vector, "resp")]
    messages = [
        (bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]
    ]
    for i, (payload, expected) in enumerate(messages[:3]):
        writer, reader = sides[i % 2], sides[1 - i % 2]
        assert writer.write(lambda _, payload=payload: payload) == expected  # type: ignore[misc]
        assert reader.read(expected).payload == payload
    assert sides[0].hash == sides[1].hash
    if "handshake_hash" in vector:
        assert sides[0].hash.hex() == vector["handshake_hash"]
    ciphers = [side.split() for side in sides]
    assert len(messages) > 3
    for i, (payload, expected) in enumerate(messages[3:], start=3):
        sending, receiving = ciphers[i % 2][0], ciphers[1 - i % 2][1]
        assert sending.encrypt(b"", payload) == expected
        assert receiving.decrypt(b"", expected) == payload


def test_rekey_is_the_first_half_of_encrypted_zeros_under_the_last_nonce() -> None:
    key = bytes(range(32))
    sealed = ChaCha20Poly1305(key).encrypt(b"\0" * 4 + b"\xff" * 8, bytes(32), b"")
    assert rekeyed(key) == sealed[:32]


def test_nonce_is_four_zero_bytes_and_a_little_endian_counter() -> None:
    assert nonce(0x0102030405060708) == bytes.fromhex("000000000807060504030201")
