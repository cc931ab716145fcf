"""Hostile HTTP and WebSocket bytes against the masked side of a listener."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, Request

from aitorrent_transport.links.masking import MAX_HTTP_HEAD_BYTES, MaskedDialer, MaskedListener
from aitorrentd.api import AitorrentError
from tests.support.effort import examples

UPGRADE = WSConnection(ConnectionType.CLIENT).send(Request(host="example.org", target="/"))


class DeafTransport(asyncio.Transport):
    """Takes what is written to it, and remembers how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Sink(asyncio.Protocol):
    """An inner protocol that takes everything."""

    def __init__(self) -> None:
        self.received = b""
        self.made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True

    def data_received(self, data: bytes) -> None:
        self.received += data


def _listener() -> tuple[MaskedListener, DeafTransport, Sink]:
    sink, transport = Sink(), DeafTransport()
    masked = MaskedListener(sink)
    masked.connection_made(transport)
    return masked, transport, sink


@settings(max_examples=examples(200))
@given(st.binary(max_size=200), st.integers(1, 40))
@example(b"\x82\xfe", 1)
def test_any_bytes_after_the_upgrade_are_data_or_the_end(wire: bytes, cut: int) -> None:
    masked, _, sink = _listener()
    masked.data_received(UPGRADE)
    assert sink.made
    for at in range(0, len(wire), cut):
        masked.data_received(wire[at : at + cut])
    assert len(sink.received) <= len(wire)


@settings(max_examples=examples(200))
@given(st.integers(0, len(UPGRADE) - 5), st.binary(min_size=1, max_size=8), st.booleans())
@example(UPGRADE.index(b"example"), b"\xff\xfe", False)
@example(UPGRADE.index(b"Sec-WebSocket-Key") + 19, b"\xff\xfe=", False)
def test_any_damaged_upgrade_is_taken_or_answered_by_a_page(
    at: int, junk: bytes, insert: bool
) -> None:
    masked, transport, sink = _listener()
    damaged = UPGRADE[:at] + junk + UPGRADE[at if insert else at + len(junk) :]
    masked.data_received(damaged + b"\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 ")
    assert sink.made == transport.written.startswith(b"HTTP/1.1 101"), "made, or a page"


@pytest.mark.parametrize("bad", ["Sec-WebSocket-Version: 8", "Upgrade: carrier-pigeon"])
def test_upgrade_to_something_else_gets_a_page(bad: str) -> None:
    masked, transport, sink = _listener()
    lines = [
        bad if ln.startswith(bad.split(":")[0]) else ln for ln in UPGRADE.decode().split("\r\n")
    ]
    masked.data_received("\r\n".join(lines).encode())
    assert transport.written.startswith(b"HTTP/1.1 4")
    assert transport.ended
    assert not sink.made


def test_endless_head_is_cut_off() -> None:
    masked, transport, _ = _listener()
    for _ in range(100):
        masked.data_received(b"GET / HTTP/1.1\r\nX: " + b"x" * 100)
        if transport.ended:
            break
    assert transport.written.startswith(b"HTTP/1.1 431")
    assert len(masked._head) <= MAX_HTTP_HEAD_BYTES + 200


def test_unmasked_frames_from_a_client_are_refused() -> None:
    """RFC 6455, 5.1: a server closes on an unmasked frame."""
    masked, transport, sink = _listener()
    masked.data_received(UPGRADE)
    masked.data_received(b"\x82\x03abc")
    assert transport.ended
    assert sink.received == b""


@settings(max_examples=examples(200))
@given(st.binary(max_size=300))
@example(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101\r\n\r\n")
@example(b"HTTP/1.1 301 Moved\r\nLocation: \xff\r\n\r\n")
def test_any_answer_to_a_dialer_is_an_error_or_nothing(wire: bytes) -> None:
    errors: list[AitorrentError] = []
    sink = Sink()
    masked = MaskedDialer(sink, "example.org", 1, errors.append)
    masked.connection_made(DeafTransport())
    masked.data_received(wire)
    assert not sink.made


def test_message_is_delivered_once_whole_and_in_parts() -> None:
    client = WSConnection(ConnectionType.CLIENT)
    upgrade = client.send(Request(host="example.org", target="/"))
    masked, transport, sink = _listener()
    masked.data_received(upgrade)
    client.receive_data(transport.written)
    list(client.events())
    wire = client.send(BytesMessage(b"one ", message_finished=False))
    wire += client.send(BytesMessage(b"message", message_finished=True))
    for i in range(len(wire)):
        masked.data_received(wire[i : i + 1])
    assert sink.received == b"one message"
