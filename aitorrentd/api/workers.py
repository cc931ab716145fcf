"""Worker processes: where torch and strangers' code run, never in the daemon.

A worker's entry point is `module:function`; the function gets nothing and returns a `Handler`,
which is called once per request, one at a time, in the worker's main thread (see
`aitorrentd.workers.worker`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aitorrentd.errors import AitorrentError
from aitorrentd.wire import Frame


class Worker(Protocol):
    """A running worker process, seen from the daemon. Requests are answered in order."""

    @property
    def pid(self) -> int | None:
        """Its process id; None when another service manager owns the process."""

    @property
    def closed(self) -> asyncio.Future[str]:
        """Resolves, with the reason, when the worker is gone."""

    @property
    def unanswered(self) -> int:
        """Requests that it has not answered yet."""

    async def request(
        self, header: Mapping[str, Any], tail: bytes | memoryview = b"", *, timeout_s: float = 60.0
    ) -> Frame:
        """Send one request and wait for its answer.

        `timeout_s` begins when the requests before it are answered. A request that passes its
        deadline kills the worker: a hung worker answers nobody.

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
        """As `request`, but `done` is called with the answer, or with what `request` would raise.

        The call comes from where the answer arrives, without a pass of the event loop in between,
        never from within `submit`; it should do what is urgent and return.

        Raises:
            Unavailable: the worker is gone already. TooLarge: the header. In both cases `done` will
            not be called.
        """

    def kill(self) -> None:
        """End the process at once."""

    async def close(self) -> None:
        """Ask it to end, then kill it after 5 s."""
