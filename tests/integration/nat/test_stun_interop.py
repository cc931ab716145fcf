"""STUN with software of other authors: coturn as a server, and its client for ours."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aitorrent_nat.stun.asking import StunSocket
from aitorrent_nat.stun.behaviour import Filtering, Mapping
from aitorrent_nat.stun.classifying import classify
from aitorrent_nat.stun.lifetime import lifetime_s, poke_by
from tests.support.nat.coturn import NAT_DISCOVERY, PROGRAM, REASON, coturn
from tests.support.nat.stun_servers import rfc5780_server

pytestmark = pytest.mark.skipif(not (PROGRAM and NAT_DISCOVERY), reason=REASON)
ONE, TWO = "127.0.0.1", "127.0.0.2"


async def test_coturn_with_two_addresses_classifies(tmp_path: Path) -> None:
    async with coturn(tmp_path, hosts=(ONE, TWO)) as place:
        behaviour, asked = await classify([place], frozenset({ONE}), ONE)
        assert asked.problems == {}
        assert behaviour.mapping is Mapping.NONE
        assert behaviour.filtering is Filtering.ENDPOINT_INDEPENDENT
        with StunSocket(ONE) as socket:
            waits_s = (0.05, 0.1)
            assert await lifetime_s(place, poke_by(socket, place), ONE, waits_s=waits_s) == 0.1


async def test_coturn_with_one_address_tells_the_address_only(tmp_path: Path) -> None:
    async with coturn(tmp_path, hosts=(ONE,)) as place:
        behaviour, asked = await classify([place], frozenset(), ONE)
        assert (behaviour.external, asked.problems) == (ONE, {})
        assert (behaviour.mapping, behaviour.filtering) == (Mapping.UNKNOWN, Filtering.UNKNOWN)


async def test_client_of_coturn_understands_this_server() -> None:
    with rfc5780_server((ONE, TWO)) as (host, port):
        process = await asyncio.create_subprocess_exec(
            *(str(NAT_DISCOVERY), "-m", "-f", "-p", str(port), host),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out = (await asyncio.wait_for(process.communicate(), 30))[0].decode()
    assert process.returncode == 0, out
    # It asks from 0.0.0.0, which it takes for its address, and so for a NAT in between.
    assert "Endpoint Independent Mapping!" in out
    assert "NAT with Endpoint Independent Filtering!" in out
