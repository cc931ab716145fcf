"""Machines whose link or address goes away while they are connected, without a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.transport.namespaces import CAN_MAKE, REASON, ip, machines, run_in

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE, reason=REASON),
]
# Prints its peers' hosts and the codes of its warnings whenever either changes.
NODE = """
import asyncio, sys
from pathlib import Path
from aitorrent_transport.health import warnings
from aitorrentd.api.network.addresses import parse_address
from tests.support.transport.transport_nodes import node

async def main(path, seed, listen, *bootstrap):
    config = {"listen": listen, "port": 9999, "keepalive_s": 1, "bootstrap": list(bootstrap)}
    async with node(Path(path), seed, **config) as it:
        before = None

        def show(*_):
            nonlocal before
            hosts = sorted(parse_address(view.address).host for view in it.transport.peers())
            state = [*hosts, *sorted({w.code for w in warnings(it.transport)})]
            if state != before:
                print("-", *state, flush=True)
                before = state

        # A peer may be back sooner than anybody looks again.
        lost = it.transport.table.on_down
        it.transport.table.on_down = lambda *about: (lost(*about), show())
        while True:
            show()
            await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def running(machine: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await run_in(machine, "-c", NODE, *arguments)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def until(process: asyncio.subprocess.Process, *state: str) -> list[list[str]]:
    """The states that the node prints before `state`."""
    assert process.stdout is not None
    passed: list[list[str]] = []
    async with asyncio.timeout(40):
        while (now := (await process.stdout.readline()).decode().split()[1:]) != list(state):
            passed.append(now)
    return passed


async def test_peers_find_each_other_again_after_a_link_was_down(tmp_path: Path) -> None:
    place = str(tmp_path)
    with machines(2) as (one, two):
        async with (
            running(two, place, "hub", "0.0.0.0") as far,
            running(one, place, "dialer", "0.0.0.0", "10.77.0.2:9999") as near,
        ):
            await until(near, "10.77.0.2")
            await until(far, "10.77.0.1")
            ip("-n", two, "link", "set", "e0", "down")
            await until(far)
            ip("-n", two, "link", "set", "e0", "up")
            lost = await until(near, "10.77.0.2")
            await until(far, "10.77.0.1")
            assert lost
            # A machine that is gone says nothing about the size of packets.
            assert not any("path" in state for state in lost)


async def test_node_whose_address_changes_is_soon_connected_from_the_new_one(
    tmp_path: Path,
) -> None:
    place = str(tmp_path)
    with machines(2) as (one, two):
        async with (
            running(two, place, "hub", "0.0.0.0") as far,
            running(one, place, "dialer", "0.0.0.0", "10.77.0.2:9999") as near,
        ):
            await until(near, "10.77.0.2")
            await until(far, "10.77.0.1")
            ip("-n", one, "addr", "del", "10.77.0.1/24", "dev", "e0")
            ip("-n", one, "addr", "add", "10.77.0.8/24", "dev", "e0")
            await until(far, "10.77.0.8")
            await until(near, "10.77.0.2")


async def test_listener_at_one_address_serves_again_when_the_address_returns(
    tmp_path: Path,
) -> None:
    place = str(tmp_path)
    with machines(2) as (one, two):
        async with (
            running(two, place, "hub", "10.77.0.2") as far,
            running(one, place, "dialer", "0.0.0.0", "10.77.0.2:9999") as near,
        ):
            await until(near, "10.77.0.2")
            await until(far, "10.77.0.1")
            ip("-n", two, "addr", "del", "10.77.0.2/24", "dev", "e0")
            await until(far)
            ip("-n", two, "addr", "add", "10.77.0.2/24", "dev", "e0")
            await until(near, "10.77.0.2")
            await until(far, "10.77.0.1")
