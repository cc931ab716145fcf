"""One end's leg of a circuit: a TCP connection to the relay, and what its control stream says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

from aitorrent_nat.relay.claims import MAGIC
from aitorrentd.api import DIRECT, InvalidParams, PeerId, PeerView, Unavailable
from aitorrentd.api.network.addresses import Address, parse_address
from aitorrentd.api.network.resolver import Resolver
from aitorrentd.api.network.routes import MakeProtocol

CONNECT_S: Final = 5.0
"For each address of the relay."


class Circuit:
    """A circuit as one end sees it, from its token to its end."""

    def __init__(self, number: int, peer: PeerId) -> None:
        self.number = number
        self.peer = peer
        "The node at the other end."
        self._joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_joined(self) -> bool:
        """Whether the other end was there."""
        return self._joined.done() and not self._joined.exception()

    def note_joined(self) -> None:
        """The relay says that both ends have connected."""
        if not self._joined.done():
            self._joined.set_result(None)

    def note_ended(self, reason: str) -> None:
        """The relay says that the circuit is over."""
        if not self._joined.done():
            self._joined.set_exception(Unavailable(reason or "the relay ended the circuit"))
            self._joined.exception()  # possibly nothing awaits it any longer

    async def joined(self) -> None:
        """Wait until both ends have connected.

        Raises:
            Unavailable: the circuit ended before.
        """
        await asyncio.shield(self._joined)


def dialled_place(view: PeerView | None) -> tuple[Address, ...]:
    """Where this node dialled a peer directly; empty if it did not."""
    if view is None or not view.outbound or view.route != DIRECT:
        return ()
    try:
        return (parse_address(view.address),)
    except InvalidParams:
        return ()


async def open_leg(
    places: Sequence[Address],
    token: bytes,
    circuit: Circuit,
    resolver: Resolver,
    make_protocol: MakeProtocol,
) -> asyncio.Transport:
    """Connect to the relay at one of `places`, and hand over once the other end is there.

    Raises:
        OSError: no address of the relay can be reached. Unavailable: the circuit ended.
    """
    loop = asyncio.get_running_loop()
    sock = await _connect(places, resolver)
    try:
        await loop.sock_sendall(sock, MAGIC + token)
        await circuit.joined()
        transport, _ = await loop.create_connection(make_protocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    return transport


async def _connect(places: Sequence[Address], resolver: Resolver) -> socket.socket:
    loop = asyncio.get_running_loop()
    problem: OSError = ConnectionRefusedError("the relay has no address")
    for place in places:
        version = {"dns4": 4, "dns6": 6}.get(place.family, 0)
        for family, host in await resolver.resolve(place.host, version=version):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                async with asyncio.timeout(CONNECT_S):
                    await loop.sock_connect(sock, (host, place.port))
                return sock
            except TimeoutError:
                sock.close()
                problem = TimeoutError(f"{place.location} did not answer in time")
            except OSError as e:
                sock.close()
                problem = e
            except BaseException:
                sock.close()
                raise
    raise problem
