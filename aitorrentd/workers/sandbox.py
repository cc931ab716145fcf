"""Sandboxes: workers for untrusted code with a warden: `python -m aitorrentd.workers.sandbox`.

The warden reads frames from its standard input as a worker does (`aitorrentd.workers.worker`),
passes each to a child that runs the code, and returns the child's answer. The child has no
connection to the daemon; when a limit ends it, the warden reports which one. A sandbox serves one
piece of work: its time runs from its start.

Model workers do not run here: `packaging/systemd/aitorrent-worker@.service` confines them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from aitorrentd.display import bytes_text
from aitorrentd.errors import (
    AitorrentError,
    Denied,
    ProtocolError,
    TimedOut,
    TooLarge,
    Unavailable,
)
from aitorrentd.installing import layer as layers
from aitorrentd.wire import Frame, check_length, decode_frame, encode_frame
from aitorrentd.workers.worker import Handler, hung_up, run

_MIB: Final = 2**20
_CHUNK: Final = 256 * 1024
_LOOK_S: Final = 0.02
log = logging.getLogger("aitorrentd.sandbox")

_FORBIDDEN: Final = (errno.EPERM, errno.EACCES, errno.EROFS, errno.EAFNOSUPPORT)


@dataclass(frozen=True, slots=True)
class Limits:
    """The resource limits of one sandbox."""

    time_s: float = 30.0
    processor_s: int = 10
    memory_bytes: int = 384 * _MIB
    frame_bytes: int = 16 * _MIB
    open_files: int = 32


def confine(limits: Limits) -> None:
    """Limit this process, and everything that it starts, to `limits`."""
    # A catchable signal comes first; a process that ignores it is killed a second later.
    resource.setrlimit(resource.RLIMIT_CPU, (limits.processor_s, limits.processor_s + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits.open_files, limits.open_files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # If the system runs out of memory first, the kernel must not choose the warden.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def which_limit(error: Exception, limits: Limits) -> AitorrentError | None:
    """What to report about an error at one of the limits; None if no limit was involved."""
    if isinstance(error, MemoryError):
        return _too_much("memory", bytes_text(limits.memory_bytes))
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return TooLarge("the code started too many processes or threads", limit="processes")
    if not isinstance(error, OSError):
        return None
    match error.errno:
        case errno.ENOMEM:
            return _too_much("memory", bytes_text(limits.memory_bytes))
        case errno.EFBIG:
            return TooLarge("the code may not write files", limit="files")
        case errno.EMFILE:
            return TooLarge(
                f"the code had more than {limits.open_files} files open", limit="open files"
            )
        case errno.EAGAIN:
            return TooLarge("the code started too many processes or threads", limit="processes")
        case code if code in _FORBIDDEN:
            return Denied(f"the sandbox does not allow that: {error}"[:500], limit="rights")
    return None


def _too_much(limit: str, most: str) -> TooLarge:
    return TooLarge(f"the code used more than its {most} of {limit}", limit=limit)


def confined(handler: Handler, limits: Limits) -> Handler:
    """A handler that reports the code's own errors to the caller, whose concern they are."""

    def handle(request: Frame) -> Frame | tuple[dict[str, Any], Any]:
        try:
            return handler(request)
        except AitorrentError:
            raise
        except Exception as e:
            raise which_limit(e, limits) or Unavailable(
                f"the code failed: {type(e).__name__}: {e}"[:500]
            ) from None

    return handle


