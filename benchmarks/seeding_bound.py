"""What a verified transfer costs at least: sendfile(2), a socket, a file, and both digests.

Each digest has a thread. There is no protocol, no piece and no disk.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import queue
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.seeding_rivals import MIB, Took, cpu_s

_AHEAD: Final = 8


def bound(file: Path, folder: Path) -> Took:
    """Send `file` over loopback into `folder`, and hash it by SHA-1 and SHA-256 as it comes."""
    size = file.stat().st_size
    digests = [hashlib.sha1(usedforsecurity=False), hashlib.sha256()]
    queues: list[queue.Queue[memoryview | None]] = [queue.Queue(_AHEAD) for _ in digests]
    threads = [
        threading.Thread(target=_hash, args=pair) for pair in zip(queues, digests, strict=True)
    ]
    copy = folder / "bound"
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:
        sender = multiprocessing.get_context("fork").Process(
            target=_send, args=(file, server.getsockname()[1])
        )
        began, used = time.perf_counter(), cpu_s(os.getpid())
        sender.start()
        sock = stack.enter_context(server.accept()[0])
        out = stack.enter_context(copy.open("wb", buffering=0))
        for thread in threads:
            thread.start()
        left = size
        while left:
            part = memoryview(bytearray(min(MIB, left)))
            got = 0
            while got < len(part):
                got += sock.recv_into(part[got:])
            out.write(part)
            left -= got
            for waiting in queues:
                waiting.put(part)
        for waiting, thread in zip(queues, threads, strict=True):
            waiting.put(None)
            thread.join()
        took_s = time.perf_counter() - began
        used = cpu_s(os.getpid(), sender.pid or 0) - used
        sock.close()
        sender.join()
    copy.unlink()
    return Took(took_s, used)


def _hash(parts: queue.Queue[memoryview | None], digest: Any) -> None:
    while (part := parts.get()) is not None:
        digest.update(part)


def _send(file: Path, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as sock, file.open("rb") as source:
        sock.sendfile(source)
        sock.recv(1)  # until it was counted
