"""Worker processes, from inside: `python -m aitorrentd.worker`, with a socket as standard input.

The first frame (see `aitorrentd.wire`) names the entry point, `module:function`; each later one is
a request, answered in order in the main thread. Reading ahead is left to the kernel's socket
buffer, so the memory it costs is bounded. The worker ends when the daemon's end of the socket
closes, whatever it is doing. It makes no difference who started it: the daemon, or a service
manager's socket unit.
"""

from __future__ import annotations

import importlib
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from aitorrentd import layers
from aitorrentd.errors import AitorrentError, InvalidParams, PluginError
from aitorrentd.memory import rss_bytes
from aitorrentd.wire import DEFAULT_MAX_FRAME_BYTES, Frame, check_length, decode_frame, frame_head

Handler = Callable[[Frame], Frame | tuple[dict[str, Any], Any]]
"Answers a request; an AitorrentError that it raises travels to the caller."

MEMORY: Final = "worker.memory"
"The operation that is answered here, for any handler: {rss_bytes}."

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
        if request.header.get("op") == MEMORY:
            return {"rss_bytes": rss_bytes(), "id": ident}, b""
        header, tail = handler(request)
        return {**header, "id": ident}, tail
    except AitorrentError as e:
        return {"id": ident, "error": e.as_map()}, b""
    except Exception as e:
        log.exception("worker request %r failed", request.header.get("op"))
        error = PluginError(f"the worker failed: {type(e).__name__}; its log has the details")
        return {"id": ident, "error": error.as_map()}, b""


def _read_frame(sock: socket.socket) -> Frame | None:
    prefix = _receive(sock, 4)
    if prefix is None:
        return None
    length = int.from_bytes(prefix, "big")
    check_length(length, DEFAULT_MAX_FRAME_BYTES)
    body = _receive(sock, length)
    return None if body is None else decode_frame(body)


def serve(sock: socket.socket, handler: Handler) -> None:
    """Answer frames until the other side closes."""
    while (request := _read_frame(sock)) is not None:
        header, tail = answer(handler, request)
        _send(sock, header, tail)


def hung_up(sock: socket.socket) -> None:
    """Wait until the other side hangs up."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    poll.poll()


def _end_with(sock: socket.socket) -> None:
    """End this process when the other side hangs up, also in the middle of a computation."""
    hung_up(sock)
    os._exit(0)


def _start(sock: socket.socket) -> Handler | None:
    """Load the entry point that the first frame names, and say whether that worked."""
    request = _read_frame(sock)
    if request is None:
        return None
    # Settings such as the number of threads are read by libraries when they are imported.
    os.environ.update(request.header.get("env") or {})
    loaded: list[Handler] = []

    def load(frame: Frame) -> tuple[dict[str, Any], Any]:
        try:
            loaded.append(load_entry(str(frame.header.get("entry")))())
        except (ImportError, AttributeError) as e:
            raise InvalidParams(f"cannot load worker {frame.header.get('entry')!r}: {e}") from e
        return {"pid": os.getpid()}, b""

    header, tail = answer(load, request)
    _send(sock, header, tail)
    return loaded[0] if loaded else None


def run(
    sock: socket.socket,
    *,
    wrap: Callable[[Handler], Handler] = lambda handler: handler,
    ready: Callable[[], None] = lambda: None,
) -> int:
    """Be a worker on `sock`; returns the exit code.

    `wrap` is put around what the entry point gives, and `ready` is called before it is loaded.
    """
    # A core file would write weights, and people's prompts, to the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with, args=(sock,), daemon=True).start()
    ready()
    try:
        handler = _start(sock)
        if handler is None:
            return 1
        serve(sock, wrap(handler))
    except (BrokenPipeError, ConnectionResetError):
        return 0
    return 0


def main() -> int:
    """Run a worker on the socket that is its standard input."""
    layers.activate()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(0)) as sock:
        return run(sock)


if __name__ == "__main__":
    sys.exit(main())
