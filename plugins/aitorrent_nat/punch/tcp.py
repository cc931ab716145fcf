"""TCP hole punching by simultaneous open (RFC 5128, section 3.4; RFC 9293, section 3.5).

Both ends connect at the same moment, each from the port whose mapping it learned from a mirror.
Each SYN opens its sender's NAT; the one that arrives after that completes the connection. A NAT
that drops the early SYN loses nothing: its sender's kernel sends it again. One that answers it with
RST ends that attempt, so there are three, at moments that both ends derive from the session's key.
The port also listens: where nothing filters, as on a local network or behind a full cone NAT, the
early SYN arrives before the other end has connected, and the listener takes it.

Several attempts may connect: through the public addresses and on the local network, or to a
stranger who has the same private address. So the dialer proves the session's key on one socket at a
time, and the first on which the other end proves it too is the connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import random
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from aitorrent_nat.punch.candidates import Candidate, Kind
from aitorrent_nat.punch.mirror import ANSWER_S, HostPort, ask
from aitorrentd.api import ProtocolError, Unavailable
from aitorrentd.api.tasks import beside

MOMENTS_S: Final = (0.0, 0.3, 0.9)
"When an attempt that failed is repeated, after the common start; plus jitter."
JITTER_S: Final = 0.15
DEADLINE_S: Final = 2.5
"Covers the kernel's first repetition of a SYN, after a second."
PROOF_S: Final = 1.0
MAX_ACCEPTED: Final = 8
PROOF_BYTES: Final = 16
MAX_MIRRORS: Final = 2


class Punch:
    """A local TCP port, and how it is seen from outside. Close it after use."""

    def __init__(self, make_socket: Callable[[int], socket.socket]) -> None:
        """`make_socket(port)` returns a socket as `bound_socket` does."""
        self._make_socket = make_socket
        self.port = 0
        self.mapped: list[HostPort] = []
        "What mirrors said; different ports mean that the NAT is symmetric for TCP."
        self._held: list[socket.socket] = []
        self._listener: socket.socket

    @classmethod
    async def prepare(
        cls,
        mirrors: Sequence[HostPort],
        make_socket: Callable[[int], socket.socket] | None = None,
    ) -> Punch:
        """Pick a port, and ask mirrors about it, two at a time.

        Raises:
            Unavailable: none answered.
        """
        punch = cls(make_socket or bound_socket)
        try:
            await punch._ask(mirrors)
            # Before the start: the other end may be a little earlier.
            punch._listener = punch._hold()
            punch._listener.listen(MAX_ACCEPTED)
        except BaseException:
            punch.close()
            raise
        return punch

    async def _ask(self, mirrors: Sequence[HostPort]) -> None:
        errors: list[str] = []

        async def one(sock: socket.socket, mirror: HostPort) -> None:
            try:
                async with asyncio.timeout(ANSWER_S):
                    self.mapped.append(await ask(sock, mirror))
            except TimeoutError:
                errors.append(f"{mirror[0]} did not answer")
            except OSError as e:
                errors.append(f"{mirror[0]}: {os.strerror(e.errno).lower() if e.errno else e}")
            except ProtocolError as e:
                errors.append(f"{mirror[0]}: {e.message}")

        for at in range(0, len(mirrors), MAX_MIRRORS):
            asked = mirrors[at : at + MAX_MIRRORS]
            await asyncio.gather(*map(one, [self._hold() for _ in asked], asked))
            if self.mapped:
                return
        raise Unavailable("; ".join(errors) or "no public peer is connected that could be asked")

    def _hold(self) -> socket.socket:
        sock = self._make_socket(self.port)
        self.port = sock.getsockname()[1]
        self._held.append(sock)
        return sock

    @property
    def is_symmetric(self) -> bool:
        """Whether two mirrors saw different ports."""
        return len({port for _, port in self.mapped}) > 1

    def candidates(self, hosts: Sequence[str]) -> list[Candidate]:
        """What to offer: the mapped address if there is only one, and the port on own `hosts`."""
        seen = [] if self.is_symmetric else [Candidate(Kind.TCP, *self.mapped[0])]
        return seen + [Candidate(Kind.TCP_HOST, host, self.port) for host in hosts]

    async def connect(
        self, remotes: Sequence[Candidate], key: bytes, *, dialer: bool
    ) -> tuple[socket.socket, Candidate]:
        """A proven connection to one of `remotes`, as a non-blocking socket.

        Both ends call it at the same moment, with the same `key`; one is the dialer.

        Raises:
            Unavailable: none of them; the text says what happened to the first.
        """
        loop = asyncio.get_running_loop()
        outcomes: dict[Candidate, str] = {}
        won: asyncio.Future[tuple[socket.socket, Candidate]] = loop.create_future()
        turn = asyncio.Lock()

        async def one(remote: Candidate) -> None:
            sock = await self._connect_one(remote, key, outcomes)
            if sock is not None:
                await prove(sock, remote)

        async def prove(sock: socket.socket, remote: Candidate) -> None:
            kept = False
            try:
                if dialer:
                    async with turn, asyncio.timeout(PROOF_S):
                        await _prove_first(sock, key)
                else:
                    await _prove_second(sock, key)
                if not won.done():
                    won.set_result((sock, remote))
                    kept = True
            except (OSError, TimeoutError, ProtocolError) as e:
                outcomes[remote] = f"connected, but not to this peer ({e or 'it is silent'})"
            finally:
                if not kept:
                    sock.close()

        async def take(group: asyncio.TaskGroup) -> None:
            hosts = {remote.host for remote in remotes}
            for _ in range(MAX_ACCEPTED):
                sock, where = await loop.sock_accept(self._listener)
                if where[0] in hosts:
                    accepted = Candidate(Kind.TCP, where[0], where[1])
                    group.create_task(prove(sock, accepted), name="prove a punch")
                else:
                    sock.close()

        async def every() -> None:
            async with asyncio.TaskGroup() as group:
                taking = group.create_task(take(group), name="accept a punch")
                await asyncio.gather(*map(one, remotes))
                # The other end may be later with all of its attempts.
                await asyncio.sleep(PROOF_S)
                taking.cancel()

        try:
            async with beside(every(), "punch TCP") as work:
                waits: set[asyncio.Future[Any]] = {work, won}
                await asyncio.wait(waits, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            if won.done():
                won.result()[0].close()
            raise
        if won.done():
            return won.result()
        raise Unavailable(next(iter(outcomes.values()), "no address was tried"))

    async def _connect_one(
        self, remote: Candidate, key: bytes, outcomes: dict[Candidate, str]
    ) -> socket.socket | None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for moment_s in moments(key):
            await asyncio.sleep(start + moment_s - loop.time())
            sock = self._make_socket(self.port)
            outcomes[remote] = "no answer"
            try:
                await loop.sock_connect(sock, (remote.host, remote.port))
            except OSError as e:
                sock.close()
                outcomes[remote] = e.strerror or str(e)
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        return None

    def close(self) -> None:
        """Let go of the port and of the mirrors."""
        for sock in self._held:
            sock.close()
        self._held.clear()


def bound_socket(port: int) -> socket.socket:
    """A non-blocking TCP socket bound to `port`, which others of this process may share.

    Raises:
        Unavailable: the port cannot be had.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("", port))
    except OSError as e:
        sock.close()
        raise Unavailable(f"port {port}/tcp cannot be used: {e.strerror}") from None
    return sock


def moments(key: bytes) -> list[float]:
    """Seconds after the common start at which both ends with `key` connect."""
    draws = random.Random(key)
    return [at + (JITTER_S * draws.random() if at else 0.0) for at in MOMENTS_S]


def _proof(key: bytes, role: bytes) -> bytes:
    return hmac.digest(key, b"tcp " + role, hashlib.sha256)[:PROOF_BYTES]


async def _prove_first(sock: socket.socket, key: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, _proof(key, b"dialer"))
    await _expect(sock, _proof(key, b"listener"))


async def _prove_second(sock: socket.socket, key: bytes) -> None:
    await _expect(sock, _proof(key, b"dialer"))
    await asyncio.get_running_loop().sock_sendall(sock, _proof(key, b"listener"))


async def _expect(sock: socket.socket, proof: bytes) -> None:
    loop = asyncio.get_running_loop()
    arrived = b""
    while len(arrived) < len(proof):
        more = await loop.sock_recv(sock, len(proof) - len(arrived))
        if not more:
            raise ProtocolError("it was closed")
        arrived += more
    if not hmac.compare_digest(arrived, proof):
        raise ProtocolError("it does not know the session")
