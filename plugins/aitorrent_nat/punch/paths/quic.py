"""aioquic's connection, with the limits that an untrusted peer must not pass, and a view of what
waits to be sent.

aioquic grants as much data as the peer sends, whether the application reads it or not, and does not
say how much of what was written is still unsent. Both rest on three private attributes, all named
in this module.
"""

from __future__ import annotations

import functools
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import Limit, QuicConnection
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aitorrentd.api import ProtocolError

ALPN: Final = "ai-torrent/1"
WINDOW_BYTES: Final = 4 * 2**20
"Bytes that may arrive before the application took them: 40 MB/s at a round trip of 100 ms."
_GRANT_BYTES: Final = WINDOW_BYTES // 4
STREAM: Final = 0
"The only stream, which the client opens."
ADDRESS: Final = ("path", 0)
"aioquic wants an address for the path; there is only one."
IDLE_S: Final = 30.0
"Without any datagram for this long the peer is gone."


class _Window(Limit):
    """A limit on all bytes of a connection that only `grant` raises; aioquic would double it."""

    def __init__(self, like: Limit) -> None:
        self._granted = WINDOW_BYTES
        super().__init__(like.frame_type, like.name, WINDOW_BYTES)

    @property
    def value(self) -> int:
        """Bytes that the peer may send in all."""
        return self._granted

    @value.setter
    def value(self, value: int) -> None:
        pass

    def grant(self, value: int) -> bool:
        """Raise to `value` if that is a step worth a message; whether it was."""
        if value < self._granted + _GRANT_BYTES:
            return False
        self._granted = value
        return True


class BoundedConnection(QuicConnection):
    """One stream on a QUIC connection, with flow control by what the application has read."""

    def __init__(
        self, configuration: QuicConfiguration, original_destination: bytes | None = None
    ) -> None:
        super().__init__(
            configuration=configuration, original_destination_connection_id=original_destination
        )
        self._window = _Window(self._local_max_data)
        self._local_max_data = self._window
        self._sender: Any = None

    def taken(self, total: int) -> bool:
        """The application has taken `total` bytes; whether the peer must be told."""
        return self._window.grant(total + WINDOW_BYTES)

    def write(self, data: bytes, *, end: bool = False) -> None:
        """Queue `data` on the stream."""
        self.send_stream_data(STREAM, data, end_stream=end)
        if self._sender is None:
            self._sender = self._streams[STREAM].sender

    @property
    def unsent_bytes(self) -> int:
        """Bytes written that no datagram has carried yet."""
        if self._sender is None:
            return 0
        return int(self._sender._buffer_stop - self._sender.highest_offset)

    @property
    def is_delivered(self) -> bool:
        """Whether the peer acknowledged everything, including the end."""
        return self._sender is not None and bool(self._sender.is_finished)


def client(*, datagram_bytes: int, rtt_s: float, congestion: str) -> BoundedConnection:
    """The connection of the end that speaks first."""
    return BoundedConnection(_configuration(True, datagram_bytes, rtt_s, congestion))


def server(
    first: bytes, *, datagram_bytes: int, rtt_s: float, congestion: str
) -> BoundedConnection:
    """The connection of the other end, for the first datagram that arrived.

    Raises:
        ProtocolError: it does not open a QUIC connection.
    """
    try:
        header = pull_quic_header(Buffer(data=first), host_cid_length=8)
    except ValueError:
        raise ProtocolError("the datagram is not QUIC") from None
    if header.packet_type is not QuicPacketType.INITIAL:
        raise ProtocolError("the datagram does not open a QUIC connection")
    configuration = _configuration(False, datagram_bytes, rtt_s, congestion)
    configuration.certificate, configuration.private_key = _self_signed()
    return BoundedConnection(configuration, header.destination_cid)


def _configuration(
    is_client: bool, datagram_bytes: int, rtt_s: float, congestion: str
) -> QuicConfiguration:
    configuration = QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        congestion_control_algorithm=congestion,
        idle_timeout=IDLE_S,
        max_datagram_size=datagram_bytes,
        max_data=WINDOW_BYTES,
        max_stream_data=WINDOW_BYTES,
    )
    configuration.initial_rtt = rtt_s
    # The channel's handshake, which runs inside, authenticates the peer.
    configuration.verify_mode = ssl.CERT_NONE
    return configuration


@functools.cache
def _self_signed() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate that says nothing, as QUIC requires one; made once per process."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aitorrentd")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    return certificate, key
