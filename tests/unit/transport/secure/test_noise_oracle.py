"""Our Noise against the independent `noiseprotocol` package, on random transcripts."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection

from aitorrent_transport.secure.noise import (
    PROTOCOL_NAME,
    PSK_PROTOCOL_NAME,
    CipherState,
    HandshakeState,
)


class OurSide:
    """Our handshake behind the interface of the oracle."""

    def __init__(
        self, initiator: bool, prologue: bytes, static: bytes, ephemeral: bytes, psk: bytes | None
    ) -> None:
        self._state = HandshakeState(
            initiator=initiator,
            prologue=prologue,
            static=X25519PrivateKey.from_private_bytes(static),
            ephemeral=X25519PrivateKey.from_private_bytes(ephemeral),
            psk=psk,
        )
        self._ciphers: tuple[CipherState, CipherState] | None = None

    def write_message(self, payload: bytes) -> bytes:
        return self._state.write(lambda _: payload)

    def read_message(self, message: bytes) -> bytes:
        return self._state.read(message).payload

    @property
    def ciphers(self) -> tuple[CipherState, CipherState]:
        self._ciphers = self._ciphers or self._state.split()
        return self._ciphers

    def encrypt(self, plaintext: bytes) -> bytes:
        return self.ciphers[0].encrypt(b"", plaintext)

    def decrypt(self, ciphertext: bytes) -> bytes:
        return self.ciphers[1].decrypt(b"", ciphertext)

    def rekey_outbound_cipher(self) -> None:
        self.ciphers[0].rekey()

    def rekey_inbound_cipher(self) -> None:
        self.ciphers[1].rekey()

    def get_handshake_hash(self) -> bytes:
        return self._state.hash


def _oracle(
    initiator: bool, prologue: bytes, static: bytes, ephemeral: bytes, psk: bytes | None
) -> Any:
    oracle = NoiseConnection.from_name(PROTOCOL_NAME if psk is None else PSK_PROTOCOL_NAME)
    if initiator:
        oracle.set_as_initiator()
    else:
        oracle.set_as_responder()
    if psk is not None:
        oracle.set_psks(psk=psk)
    oracle.set_prologue(prologue)
    oracle.set_keypair_from_private_bytes(Keypair.STATIC, static)
    oracle.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
    oracle.start_handshake()
    return oracle


def _transcript(sides: list[Any], draw: random.Random) -> list[bytes]:
    """A handshake with payloads, then messages both ways with rekeys between them."""
    wire: list[bytes] = []
    for i in range(3):
        payload = draw.randbytes(draw.choice((0, 1, 15, 64, 500)))
        message = bytes(sides[i % 2].write_message(payload))
        assert bytes(sides[1 - i % 2].read_message(message)) == payload
        wire.append(message)
    wire.append(sides[0].get_handshake_hash())
    assert sides[1].get_handshake_hash() == wire[-1]
    for _ in range(8):
        sender = draw.randrange(2)
        if draw.random() < 0.3:
            sides[sender].rekey_outbound_cipher()
            sides[1 - sender].rekey_inbound_cipher()
        plaintext = draw.randbytes(draw.choice((0, 1, 100, 4000)))
        sealed = sides[sender].encrypt(plaintext)
        assert sides[1 - sender].decrypt(sealed) == plaintext
        wire.append(sealed)
    return wire


@pytest.mark.filterwarnings("ignore:One of ephemeral keypairs is already set")
@pytest.mark.parametrize("with_psk", [False, True], ids=["XX", "XXpsk3"])
@pytest.mark.parametrize("ours", ["initiator", "responder", "both"])
def test_random_transcripts_equal_those_of_the_oracle(ours: str, with_psk: bool) -> None:
    for seed in range(60):
        draw = random.Random(f"{seed}{with_psk}")
        prologue = draw.randbytes(draw.randrange(40))
        psk = draw.randbytes(32) if with_psk else None
        keys = [(draw.randbytes(32), draw.randbytes(32)) for _ in range(2)]
        state = draw.getstate()
        wires = []
        for who in (ours, "neither"):
            draw.setstate(state)
            sides = [
                (OurSide if who in (role, "both") else _oracle)(
                    role == "initiator", prologue, *keys[i], psk
                )
                for i, role in enumerate(("initiator", "responder"))
            ]
            wires.append(_transcript(sides, draw))
        assert wires[0] == wires[1]
