"""Accepting connections when the process has no descriptor left."""

from __future__ import annotations

import ctypes
import errno
import os
import socket

import pytest

from aitorrent_tracker.net import accepting
from aitorrent_tracker.net.accepting import Acceptor
from tests.support.nodes import wait_for


async def test_without_descriptors_accepting_pauses_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results: list[int] = []
    accept4 = accepting._accept4

    def without_descriptors_at_first(*arguments: int) -> int:
        if results:
            results.append(accept4(*arguments))
        else:
            ctypes.set_errno(errno.EMFILE)
            results.append(-1)
        return results[-1]

    monkeypatch.setattr(accepting, "_accept4", without_descriptors_at_first)
    monkeypatch.setattr(accepting, "PAUSE_S", 0.3)
    begun: list[tuple[int, bytes]] = []
    acceptor = Acceptor(begun.extend)
    with socket.socket() as listening, socket.socket() as client:
        listening.bind(("127.0.0.1", 0))
        listening.setblocking(False)
        acceptor.listen(listening)
        client.connect(listening.getsockname())
        client.sendall(b"GET")
        await wait_for(lambda: begun, 10)
        ((fd, host),) = begun
        # One that failed, one that succeeded, and one that found nothing more: it did not spin.
        assert results == [-1, fd, -1]
        assert host == b"\x7f\0\0\x01" and os.read(fd, 3) == b"GET"
        assert not os.get_blocking(fd) and not os.get_inheritable(fd)
        os.close(fd)
        acceptor.close()
