"""Keeps one plugin running: waits for its dependencies, starts, stops and restarts it.

A supervisor is a task that re-evaluates the overall state after every change. It never raises
because of a plugin, and every wait in it is bounded: a start by the plugin's own timeout, a stop by
`Limits.stop_s` and the cancellations after it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.context import Clock
from aitorrentd.kernel.environment import may_pass
from aitorrentd.kernel.reasons import is_explained, reason
from aitorrentd.kernel.run import Run, verdict
from aitorrentd.kernel.states import Plugin, PluginState


@dataclass(frozen=True, slots=True)
class Limits:
    """The kernel's timeouts; seconds."""

    load_s: float = 10.0
    "For one import. The slowest sensible plugin module takes about 2 s on a small machine."
    slow_start_s: float = 5.0
    "A start that takes longer gets a log line."
    stop_s: float = 10.0
    "For leaving a lifespan. The sum over a chain of plugins stays below systemd's 90 s."
    cancel_s: float = 1.0
    "Between cancellations of a plugin that did not stop in time."
    cancels: int = 5
    restarts: int = 5
    "After crashes; an error of the environment, such as a full disk, is retried indefinitely."
    restart_window_s: float = 600.0
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 60.0


class Changes:
    """Wakes all waiters on every change."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Something changed."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the next change, at most `timeout_s`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait({waiter}, timeout=timeout_s)
        finally:
            self._waiting.discard(waiter)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a plugin does not start now."""

    text: str
    passing: bool = False
    "It will clear without intervention: the dependency is about to start."


class KernelEvents(Protocol):
    """What a supervisor needs from the kernel."""

    limits: Limits
    clock: Clock
    random: random.Random
    log: logging.Logger
    changed: Changes

    def set_state(self, plugin: Plugin, state: PluginState, detail: str = "") -> None:
        """Enter a state and notify everyone."""

    def obstacle(self, plugin: Plugin) -> Obstacle | None:
        """Why `plugin` cannot start now."""

    def lost(self, plugin: Plugin) -> str:
        """What a running plugin requires and has lost; empty if it has everything."""

    def in_use(self, plugin: Plugin) -> bool:
        """Whether plugins that stop before this one are still active."""

    def begin(self, plugin: Plugin) -> Run:
        """Start a run of `plugin`."""

    def retire(self, plugin: Plugin) -> None:
        """Stop serving anything of `plugin`: methods, routes, protocols."""

    def abandon(self, plugin: Plugin, run: Run) -> None:
        """Keep a reference to the task of a run that does not end."""


