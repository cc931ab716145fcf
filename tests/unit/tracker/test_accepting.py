"""Accepting connections when the process has no descriptor left."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from aitorrent_tracker.net import accepting
from aitorrent_tracker.net.accepting import Acceptor
from tests.support.nodes import wait_for


class Exhausted(socket.socket):
    """A listening socket that cannot accept the first time."""

    attempts = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.attempts += 1
        if self.attempts == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_without_descriptors_accepting_pauses_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accepting, "PAUSE_S", 0.3)
    begun: list[socket.socket] = []
    acceptor = Acceptor(lambda sock, _: begun.append(sock))
    with Exhausted() as listening, socket.socket() as client:
        listening.bind(("127.0.0.1", 0))
        listening.setblocking(False)
        acceptor.listen(listening)
        client.connect(listening.getsockname())
        client.sendall(b"GET")
        await wait_for(lambda: begun, 10)
        # One that failed, one that succeeded, and one that found nothing more: it did not spin.
        assert listening.attempts == 3
        assert begun[0].recv(3) == b"GET"
        begun[0].close()
        acceptor.close()
