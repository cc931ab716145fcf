"""Worker processes: torch and untrusted code run here, never in the daemon.

A worker's entry point is `module:function`; the function takes no arguments and returns a
`Handler`, which is called once per request, one at a time, in the worker's main thread (see
`aitorrentd.workers.worker`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aitorrentd.errors import AitorrentError
from aitorrentd.wire import Frame


class Worker(Protocol):
    """A running worker process, as the daemon sees it. Requests are answered in order."""

    @property
    def pid(self) -> int | None:
        """Its process id; None when another service manager owns the process."""

    @property
    def closed(self) -> asyncio.Future[str]:
        """Resolves, with the reason, when the worker has gone."""

    @property
    def unanswered(self) -> int:
        """Number of unanswered requests."""

    async def request(
        self, header: Mapping[str, Any], tail: bytes | memoryview = b"", *, timeout_s: float = 60.0
    ) -> Frame:
        """Send one request and wait for its answer.

        `timeout_s` starts once all earlier requests are answered. A request that exceeds it kills
        the worker: a hung worker cannot serve anyone.

        Raises:
            AitorrentError: the worker answered with that error. Unavailable: the worker is gone.
            TimedOut: no answer in `timeout_s`.
        """

    def submit(
        self,
        header: Mapping[str, Any],
        tail: bytes | memoryview,
        done: Callable[[Frame | AitorrentError], None],
        *,
        timeout_s: float = 60.0,
    ) -> None:
        """Like `request`, but call `done` with the answer, or with what `request` would raise.

        The call comes directly from the receive path, without a pass of the event loop, and never
        from within `submit`: do only urgent work and return.

        Raises:
            Unavailable: the worker is already gone. TooLarge: the header. In both cases `done` is
            not called.
        """

    def kill(self) -> None:
        """Kill the process."""

    async def close(self) -> None:
        """Ask it to exit, then kill it after 5 s."""
