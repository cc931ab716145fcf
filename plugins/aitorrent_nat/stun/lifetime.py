"""How long a NAT keeps the mapping of a socket that is silent (RFC 5780, section 4.6).

A socket per duration, all at once: each learns its mapping, is silent for its time, and then
somebody it has already talked to sends it a datagram at that mapping.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from aitorrent_nat.networks import Place
from aitorrent_nat.stun.asking import StunSocket
from aitorrent_nat.stun.codec import Request, encode_request, new_transaction
from aitorrentd.api import AitorrentError, Unavailable
from aitorrentd.api.network.addresses import host_port

WAITS_S: Final = (15.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 240.0, 300.0)
"RFC 4787, REQ-5, demands 120 s; many home routers keep a mapping for 30 to 60 s."
ARRIVAL_S: Final = 1.5

Poke = Callable[[int, bytes], Awaitable[None]]
"""Has a datagram sent to an external port of this node, from where the socket that is mapped to it
has already sent to, with a transaction id that it recognises."""


async def lifetime_s(
    server: Place, poke: Poke, host: str, *, waits_s: Sequence[float] = WAITS_S
) -> float:
    """The longest of `waits_s` that a mapping survives; 0 if none.

    Raises:
        AitorrentError: `server` does not answer, `poke` fails, or nothing arrives even at a mapping
        that is in use. OSError: no socket can be had.
    """
    if not await _survives(server, poke, host, 0.0):
        where = host_port(*server)
        raise Unavailable(f"{where}/udp does not send to another port on request (RESPONSE-PORT)")
    alive: dict[float, bool] = {}

    async def one(wait_s: float) -> None:
        alive[wait_s] = await _survives(server, poke, host, wait_s)

    try:
        async with asyncio.TaskGroup() as group:
            for wait_s in waits_s:
                group.create_task(one(wait_s))
    except* (AitorrentError, OSError) as e:
        raise e.exceptions[0] from None
    return longest(alive)


def longest(alive: Mapping[float, bool]) -> float:
    """The longest wait such that no shorter one lost the mapping; 0 if there is none."""
    found = 0.0
    for wait_s in sorted(alive):
        if not alive[wait_s]:
            break
        found = wait_s
    return found


async def _survives(server: Place, poke: Poke, host: str, wait_s: float) -> bool:
    with StunSocket(host) as socket:
        answer = await socket.ask(server)
        await asyncio.sleep(wait_s)
        for _ in range(2):
            transaction = new_transaction()
            with socket.expecting(transaction, None) as arrival:
                await poke(answer.mapped[1], transaction)
                if (await asyncio.wait({arrival}, timeout=ARRIVAL_S))[0]:
                    return True
    return False


def poke_by(socket: StunSocket, server: Place) -> Poke:
    """Let a STUN `server` send the datagram; `socket` asks it to (RESPONSE-PORT)."""
    version = 6 if ":" in server[0] else 4

    async def poke(port: int, transaction: bytes) -> None:
        request = Request(transaction, response_port=port)
        socket.send(encode_request(request, version=version), server)

    return poke
