"""Where a UDP socket is seen from outside, by asking STUN servers from that very socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from aitorrent_nat.punch.paths.datagrams import HostPort
from aitorrent_nat.stun.codec import (
    MAX_BYTES,
    Request,
    Response,
    encode_request,
    new_transaction,
    read,
)
from aitorrentd.api import ProtocolError, TimedOut

ASK_S: Final = (0.2, 0.4, 0.4)
"Pauses after each request."
MAX_SERVERS: Final = 2


async def observe(sock: socket.socket, servers: Sequence[HostPort]) -> HostPort:
    """The address of `sock` as the first of `servers` that answers sees it.

    Raises:
        TimedOut: none answers within a second.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[HostPort] = loop.create_future()
    requests = {new_transaction(): server for server in servers[:MAX_SERVERS]}

    def receive() -> None:
        for _ in range(16):
            try:
                raw, source = sock.recvfrom(MAX_BYTES + 1)
            except OSError:
                return
            try:
                response = read(raw)
            except ProtocolError:
                continue
            if (
                isinstance(response, Response)
                and requests.get(response.transaction) == (source[0], source[1])
                and response.mapped is not None
                and not found.done()
            ):
                found.set_result(response.mapped)

    loop.add_reader(sock, receive)
    try:
        for pause_s in ASK_S:
            for transaction, server in requests.items():
                with suppress(OSError):
                    sock.sendto(encode_request(Request(transaction), version=4), server)
            await asyncio.wait({found}, timeout=pause_s)
            if found.done():
                return found.result()
        raise TimedOut("no STUN server answered")
    finally:
        loop.remove_reader(sock)
        found.cancel()
