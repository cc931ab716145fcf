"""Nodes on several machines: small paths, silent neighbours, addresses that come later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.nodes import REPOSITORY
from tests.support.transport.namespaces import CAN_MAKE, REASON, ip, machines, run_in

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE, reason=REASON),
]
SILENT = REPOSITORY / "tests/cases/daemon/network/silent.py"
# Prints its warnings once it knows six records of the node `wanted`, or is connected when none is.
NODE = """
import asyncio, sys
from pathlib import Path
from aitorrent_transport.health import warnings
from tests.support.transport.transport_nodes import node

async def main(path, seed, host, port, wanted, *bootstrap):
    config = {"listen": host, "port": int(port), "keepalive_s": 3, "bootstrap": list(bootstrap)}
    async with node(Path(path), seed, **config) as it:
        for i in range(6):
            it.transport.directory.publish(f"ait:{seed}{i}", {"filler": "z" * 3000})
        print("up", *[w.code for w in warnings(it.transport)], flush=True)
        while len(it.transport.directory.known(f"ait:{wanted}")) < 6:
            await asyncio.sleep(0.1)
        print("done", *[w.code for w in warnings(it.transport)], flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(*sys.argv[1:]))
"""
# Publishes `loud` records and prints "done" when it knows `wanted` ones of the other node; on each
# line of its standard input it prints its warnings.
BULK = """
import asyncio, sys
from pathlib import Path
from aitorrent_transport.health import warnings
from tests.support.transport.transport_nodes import node

async def main(path, seed, loud, wanted, *bootstrap):
    config = {"listen": "0.0.0.0", "port": 9999, "keepalive_s": 2, "bootstrap": list(bootstrap)}
    async with node(Path(path), seed, **config) as it:
        for i in range(int(loud)):
            it.transport.directory.publish(f"ait:{seed}{i}", {"filler": "z" * 3000})
        print("up", flush=True)
        while len(it.transport.directory.known("ait:")) < int(loud) + int(wanted):
            await asyncio.sleep(0.1)
        print("done", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print("-", *[w.code for w in warnings(it.transport)], flush=True)

asyncio.run(main(*sys.argv[1:]))
"""
# Prints where the other node says it can be dialled, whenever that changes.
LISTENER = """
import asyncio, sys
from pathlib import Path
from tests.support.transport.transport_nodes import node

async def main(path, seed, *bootstrap):
    config = {"listen": "0.0.0.0", "port": 9999, "bootstrap": list(bootstrap)}
    async with node(Path(path), seed, **config) as it:
        before = None
        while True:
            for peer in it.transport.peers():
                told = sorted(a.host for a in it.transport.table.told(peer.id))
                if told != before:
                    print(*told, flush=True)
                    before = told
            await asyncio.sleep(0.1)

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def running(machine: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await run_in(machine, *arguments)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def asked(process: asyncio.subprocess.Process) -> list[str]:
    """The warnings of a node that runs BULK."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    return (await said(process, 10))[1:]


async def said(process: asyncio.subprocess.Process, timeout_s: float) -> list[str]:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), timeout_s)).decode().split()


async def test_smaller_segments_are_tried_on_a_path_that_drops_large_packets(
    tmp_path: Path,
) -> None:
    place = str(tmp_path)
    with machines(2, mtu=1300) as (one, two):
        hub = ("-c", NODE, place, "hub", "10.77.0.2", "9999", "dialer")
        dialer = ("-c", NODE, place, "dialer", "10.77.0.1", "0", "hub", "10.77.0.2:9999")
        async with running(two, *hub) as far:
            assert await said(far, 30) == ["up"]
            async with running(one, *dialer) as near:
                assert (await said(near, 30))[0] == "up"
                assert await said(near, 60) == ["done", "path"]
                assert (await said(far, 30))[0] == "done"


@pytest.mark.parametrize("loud", ["dialer", "listener", "both"])
async def test_bulk_data_passes_a_path_that_drops_large_packets_whoever_sends_it(
    tmp_path: Path, loud: str
) -> None:
    of_listener, of_dialer = str(8 * (loud != "dialer")), str(8 * (loud != "listener"))
    place = str(tmp_path)
    with machines(2, mtu=1300) as (one, two):
        async with running(two, "-c", BULK, place, "hub", of_listener, of_dialer) as far:
            assert await said(far, 30) == ["up"]
            dialer = ("-c", BULK, place, "dialer", of_dialer, of_listener, "10.77.0.2:9999")
            async with running(one, *dialer) as near:
                assert await said(near, 30) == ["up"]
                assert await said(near, 60) == ["done"]
                assert await said(far, 60) == ["done"]
                assert "path" in await asked(near)


async def test_silent_neighbour_does_not_lock_its_network_out(tmp_path: Path) -> None:
    place = str(tmp_path)
    with machines(3) as (one, two, three):
        hub = ("-c", NODE, place, "hub", "10.77.0.2", "9999", "dialer")
        dialer = ("-c", NODE, place, "dialer", "10.77.0.3", "0", "hub", "10.77.0.2:9999")
        async with running(two, *hub) as far:
            assert await said(far, 30) == ["up"]
            async with running(one, str(SILENT), "10.77.0.2", "9999", "40", "6"):
                await asyncio.sleep(1)  # its silent connections have come: nobody here sees them
                async with running(three, *dialer) as near:
                    assert (await said(near, 30))[0] == "up"
                    assert (await said(near, 4))[0] == "done"
                    assert await said(far, 10) == ["done", "crowded"]


async def test_address_that_comes_later_is_listened_on_then(tmp_path: Path) -> None:
    place = str(tmp_path)
    with machines(2) as (one, two):
        hub = ("-c", NODE, place, "hub", "10.77.0.9", "9999", "dialer")
        dialer = ("-c", NODE, place, "dialer", "10.77.0.1", "0", "hub", "10.77.0.9:9999")
        async with running(two, *hub) as far, running(one, *dialer) as near:
            assert await said(far, 30) == ["up", "listen"]
            assert (await said(near, 30))[0] == "up"
            await asyncio.sleep(2)  # so late that the first attempts have failed
            ip("-n", two, "addr", "add", "10.77.0.9/24", "dev", "e0")
            assert await said(far, 60) == ["done"]
            assert (await said(near, 10))[0] == "done"


async def test_connected_peer_learns_an_address_that_comes_later(tmp_path: Path) -> None:
    place = str(tmp_path)
    with machines(2) as (one, two):
        dialer = ("-c", LISTENER, place, "dialer", "10.77.0.2:9999")
        async with (
            running(two, "-c", LISTENER, place, "hub") as far,
            running(one, *dialer) as near,
        ):
            assert await said(near, 30) == ["10.77.0.2"]
            assert await said(far, 30) == ["10.77.0.1"]
            ip("-n", two, "addr", "add", "10.77.0.9/24", "dev", "e0")
            assert await said(near, 30) == ["10.77.0.2", "10.77.0.9"]
            ip("-n", one, "addr", "add", "10.77.0.8/24", "dev", "e0")
            assert await said(far, 30) == ["10.77.0.1", "10.77.0.8"]
            ip("-n", two, "addr", "del", "10.77.0.9/24", "dev", "e0")
            assert await said(near, 30) == ["10.77.0.2"]
