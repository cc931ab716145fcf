"""Watchdog pings for the service manager, sent only while the daemon really works."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from aitorrentd.control.aclient import AsyncClient
from aitorrentd.errors import AitorrentError, Busy
from aitorrentd.runtime.loop_lag import LoopLag
from aitorrentd.system.systemd import Notifier

MAX_LAG_S: Final = 5.0
_ANSWER_S: Final = 2.0


class Watchdog:
    """Pings the service manager twice per interval.

    A ping is skipped if the event loop was late by more than 5 s since the last one, or if the
    control socket does not answer. After two missed pings in a row the manager restarts the daemon.
    """

    def __init__(
        self,
        notifier: Notifier,
        lag: LoopLag,
        *,
        interval_s: float,
        socket: Path | None,
        log: logging.Logger,
        max_lag_s: float = MAX_LAG_S,
    ) -> None:
        self._notifier = notifier
        self._lag = lag
        self._every_s = interval_s / 2
        self._socket = socket
        self._log = log
        self._max_lag_s = max_lag_s
        self._client: AsyncClient | None = None

    async def run(self) -> None:
        """Ping until cancelled."""
        try:
            while True:
                if await self.is_well():
                    self._notifier.watchdog()
                await asyncio.sleep(self._every_s)
        finally:
            await self.close()

    async def is_well(self) -> bool:
        """Whether the loop keeps up and the control socket answers."""
        lag_s = self._lag.worst_s(self._every_s)
        if lag_s > self._max_lag_s:
            self._log.error(
                "withholding the watchdog ping: the event loop was late by %.1f s", lag_s
            )
            return False
        try:
            await self._ask()
        except Busy:
            return True  # every connection is taken, and the server says so: it is alive
        except AitorrentError as e:
            await self.close()
            self._log.error(
                "withholding the watchdog ping: the control socket does not answer: %s", e.message
            )
            return False
        return True

    async def _ask(self) -> None:
        if self._socket is None:
            return
        if self._client is None:
            # Kept open, so that other callers cannot take the last connection.
            self._client = await AsyncClient.connect(self._socket, _ANSWER_S)
        await self._client.call("rpc.ping", timeout=_ANSWER_S)

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
