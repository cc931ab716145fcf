"""Guessing a port of a symmetric NAT, by the birthday paradox.

The end behind the symmetric NAT opens 256 sockets and sends from each to the other end's address,
which is known; the NAT gives each a port at random. The other end sends to random ports: each guess
hits one of the 256 in 64,512 ports, so that half of all punches need fewer than 175 guesses, 95 %
fewer than 752, 99.9 % fewer than 1,733.

Only one end of each pair guesses and only one punch runs per node at a time, at most every 20 s:
each guess takes an entry in the guessing end's NAT. Datagrams carry a proof of the session's key,
and the reply to each is no larger than it.

    opener   OPEN    from each of its sockets, to open its NAT
    guesser  GUESS   to random ports
    opener   HIT     from the socket that a guess reached
    guesser  TAKE    the path is this one

Source: the method of hyperdht (`lib/holepuncher.js`) and of Tailscale ("How NAT traversal works").
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from aitorrent_nat.punch.paths.datagrams import HostPort
from aitorrentd.api import Busy, Unavailable
from aitorrentd.api.descriptors import is_scarce

SOCKETS: Final = 256
PACE_S: Final = 1 / 170
"Between two guesses: a burst would overflow small routers."
GUESSES: Final = 1750
"After which a miss is nearly certain to have another reason."
INTERVAL_S: Final = 20.0
REOPEN_S: Final = 5.0
"The opener sends again before NATs forget, of which the quickest take 20 s to 30 s."
TAKE_COPIES: Final = 3
FIRST_PORT: Final = 1024
_MAGIC: Final = b"\x3fAIB"
_OPEN, _GUESS, _HIT, _TAKE = b"o", b"g", b"h", b"t"
BYTES: Final = len(_MAGIC) + 1 + 16

DEADLINE_S: Final = GUESSES * PACE_S + 1.0


class Turns:
    """Who may punch now: one at a time, and not too often."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._busy = False
        self._next = 0.0

    @property
    def is_free(self) -> bool:
        """Whether a punch may start now."""
        return not self._busy and self._now() >= self._next

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold the turn for the block.

        Raises:
            Busy: another punch runs, or ended less than INTERVAL_S ago.
        """
        wait_s = self._next - self._now()
        if self._busy or wait_s > 0:
            raise Busy(
                "another birthday punch is running"
                if self._busy
                else f"the last birthday punch was too recent; the next may start in {wait_s:.0f} s"
            )
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            self._next = self._now() + INTERVAL_S


def udp_socket() -> socket.socket:
    """A non-blocking UDP socket on a free port of all interfaces."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(("0.0.0.0", 0))
    except BaseException:
        sock.close()
        raise
    return sock


def message(key: bytes, kind: bytes) -> bytes:
    """A datagram of this kind."""
    return _MAGIC + kind + hmac.digest(key, b"birthday " + kind, hashlib.sha256)[:16]


def is_message(datagram: bytes, key: bytes, kind: bytes) -> bool:
    """Whether `datagram` is of this kind, from one who has the key."""
    return hmac.compare_digest(datagram, message(key, kind))


async def guess(sock: socket.socket, host: str, key: bytes, draws: random.Random) -> HostPort:
    """Guess a port of `host` from `sock`, and return the address that was hit.

    Raises:
        Unavailable: no guess hit.
    """
    loop = asyncio.get_running_loop()
    hit: asyncio.Future[HostPort] = loop.create_future()
    probe, take = message(key, _GUESS), message(key, _TAKE)

    def read() -> None:
        for datagram, source in received(sock):
            if source[0] == host and is_message(datagram, key, _HIT) and not hit.done():
                hit.set_result(source)

    loop.add_reader(sock, read)
    try:
        begin = loop.time()
        for number, port in enumerate(draws.sample(range(FIRST_PORT, 65_536), GUESSES)):
            _send(sock, probe, (host, port))
            pause_s = begin + (number + 1) * PACE_S - loop.time()
            await asyncio.wait({hit}, timeout=max(0.0, pause_s))
            if hit.done():
                break
        else:
            await asyncio.wait({hit}, timeout=1.0)
        if not hit.done():
            raise Unavailable(f"none of {GUESSES} guesses hit an open port")
        for _ in range(TAKE_COPIES):
            _send(sock, take, hit.result())
        return hit.result()
    finally:
        loop.remove_reader(sock)
        hit.cancel()


async def open_many(
    remote: HostPort,
    key: bytes,
    count: int = SOCKETS,
    make_socket: Callable[[], socket.socket] | None = None,
) -> tuple[socket.socket, HostPort]:
    """Open `count` sockets to `remote`, which guesses; the one that it takes, and its address.

    Raises:
        Unavailable: none was hit, or too few sockets can be opened.
    """
    loop = asyncio.get_running_loop()
    taken: asyncio.Future[tuple[socket.socket, HostPort]] = loop.create_future()
    opening, hit = message(key, _OPEN), message(key, _HIT)
    socks: list[socket.socket] = []

    def read(sock: socket.socket) -> None:
        for datagram, source in received(sock):
            if source[0] != remote[0]:
                continue
            if is_message(datagram, key, _GUESS):
                _send(sock, hit, source)
            elif is_message(datagram, key, _TAKE) and not taken.done():
                taken.set_result((sock, source))

    try:
        try:
            for _ in range(count):
                socks.append((make_socket or udp_socket)())
                if is_scarce(socks[-1].fileno()):
                    raise OSError
                loop.add_reader(socks[-1], read, socks[-1])
        except OSError:
            raise Unavailable(f"{count} sockets for a birthday punch cannot be opened") from None
        until = loop.time() + DEADLINE_S
        while not taken.done() and loop.time() < until:
            for number, sock in enumerate(socks):
                _send(sock, opening, remote)
                if number % 32 == 31:
                    await asyncio.sleep(0.005)  # small routers drop bursts
            await asyncio.wait({taken}, timeout=min(REOPEN_S, max(0.0, until - loop.time())))
        if not taken.done():
            raise Unavailable(f"no guess hit one of {count} open ports")
        socks.remove(taken.result()[0])
        loop.remove_reader(taken.result()[0])
        return taken.result()
    finally:
        for sock in socks:
            loop.remove_reader(sock)
            sock.close()
        taken.cancel()


def received(sock: socket.socket) -> Iterator[tuple[bytes, HostPort]]:
    """What waits on `sock`: datagrams of the right length, and their sources."""
    for _ in range(64):
        try:
            datagram, source = sock.recvfrom(BYTES + 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            continue  # an earlier datagram was refused
        if len(datagram) == BYTES:
            yield datagram, (source[0], source[1])


def _send(sock: socket.socket, datagram: bytes, to: HostPort) -> None:
    with suppress(OSError):  # what is not sent is one miss more
        sock.sendto(datagram, to)
