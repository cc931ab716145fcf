"""Worker processes, from inside: `python -m aitorrentd.worker MODULE:FUNCTION FD`.

A worker reads frames (see `aitorrentd.wire`) from one socket and answers each, in order, in its
main thread. Reading ahead is left to the kernel's socket buffer, so the memory it costs is
bounded. The worker ends when the daemon's end of the socket closes, and dies with the daemon.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from aitorrentd.errors import AitorrentError, InvalidParams, PluginError
from aitorrentd.wire import DEFAULT_MAX_FRAME_BYTES, Frame, check_length, decode_frame, frame_head

Handler = Callable[[Frame], Frame | tuple[dict[str, Any], Any]]
"Answers a request; an AitorrentError that it raises travels to the caller."

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_JOIN_BELOW: Final = 16 * 1024

log = logging.getLogger("aitorrentd.worker")


def load_entry(entry: str) -> Callable[[], Handler]:
    """The function that `module:function` names.

    Raises:
        InvalidParams: not of that form. ImportError, AttributeError: as Python says.
    """
    module, _, function = entry.partition(":")
    if not module or not function:
        raise InvalidParams(f"worker entry {entry!r} is not of the form module:function")
    found: Callable[[], Handler] = getattr(importlib.import_module(module), function)
    return found


def _receive(sock: socket.socket, n: int) -> memoryview | None:
    body = bytearray(n)
    view = memoryview(body)
    got = 0
    while got < n:
        k = sock.recv_into(view[got:])
        if k == 0:
            return None
        got += k
    return memoryview(body)


def _send(sock: socket.socket, header: dict[str, Any], tail: Any) -> None:
    view = memoryview(tail).cast("B") if tail is not None else memoryview(b"")
    head = frame_head(header, len(view))
    if len(view) < _JOIN_BELOW:
        sock.sendall(head + bytes(view))
    else:
        sock.sendall(head)
        sock.sendall(view)


def answer(handler: Handler, request: Frame) -> tuple[dict[str, Any], Any]:
    """The handler's answer to one request, with its errors turned into an error header."""
    ident = request.header.get("id")
    try:
        header, tail = handler(request)
        return {**header, "id": ident}, tail
    except AitorrentError as e:
        return {"id": ident, "error": e.as_map()}, b""
    except Exception as e:
        log.exception("worker request %r failed", request.header.get("op"))
        error = PluginError(f"the worker failed: {type(e).__name__}; its log has the details")
        return {"id": ident, "error": error.as_map()}, b""


def serve(sock: socket.socket, handler: Handler) -> None:
    """Answer frames until the other side closes."""
    while (prefix := _receive(sock, 4)) is not None:
        length = int.from_bytes(prefix, "big")
        check_length(length, DEFAULT_MAX_FRAME_BYTES)
        body = _receive(sock, length)
        if body is None:
            return
        header, tail = answer(handler, decode_frame(body))
        _send(sock, header, tail)


def main(argv: list[str]) -> int:
    """Run a worker on an inherited socket."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # The daemon may be killed without a word; then the worker must not stay behind.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A core file would write weights, and people's prompts, to the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    entry, fd = argv[1], int(argv[2])
    sock = socket.socket(fileno=fd)
    if os.getppid() == 1 and "LISTEN_PID" not in os.environ:
        return 0
    try:
        serve(sock, load_entry(entry)())
    except (BrokenPipeError, ConnectionResetError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
