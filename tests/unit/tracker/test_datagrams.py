"""Many datagrams with one system call, on sockets of loopback."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest

from aitorrent_tracker.net.datagrams import SLOTS, Datagrams


@pytest.mark.parametrize(
    ("bound", "to", "packed"),
    [
        ("127.0.0.1", "127.0.0.1", b"\x7f\0\0\x01"),
        ("0.0.0.0", "127.0.0.2", b"\x7f\0\0\x01"),
        ("::", "::1", bytes(15) + b"\x01"),
    ],
)
def test_each_datagram_is_answered_to_its_sender_from_the_address_it_was_sent_to(
    bound: str, to: str, packed: bytes
) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server,
        socket.socket(family, socket.SOCK_DGRAM) as one,
        socket.socket(family, socket.SOCK_DGRAM) as other,
    ):
        server.bind((bound, 0))
        datagrams = Datagrams(server, 10)
        here = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        for client in (one, other):
            client.bind((here, 0))
            client.settimeout(5)
            client.connect((to, server.getsockname()[1]))  # takes replies from there alone
        for _ in range(2):  # the buffers are as good as new the second time
            for client, raw in (
                *((one, b"a"), (other, b"long" * 3), (one, b"silence"), (other, b"")),
                *((other, b"ten bytes!"), (one, b"b")),
            ):
                client.send(raw)
            answered = datagrams.answer(
                lambda raw, host, _: None if raw == b"silence" else host + raw[:3], 1.0
            )
            assert answered == (1, 0)
            assert [one.recv(100) for _ in range(2)] == [packed + b"a", packed + b"b"]
            assert [other.recv(100) for _ in range(2)] == [packed, packed + b"ten"]
        assert datagrams.answer(lambda raw, host, now: raw, 1.0) == (0, 0)


def test_a_batch_is_bounded_and_replies_that_cannot_be_sent_are_counted() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        datagrams = Datagrams(server, 10)
        for number in range(SLOTS + 3):
            client.sendto(b"%d" % number, server.getsockname())
        seen: list[bytes] = []

        def remember(raw: bytes, _: bytes, now: float) -> bytes:
            assert now == 1.0
            seen.append(raw)
            return raw

        assert datagrams.answer(remember, 1.0) == (0, 0) and len(seen) == SLOTS
        with suppress(OSError):  # it is not connected, yet sends nothing from now on
            server.shutdown(socket.SHUT_WR)
        assert datagrams.answer(remember, 1.0) == (0, 3) and len(seen) == SLOTS + 3