class Supervisor:
    """Runs one plugin until it is asked to stop or a retry is pointless."""

    def __init__(self, plugin: Plugin, kernel: KernelEvents) -> None:
        self.plugin = plugin
        self.stop_requested = False
        self._kernel = kernel
        self._crashes: deque[float] = deque(maxlen=kernel.limits.restarts)
        "Clock readings of the last restarts after a crash."
        self._told = ""
        "The last error of the environment in the log."

    def ask_to_stop(self) -> None:
        """Stop the plugin, after its dependents."""
        self.stop_requested = True
        self._kernel.changed.tell()

    async def run(self) -> None:
        """Supervise; returns in a settled state."""
        while await self._may_start():
            run = self._kernel.begin(self.plugin)
            try:
                late = await self._watch(run)
            finally:
                if not run.done:
                    run.cancel()
            if not await self._goes_on(run, late):
                return
        self._kernel.set_state(self.plugin, PluginState.STOPPED)

    async def _may_start(self) -> bool:
        """Wait until nothing blocks the start; False if asked to stop first."""
        while not self.stop_requested:
            obstacle = self._kernel.obstacle(self.plugin)
            if obstacle is None:
                return True
            if not obstacle.passing:
                self._kernel.set_state(self.plugin, PluginState.BLOCKED, obstacle.text)
            await self._kernel.changed.wait()
        return False

    async def _watch(self, run: Run) -> str:
        """Wait for the run to end; returns why it was ended as a failure, or an empty string."""
        plugin, kernel = self.plugin, self._kernel
        now = asyncio.get_running_loop().time
        patience_s = plugin.info.start_timeout_s if plugin.info else 0.0
        slow_at, late_at = now() + kernel.limits.slow_start_s, now() + patience_s
        while not run.done:
            if self.stop_requested or kernel.lost(plugin):
                await self._halt(run)
                return ""
            wait_s = None
            if plugin.state is PluginState.STARTING:
                if run.started:
                    kernel.set_state(plugin, PluginState.RUNNING)
                    continue
                if now() >= late_at:
                    await self._halt(run)
                    return f"did not start within {patience_s:g} s"
                if now() >= slow_at:
                    slow_at = late_at
                    kernel.log.warning("plugin %s is slow to start", plugin.name)
                wait_s = min(slow_at, late_at) - now()
            await kernel.changed.wait(wait_s)
        return ""

    async def _halt(self, run: Run) -> None:
        """Stop the run: its dependents first, then gracefully, then by force."""
        kernel, limits = self._kernel, self._kernel.limits
        kernel.set_state(self.plugin, PluginState.STOPPING)
        while not run.done and kernel.in_use(self.plugin):
            await kernel.changed.wait()
        kernel.retire(self.plugin)
        run.ask_to_stop()
        await _finished(run, limits.stop_s)
        for _ in range(limits.cancels):
            if run.done:
                return
            kernel.log.warning("plugin %s does not stop; cancelling it", self.plugin.name)
            run.cancel()
            await _finished(run, limits.cancel_s)
        if not run.done:
            kernel.abandon(self.plugin, run)

    async def _goes_on(self, run: Run, late: str) -> bool:
        """Settle the plugin's state after a run; True if it should be retried."""
        plugin, kernel = self.plugin, self._kernel
        kernel.retire(plugin)
        lost = kernel.lost(plugin)
        if not run.done:
            plugin.gave_up = True
            text = "ignores cancellation; restart the daemon"
            kernel.set_state(plugin, PluginState.FAILED, text)
            return False
        error = run.error
        if plugin.state is PluginState.STOPPING and not late:
            detail = self._stop_error(error)
            if self.stop_requested:
                kernel.set_state(plugin, PluginState.STOPPED, detail)
                return False
            kernel.set_state(plugin, PluginState.BLOCKED, lost)
            return True
        if lost and error is not None and verdict(error) is PluginState.FAILED:
            # it failed because a dependency is gone: it restarts with it
            kernel.log.warning("plugin %s ended, %s: %s", plugin.name, lost, reason(error))
            kernel.set_state(plugin, PluginState.BLOCKED, lost)
            return True
        return await self._failed(late, error)

    def _stop_error(self, error: BaseException | None) -> str:
        """What to say about an error raised while stopping; our own cancellation is not one."""
        if error is None or isinstance(error, asyncio.CancelledError):
            return ""
        text = f"failed while stopping: {reason(error)}"
        self._kernel.log.error("plugin %s %s", self.plugin.name, text, exc_info=error)
        return text

    async def _failed(self, late: str, error: BaseException | None) -> bool:
        plugin, kernel, limits = self.plugin, self._kernel, self._kernel.limits
        text = late or (reason(error) if error else "it returned unexpectedly")
        state = PluginState.FAILED if late or error is None else verdict(error)
        if state is not PluginState.FAILED:
            kernel.set_state(plugin, state, text)
            return False
        now = kernel.clock.monotonic()
        if not late and error is not None and may_pass(error):
            return await self._outwait(text, now)
        plugin.waits = 0
        # a self-explanatory error needs no traceback
        told = late or error is None or is_explained(error)
        kernel.log.error(
            "plugin %s failed: %s", plugin.name, text, exc_info=None if told else error
        )
        while self._crashes and now - self._crashes[0] > limits.restart_window_s:
            self._crashes.popleft()
        attempt = len(self._crashes)
        if attempt >= limits.restarts:
            plugin.gave_up = True
            minutes = limits.restart_window_s / 60
            text += f"; gave up after {attempt} restarts in {minutes:g} min"
            kernel.set_state(plugin, PluginState.FAILED, text)
            return False
        self._crashes.append(now)
        return await self._retry(attempt, f"{text}; restart {attempt + 1} of {limits.restarts}")

    async def _outwait(self, text: str, now: float) -> bool:
        """After an error of the environment: retry for as long as it lasts, and log it once."""
        plugin, kernel = self.plugin, self._kernel
        ran_s = now - plugin.since if plugin.state is PluginState.RUNNING else 0.0
        if ran_s >= kernel.limits.backoff_cap_s:
            plugin.waits = 0
        if not plugin.waits or text != self._told:
            kernel.log.error("plugin %s failed: %s", plugin.name, text)
            self._told = text
        plugin.waits += 1
        return await self._retry(plugin.waits - 1, f"{text}; next attempt")

    async def _retry(self, attempt: int, text: str) -> bool:
        """Fail with `text` and the time left, then wait; False if asked to stop meanwhile."""
        plugin, kernel, limits = self.plugin, self._kernel, self._kernel.limits
        delay_s = equal_jitter_s(
            attempt,
            base_s=limits.backoff_base_s,
            cap_s=limits.backoff_cap_s,
            draw=kernel.random.random(),
        )
        kernel.set_state(plugin, PluginState.FAILED, f"{text} in {delay_s:.1f} s")
        if not await self._pause(delay_s):
            kernel.set_state(plugin, PluginState.STOPPED)
            return False
        plugin.restarts += 1
        kernel.set_state(plugin, PluginState.CONFIGURED)
        return True

    async def _pause(self, delay_s: float) -> bool:
        """Wait; False if asked to stop meanwhile."""
        now = asyncio.get_running_loop().time
        until = now() + delay_s
        while not self.stop_requested and (left_s := until - now()) > 0:
            await self._kernel.changed.wait(left_s)
        return not self.stop_requested


async def _finished(run: Run, timeout_s: float) -> None:
    if run.task is not None:
        await asyncio.wait({run.task}, timeout=timeout_s)
