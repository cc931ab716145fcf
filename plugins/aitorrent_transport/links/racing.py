"""Connecting to a host, some of whose addresses may be dead: Happy Eyeballs (RFC 8305).

All A and AAAA addresses of a name are tried, a quarter of a second apart and with alternating
families; the first to connect wins and the other attempts are cancelled.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Final

from aitorrent_transport.links.nat64 import synthesised
from aitorrent_transport.links.path import StalledPaths
from aitorrentd.api.network.resolver import Found, Resolver

ATTEMPT_DELAY_S: Final = 0.25
"RFC 8305, section 5: connection attempt delay."


def interleaved(found: Found) -> Found:
    """Addresses with alternating families, starting with the preferred one (section 4)."""
    first = [each for each in found if each[0] == found[0][0]]
    other = [each for each in found if each[0] != found[0][0]]
    return [each for each in chain(*zip_longest(first, other)) if each is not None]


async def connect_tcp(
    make_protocol: Callable[[], asyncio.Protocol],
    host: str,
    port: int,
    resolver: Resolver,
    paths: StalledPaths | None = None,
    version: int = 0,
    *,
    delay_s: float = ATTEMPT_DELAY_S,
) -> asyncio.Transport:
    """Connect to `port` on whichever address of `host` answers first.

    `version` 4 or 6 restricts the addresses of a name to that version of IP. An attempt has
    `delay_s` for itself before the next one starts beside it.

    Raises:
        OSError: none answers; the error of the first attempt. TimedOut, Unavailable: see
        `Resolver.resolve`.
    """
    loop = asyncio.get_running_loop()
    found = interleaved(await resolver.resolve(host, version=version))
    paths = paths or StalledPaths()
    try:
        sock = await _race(found, port, paths, delay_s)
    except OSError as e:
        translated = await synthesised(found, e, resolver)
        if not translated:
            raise
        sock = await _race(translated, port, paths, delay_s)
    try:
        transport, _ = await loop.create_connection(make_protocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    return transport


async def _race(
    found: Sequence[tuple[int, str]], port: int, paths: StalledPaths, delay_s: float
) -> socket.socket:
    waiting = list(found)
    running: set[asyncio.Task[socket.socket | OSError]] = set()
    code: int | None = None
    try:
        while waiting or running:
            if waiting:
                family, ip = waiting.pop(0)
                # Always ended below, so no task group needs to own them.
                running.add(asyncio.ensure_future(_connect(family, ip, port, paths)))
            done, running = await asyncio.wait(
                running,
                timeout=delay_s if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            won: socket.socket | None = None
            for outcome in [task.result() for task in done]:
                if isinstance(outcome, OSError):
                    code = code or outcome.errno
                elif won is None:
                    won = outcome
                else:
                    outcome.close()
            if won is not None:
                return won
    finally:
        for task in running:
            task.cancel()
        for late in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()
    # Created here: an error from a task would form a cycle of frame and task.
    raise OSError(code, os.strerror(code)) if code else OSError("the name has no address")


async def _connect(family: int, ip: str, port: int, paths: StalledPaths) -> socket.socket | OSError:
    """A connected socket, or the error."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        paths.prepare(sock, ip, asyncio.get_running_loop().time())
        await asyncio.get_running_loop().sock_connect(sock, (ip, port))
        if sock.getsockname()[:2] == sock.getpeername()[:2]:
            # A port of the ephemeral range that nobody listens on may connect to itself, and would
            # keep the node that is to listen there from doing so.
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except OSError as e:
        sock.close()
        return e.with_traceback(None)
    except BaseException:
        sock.close()
        raise
    return sock
