"""Noise handshake states on wrong input."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from aitorrent_transport.secure.noise import REKEY_NONCE, CipherState, HandshakeState
from aitorrentd.api import ProtocolError

P = 2**255 - 19
LOW_ORDER_POINTS = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
    P,
    P + 1,
]


def _pair(psk: bytes | None = None) -> tuple[HandshakeState, HandshakeState]:
    return (
        HandshakeState(initiator=True, prologue=b"p", static=X25519PrivateKey.generate(), psk=psk),
        HandshakeState(initiator=False, prologue=b"p", static=X25519PrivateKey.generate(), psk=psk),
    )


@pytest.mark.parametrize("point", LOW_ORDER_POINTS)
@pytest.mark.parametrize("high_bit", [0, 2**255])
def test_low_order_ephemeral_is_refused_by_both_sides(point: int, high_bit: int) -> None:
    raw = (point | high_bit).to_bytes(32, "little")
    initiator, responder = _pair()
    first = initiator.write(lambda _: b"")
    responder.read(raw)
    with pytest.raises(ProtocolError, match="low-order"):
        responder.write(lambda _: b"")
    with pytest.raises(ProtocolError, match="low-order"):
        initiator.read(raw + bytes(64))
    assert first != raw


def test_message_shorter_than_its_keys_is_refused() -> None:
    initiator, responder = _pair()
    with pytest.raises(ProtocolError, match="too early"):
        responder.read(initiator.write(lambda _: b"")[:31])


def test_other_psk_breaks_the_third_message() -> None:
    initiator, _ = _pair(b"a" * 32)
    _, responder = _pair(b"b" * 32)
    responder.read(initiator.write(lambda _: b""))
    initiator.read(responder.write(lambda _: b""))
    with pytest.raises(ProtocolError, match="authentication"):
        responder.read(initiator.write(lambda _: b""))


def test_speaking_out_of_turn_is_a_programming_error() -> None:
    initiator, responder = _pair()
    with pytest.raises(RuntimeError, match="in turn"):
        responder.write(lambda _: b"")
    with pytest.raises(RuntimeError, match="in turn"):
        initiator.read(b"")
    with pytest.raises(RuntimeError, match="not finished"):
        initiator.split()


def test_psk_of_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        _pair(b"short")


def test_failed_decryption_does_not_move_the_counter() -> None:
    cipher, reader = CipherState(bytes(32)), CipherState(bytes(32))
    sealed = cipher.encrypt(b"", b"hello")
    with pytest.raises(ProtocolError, match="authentication"):
        reader.decrypt(b"other", sealed)
    assert reader.decrypt(b"", sealed) == b"hello"


def test_last_nonce_is_never_used_for_a_message() -> None:
    cipher = CipherState(bytes(32), REKEY_NONCE - 1)
    cipher.encrypt(b"", b"the last one")
    with pytest.raises(ProtocolError, match="nonces are exhausted"):
        cipher.encrypt(b"", b"one too many")


def test_cipher_without_a_key_passes_bytes_and_cannot_be_rekeyed() -> None:
    cipher = CipherState()
    assert cipher.decrypt(b"", cipher.encrypt(b"", b"plain")) == b"plain"
    with pytest.raises(RuntimeError, match="without a key"):
        cipher.rekey()
