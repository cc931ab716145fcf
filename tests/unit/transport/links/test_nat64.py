"""IPv4 addresses on a network that has only IPv6."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from aitorrent_transport.links.nat64 import NAME, prefixes, synthesised
from aitorrentd.api.network.resolver import Found, Resolver
from tests.support.transport.namespaces import CAN_MAKE, REASON, ip, machines, run_in

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)
NO_ROUTE = OSError(errno.ENETUNREACH, "no route")
WELL_KNOWN: Found = [(V6, "64:ff9b::c000:aa"), (V6, "64:ff9b::c000:ab")]


def resolver(answer: Found) -> Resolver:
    def lookup(host: str) -> Found:
        if host != NAME or not answer:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return answer

    return Resolver(lookup)


def test_prefix_is_what_stands_before_the_known_addresses() -> None:
    assert prefixes(WELL_KNOWN) == [0x64FF9B << 96]
    assert prefixes([(V6, "2001:db8:1::c000:aa"), (V6, "2001:db8::1"), (V4, "192.0.0.170")]) == [
        0x20010DB8_00010000 << 64
    ]


@pytest.mark.parametrize(
    ("found", "error", "answer", "right"),
    [
        ([(V4, "81.2.69.142")], NO_ROUTE, WELL_KNOWN, [(V6, "64:ff9b::5102:458e")]),
        ([(V4, "81.2.69.142")], NO_ROUTE, [], []),
        ([(V4, "81.2.69.142")], NO_ROUTE, [(V6, "2001:db8::1")], []),
        ([(V4, "81.2.69.142")], OSError(errno.ECONNREFUSED, ""), WELL_KNOWN, []),
        ([(V4, "10.0.0.1")], NO_ROUTE, WELL_KNOWN, []),
        ([(V6, "2001:db8::1"), (V4, "81.2.69.142")], NO_ROUTE, WELL_KNOWN, []),
    ],
    ids=["translated", "no nat64", "a liar", "refused", "private", "a name with dns64"],
)
async def test_address_is_translated_only_where_that_helps(
    found: Found, error: OSError, answer: Found, right: Found
) -> None:
    assert await synthesised(found, error, resolver(answer)) == right


DIAL = """
import asyncio, socket
from aitorrent_transport.links.racing import connect_tcp
from aitorrentd.api.network.resolver import Resolver

async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), "64:ff9b::5102:458e", 8468)
    answer = [(int(socket.AF_INET6), "64:ff9b::c000:aa")]
    async with server:
        transport = await connect_tcp(
            asyncio.Protocol, "81.2.69.142", 8468, Resolver(lambda host: answer)
        )
        print(transport.get_extra_info("peername")[0])
        transport.close()

asyncio.run(main())
"""


@pytest.mark.root
@pytest.mark.skipif(not CAN_MAKE, reason=REASON)
async def test_machine_without_a_route_for_ipv4_connects_through_the_translator() -> None:
    with machines(1) as (one,):
        ip("-n", one, "link", "set", "lo", "up")
        ip("-n", one, "addr", "add", "64:ff9b::5102:458e/128", "dev", "lo")
        process = await run_in(one, "-c", DIAL)
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        assert output == b"64:ff9b::5102:458e\n"
