"""Servers that speak only RFC 3489, asked by pystun3.

pystun3 blocks, for up to 8 s a test, and asks for ever if a reply has another transaction id than
its request. So it runs in a daemon thread of its own, on a socket that this module closes after
`TIMEOUT_S`, which ends it wherever it is.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any, Final

from aitorrent_nat.networks import Place, is_inside, is_place
from aitorrent_nat.stun.behaviour import Behaviour, Filtering, Mapping
from aitorrentd.api import ProtocolError, TimedOut, Unavailable
from aitorrentd.api.network.addresses import host_port

TIMEOUT_S: Final = 15.0
_REPLY_S: Final = 0.6
"pystun3 sends each request four times, this far apart."

# RFC 3489, section 10.1, in the terms of RFC 5780. Its words for NATs do not tell the two kinds of
# dependent mapping apart, nor how a symmetric NAT filters.
_KINDS: Final = {
    "Open Internet": (Mapping.NONE, Filtering.ENDPOINT_INDEPENDENT),
    "Symmetric UDP Firewall": (Mapping.NONE, Filtering.ADDRESS_AND_PORT_DEPENDENT),
    "Full Cone": (Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT),
    "Restric NAT": (Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT),
    "Restric Port NAT": (Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT),
    "Symmetric NAT": (Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.UNKNOWN),
}


async def classify_legacy(server: Place, *, timeout_s: float = TIMEOUT_S) -> Behaviour:
    """Behaviour as an IPv4 `server` of RFC 3489 sees it.

    Raises:
        TimedOut: no result in time. Unavailable: no reply, or the test failed. ProtocolError: the
        server sent garbage.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Behaviour] = loop.create_future()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(_REPLY_S)

    def settle(result: Behaviour | Exception) -> None:
        if future.done():
            return
        if isinstance(result, Behaviour):
            future.set_result(result)
        else:
            future.set_exception(result)

    def work() -> None:
        result: Behaviour | Exception
        try:
            result = _classify(sock, server)
        except (ProtocolError, Unavailable) as e:
            result = e
        except OSError as e:
            result = Unavailable(f"{host_port(*server)}/udp: {e.strerror or e}")
        except (ValueError, KeyError, IndexError, TypeError) as e:
            # What pystun3 raises at bytes that it does not expect.
            result = ProtocolError(f"{host_port(*server)}/udp sent what is not STUN: {e}")
        try:
            loop.call_soon_threadsafe(settle, result)
        except RuntimeError:
            return  # the loop is closed: the node has stopped

    try:
        threading.Thread(target=work, name=f"stun {server[0]}", daemon=True).start()
        async with asyncio.timeout(timeout_s):
            return await future
    except TimeoutError:
        where = host_port(*server)
        raise TimedOut(f"{where}/udp gave no result within {timeout_s:g} s (RFC 3489)") from None
    finally:
        sock.close()


def _classify(sock: socket.socket, server: Place) -> Behaviour:
    import stun

    where = f"{host_port(*server)}/udp"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect(server)  # sends nothing: asks the kernel for the own address on that way
        own: str = route.getsockname()[0]
    sock.bind((own, 0))
    port: int = sock.getsockname()[1]
    stun._initialize()
    first: dict[str, Any] = stun.stun_test(sock, *server, own, port)
    if not first["Resp"]:
        raise Unavailable(f"{where} did not answer (RFC 3489)")
    mapped = (str(first["ExternalIP"]), first["ExternalPort"] or 0)
    changed = (str(first["ChangedIP"]), first["ChangedPort"] or 0)
    if not is_place(*mapped):
        raise ProtocolError(f"{where} sent no address")
    known = Behaviour(external=mapped[0], keeps_ports=mapped[1] == port)
    if not is_place(*changed) or is_inside(changed[0]) > is_inside(server[0]):
        return known
    kind, _ = stun.get_nat_type(sock, own, port, stun_host=server[0], stun_port=server[1])
    mapping, filtering = _KINDS.get(kind, (Mapping.UNKNOWN, Filtering.UNKNOWN))
    return Behaviour(mapping, filtering, known.external, known.keeps_ports)
