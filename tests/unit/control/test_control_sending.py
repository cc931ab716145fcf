"""A call that is larger than the socket's buffers, to a daemon that reads it late or never."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aitorrentd.control import framing
from aitorrentd.control.client import Client, LostDaemon
from aitorrentd.errors import TimedOut

BLOB = bytes(range(256)) * 16 * 1024  # 4 MiB
HUNG_S = 20.0
"A client that does not give up by itself is cut off after this."


@contextmanager
def greeted(path: Path) -> Iterator[tuple[Client, socket.socket]]:
    """A client, and the daemon's end of its connection after the hello."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        accepted: list[socket.socket] = []

        def greet() -> None:
            connection, _ = listener.accept()
            accepted.append(connection)
            connection.recv(4096)
            connection.sendall(framing.encode(framing.HELLO, {"proto": list(framing.PROTO)}))

        greeting = threading.Thread(target=greet)
        greeting.start()
        with Client(path, 30.0) as client:
            greeting.join()
            with accepted[0]:
                yield client, accepted[0]


def test_a_daemon_that_does_not_read_is_given_up_in_time(tmp_path: Path) -> None:
    with greeted(tmp_path / "c.sock") as (client, daemon):
        cut = threading.Timer(HUNG_S, daemon.shutdown, [socket.SHUT_RDWR])
        cut.start()
        began = time.monotonic()
        with pytest.raises(TimedOut, match="has stopped reading; it may hang"):
            client.call("a.method", {"blob": BLOB}, timeout=0.1)
        assert time.monotonic() - began < HUNG_S
        # Half a frame is under way: nothing more can be said on this connection.
        with pytest.raises(LostDaemon):
            client.call("a.method", timeout=0.1)
        cut.cancel()


def test_a_large_call_reaches_a_daemon_that_reads_now_and_then(tmp_path: Path) -> None:
    with greeted(tmp_path / "c.sock") as (client, daemon):
        splitter = framing.FrameSplitter(framing.MAX_FRAME_BYTES)
        calls: list[list[object]] = []

        def read_and_answer() -> None:
            while (body := splitter.take()) is None:
                splitter.feed(daemon.recv(100_000))
            calls.append(framing.decode(body))
            daemon.sendall(framing.encode(framing.RESULT, calls[0][1], {"fine": True}))

        daemon.settimeout(HUNG_S)
        reading = threading.Thread(target=read_and_answer)
        late = threading.Timer(0.1, reading.start)
        late.start()
        assert client.call("a.method", {"blob": BLOB}) == {"fine": True}
        late.join()
        reading.join()
        assert calls[0][2:4] == ["a.method", {"blob": BLOB}]
