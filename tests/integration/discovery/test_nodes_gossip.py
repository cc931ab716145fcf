"""Nodes in this process: gossip over real channels, and what a restart finds."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import TRANSPORT
from aitorrentd.node import Node
from tests.support.nodes import NodeFactory, wait_for

OFF = {name: {"enabled": False} for name in ("dht", "inference", "ollama", "openai", "shards")}


def config(*bootstrap: str, **discovery: Any) -> Mapping[str, Any]:
    transport = {"bootstrap": list(bootstrap)}
    on = {"enabled": True, "gossip_s": 1, **discovery}
    return {"plugins": {**OFF, "transport": transport, "discovery": on}}


def address(node: Node) -> str:
    return str(node.service(TRANSPORT).addresses()[0])


def count(node: Node) -> int:
    return len(node.service(TRANSPORT).peers())


def stored(state: Path, table: str) -> int:
    (file,) = state.rglob("discovery.sqlite")
    with closing(sqlite3.connect(file)) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


async def test_nodes_that_share_a_peer_connect_directly(node_factory: NodeFactory) -> None:
    hub = await node_factory(config())
    one = await node_factory(config(address(hub)))
    two = await node_factory(config(address(hub)))
    await wait_for(lambda: count(one) == count(two) == 2, 60)


async def test_with_outbound_0_nobody_is_dialled(node_factory: NodeFactory) -> None:
    hub = await node_factory(config(outbound=0))
    one = await node_factory(config(address(hub), outbound=0))
    two = await node_factory(config(address(hub), outbound=0))
    await wait_for(lambda: count(hub) == 2, 30)
    assert count(one) == count(two) == 1


async def test_restarted_node_returns_to_whom_it_dialled_without_being_told(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    hub = await node_factory(config())
    one = node_factory.make(config(address(hub)), state_dir=tmp_path)
    await one.start()
    await wait_for(lambda: count(one) == 1, 30)
    await one.stop()
    assert stored(tmp_path, "dialled") == 1
    again = await node_factory(config(), state_dir=tmp_path)
    await wait_for(lambda: count(again) == 1, 30)


@pytest.mark.parametrize("damage", [b"not a database" * 1000, b""])
async def test_damaged_database_is_set_aside_and_the_node_runs(
    node_factory: NodeFactory, tmp_path: Path, damage: bytes
) -> None:
    one = node_factory.make(config(), state_dir=tmp_path)
    await one.start()
    await one.stop()
    (file,) = tmp_path.rglob("discovery.sqlite")
    file.write_bytes(damage)
    hub = await node_factory(config())
    again = await node_factory(config(address(hub)), state_dir=tmp_path)
    await wait_for(lambda: count(again) == 1, 30)
    aside = file.with_name(file.name + ".damaged")
    assert aside.exists() == bool(damage)
    await again.stop()
    assert stored(tmp_path, "own") == 1
