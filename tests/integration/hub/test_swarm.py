"""Files of the Hub come from the swarm once a node has them; the Hub is a source among others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import seeding_daemon, torrents
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import TOKEN, Program
from tests.support.servers.hub.repos import weights

LARGE = weights(9_000_000)
FILES = {"config.json": b"{}", "model.safetensors": LARGE}
MODEL = "model.safetensors"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add("org/model", FILES)
        yield hub


async def mirror(
    factory: DaemonFactory, hub: FakeHub, beside: Daemon | None = None, **settings: Any
) -> tuple[Daemon, Program]:
    own = {"enabled": True, "upstream": hub.url, "port": 0, "swarm_min": "1MB", **settings}
    daemon = await seeding_daemon(factory, beside, plugins={"hub": own})
    status = await daemon.call("hub.status")
    return daemon, Program(f"http://{status['listening'][0]}")


async def shares(daemon: Daemon) -> bool:
    return any(row["state"] == "seeding" for row in await torrents(daemon))


async def test_the_second_node_gets_a_file_from_the_first(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    first, program = await mirror(daemon_factory, hub)
    assert await program.snapshot() == FILES
    await wait_for(lambda: shares(first), 20)
    assert len(hub.bodies(MODEL)) == 1
    hub.failing = []
    second, other = await mirror(daemon_factory, hub, first)
    hub.corrupt = 1000  # whatever comes from the Hub now is wrong
    assert await other.snapshot() == FILES
    sent = (await second.call("hub.status"))["sent"]
    assert sent["swarm"] == len(LARGE)


async def test_a_cached_commit_comes_from_the_swarm_while_the_hub_is_down(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    first, program = await mirror(daemon_factory, hub)
    assert await program.snapshot() == FILES
    await wait_for(lambda: shares(first), 20)
    second, other = await mirror(daemon_factory, hub, first)
    path = f"/org/model/resolve/{hub.repos['org/model'].refs['main']}/{MODEL}"
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        head = await client.head(other.endpoint + path)
        assert head.status_code == 200
        hub.stop()
        assert (await client.get(other.endpoint + path)).content == LARGE
        part = await client.get(other.endpoint + path, headers={"Range": "bytes=5000000-"})
    assert (part.status_code, part.content) == (206, LARGE[5_000_000:])
    assert (await second.call("hub.status"))["sent"]["hub"] == 0


async def test_the_hook_gets_a_file_from_the_swarm(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    first, program = await mirror(daemon_factory, hub)
    assert await program.snapshot() == FILES
    await wait_for(lambda: shares(first), 20)
    second, _ = await mirror(daemon_factory, hub, first)
    hub.corrupt = 1000
    hooked = Program(hub.url, env={"AITORRENT_SOCKET": str(second.socket)})
    path = await hooked.run(
        "import aitorrent_hf; aitorrent_hf.enable(); import huggingface_hub as h;"
        f"print(h.hf_hub_download('org/model', '{MODEL}'))"
    )
    assert Path(path).read_bytes() == LARGE


async def test_many_mirrors_at_once_and_one_program_each(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    first, program = await mirror(daemon_factory, hub)
    assert await program.snapshot() == FILES
    await wait_for(lambda: shares(first), 20)
    others = [await mirror(daemon_factory, hub, first) for _ in range(2)]
    found = await asyncio.gather(*(each.snapshot() for _, each in others))
    assert found == [FILES, FILES]


async def test_gated_files_are_in_no_swarm(daemon_factory: DaemonFactory, hub: FakeHub) -> None:
    hub.add("org/gated", {MODEL: weights(2_000_000)}, gated=True, readers=(TOKEN,))
    daemon, program = await mirror(daemon_factory, hub)
    assert await program.snapshot("org/gated", token=TOKEN)
    assert await program.snapshot()
    await wait_for(lambda: shares(daemon), 20)
    digests = [row["sha256"] for row in await torrents(daemon)]
    public = hub.repos["org/model"].commits[hub.repos["org/model"].refs["main"]][MODEL]
    assert digests == [public.sha256]
    assert TOKEN not in daemon.log()
