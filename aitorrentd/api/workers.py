"""Worker processes: where torch and strangers' code run, never in the daemon.

A worker's entry point is `module:function`; the function gets nothing and returns a `Handler`,
which is called once per request, one at a time, in the worker's main thread (see
`aitorrentd.worker`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from aitorrentd.wire import Frame


class Worker(Protocol):
    """A running worker process, seen from the daemon. Requests are answered in order."""

    @property
    def pid(self) -> int | None:
        """Its process id; None when another service manager owns the process."""

    @property
    def closed(self) -> asyncio.Future[str]:
        """Resolves, with the reason, when the worker is gone."""

    async def request(
        self, header: Mapping[str, Any], tail: bytes | memoryview = b"", *, timeout_s: float = 60.0
    ) -> Frame:
        """Send one request and wait for its answer.

        A request that passes its deadline kills the worker: a hung worker answers nobody.

        Raises:
            AitorrentError: the worker answered with that error. Unavailable: the worker is gone.
            TimedOut: no answer in `timeout_s`.
        """

    def kill(self) -> None:
        """End the process at once."""

    async def close(self) -> None:
        """Ask it to end, then kill it after 5 s."""
