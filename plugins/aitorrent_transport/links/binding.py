"""Listening at every configured address, for as long as the node runs.

An address that the machine does not have yet (a VPN, DHCP, a floating address), or a port that
somebody else holds, may be free in a minute: it is tried again with growing, jittered waits and
without an end. What waiting cannot mend, such as a missing permission, fails at once.
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

log = logging.getLogger("aitorrentd.transport")


class Binding:
    """The addresses of one listener. `draw` gives random numbers in [0, 1)."""

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
        "Where the node listens, with real ports."
        self.waiting: dict[str, CannotListen] = {}
        "Hosts that cannot be listened on yet, each with the last error."
        self.on_bound: Callable[[HostPort], None] = lambda where: None
        self._listener = listener
        self._hosts = hosts
        self._tasks = tasks
        self._draw = draw
        self._first_wait_s = first_wait_s
        self._port = 0

    async def start(self, port: int, last: int | None = None) -> None:
        """Listen at `port`; 0 means `last`, or any free one when somebody else has that.

        Raises:
            CannotListen: for a cause that does not go away by itself.
        """
        if not port and last is not None:
            await self._try_all(last)
            if not any(error.is_taken for error in self.waiting.values()):
                self._keep_trying()
                return
            log.info("another port than in the last run: %d/tcp is taken", last)
            await self._listener.unlisten()
        await self._try_all(port)
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
        self._port = where[1]  # the port that 0 found serves every address
        self.bound.append(where)
        self.waiting.pop(host, None)
        self.on_bound(where)

    def _keep_trying(self) -> None:
        for host, error in self.waiting.items():
            log.warning("%s; trying again until it works", error.message)
            self._tasks.spawn(self._retry(host), f"listen on {host}")

    async def _retry(self, host: str) -> None:
        attempt = 0
        while host in self.waiting:
            wait_s = equal_jitter_s(
                attempt, base_s=self._first_wait_s, cap_s=MAX_WAIT_S, draw=self._draw()
            )
            await asyncio.sleep(wait_s)
            attempt += 1
            try:
                await self._try(host)
            except CannotListen as e:
                self.waiting[host] = e
            else:
                log.info("listening on %s at last", host_port(*self.bound[-1]))


def _lacks_family(host: str, error: CannotListen) -> bool:
    """Whether `host` means every IPv6 address of a machine that has none."""
    return error.lacks_address and host == str(ipaddress.IPv6Address(0))
