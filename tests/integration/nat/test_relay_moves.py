"""A prompt that begins through a relay and ends on a direct connection, with real daemons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import cli_runs
from tests.support.nat.daemons import HELD_S, OFF, held_at, peer_id, route_to
from tests.support.nodes import Daemon, DaemonFactory, free_port, wait_for
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import READY_S, reference_ids, shards_config

pytestmark = pytest.mark.slow

NEW = 40
PROMPT = "FROM A RELAY TO A DIRECT PATH"
IDS = [ord(c) - 33 if c != " " else 220 for c in PROMPT]


async def holder(
    make: DaemonFactory, path: Path, layers: str, transport: dict[str, Any] | None = None
) -> Daemon:
    """A daemon with layers of the model, that finds others by nothing but its addresses."""
    config = shards_config(path, layers)
    config["plugins"] |= {
        "discovery": OFF,
        "dht": OFF,
        "nat": {"port": 0, "punch": False, "upnp": False},
        "transport": transport or {},
    }
    return await make(config)


async def answered(asks: Daemon, helps: Daemon, direct: str) -> list[int]:
    """The ids of a greedy answer, in the middle of which a direct connection comes up."""
    ids: list[int] = []
    moved = False
    async with await asks.client(120) as client:
        request = {
            "model": "m",
            "prompt": PROMPT,
            "raw": True,
            "params": {"max_tokens": NEW, "temperature": 0.0},
        }
        async for item in client.stream("inference.generate", request):
            ids += item["token_ids"]
            if not moved and len(ids) >= NEW // 2:
                moved = True
                assert await route_to(asks, await peer_id(helps)) == "relay"
                await asks.call("transport.connect", {"address": direct})
                assert await route_to(asks, await peer_id(helps)) == "direct"
    return ids


async def test_answer_stays_the_same_when_a_direct_connection_replaces_the_relay(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    path = make_model(tmp_path / "m")
    place = f"/ip4/127.0.0.1/tcp/{(port := free_port())}"
    relay = await holder(daemon_factory, path, "none", {"port": port, "announce": place})
    relay_id = await peer_id(relay)
    bootstrap = f"{place}/p2p/{relay_id}"
    helps = await holder(daemon_factory, path, "3-6", {"bootstrap": bootstrap})
    asks = await holder(daemon_factory, path, "0-3")
    helps_id, asks_id = await peer_id(helps), await peer_id(asks)

    async def holds() -> bool:
        return await held_at(helps) == [relay_id]

    await wait_for(holds, HELD_S, every_s=0.2)
    circuit = f"{bootstrap}/p2p-circuit/p2p/{helps_id}"
    await asks.call("transport.connect", {"address": circuit})

    async def complete() -> bool:
        return len((await asks.call("shards.spans"))["spans"]) == 2

    await wait_for(complete, READY_S, every_s=0.2)
    addresses = (await helps.call("node.id"))["addresses"]
    (direct,) = [text for text in addresses if "p2p-circuit" not in text]
    assert await answered(asks, helps, direct) == reference_ids(path, IDS, NEW)
    assert await route_to(helps, asks_id) == "direct"

    async def is_over() -> bool:
        return not (await relay.call("nat.relays"))["circuits"]

    await wait_for(is_over, 10, every_s=0.2)
    code, out, _ = await cli_runs.run(asks, "peers", "why", helps_id[-8:])
    assert code == 0
    first, _, *table = out.splitlines()
    assert first.startswith(f"…{helps_id[-8:]}: connected (direct) at {direct.split('/p2p/')[0]}")
    assert [line.split()[2] for line in table[1:]] == ["relay", "direct", "move"]
    assert table[-1].endswith(", in use")
