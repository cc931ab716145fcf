"""Noise handshakes XX and XXpsk3 over X25519, ChaCha20-Poly1305 and SHA-256.

Follows Perrin, "The Noise Protocol Framework", revision 34; section numbers below are its. No I/O
and no clock. Checked against the published cacophony and snow test vectors.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from aitorrentd.api import ProtocolError

PROTOCOL_NAME: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
PSK_PROTOCOL_NAME: Final = b"Noise_XXpsk3_25519_ChaChaPoly_SHA256"
KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
REKEY_NONCE: Final = 2**64 - 1  # 5.1: reserved for REKEY, never used for a message

_HASH_BYTES: Final = 32
_NONCE: Final = struct.Struct("<IQ")  # 12.3: 32 zero bits, then the counter little-endian
_XX: Final = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
_XX_PSK3: Final = (("e",), ("e", "ee", "s", "es"), ("s", "se", "psk"))

PayloadMaker = Callable[[bytes], bytes]
"Builds a payload from the transcript hash just before the payload."


class Received(NamedTuple):
    """A handshake message's payload and the transcript hash just before it."""

    payload: bytes
    transcript: bytes


def nonce(counter: int) -> bytes:
    """The 12-byte ChaCha20-Poly1305 nonce of message number `counter` (0 to 2^64 - 1)."""
    return _NONCE.pack(0, counter)


def rekeyed(key: bytes) -> bytes:
    """The key that follows `key` (4.2, REKEY)."""
    zeros = bytes(KEY_BYTES)
    return ChaCha20Poly1305(key).encrypt(nonce(REKEY_NONCE), zeros, b"")[:KEY_BYTES]


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return key.public_key().public_bytes_raw()


def _exchange(private: X25519PrivateKey, public: bytes) -> bytes:
    # 12.1 leaves rejection of all-zero outputs to us: a low-order point would make the secret
    # public. `cryptography` rejects such outputs with ValueError.
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtocolError("the other side sent a low-order X25519 point") from None


def _hkdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """4.3: two or three 32-byte keys."""
    secret = hmac.digest(chaining_key, material, "sha256")
    keys: list[bytes] = []
    last = b""
    for i in range(1, outputs + 1):
        last = hmac.digest(secret, last + bytes([i]), "sha256")
        keys.append(last)
    return keys


class CipherState:
    """5.1: a key and the number of the next message; without a key it passes bytes through."""

    __slots__ = ("_aead", "counter", "key")

    def __init__(self, key: bytes | None = None, counter: int = 0) -> None:
        self.key = key
        self.counter = counter
        self._aead = ChaCha20Poly1305(key) if key is not None else None

    def _next_nonce(self) -> bytes:
        if self.counter >= REKEY_NONCE:
            raise ProtocolError("the cipher's nonces are exhausted")
        return nonce(self.counter)

    def encrypt(self, associated: bytes, plaintext: bytes) -> bytes:
        """Ciphertext and tag; increments the counter."""
        if self._aead is None:
            return plaintext
        sealed = self._aead.encrypt(self._next_nonce(), plaintext, associated)
        self.counter += 1
        return sealed

    def decrypt(self, associated: bytes, ciphertext: bytes) -> bytes:
        """The plaintext; increments the counter only if the tag is valid.

        Raises:
            ProtocolError: the message does not authenticate.
        """
        if self._aead is None:
            return ciphertext
        try:
            plaintext = self._aead.decrypt(self._next_nonce(), ciphertext, associated)
        except InvalidTag:
            raise ProtocolError("a handshake message failed authentication") from None
        self.counter += 1
        return plaintext

    def rekey(self) -> None:
        """Switch to the next key; the counter stays (4.2)."""
        if self.key is None:
            raise RuntimeError("a cipher without a key cannot be rekeyed")
        self.key = rekeyed(self.key)
        self._aead = ChaCha20Poly1305(self.key)


class _SymmetricState:
    """5.2: chaining key and transcript hash."""

    def __init__(self, name: bytes) -> None:
        fits = len(name) <= _HASH_BYTES
        self.hash = name.ljust(_HASH_BYTES, b"\0") if fits else hashlib.sha256(name).digest()
        self._chaining_key = self.hash
        self._cipher = CipherState()

    def mix_hash(self, chunk: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + chunk).digest()

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, key = _hkdf(self._chaining_key, material, 2)
        self._cipher = CipherState(key)

    def mix_key_and_hash(self, material: bytes) -> None:
        self._chaining_key, mixed, key = _hkdf(self._chaining_key, material, 3)
        self.mix_hash(mixed)
        self._cipher = CipherState(key)

    @property
    def overhead(self) -> int:
        """Bytes that encryption currently adds."""
        return 0 if self._cipher.key is None else TAG_BYTES

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        sealed = self._cipher.encrypt(self.hash, plaintext)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        plaintext = self._cipher.decrypt(self.hash, sealed)
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        first, second = _hkdf(self._chaining_key, b"", 2)
        return CipherState(first), CipherState(second)


