"""A worker process from inside: `python -m aitorrentd.workers.worker`, a socket as standard input.

The first frame (see `aitorrentd.wire`) names the entry point, `module:function`; each later one is
a request, answered in order in the main thread. Only the kernel's socket buffer reads ahead, so its
memory use is bounded. The worker ends when the daemon's end of the socket closes, whatever it is
doing. It makes no difference whether the daemon or a service manager's socket unit started it.
"""

from __future__ import annotations

import importlib
import logging
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from aitorrentd.errors import AitorrentError, InvalidParams, PluginError
from aitorrentd.installing import layer as layers
from aitorrentd.system.foreign import disable_pydantic_plugins, tolerate_damaged_distributions
from aitorrentd.system.memory import rss_bytes
from aitorrentd.wire import DEFAULT_MAX_FRAME_BYTES, Frame, check_length, decode_frame, frame_head

Handler = Callable[[Frame], Frame | tuple[dict[str, Any], Any]]
"Answers a request; an AitorrentError that it raises is sent to the caller."

MEMORY: Final = "worker.memory"
"The operation that is answered here for every handler: {rss_bytes}."

_LENGTH: Final = struct.Struct(">I")
_JOIN_BELOW: Final = 16 * 1024
_SCRATCH_BYTES: Final = 64 * 1024

log = logging.getLogger("aitorrentd.worker")


def load_entry(entry: str) -> Callable[[], Handler]:
    """The function that `module:function` names.

    Raises:
        InvalidParams: not of that form. ImportError, AttributeError: as raised by Python.
    """
    module, _, function = entry.partition(":")
    if not module or not function:
        raise InvalidParams(f"worker entry {entry!r} is not of the form module:function")
    found: Callable[[], Handler] = getattr(importlib.import_module(module), function)
    return found


class FrameReader:
    """Frames from a blocking socket, a short one with a single system call."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._have = 0

    def read(self) -> Frame | None:
        """The next frame, which the caller owns; None if the other side closed.

        Raises:
            ProtocolError: an invalid frame.
        """
        while self._have < 4:
            if not self._more():
                return None
        (length,) = _LENGTH.unpack_from(self._scratch)
        check_length(length, DEFAULT_MAX_FRAME_BYTES)
        end = 4 + length
        if end > _SCRATCH_BYTES:
            return self._long(length)
        while self._have < end:
            if not self._more():
                return None
        body = self._scratch[4:end]
        self._have -= end
        if self._have:
            self._scratch[: self._have] = self._scratch[end : end + self._have]
        return decode_frame(body)

    def _more(self) -> bool:
        with memoryview(self._scratch) as view:
            n = self._sock.recv_into(view[self._have :])
        self._have += n
        return n > 0

    def _long(self, length: int) -> Frame | None:
        body = bytearray(length)
        got = self._have - 4
        body[:got] = self._scratch[4 : self._have]
        self._have = 0
        view = memoryview(body)
        while got < length:
            n = self._sock.recv_into(view[got:])
            if n == 0:
                return None
            got += n
        return decode_frame(memoryview(body))


def _send(sock: socket.socket, header: dict[str, Any], tail: Any) -> None:
    view = memoryview(tail)
    size = view.nbytes
    head = frame_head(header, size)
    if size < _JOIN_BELOW:
        sock.sendall(b"".join((head, view)))
    else:
        sock.sendall(head)
        sock.sendall(view.cast("B"))


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


def serve(sock: socket.socket, reader: FrameReader, handler: Handler) -> None:
    """Answer frames until the other side closes."""
    while (request := reader.read()) is not None:
        header, tail = answer(handler, request)
        _send(sock, header, tail)


def hung_up(sock: socket.socket) -> None:
    """Wait until the other side disconnects."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    poll.poll()


def _end_with(sock: socket.socket) -> None:
    """End this process when the other side disconnects, even in the middle of a computation."""
    hung_up(sock)
    os._exit(0)


def _start(sock: socket.socket, reader: FrameReader) -> Handler | None:
    """Load the entry point that the first frame names, and report whether that worked."""
    request = reader.read()
    if request is None:
        return None
    # Libraries read settings such as the number of threads when they are imported.
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
    """Run a worker on `sock`; returns the exit code.

    `wrap` wraps the handler that the entry point returns, and `ready` is called before loading it.
    """
    # A core file would write weights, and users' prompts, to the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with, args=(sock,), daemon=True).start()
    ready()
    try:
        reader = FrameReader(sock)
        handler = _start(sock, reader)
        if handler is None:
            return 1
        serve(sock, reader, wrap(handler))
    except (BrokenPipeError, ConnectionResetError):
        return 0
    return 0


def main() -> int:
    """Run a worker on the socket that is its standard input."""
    layers.activate()
    disable_pydantic_plugins()
    tolerate_damaged_distributions()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(0)) as sock:
        return run(sock)


if __name__ == "__main__":
    sys.exit(main())