def ending(status: int, used: resource.struct_rusage, limits: Limits) -> AitorrentError:
    """Why a child ended, from its wait4(2) result."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number == signal.SIGXCPU or used.ru_utime + used.ru_stime >= limits.processor_s:
        return _too_much("processor time", f"{limits.processor_s} s")
    if number == signal.SIGKILL:
        # Apart from us only the kernel sends SIGKILL here, for memory that RLIMIT_DATA does not
        # count.
        return _too_much("memory", bytes_text(limits.memory_bytes))
    if number:
        return Unavailable(f"the code crashed ({signal.Signals(number).name})", signal=number)
    code = os.WEXITSTATUS(status)
    return Unavailable(f"the code exited (exit code {code})", exit_code=code)


class Warden:
    """Keeps one child between itself and the daemon."""

    def __init__(self, daemon: socket.socket, limits: Limits) -> None:
        self._daemon = daemon
        self._limits = limits
        self._until = time.monotonic() + limits.time_s
        self._reaped = False
        self._child, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._become_child(theirs)
        theirs.close()
        threading.Thread(target=self._end_with_daemon, daemon=True).start()

    def _become_child(self, theirs: socket.socket) -> NoReturn:
        try:
            os.setsid()
            os.dup2(theirs.fileno(), 0)
            os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            with socket.socket(fileno=os.dup(0)) as sock:
                run(sock, wrap=lambda handler: confined(handler, self._limits), ready=self._ready)
        finally:
            os._exit(0)

    def _ready(self) -> None:
        confine(self._limits)

    def _end_with_daemon(self) -> None:
        hung_up(self._daemon)
        self._kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        os._exit(0)

    def _kill(self) -> None:
        if not self._reaped:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    def serve(self) -> None:
        """Relay frames until the daemon disconnects or the child is gone."""
        try:
            while (request := self._read(self._daemon)) is not None:
                ident = decode_frame(request[4:]).header.get("id")
                try:
                    answer = self._asked(request)
                except AitorrentError as e:
                    self._daemon.sendall(encode_frame({"id": ident, "error": e.as_map()}))
                    return
                self._daemon.sendall(answer)
        finally:
            self._kill()

    def _asked(self, request: bytes) -> bytes:
        """The child's answer to `request`; raises the reason if there is none."""
        try:
            self._child.settimeout(max(self._until - time.monotonic(), 0.001))
            self._child.sendall(request)
            answer = self._read(self._child)
        except TimeoutError:
            raise self._out_of_time() from None
        except (BrokenPipeError, ConnectionResetError):
            answer = None
        if answer is not None:
            return answer
        raise self._why_gone()

    def _why_gone(self) -> AitorrentError:
        """Why there is no answer: the child ended, or closed its socket and keeps running."""
        try:
            while not os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if time.monotonic() >= self._until:
                    return self._out_of_time()
                time.sleep(_LOOK_S)
            self._kill()  # kills its descendants too, while its id cannot be reused
            _, status, used = os.wait4(self._pid, 0)
        except ChildProcessError:
            os._exit(0)  # the daemon hung up, and the thread that heard it has ended the child
        self._reaped = True
        return ending(status, used, self._limits)

    def _out_of_time(self) -> TimedOut:
        return TimedOut(f"the code ran longer than its {self._limits.time_s:g} s", limit="time")

    def _read(self, source: socket.socket) -> bytes | None:
        """A whole frame, prefix included; None if the other side ended.

        Raises:
            TimeoutError: the sandbox's time is up.
        """
        prefix = self._exactly(source, 4)
        if prefix is None:
            return None
        length = int.from_bytes(prefix, "big")
        check_length(length, self._limits.frame_bytes)
        body = self._exactly(source, length)
        return None if body is None else prefix + body

    def _exactly(self, source: socket.socket, n: int) -> bytes | None:
        got = bytearray()
        while len(got) < n:
            left_s = self._until - time.monotonic()
            if left_s <= 0 or not select.select([source], [], [], left_s)[0]:
                raise TimeoutError
            chunk = source.recv(min(n - len(got), _CHUNK))
            if not chunk:
                return None
            got += chunk
        return bytes(got)


def main(limits: Limits = Limits()) -> int:
    """Run a sandbox on the socket that is its standard input."""
    layers.activate()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(0)) as daemon:
        # The child must not find a connection to the daemon.
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        try:
            Warden(daemon, limits).serve()
        except (BrokenPipeError, ConnectionResetError, TimeoutError) as e:
            log.info("ended: %s", type(e).__name__)
        except ProtocolError as e:
            log.warning("%s", e.message)
    return 0


if __name__ == "__main__":
    sys.exit(main())
