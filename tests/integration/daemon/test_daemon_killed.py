"""SIGKILL at any moment: the same identity, the same configuration, a daemon that starts again."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import yaml

from tests.support.nodes import DaemonFactory

QUIET: dict[str, Any] = {
    "plugins": {
        name: {"enabled": False}
        for name in (
            "transport",
            "dht",
            "discovery",
            "nat",
            "inference",
            "ollama",
            "openai",
            "shards",
        )
    }
}


@pytest.mark.slow
async def test_daemon_killed_again_and_again_while_it_starts_keeps_its_identity(
    daemon_factory: DaemonFactory,
) -> None:
    rng = random.Random(7)
    daemon = await daemon_factory(QUIET, ready=False)
    names: set[str] = set()
    for round_ in range(12):
        # From before the first import to after the key was written; a start takes about 0.4 s.
        await asyncio.sleep(rng.uniform(0.05, 0.6))
        await daemon.kill()
        key = daemon.state_dir / "identity.key"
        if key.exists():
            names.add(key.read_text())
        daemon = await daemon_factory(directory=daemon.directory, ready=round_ % 4 == 3)
    await daemon.ready()
    first = await daemon.call("node.id")
    assert len(names) == 1
    await daemon.kill()
    again = await daemon_factory(directory=daemon.directory)
    assert await again.call("node.id") == first
    assert not [p for p in again.state_dir.iterdir() if p.name.startswith(".identity")]


@pytest.mark.slow
async def test_daemon_killed_while_it_writes_settings_keeps_a_whole_drop_in(
    daemon_factory: DaemonFactory,
) -> None:
    rng = random.Random(11)
    daemon = await daemon_factory(QUIET)
    acknowledged = 0
    for round_ in range(4):
        limit = rng.randrange(3, 25)
        async with await daemon.client() as client:
            for value in range(1, limit):
                params = {"key": "control.max_connections", "value": round_ * 100 + value}
                await client.call("config.set", params)
                acknowledged = round_ * 100 + value
            params = {"key": "control.max_connections", "value": round_ * 100 + limit}
            last = asyncio.create_task(client.call("config.set", params))
            await asyncio.sleep(rng.uniform(0, 0.01))  # at any point of the write
            await daemon.kill()
            await asyncio.gather(last, return_exceptions=True)
        drop_in = daemon.directory / "aitorrent.yaml.d" / "90-set.yaml"
        kept = yaml.safe_load(drop_in.read_text())["control"]["max_connections"]
        assert kept in (acknowledged, acknowledged + 1)
        acknowledged = kept
        daemon = await daemon_factory(directory=daemon.directory)
        shown = await daemon.call("config.get", {"key": "control.max_connections"})
        assert shown == {
            "key": "control.max_connections",
            "value": kept,
            "origin": f"{drop_in}:3",
        }


@pytest.mark.parametrize("damage", [b"", b"garbage", b"aitorrentd-ed25519-1 AAAA"])
async def test_damaged_key_stops_the_start_with_78_and_is_not_touched(
    daemon_factory: DaemonFactory, damage: bytes
) -> None:
    daemon = await daemon_factory(QUIET)
    await daemon.stop()
    key = daemon.state_dir / "identity.key"
    whole = key.read_bytes()
    key.write_bytes(damage)
    broken = await daemon_factory(directory=daemon.directory, ready=False)
    assert await broken.ended() == 78
    assert f"the identity key {key} is damaged" in broken.log()
    assert "restore it from a backup" in broken.log()
    assert "Traceback" not in broken.log()
    assert key.read_bytes() == damage
    key.write_bytes(whole)
    restored = await daemon_factory(directory=daemon.directory)
    assert (await restored.call("rpc.ping")) == {"pong": True}
