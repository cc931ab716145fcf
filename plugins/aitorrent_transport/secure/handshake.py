"""The handshake of a channel: Noise XX with certified identities, as bytes in and bytes out.

On the wire, first the dialer's `AIT1`, then in both directions `u16 length | body`, at most 4096
bytes per body:

    dialer    versions offered (u8 count, that many u8, ascending) | e
    listener  e, ee, s, es     payload: Hello
    dialer    s, se[, psk]     payload: Hello
    listener  empty transport message, which confirms acceptance to the dialer

The prologue binds protocol, network and offer: a modified offer or a different network fails the
handshake. The node's identity signs each Hello over its role and the transcript, so a stolen or
replayed Hello is worthless. The listener reveals its identity to anyone who completes the key
exchange; the dialer reveals its own only to the expected listener, or to one that proved to have
the dialer's own key: then it completes its part before it leaves, so that both sides know.

A listener without capacity or time left may reject a valid dialer by sending, instead of its next
message, `u16 0 | AITR | u8 reason` (see `Refusal`). Anyone on the path can forge this, just as they
can cut the connection.

Every other failure is a ProtocolError (or Unavailable, when an honest peer is not the expected
one); the caller closes the connection silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from aitorrent_transport.secure.certificate import Certificate, Credentials, network_bytes
from aitorrent_transport.secure.hello import MOVES, Hello, HostPort
from aitorrent_transport.secure.noise import CipherState, HandshakeState, Received
from aitorrent_transport.secure.strangers import what_answers
from aitorrent_transport.secure.suites import CHACHA, Suite, choose, own_capabilities
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Conflict,
    PeerId,
    ProtocolError,
    Unavailable,
    peer_id,
    verify,
)

MAGIC: Final = b"AIT1"
MAX_MESSAGE_BYTES: Final = 4096
HANDSHAKE_S: Final = 5.0
"Time limit of a handshake, on both sides."
VERSIONS: Final = (1,)
MAX_VERSIONS: Final = 16

_PROTOCOL: Final = b"aitorrentd/1"
_SIGNING_DOMAIN: Final = "aitd/hs/1"
_REFUSED: Final = b"\0\0AITR"
_ROLE_DIALER: Final = b"\x01"
_ROLE_LISTENER: Final = b"\x02"


@dataclass(frozen=True, slots=True)
class HandshakeResult:
    """The outcome of a completed handshake. `sending` and `receiving` become record keys."""

    peer: PeerId
    agent: str
    observed: HostPort | None
    version: int
    handshake_hash: bytes
    sending: CipherState
    receiving: CipherState
    suite: Suite = CHACHA
    instance: bytes = b""
    "Distinguishes the peer's process from another one with the same identity; empty if not sent."
    segment_bytes: int = 0
    "Largest TCP segments that the peer asks for; 0 for any."
    can_move: bool = False
    "Whether both sides can move a channel to another link."


class Refusal(IntEnum):
    """Why a listener rejects a valid handshake."""

    CROWDED = 1
    LATE = 2
    NO_DESCRIPTORS = 3
    CLOSING = 4
    BANNED = 5

    @property
    def text(self) -> str:
        """The reason, with the listener as the subject."""
        return _REFUSALS[self]

    def encode(self) -> bytes:
        """The refusal in wire format."""
        return _REFUSED + bytes([self])


_REFUSALS: Final = {
    Refusal.CROWDED: "too many unfinished connections from the same network",
    Refusal.LATE: f"the handshake was not finished within {HANDSHAKE_S:g} s",
    Refusal.NO_DESCRIPTORS: "its process has no file descriptors left for more peers",
    Refusal.CLOSING: "it is shutting down",
    Refusal.BANNED: "it has temporarily banned this address",
}


def encode_offer(versions: Sequence[int]) -> bytes:
    """The dialer's version offer."""
    return bytes([len(versions), *sorted(versions)])


def split_offer(body: bytes) -> tuple[bytes, bytes]:
    """Split the dialer's first body into the version offer and the rest.

    Raises:
        ProtocolError: no versions, too many, or unsorted.
    """
    count = body[0] if body else 0
    offer = body[: 1 + count]
    versions = offer[1:]
    if not 1 <= count <= MAX_VERSIONS or len(versions) != count:
        raise ProtocolError(f"a version offer has 1 to {MAX_VERSIONS} versions")
    if list(versions) != sorted(set(versions)):
        raise ProtocolError("a version offer is not in ascending order")
    return offer, body[1 + count :]


