"""The daemon's lifecycle: signals, the service manager, and what ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aitorrentd.api.events import Draining
from aitorrentd.api.tasks import Tasks
from aitorrentd.config import Config
from aitorrentd.daemon import address_file
from aitorrentd.daemon.address_file import AddressFile
from aitorrentd.daemon.watchdog import Watchdog
from aitorrentd.errors import AitorrentError, PluginError
from aitorrentd.kernel.context.drain import work_text
from aitorrentd.node import Node
from aitorrentd.runtime.logs import output
from aitorrentd.runtime.reload import reload
from aitorrentd.system.memory import keep_what_is_there
from aitorrentd.system.systemd import Notifier, watchdog_interval_s

_STATUS_EVERY_S: Final = 30.0
_EXTEND_EVERY_S: Final = 5.0
_EXTEND_BY_S: Final = 30.0
_HURRY_S: Final = 2.0
_LAST_LINES_S: Final = 0.5
DRAIN_S: Final = 20.0
"Out of the 45 s that systemd allows for a stop (TimeoutStopSec); the plugins get the rest."
_SOCKET_NAMES: Final = ("control", "aitorrentd.socket")
_UNUSED_SIGNALS: Final = (signal.SIGUSR1, signal.SIGUSR2)
"Scripts of log rotation send them to every daemon; by default they end the process."


async def serve(config: Config, given: Mapping[str, Sequence[socket.socket]]) -> None:
    """Run a node until a signal or a caller ends it.

    `given` are the sockets from the service manager, by name.

    Raises:
        AitorrentError: it could not start, or (PluginError) a required plugin failed for good.
    """
    sockets = [sock for name in _SOCKET_NAMES for sock in given.get(name, ())]
    for_plugins = {
        name: all_of_it for name, all_of_it in given.items() if name not in _SOCKET_NAMES
    }
    node = Node(config, sockets=sockets, given=for_plugins)
    log = config.settings.log
    with output(node.redactor, level=log.level, style=log.format) as written:
        node.notices.append(written.problem)
        await Daemon(node, Notifier(), finish_log=written.finish).run()


class Daemon:
    """One node under a service manager, or under a terminal."""

    def __init__(
        self,
        node: Node,
        notifier: Notifier,
        *,
        finish_log: Callable[[float], None] = lambda timeout_s: None,
        drain_s: float = DRAIN_S,
    ) -> None:
        """`finish_log` waits until the log is written, at most the given number of seconds.

        Work in progress has `drain_s` to finish before a stop.
        """
        self._drain_s = drain_s
        self._node = node
        self._notifier = notifier
        self._finish_log = finish_log
        self._signals = 0
        self._hurry = asyncio.Event()
        self._tasks = Tasks(node.log)
        path = node.config.directories.runtime / address_file.NAME
        self._address_file = AddressFile(path, node.addresses, node.log)

    async def run(self) -> None:
        """Start, run, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        for number in _UNUSED_SIGNALS:
            loop.add_signal_handler(number, self._on_unused, number)
        try:
            if await self._start():
                await self._live()
                await self._drain()
        finally:
            self._notifier.stopping("stopping")
            self._address_file.remove()
            await self._stop()

    async def _start(self) -> bool:
        """Whether the node is running now; False if it was asked to stop meanwhile."""
        start = asyncio.create_task(self._node.start(), name="start")
        asked = self._tasks.spawn(self._node.stop_requested.wait(), "asked-while-starting")
        while not start.done() and not asked.done():
            self._notifier.extend_timeout(_EXTEND_BY_S)
            await asyncio.wait(
                {start, asked}, timeout=_EXTEND_EVERY_S, return_when=asyncio.FIRST_COMPLETED
            )
        if not start.done():
            # The cancelled start itself cleanly stops what is already running.
            start.cancel()
            await asyncio.wait({start})
        if start.cancelled():
            return False
        start.result()
        return True

    async def _live(self) -> None:
        node = self._node
        if node.kernel.fatal.done():
            raise PluginError(node.kernel.fatal.result())
        self._address_file.refresh()
        self._notifier.ready(self._status())
        keep_what_is_there()
        self._tasks.spawn(self._address_file.follow(node.kernel.bus), "address-file")
        if (interval_s := watchdog_interval_s()) is not None:
            watchdog = Watchdog(
                self._notifier,
                node.lag,
                interval_s=interval_s,
                socket=node.control_path,
                log=node.log,
            )
            self._tasks.spawn(watchdog.run(), "watchdog")
        if self._notifier:
            self._tasks.spawn(self._tell_status(), "status")
            self._tasks.spawn(self._tell_drain(), "drain-status")
        asked: asyncio.Task[Any] = self._tasks.spawn(node.stop_requested.wait(), "asked")
        await asyncio.wait({asked, node.kernel.fatal}, return_when=asyncio.FIRST_COMPLETED)
        if node.kernel.fatal.done():
            raise PluginError(node.kernel.fatal.result())

    async def _drain(self) -> None:
        """Let work in progress finish, at most `drain_s`; another signal cuts that short."""
        node = self._node
        if works := node.kernel.drain.under_way():
            node.log.info("finishing %s, for at most %g s", work_text(works), self._drain_s)
            self._notifier.stopping(f"finishing {work_text(works)}")
        drain = asyncio.create_task(node.drain(timeout_s=self._drain_s), name="drain")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        self._hurry.clear()
        drain.cancel()
        hurry.cancel()
        await asyncio.wait({drain, hurry})
        if works := node.kernel.drain.under_way():
            node.log.warning("stopping without waiting any longer for %s", work_text(works))

    async def _stop(self) -> None:
        self._tasks.cancel()
        stop = asyncio.create_task(self._node.stop(), name="stop")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        await asyncio.wait({stop, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            self._node.log.warning("second signal: no longer waiting for the plugins")
            stop.cancel()
            await asyncio.wait({stop}, timeout=_HURRY_S)
            # A thread or a task that does not end would block the interpreter's exit. Nothing is
            # lost: whatever was acknowledged is on disk, as SIGKILL requires anyway.
            self._finish_log(_LAST_LINES_S)
            os._exit(128 + self._signals)
        hurry.cancel()
        stop.result()

    def _on_stop(self, number: signal.Signals) -> None:
        if self._signals:
            self._hurry.set()
        else:
            self._node.log.info("%s: stopping", signal.Signals(number).name)
        self._signals = number
        self._node.stop_requested.set()

    def _on_unused(self, number: signal.Signals) -> None:
        self._node.log.info("ignoring %s, which has no meaning here", signal.Signals(number).name)

    def _on_reload(self) -> None:
        self._tasks.spawn(self._reload(), "reload")

    async def _reload(self) -> None:
        if self._node.state != "running":
            return
        self._notifier.reloading()
        try:
            done = await reload(self._node)
        except AitorrentError as e:
            self._node.log.error("the configuration was not reloaded: %s", e.message)
        else:
            changed = ", ".join(done.changed) or "nothing"
            self._node.log.info("configuration reloaded; changed: %s", changed)
            if done.restart:
                text = "these settings need a restart of the daemon: %s"
                self._node.log.warning(text, ", ".join(done.restart))
        self._notifier.ready(self._status())

    async def _tell_status(self) -> None:
        while True:
            await asyncio.sleep(_STATUS_EVERY_S)
            self._notifier.status(self._status())

    async def _tell_drain(self) -> None:
        """Report a drain at once: the operator who started it checks the status next."""
        with self._node.kernel.bus.subscribe(Draining) as changes:
            async for _ in changes:
                self._notifier.status(self._status())

    def _status(self) -> str:
        rows = [row for row in self._node.kernel.rows() if row.state != "disabled"]
        running = sum(row.state == "running" for row in rows)
        peers = len(self._node.peers())
        if self._node.kernel.drain.active:
            return f"draining; {work_text(self._node.kernel.drain.under_way())} under way"
        return f"{running} of {len(rows)} plugins running; {peers} peer{'s' * (peers != 1)}"