class HandshakeState:
    """5.3: one side of an XX handshake, or of XXpsk3 when `psk` (32 bytes) is given.

    Alternate `write` and `read`, the initiator writing first; after the third message `split`
    returns the ciphers. After any error the state is unusable. `ephemeral` is for test vectors
    only.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        prologue: bytes,
        static: X25519PrivateKey,
        psk: bytes | None = None,
        ephemeral: X25519PrivateKey | None = None,
    ) -> None:
        if psk is not None and len(psk) != KEY_BYTES:
            raise ValueError(f"a pre-shared key has {KEY_BYTES} bytes, got {len(psk)}")
        self._symmetric = _SymmetricState(PROTOCOL_NAME if psk is None else PSK_PROTOCOL_NAME)
        self._symmetric.mix_hash(prologue)
        self._pattern = _XX if psk is None else _XX_PSK3
        self._initiator = initiator
        self._static = static
        self._ephemeral = ephemeral or X25519PrivateKey.generate()
        self._psk = psk
        self._remote_ephemeral = b""
        self._step = 0
        self.remote_static = b""

    @property
    def finished(self) -> bool:
        """Whether all three messages have been processed."""
        return self._step == len(self._pattern)

    @property
    def hash(self) -> bytes:
        """The transcript hash, 32 bytes; after the last message only both sides share it."""
        return self._symmetric.hash

    def _take_turn(self, *, writing: bool) -> tuple[str, ...]:
        if self.finished or ((self._step % 2 == 0) == self._initiator) is not writing:
            raise RuntimeError("handshake messages are written and read in turn")
        tokens = self._pattern[self._step]
        self._step += 1
        return tokens

    def _mix_ephemeral(self, public: bytes) -> None:
        self._symmetric.mix_hash(public)
        if self._psk is not None:  # 9.2: with a psk, e also goes into the key
            self._symmetric.mix_key(public)

    def _mix_secret(self, token: str) -> None:
        if token == "psk":
            self._symmetric.mix_key_and_hash(self._psk or b"")
            return
        # The first letter names the initiator's key, the second the responder's.
        mine, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        private = self._ephemeral if mine == "e" else self._static
        public = self._remote_ephemeral if theirs == "e" else self.remote_static
        self._symmetric.mix_key(_exchange(private, public))

    def write(self, make_payload: PayloadMaker) -> bytes:
        """Build this side's next message."""
        message = bytearray()
        for token in self._take_turn(writing=True):
            if token == "e":
                public = public_bytes(self._ephemeral)
                message += public
                self._mix_ephemeral(public)
            elif token == "s":
                message += self._symmetric.encrypt_and_hash(public_bytes(self._static))
            else:
                self._mix_secret(token)
        message += self._symmetric.encrypt_and_hash(make_payload(self._symmetric.hash))
        return bytes(message)

    def read(self, message: bytes) -> Received:
        """Process the other side's next message; return its payload.

        Raises:
            ProtocolError: truncated, not authentic, or a low-order key.
        """
        rest = message
        for token in self._take_turn(writing=False):
            if token == "e":
                public, rest = self._cut(rest, KEY_BYTES)
                self._remote_ephemeral = public
                self._mix_ephemeral(public)
            elif token == "s":
                sealed, rest = self._cut(rest, KEY_BYTES + self._symmetric.overhead)
                self.remote_static = self._symmetric.decrypt_and_hash(sealed)
            else:
                self._mix_secret(token)
        transcript = self._symmetric.hash
        return Received(self._symmetric.decrypt_and_hash(rest), transcript)

    @staticmethod
    def _cut(message: bytes, n: int) -> tuple[bytes, bytes]:
        if len(message) < n:
            raise ProtocolError(f"a handshake message ends {n - len(message)} bytes too early")
        return message[:n], message[n:]

    def split(self) -> tuple[CipherState, CipherState]:
        """The ciphers for sending and receiving, in this order."""
        if not self.finished:
            raise RuntimeError("the handshake is not finished")
        first, second = self._symmetric.split()
        return (first, second) if self._initiator else (second, first)
