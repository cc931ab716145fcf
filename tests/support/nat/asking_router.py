"""Asks the router of the machine that it runs on, as a process that a test steers.

Its first argument is its address if the IPv6 router is asked, else `-`; the others are ways: pcp,
nat_pmp and upnp, in the order in which they are tried. Each line of standard input is a command,
answered by a line of JSON: `ensure PORT/PROTOCOL…`, or `release`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from aitorrent_nat.mapping import upnp
from aitorrent_nat.mapping.gateway import Gateway, default_gateway, gateway6
from aitorrent_nat.mapping.keeping import Forwarding, nat_pmp, pcp
from aitorrent_nat.mapping.routers import Router, Want
from tests.support.nat.lab import Host
from tests.support.transport.namespaces import run_in

WAYS: Final[dict[str, Callable[[Gateway], Awaitable[Router]]]] = {
    "pcp": pcp,
    "nat_pmp": nat_pmp,
    "upnp": upnp.find,
}


class Asking:
    """The process on a host of the lab."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ensure(self, *wants: str) -> dict[str, Any]:
        """Whether it `works`, the `problem`, the `protocol`, and external places by `leases`."""
        return await self._call(" ".join(["ensure", *wants]))

    async def release(self) -> None:
        """Give every port back."""
        await self._call("release")

    async def _call(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{line}\n".encode())
        reply = await asyncio.wait_for(self._process.stdout.readline(), 60)
        found: dict[str, Any] = json.loads(reply)
        return found


@asynccontextmanager
async def asking(host: Host | str, *ways: str, own6: str = "-") -> AsyncIterator[Asking]:
    """Somebody on `host`, or in a namespace, who asks the router; that of IPv6 for `own6`."""
    namespace = host if isinstance(host, str) else host.namespace
    process = await run_in(namespace, "-m", "tests.support.nat.asking_router", own6, *ways)
    try:
        yield Asking(process)
    finally:
        process.kill()
        await process.wait()
        if process.stdin is not None:
            process.stdin.close()


async def _main() -> None:
    own6, *names = sys.argv[1:]
    forwarding = Forwarding([WAYS[name] for name in names])
    while line := await asyncio.to_thread(sys.stdin.readline):
        command, *words = line.split()
        works = True
        if command == "ensure":
            pairs = (word.split("/") for word in words)
            wants = [Want(protocol, int(port)) for port, protocol in pairs]
            gateway = default_gateway() if own6 == "-" else gateway6(own6)
            assert gateway is not None
            works = await forwarding.ensure(gateway, wants)
        else:
            await forwarding.release()
        reply = {
            "works": works,
            "problem": forwarding.problem,
            "protocol": forwarding.protocol,
            "leases": {
                str(lease.want): [lease.external_host, lease.external_port]
                for lease in forwarding.leases.values()
            },
        }
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main())
