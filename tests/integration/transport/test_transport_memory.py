"""What reconnects and failed dials leave behind when nobody collects cycles: nothing."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from aitorrentd.api import PEER_PORT, AitorrentError
from tests.support.nodes import wait_for
from tests.support.transport.brought import relay_route, secured
from tests.support.transport.link_peers import turns
from tests.support.transport.transport_nodes import ECHO, TestNode, node

Round = Callable[[TestNode, TestNode], Awaitable[None]]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def kept() -> Counter[str]:
    """Objects of the transport that are alive, by class."""
    return Counter(
        type(each).__qualname__
        for each in gc.get_objects()
        if str(type(each).__module__).startswith("aitorrent_transport")
    )


async def gone(*nodes: TestNode) -> None:
    await wait_for(lambda: not any(each.transport.peers() for each in nodes))


async def reconnect(hub: TestNode, a: TestNode) -> None:
    await a.transport.connect(hub.address)
    stream = await a.transport.open_stream(hub.id, ECHO)
    await stream.write(b"x")
    assert await stream.read() == b"x"
    await stream.close()
    local = await a.transport.open_stream(a.id, ECHO)
    await local.write(b"y")
    assert await local.read() == b"y"
    await local.close()
    await a.transport.disconnect(hub.id)
    await gone(hub, a)


async def lose(hub: TestNode, a: TestNode) -> None:
    await a.transport.connect(hub.address)
    a.transport.keeper.release(hub.id)
    for peer in a.transport.table:
        for channel in peer.channels:
            channel.lose("the cable was pulled")
    await gone(hub, a)


async def fail(hub: TestNode, a: TestNode) -> None:
    for address in ("127.0.0.1:1", f"127.0.0.1:{a.port}"):  # nobody, and the node itself
        with pytest.raises(AitorrentError):
            await a.transport.connect(address)


async def move(hub: TestNode, a: TestNode) -> None:
    ports = a.kernel.service(PEER_PORT), hub.kernel.service(PEER_PORT)
    await secured(*ports, a.id, hub.id, relay_route())
    await secured(*ports, a.id, hub.id)
    for each in (hub, a):
        await wait_for(lambda: [p.route for p in each.transport.peers()] == ["brought"])  # noqa: B023
    await a.transport.disconnect(hub.id)
    await gone(hub, a)


@pytest.mark.parametrize("masking", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("once", [reconnect, lose, fail, move])
async def test_links_are_freed_without_a_collection(
    tmp_path: Path, once: Round, masking: bool, no_collector: None
) -> None:
    async with node(tmp_path, "hub") as hub, node(tmp_path, "a", masking=masking) as a:
        for _ in range(3):
            await once(hub, a)
        await turns()
        before = kept()
        for _ in range(10):
            await once(hub, a)

        def grown() -> Counter[str]:
            return kept() - before

        await wait_for(lambda: sum(grown().values()) < 10)
