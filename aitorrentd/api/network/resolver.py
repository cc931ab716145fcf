"""Host name lookups in which a slow name server delays nothing else.

getaddrinfo(3) blocks for as long as the name server takes and cannot be cancelled. Each lookup
therefore runs in its own daemon thread, outside the event loop's thread pool and without delaying
process exit. Concurrent lookups of a name share one thread, and at most MAX_LOOKUPS threads run, so
a silent server affects only its own names.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Final

from aitorrentd.errors import TimedOut, Unavailable

MAX_LOOKUPS: Final = 16
"Threads that wait for the name server at the same time."
LOOKUP_S: Final = 5.0
"How long a caller waits by default."
MAX_ADDRESSES: Final = 8
"Per name; trying more would exceed the dial timeout."

_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}

Found = list[tuple[int, str]]
"(address family, IP address) in the system's order of preference (RFC 6724)."
Lookup = Callable[[str], Found]
"How a name is looked up: `system_lookup`, or a test's own."


def system_lookup(host: str) -> Found:
    """The addresses of `host` from getaddrinfo(3).

    Raises:
        OSError: no address, or no answer from the name server.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(
        dict.fromkeys(
            (int(family), str(address[0]))
            for family, _, _, _, address in found
            if family in (socket.AF_INET, socket.AF_INET6)
        )
    )


class Resolver:
    """Lookups of one node. Nothing is cached: a repeated lookup needs current results."""

    def __init__(self, lookup: Lookup = system_lookup, *, max_lookups: int = MAX_LOOKUPS) -> None:
        self._lookup = lookup
        self._max = max_lookups
        self._running: dict[str, asyncio.Future[Found]] = {}

    async def resolve(
        self,
        host: str,
        timeout_s: float = LOOKUP_S,
        *,
        version: int = 0,
        max_addresses: int = MAX_ADDRESSES,
    ) -> Found:
        """The addresses of a name, at most `max_addresses`; an IP address resolves to itself.

        `version` 4 or 6 leaves out the addresses of the other version of IP.

        Raises:
            OSError: it does not resolve. TimedOut: no answer in time; the next call may succeed.
            Unavailable: too many lookups are pending.
        """
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                socket.inet_pton(family, host)
            except OSError:
                continue
            return [(family, host)]
        running = self._running.get(host)
        if running is None:
            if len(self._running) >= self._max:
                raise Unavailable(
                    f"{self._max} host names are waiting for the name server, which does not answer"
                )
            running = self._start(host)
        done, _ = await asyncio.wait({running}, timeout=timeout_s)
        if not done:
            raise TimedOut(
                f"the name server did not answer for {host} within {timeout_s:g} s", unresolved=True
            )
        wanted = _FAMILIES.get(version)
        found = [each for each in running.result() if wanted in (None, each[0])]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"it has no IPv{version} address")
        return found[:max_addresses]

    def _start(self, host: str) -> asyncio.Future[Found]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Found] = loop.create_future()
        self._running[host] = answer

        def settle(found: Found | OSError) -> None:
            self._running.pop(host, None)
            if isinstance(found, OSError):
                answer.set_exception(found)
                answer.exception()  # possibly nothing awaits it any longer
            else:
                answer.set_result(found)

        def work() -> None:
            try:
                found: Found | OSError = self._lookup(host)
            except OSError as e:
                found = e
            except UnicodeError:
                found = socket.gaierror(socket.EAI_NONAME, "not a host name")
            try:
                loop.call_soon_threadsafe(settle, found)
            except RuntimeError:
                return  # the loop is closed: the node has stopped

        threading.Thread(target=work, name=f"resolve {host}", daemon=True).start()
        return answer
