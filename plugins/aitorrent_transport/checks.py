"""Checks for `aitorrentctl doctor`."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from aitorrent_transport.peers.duplicates import HOW_TO_END
from aitorrent_transport.service import TransportService
from aitorrentd.api import Check, CheckResult

_CHECK_S: Final = 3.0
_NO_FAMILY: Final = (errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EAFNOSUPPORT)
"Errors of a loopback address that the machine lacks, mostly for want of IPv6."


def checks(service: Callable[[], TransportService | None]) -> Iterable[Check]:
    """The checks of the transport; `service()` is None while it does not run."""

    def of(
        run: Callable[[TransportService], Awaitable[CheckResult]],
    ) -> Callable[[], Awaitable[CheckResult]]:
        async def checked() -> CheckResult:
            running = service()
            if running is None:
                return CheckResult(
                    "fail", "the transport is not running", "aitorrentctl plugin list"
                )
            return await run(running)

        return checked

    return [
        Check("port", "The peer port answers locally.", of(_check_port)),
        Check("key", "No other node uses this node's key.", of(_check_key)),
    ]


async def _check_key(service: TransportService) -> CheckResult:
    seen = service.table.rivals.duplicates.current(service.now())
    if not seen:
        return CheckResult("ok", "no other node uses this node's key or a peer's")
    return CheckResult("fail", "; ".join(s.text for s in seen), HOW_TO_END)


async def _check_port(service: TransportService) -> CheckResult:
    if waiting := service.binding.waiting:
        text = "; ".join(error.message for error in waiting.values())
        return CheckResult("fail", text, "retried automatically; see the text above for a remedy")
    for host, port in service.bound:
        ip = ipaddress.ip_address(host)
        loopback = "127.0.0.1" if ip.version == 4 else "::1"
        target = loopback if ip.is_unspecified else host
        try:
            async with asyncio.timeout(_CHECK_S):
                _, writer = await asyncio.open_connection(target, port)
        except (OSError, TimeoutError) as e:
            if ip.is_unspecified and isinstance(e, OSError) and e.errno in _NO_FAMILY:
                continue
            return CheckResult(
                "fail",
                f"{target} port {port}/tcp does not answer: {e or 'no answer in time'}",
                f"allow tcp port {port} in the firewall",
            )
        writer.close()
    ports = ", ".join(f"{port}/tcp" for port in sorted({p for _, p in service.bound}))
    return CheckResult("ok", f"port {ports} answers")
