"""UDP sockets that close whatever happens while they are opened."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

from aitorrentd.api.tasks import uninterrupted

P = TypeVar("P", bound=asyncio.DatagramProtocol)


async def open_datagrams(
    make_protocol: Callable[[], P],
    *,
    sock: socket.socket | None = None,
    local: tuple[str, int] | None = None,
    remote: tuple[str, int] | None = None,
) -> tuple[asyncio.DatagramTransport, P]:
    """A transport and its protocol, on `sock` or on a socket bound to `local`.

    `loop.create_datagram_endpoint`, but a task that is cancelled meanwhile leaves no open socket
    behind: uvloop's own would, until the loop ends. A `sock` is closed too if this fails.

    Raises:
        OSError: the socket cannot be bound or connected.
    """
    loop = asyncio.get_running_loop()
    opening = loop.create_datagram_endpoint(
        make_protocol, local_addr=local, remote_addr=remote, sock=sock
    )
    try:
        return await uninterrupted(opening, lambda opened: opened[0].close())
    except OSError:
        if sock is not None:
            sock.close()
        raise
