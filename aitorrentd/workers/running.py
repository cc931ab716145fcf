"""The worker processes of a node, and the memory that each uses.

The daemon of a hardened service cannot read /proc for a worker, which runs as another user, so the
worker reports its own memory. Workers answer in order: one that is computing answers late, and
until then its previous report counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aitorrentd.api.fields import whole_or
from aitorrentd.api.workers import Worker
from aitorrentd.errors import AitorrentError
from aitorrentd.workers.process import spawn_worker
from aitorrentd.workers.worker import MEMORY

LOOK_S: Final = 0.05
"How long `status` waits: a worker that is idle, or between two tokens, answers sooner."
_MAX_BYTES: Final = 1 << 50
PATIENCE_S: Final = 180.0
"""Once a worker reaches the query it has nothing else to do, so one that does not answer hangs. It
is killed for that, because requests behind the query do not become late."""


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """A worker as of its last report."""

    name: str
    pid: int | None
    rss_bytes: int | None
    "Resident memory; None until reported."


@dataclass(slots=True)
class _Entry:
    name: str
    rss_bytes: int | None = None
    asking: asyncio.Task[None] | None = None


class Workers:
    """Starts the workers of a node and keeps track of them."""

    def __init__(
        self,
        start: Callable[..., Awaitable[Worker]] = spawn_worker,
        *,
        look_s: float = LOOK_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._start = start
        self._look_s = look_s
        self._patience_s = patience_s
        self._entries: dict[Worker, _Entry] = {}

    async def spawn(
        self, entry: str, *, name: str, env: Mapping[str, str] | None = None, sandbox: bool = False
    ) -> Worker:
        """As `aitorrentd.workers.process.spawn_worker`."""
        worker = await self._start(entry, name=name, env=env, sandbox=sandbox)
        self._entries[worker] = _Entry(name)
        worker.closed.add_done_callback(lambda _: self._forget(worker))
        return worker

    def _forget(self, worker: Worker) -> None:
        entry = self._entries.pop(worker, None)
        if entry is not None and entry.asking is not None:
            entry.asking.cancel()

    async def look(self) -> list[WorkerMemory]:
        """The workers running now, after `look_s` at most."""
        for worker, entry in self._entries.items():
            if entry.asking is None:
                entry.asking = asyncio.create_task(
                    self._ask(worker, entry), name=f"memory of {entry.name}"
                )
        asking = [entry.asking for entry in self._entries.values() if entry.asking is not None]
        if asking:
            await asyncio.wait(asking, timeout=self._look_s)
        return [WorkerMemory(e.name, w.pid, e.rss_bytes) for w, e in self._entries.items()]

    async def _ask(self, worker: Worker, entry: _Entry) -> None:
        try:
            answer = await worker.request({"op": MEMORY}, timeout_s=self._patience_s)
        except AitorrentError:
            return  # it is gone, and soon forgotten
        finally:
            entry.asking = None
        # A sandbox runs untrusted code, which may report anything.
        entry.rss_bytes = whole_or(answer.header, "rss_bytes", None, high=_MAX_BYTES)