def prologue(network: str, offer: bytes) -> bytes:
    """The data that both sides must agree on before the first message."""
    return _PROTOCOL + network_bytes(network) + len(offer).to_bytes(2, "big") + offer


class Handshake:
    """One side of the handshake of one connection.

    The dialer sends `start()`; both sides pass received bytes to `receive()` and send what it
    returns, until `result` is set; `rest` then holds bytes beyond the handshake. `expected` pins
    the peer. `remote` is the other side's address as seen here; `segment_bytes` the largest TCP
    segments to ask it for, 0 for any. `ephemeral` is for tests only.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        dialer: bool,
        remote: HostPort | None = None,
        expected: PeerId | None = None,
        versions: Sequence[int] = VERSIONS,
        capabilities: Sequence[str] | None = None,
        segment_bytes: int = 0,
        ephemeral: X25519PrivateKey | None = None,
    ) -> None:
        self._credentials = credentials
        self._dialer = dialer
        self._remote = remote
        self._expected = expected
        self._versions = tuple(versions)
        self._capabilities = tuple(
            (*own_capabilities(), MOVES) if capabilities is None else capabilities
        )
        self._segment_bytes = segment_bytes
        self._ephemeral = ephemeral
        self._static = credentials.static_key()
        self._noise: HandshakeState | None = None
        self._version = 0
        self._hello: Hello | None = None
        self._confirming: tuple[CipherState, CipherState] | None = None
        self._buffer = b""
        self._magic_due = not dialer
        self.result: HandshakeResult | None = None
        self.rest = b""
        self.parting = b""
        "What to send before closing, after `receive` raised Conflict."

    def start(self) -> bytes:
        """The dialer's first bytes."""
        offer = encode_offer(self._versions)
        noise = self._noise = self._begin(offer)
        return MAGIC + _framed(offer + noise.write(lambda _: b""))

    def receive(self, chunk: bytes) -> bytes:
        """Process `chunk`, any part of the other side's bytes; return the bytes to send.

        Raises:
            ProtocolError: a protocol violation, a forged or damaged message, another network or
                pre-shared key. Unavailable: the peer is not the expected one, or is this node.
                Conflict: another process with this node's own identity. Busy: the listener
                temporarily refuses connections.
        """
        answer = b""
        buffer = self._buffer + chunk
        if self._magic_due:
            if not MAGIC.startswith(buffer[: len(MAGIC)]):
                raise ProtocolError("the connection does not speak this protocol")
            if len(buffer) < len(MAGIC):
                self._buffer = buffer
                return b""
            self._magic_due = False
            buffer = buffer[len(MAGIC) :]
        while self.result is None and len(buffer) >= 2:
            length = int.from_bytes(buffer[:2], "big")
            if length == 0 and self._dialer:
                if len(buffer) <= len(_REFUSED) and _REFUSED.startswith(buffer):
                    break
                raise _refused(buffer)
            if self._dialer and self._hello is None and length > MAX_MESSAGE_BYTES:
                raise ProtocolError(what_answers(buffer))
            if not 1 <= length <= MAX_MESSAGE_BYTES:
                raise ProtocolError(f"a handshake message of {length} bytes")
            if len(buffer) < 2 + length:
                break
            body, buffer = buffer[2 : 2 + length], buffer[2 + length :]
            answer += self._on_dialer(body) if self._dialer else self._on_listener(body)
        if self.result is not None:
            self.rest, buffer = buffer, b""
        self._buffer = buffer
        return answer

    def _begin(self, offer: bytes) -> HandshakeState:
        return HandshakeState(
            initiator=self._dialer,
            prologue=prologue(self._credentials.network, offer),
            static=self._static.private,
            psk=self._credentials.psk,
            ephemeral=self._ephemeral,
        )

    def _on_listener(self, body: bytes) -> bytes:
        if self._noise is None:
            offer, message = split_offer(body)
            common = set(offer[1:]) & set(self._versions)
            if not common:
                raise ProtocolError(f"the dialer offers only versions {list(offer[1:])}")
            self._version = max(common)
            noise = self._noise = self._begin(offer)
            if noise.read(message).payload:
                raise ProtocolError("the dialer's first message has a payload, as with a psk")
            return _framed(noise.write(self._own_hello))
        noise = self._noise
        hello = self._verify(noise, noise.read(body))
        if self._is_own_key(hello):
            raise Conflict(
                "another node with this node's own key dialled", peer=peer_id(hello.identity)
            )
        if hello.version != self._version:
            raise ProtocolError(f"the dialer speaks version {hello.version}, not {self._version}")
        sending, receiving = noise.split()
        confirmation = _framed(sending.encrypt(b"", b""))
        self._finish(noise, hello, sending, receiving)
        return confirmation

    def _on_dialer(self, body: bytes) -> bytes:
        noise = self._noise
        if noise is None:
            raise RuntimeError("the dialer has not started")
        if self._confirming is None:
            hello = self._hello = self._verify(noise, noise.read(body))
            if hello.version not in self._versions:
                raise ProtocolError(f"the listener chose version {hello.version}, not offered")
            self._version = hello.version
            answer = _framed(noise.write(self._own_hello))
            if self._is_own_key(hello):
                self.parting = answer
                raise Conflict(
                    "another node with this node's own key answers there",
                    peer=peer_id(hello.identity),
                )
            self._confirming = noise.split()
            return answer
        sending, receiving = self._confirming
        if self._hello is None or receiving.decrypt(b"", body):
            raise ProtocolError("the listener's confirmation is not empty")
        self._finish(noise, self._hello, sending, receiving)
        return b""

    def _own_hello(self, transcript: bytes) -> bytes:
        role = _ROLE_DIALER if self._dialer else _ROLE_LISTENER
        credentials = self._credentials
        signer = credentials.signer
        certificate = self._static.certificate
        return Hello(
            identity=signer.public_key,
            not_before=certificate.not_before,
            expires=certificate.expires,
            certificate=certificate.signature,
            signature=signer.sign(_SIGNING_DOMAIN, role + transcript),
            version=self._version,
            agent=credentials.agent,
            seen=self._remote,
            capabilities=self._capabilities,
            instance=credentials.instance,
            segment_bytes=self._segment_bytes,
        ).encode()

    def _verify(self, noise: HandshakeState, received: Received) -> Hello:
        hello = Hello.decode(received.payload)
        role = _ROLE_LISTENER if self._dialer else _ROLE_DIALER
        if not verify(hello.identity, _SIGNING_DOMAIN, role + received.transcript, hello.signature):
            raise ProtocolError("the peer did not sign this handshake with its identity key")
        credentials = self._credentials
        Certificate(noise.remote_static, hello.not_before, hello.expires, hello.certificate).check(
            hello.identity, credentials.network, credentials.clock()
        )
        name = peer_id(hello.identity)
        if self._is_own_key(hello):
            return hello
        if self._expected is not None and name != self._expected:
            raise Unavailable(
                f"the peer at that address is {name}, not {self._expected}",
                peer=name,
                expected=self._expected,
            )
        if hello.identity == credentials.signer.public_key:
            raise Unavailable("the peer at that address is this node itself", peer=name)
        return hello

    def _is_own_key(self, hello: Hello) -> bool:
        """Whether another process with this node's own identity sent `hello`."""
        credentials = self._credentials
        is_own = hello.identity == credentials.signer.public_key
        return is_own and hello.instance not in (b"", credentials.instance)

    def _finish(
        self, noise: HandshakeState, hello: Hello, sending: CipherState, receiving: CipherState
    ) -> None:
        self.result = HandshakeResult(
            peer=peer_id(hello.identity),
            agent=hello.agent,
            observed=hello.seen,
            version=self._version,
            handshake_hash=noise.hash,
            sending=sending,
            receiving=receiving,
            suite=choose(self._capabilities, hello.capabilities),
            instance=hello.instance,
            segment_bytes=hello.segment_bytes,
            can_move=MOVES in self._capabilities and MOVES in hello.capabilities,
        )


def _refused(answer: bytes) -> AitorrentError:
    code = answer[len(_REFUSED)] if answer.startswith(_REFUSED) else 0
    if code not in _REFUSALS:
        return ProtocolError(what_answers(answer))
    reason = Refusal(code).text
    return Busy(f"the node there temporarily refuses connections: {reason}")


def _framed(body: bytes) -> bytes:
    if len(body) > MAX_MESSAGE_BYTES:
        raise RuntimeError(f"a handshake message of {len(body)} bytes was made")
    return len(body).to_bytes(2, "big") + body
