"""This node's STUN server: its UDP sockets, for as long as the plugin runs.

It has two ports, so that others can test their NATs, and answers at every address at which the
transport listens. A port that is not free is tried again with growing waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aitorrent_nat.networks import Place
from aitorrent_nat.stun.responding import Responder
from aitorrent_nat.stun.sockets import OnDatagram, UdpSocket, is_here
from aitorrentd.api import HealthWarning, InvalidParams, PluginContext, Transport, WireProtocol
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.network.addresses import parse_address
from aitorrentd.api.tasks import Tasks

DEFAULT_PORT: Final = 8469
WATCH_S: Final = 5.0
"Between two looks at where the transport listens, and which addresses there are."
MAX_WAIT_S: Final = 60.0
_ATTEMPTS: Final = 8
"Numbers to try for a port that must be free at every address."
_WILDCARDS: Final = ("0.0.0.0", "::")


class StunServer:
    """The part of the service that answers STUN requests."""

    name = "stun"

    def __init__(
        self, ctx: PluginContext, tasks: Tasks, transport: Transport, port: int | None
    ) -> None:
        self.responder = Responder(ctx.clock.monotonic())
        self._ctx = ctx
        self._tasks = tasks
        self._transport = transport
        self._port = port
        self._sockets: dict[tuple[str, bool], UdpSocket] = {}
        "By the address that each is bound to, and whether its port is the alternate one."
        self._numbers = self._wanted()
        "Port numbers to try in this order; after the first success, the one that was free."
        self._bound: list[str] = []
        self._hosts: list[str] = []
        self._problem = ""

    @property
    def ports(self) -> tuple[int, int]:
        """The port and the alternate port; zeros while they are not bound."""
        return self.responder.ports

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer requests while the block runs."""
        self._tasks.spawn(self._watch(), "nat: stun server")
        try:
            yield
        finally:
            self._close()

    async def _watch(self) -> None:
        # aioice takes a moment to import: neither the start nor a first request waits for it.
        await asyncio.to_thread(_import_codec)
        self._bind()
        self._look()
        attempt = 0
        while True:
            wait_s = WATCH_S
            if self._problem:
                draw = self._ctx.random.random()
                wait_s = equal_jitter_s(attempt, cap_s=MAX_WAIT_S, draw=draw)
            await asyncio.sleep(wait_s)
            hosts = [host for host, _ in self._transport.bound]
            if self._problem or hosts != self._bound:
                attempt = attempt + 1 if self._problem else 0
                self._bind()
            self._look()

    def _look(self) -> None:
        """Learn at which addresses others reach the sockets."""
        found = list(self._bound)
        if any(host in _WILDCARDS for host in found):
            found += [host for text in self._transport.addresses() if (host := _host_of(text))]
        self._hosts = [host for host in found if host not in _WILDCARDS and is_here(host)]

    def _bind(self) -> None:
        """Bind both ports wherever the transport listens."""
        self._close()
        hosts = [host for host, _ in self._transport.bound]
        self._bound = hosts
        if not hosts:
            return
        try:
            first = self._first_bound(hosts)
        except OSError as e:
            reason = (e.strerror or str(e)).lower()
            text = (
                f"cannot listen on port {self._numbers[-1]}/udp: {reason}; free the port, or set"
                " plugins.nat.port to another one (0 for any free one)"
            )
            if text != self._problem:
                self._ctx.log.warning("%s; retrying until it succeeds", text)
            self._problem = text
            self._numbers = self._wanted()
            self.responder.ports = (0, 0)
            return
        try:
            second = _bound_to_one_port(hosts, 0, self._received_at_alternate)
        except OSError:
            second = []  # without one, peers cannot tell two kinds of filtering apart
        if self._problem:
            self._ctx.log.info("now listening on port %d/udp", first[0].port)
        self._problem = ""
        self._numbers = (first[0].port,)
        self._sockets = {(each.host, False): each for each in first}
        self._sockets |= {(each.host, True): each for each in second}
        self.responder.ports = (first[0].port, second[0].port if second else 0)

    def _wanted(self) -> tuple[int, ...]:
        return (DEFAULT_PORT, 0) if self._port is None else (self._port,)

    def _first_bound(self, hosts: Sequence[str]) -> list[UdpSocket]:
        """Sockets at the first of the wanted ports that is free.

        Raises:
            OSError: none is.
        """
        *preferred, last = self._numbers
        for number in preferred:
            try:
                return _bound_to_one_port(hosts, number, self._received)
            except OSError:
                continue
        return _bound_to_one_port(hosts, last, self._received)

    def _received(self, raw: bytes, source: Place, host: str) -> None:
        self._answer(raw, source, host, to_alternate=False)

    def _received_at_alternate(self, raw: bytes, source: Place, host: str) -> None:
        self._answer(raw, source, host, to_alternate=True)

    def _answer(self, raw: bytes, source: Place, host: str, *, to_alternate: bool) -> None:
        reply = self.responder.answer(
            raw,
            source,
            host,
            self._ctx.clock.monotonic(),
            to_alternate=to_alternate,
            hosts=self._hosts,
        )
        if reply is not None:
            self.send(reply.raw, reply.to, reply.host, from_alternate=reply.from_alternate)

    def send(self, raw: bytes, to: Place, host: str = "", *, from_alternate: bool = False) -> bool:
        """Send a datagram from one of the ports, and from `host` if given; whether it left."""
        is_ip6 = ":" in to[0]
        for (bound, is_alternate), sock in self._sockets.items():
            if is_alternate == from_alternate and (":" in bound) == is_ip6:
                if bound in _WILDCARDS:
                    return sock.send(raw, to, host)
                if host in ("", bound):
                    return sock.send(raw, to)
        return False

    def _close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets = {}

    def protocols(self) -> Iterable[WireProtocol]:
        """None: STUN has its own sockets."""
        return ()

    def state(self) -> str:
        """Where it answers, and how often it did."""
        if not self._sockets:
            return self._problem or "off: the transport does not listen yet"
        port, alternate = self.ports
        return f"answers on {port}/udp and {alternate}/udp; {self.responder.served} replies so far"

    def warnings(self) -> Iterable[HealthWarning]:
        """A port that is not free."""
        if self._problem:
            yield HealthWarning("udp", f"{self._problem}; retrying at least once a minute")


def _import_codec() -> None:
    import aioice.stun  # noqa: F401


def _host_of(text: str) -> str:
    try:
        return parse_address(text).host
    except InvalidParams:
        return ""


def _bound_to_one_port(hosts: Sequence[str], port: int, on_datagram: OnDatagram) -> list[UdpSocket]:
    """Sockets at the same port of all `hosts`; port 0 stands for any that is free at each.

    Raises:
        OSError: there is none.
    """
    for attempts_left in reversed(range(_ATTEMPTS)):
        sockets: list[UdpSocket] = []
        try:
            for host in hosts:
                number = sockets[0].port if sockets else port
                sockets.append(UdpSocket(host, number, on_datagram))
        except OSError:
            for each in sockets:
                each.close()
            if port or not attempts_left:
                raise
        else:
            return sockets
    return []
