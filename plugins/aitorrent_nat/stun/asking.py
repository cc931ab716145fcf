"""A UDP socket that asks STUN servers.

A reply counts only if it has the transaction id of a request and comes from where it must: from the
place that was asked, or from where the server said that it would send from. Everything else, such
as a forged reply, is counted and ignored, and the request goes on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from aitorrent_nat.networks import Place
from aitorrent_nat.stun.codec import Request, Response, encode_request, new_transaction, read
from aitorrent_nat.stun.sockets import UdpSocket
from aitorrent_nat.stun.transaction import BRISK, Timers, Transaction
from aitorrentd.api import AitorrentError, ProtocolError, TimedOut, Unavailable
from aitorrentd.api.network.addresses import host_port

MAX_PENDING: Final = 256
"Requests of one socket at the same time."


@dataclass(frozen=True, slots=True)
class Received:
    """A response with an expected transaction id, from an expected source."""

    response: Response
    source: Place
    at: float
    "When it came, in seconds of the event loop's clock."


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply that is no error."""

    response: Response
    mapped: Place
    "Where the server saw the request come from."
    source: Place
    "Where the reply came from."
    rtt_s: float | None
    "None if the request was sent more than once: it is unclear which sending was answered."


@dataclass(frozen=True, slots=True)
class _Pending:
    sources: Collection[Place] | None
    future: asyncio.Future[Received]


class StunSocket:
    """Asks from one socket, whose mapping on a NAT the replies tell; open while a block runs.

    Raises:
        OSError: no socket can be had, or `host` is not an own address.
    """

    def __init__(self, host: str = "0.0.0.0", port: int = 0) -> None:
        self.ignored: Counter[str] = Counter()
        "Datagrams that answered nothing, by reason."
        self._garbled: set[Place] = set()
        "Servers that were asked and sent what is not a reply."
        self._asked: set[Place] = set()
        self._pending: dict[bytes, _Pending] = {}
        self._version = 6 if ":" in host else 4
        self._loop = asyncio.get_running_loop()
        self._socket = UdpSocket(host, port, self._received)

    @property
    def port(self) -> int:
        """The local port."""
        return self._socket.port

    async def ask(
        self,
        server: Place,
        *,
        change_ip: bool = False,
        change_port: bool = False,
        response_port: int = 0,
        sources: Collection[Place] = (),
        timers: Timers = BRISK,
    ) -> Answer:
        """Ask `server`; the reply must come from there, or from one of `sources` if given.

        Raises:
            TimedOut: no reply. Unavailable: the server refuses, or nothing can be sent.
        """
        request = Request(new_transaction(), change_ip, change_port, response_port)
        raw = encode_request(request, version=self._version)
        began = self._loop.time()
        transaction = Transaction(timers, began)
        is_sent = False
        self._asked.add(server)
        with self.expecting(request.transaction, sources or (server,)) as reply:
            while not reply.done():
                try:
                    if transaction.poll(self._loop.time()):
                        is_sent |= self._socket.send(raw, server)
                except TimeoutError:
                    raise self._failure(server, timers, is_sent=is_sent) from None
                wait_s = max(0.0, transaction.due - self._loop.time())
                await asyncio.wait({reply}, timeout=wait_s)
            received = reply.result()
        if received.response.mapped is None:
            error = received.response.error
            raise Unavailable(f"{host_port(*server)}/udp refuses with error {error}")
        rtt_s = received.at - began if transaction.sent == 1 else None
        return Answer(received.response, received.response.mapped, received.source, rtt_s)

    def _failure(self, server: Place, timers: Timers, *, is_sent: bool) -> AitorrentError:
        where = f"{host_port(*server)}/udp"
        if not is_sent:
            return Unavailable(f"nothing can be sent to {where}: there is no route to it")
        if server in self._garbled:
            return Unavailable(f"{where} answers with what is not STUN")
        return TimedOut(f"{where} did not answer within {timers.total_s:g} s")

    @contextmanager
    def expecting(
        self, transaction: bytes, sources: Collection[Place] | None
    ) -> Iterator[asyncio.Future[Received]]:
        """The response with this id from one of `sources`, or None for anywhere.

        Raises:
            Unavailable: too many requests are pending.
        """
        if len(self._pending) >= MAX_PENDING:
            raise Unavailable(f"{MAX_PENDING} STUN requests are pending")
        future: asyncio.Future[Received] = self._loop.create_future()
        self._pending[transaction] = _Pending(sources, future)
        try:
            yield future
        finally:
            del self._pending[transaction]

    def _received(self, raw: bytes, source: Place, local: str) -> None:
        try:
            response = read(raw)
        except ProtocolError:
            self.ignored["malformed"] += 1
            if source in self._asked:
                self._garbled.add(source)
            return
        if not isinstance(response, Response):
            self.ignored["not a reply"] += 1
            return
        pending = self._pending.get(response.transaction)
        if pending is None or pending.future.done():
            self.ignored["unknown transaction"] += 1
        elif pending.sources is not None and source not in pending.sources:
            self.ignored["wrong source"] += 1
        else:
            pending.future.set_result(Received(response, source, self._loop.time()))

    def send(self, raw: bytes, to: Place) -> bool:
        """Send a datagram once; whether the kernel took it."""
        return self._socket.send(raw, to)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
