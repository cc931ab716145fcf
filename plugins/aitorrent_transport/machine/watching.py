"""Notices changes of this machine's network, and that it was suspended.

The kernel announces changes of links, addresses and routes on a netlink socket. Where that socket
is not permitted (a container's filter), the addresses are compared every POLL_S instead. A machine
that was suspended, or whose clock was set, finds its connections dead without any such change.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from aitorrent_transport.machine.netlink import GROUPS, NetworkState
from aitorrent_transport.peers.interfaces import own_addresses
from aitorrentd.api import NetworkChanged, PluginContext

POLL_S: Final = 5.0
"Between two comparisons of the addresses where the kernel does not announce changes."
LOOK_S: Final = 2.0
"Between two looks at the clocks and at the configuration of name servers."
SETTLE_S: Final = 0.2
"A change is published once nothing else has changed for this long …"
MAX_SETTLE_S: Final = 2.0
"… but no later than this."
JUMP_S: Final = 30.0
"Clocks that move apart by more than this between two looks were set, or the machine slept."
RESOLV_CONF: Final = Path("/etc/resolv.conf")
_MAX_BYTES: Final = 65_536


class ClockJumps:
    """Whether the machine slept, or its clock was set, between two looks. No clock of its own."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None

    def look(self, monotonic_s: float, boot_s: float, wall_s: float) -> bool:
        """Whether a jump happened since the last look.

        `boot_s` runs during suspend and `monotonic_s` does not; a virtual machine that was frozen
        has only a `wall_s` that differs.
        """
        now = boot_s - monotonic_s, wall_s - monotonic_s
        before, self._before = self._before or now, now
        return any(abs(a - b) > JUMP_S for a, b in zip(now, before, strict=True))


class NetworkWatch:
    """Publishes `NetworkChanged` and calls `on_change(reason)` while it runs."""

    def __init__(self, ctx: PluginContext) -> None:
        self.on_change: Callable[[str], None] = lambda reason: None
        self.is_told = False
        "Whether the kernel announces changes."
        self._ctx = ctx
        self._woken = asyncio.Event()
        self._reason = ""
        self._state = NetworkState()
        self._jumps = ClockJumps()
        self._polled: Sequence[str] = ()
        self._polled_at = 0.0
        self._resolv_conf = _stamp(RESOLV_CONF)

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        sock = self._open()
        if sock is not None:
            loop.add_reader(sock.fileno(), self._receive, sock)
        try:
            while True:
                self._look()
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._woken.wait()
                except TimeoutError:
                    continue
                await self._settle()
                reason, self._reason = self._reason, ""
                self._ctx.log.info("the network of this machine changed: %s", reason)
                self._ctx.publish(NetworkChanged(reason))
                self.on_change(reason)
        finally:
            if sock is not None:
                loop.remove_reader(sock.fileno())
                sock.close()

    async def _settle(self) -> None:
        """Let the changes that belong together happen: a link, its address, its route."""
        try:
            async with asyncio.timeout(MAX_SETTLE_S):
                while self._woken.is_set():
                    self._woken.clear()
                    await asyncio.sleep(SETTLE_S)
        except TimeoutError:
            self._woken.clear()

    def _wake(self, reason: str) -> None:
        # That the machine slept says more than what the network did meanwhile.
        self._reason = self._reason if self._reason == "resumed" else reason
        self._woken.set()

    def _open(self) -> socket.socket | None:
        sock: socket.socket | None = None
        try:
            sock = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
            sock.bind((0, GROUPS))
            sock.send(self._state.requests.pop())
        except OSError as e:
            if sock is not None:
                sock.close()
            self._ctx.log.info(
                "the kernel does not announce changes of the network here (%s); comparing the "
                "addresses every %g s instead",
                e.strerror,
                POLL_S,
            )
            self._polled = _addresses()
            return None
        self.is_told = True
        return sock

    def _receive(self, sock: socket.socket) -> None:
        while True:
            try:
                datagram = sock.recv(_MAX_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # ENOBUFS: messages were lost.
                self._state.restart()
                self._wake("messages lost")
                ended = True
            else:
                changed, ended = self._state.take(datagram)
                if changed:
                    self._wake("addresses, links or routes")
            if ended and self._state.requests:
                try:
                    sock.send(self._state.requests.pop())
                except OSError as e:
                    self._ctx.log.debug("asking for the state of the network: %s", e)

    def _look(self) -> None:
        now = time.monotonic()
        if self._jumps.look(now, time.clock_gettime(time.CLOCK_BOOTTIME), time.time()):
            self._wake("resumed")
        stamp = _stamp(RESOLV_CONF)
        if stamp != self._resolv_conf:
            self._resolv_conf = stamp
            self._wake("name servers")
        if not self.is_told and now - self._polled_at >= POLL_S:
            before, self._polled, self._polled_at = self._polled, _addresses(), now
            if before != self._polled:
                self._wake("addresses")


def _addresses() -> Sequence[str]:
    return [*own_addresses(4), *own_addresses(6)]


def _stamp(file: Path) -> tuple[int, int, int]:
    """What differs when a file was replaced or written."""
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size
