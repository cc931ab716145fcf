"""One node on the event loop: datagrams in through the gate, messages out, timers kept."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from aitorrent_dht.core.finding import Found
from aitorrent_dht.core.node import DhtNode
from aitorrent_dht.net.endpoint import Endpoint
from aitorrent_dht.wire.codec import Codec
from aitorrent_dht.wire.gate import Gate
from aitorrentd.api.tasks import Tasks


class Shell:
    """Drives `node`; `now` is the monotonic clock that its times are of."""

    def __init__(
        self,
        node: DhtNode,
        codec: Codec,
        tasks: Tasks,
        *,
        now: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        self.node = node
        self.gate = Gate(codec, node.expects, now())
        self.endpoint = Endpoint(self._received, tasks, draw)
        self._codec = codec
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = math.inf

    def flush(self) -> None:
        """Send what the node wants to send, and wake up when it wants to.

        Call it after each call of the node.
        """
        for outgoing in self.node.take_outgoing():
            raw = self._codec.encode(
                outgoing.message, outgoing.pad_bytes, recipient=outgoing.recipient
            )
            self.endpoint.send(raw, outgoing.host, outgoing.port)
        due = self.node.due()
        if due is None or due >= self._wakes_at:
            return  # woken up too early, it looks when the next call is due
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_at = due
        self._timer = self._loop.call_later(max(0.0, due - self._now()), self._run)

    def _run(self) -> None:
        self._timer, self._wakes_at = None, math.inf
        self.node.run(self._now())
        self.flush()

    def _received(self, raw: bytes, host: str, port: int) -> None:
        now = self._now()
        message = self.gate.admit(raw, host, port, now)
        if message is not None:
            self.node.receive(message, host, port, len(raw), now)
            self.flush()

    async def search(self, key: bytes, target: int) -> Found:
        """The records under `key`, whose point is `target`."""
        future: asyncio.Future[Found] = self._loop.create_future()

        def ended(found: Found) -> None:
            if not future.done():
                future.set_result(found)

        self.node.finding.get(key, target, self._now(), ended)
        self.flush()
        return await future

    def close(self) -> None:
        """Stop the timers and close the sockets."""
        if self._timer is not None:
            self._timer.cancel()
        self.endpoint.close()
