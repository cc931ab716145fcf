"""Listening at every configured address, for as long as the node runs.

An address that the machine does not have yet (VPN, DHCP, floating address) or a port in use may
become available later, so binding is retried indefinitely with growing, jittered delays. Errors
that waiting cannot fix, such as a missing permission, fail at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Sequence
from typing import Final

from aitorrent_transport.links.listener import CannotListen, Listener
from aitorrent_transport.secure.hello import HostPort
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.network.addresses import host_port
from aitorrentd.api.tasks import Tasks

MAX_WAIT_S: Final = 60.0
_MAX_DRAWS: Final = 8

log = logging.getLogger("aitorrentd.transport")


class Binding:
    """The addresses of one listener. `draw` returns random numbers in [0, 1)."""

    def __init__(
        self,
        listener: Listener,
        hosts: Sequence[str],
        tasks: Tasks,
        draw: Callable[[], float],
        *,
        first_wait_s: float = 1.0,
    ) -> None:
        self.bound: list[HostPort] = []
        "Bound addresses, with actual ports."
        self.waiting: dict[str, CannotListen] = {}
        "Hosts not bound yet, each with its last error."
        self.on_bound: Callable[[HostPort], None] = lambda where: None
        self._listener = listener
        self._hosts = hosts
        self._tasks = tasks
        self._draw = draw
        self._first_wait_s = first_wait_s
        self._changed = asyncio.Event()
        self._port = 0

    async def start(self, port: int, last: int | None = None) -> None:
        """Listen on `port`; 0 means `last`, or any free port if `last` is in use.

        Raises:
            CannotListen: the cause is permanent.
        """
        if not port and last is not None:
            await self._try_all(last)
            if not any(error.is_taken for error in self.waiting.values()):
                self._keep_trying()
                return
            log.info("using a different port than in the previous run: %d/tcp is taken", last)
            await self._listener.unlisten()
        for _ in range(_MAX_DRAWS):
            await self._try_all(port)
            if port or not self.bound or not any(e.is_taken for e in self.waiting.values()):
                break
            # The port that was free at one address is taken at another: draw again.
            await self._listener.unlisten()
        self._keep_trying()

    async def _try_all(self, port: int) -> None:
        self.bound.clear()
        self.waiting.clear()
        self._port = port
        for host in self._hosts:
            try:
                await self._try(host)
            except CannotListen as e:
                if not e.may_pass:
                    raise
                self.waiting[host] = e
        if self.bound:
            for host in [h for h, e in self.waiting.items() if _lacks_family(h, e)]:
                log.info("not listening on %s: this machine has no IPv6", host)
                del self.waiting[host]

    async def _try(self, host: str) -> None:
        where = await self._listener.listen(host, self._port)
        self._port = where[1]  # port 0 resolves once; every address uses the result
        self.bound.append(where)
        self.waiting.pop(host, None)
        self.on_bound(where)

    def network_changed(self) -> None:
        """Try at once what is not bound yet: the machine may have the address now."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _changes_within(self, wait_s: float) -> bool:
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _keep_trying(self) -> None:
        for host, error in self.waiting.items():
            log.warning("%s; retrying until it succeeds", error.message)
            self._tasks.spawn(self._retry(host), f"listen on {host}")

    async def _retry(self, host: str) -> None:
        attempt = 0
        while host in self.waiting:
            wait_s = equal_jitter_s(
                attempt, base_s=self._first_wait_s, cap_s=MAX_WAIT_S, draw=self._draw()
            )
            attempt = 0 if await self._changes_within(wait_s) else attempt + 1
            try:
                await self._try(host)
            except CannotListen as e:
                self.waiting[host] = e
            else:
                log.info("now listening on %s", host_port(*self.bound[-1]))


def _lacks_family(host: str, error: CannotListen) -> bool:
    """Whether `host` is the IPv6 wildcard on a machine without IPv6."""
    return error.lacks_address and host == str(ipaddress.IPv6Address(0))
