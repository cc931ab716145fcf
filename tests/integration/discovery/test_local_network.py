"""Machines on one network, as namespaces behind a bridge: who finds whom, and what leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.discovery.lan_machines import (
    captured,
    daemon,
    model_server,
)
from tests.support.nodes import wait_for
from tests.support.transport.namespaces import CAN_MAKE, REASON, ip, machines

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE, reason=REASON),
]
FOUND_S = 40.0
SILENT = {"discovery": {"mdns": False}}


async def test_two_machines_find_each_other_with_default_settings_and_answer(
    tmp_path: Path,
) -> None:
    with machines(2) as (one, two):
        async with model_server(two) as url:
            server = {"openai": {"servers": [{"name": "it", "url": url}]}}
            async with (
                daemon(one, tmp_path / "one") as asker,
                daemon(two, tmp_path / "two", {"plugins": server}) as holder,
            ):
                await wait_for(asker.peers, FOUND_S, every_s=0.2)
                await wait_for(holder.peers, FOUND_S, every_s=0.2)

                async def offered() -> bool:
                    models = (await asker.call("inference.models"))["models"]
                    return any(model["name"] == "echo-1" for model in models)

                await wait_for(offered, FOUND_S, every_s=0.2)
                assert await asker.ask("hello?", "echo-1") == "found you"
                state = (await asker.call("discovery.stats"))["local_network"]
                assert state == "announced on 10.77.0.1; networks: 10.77.0.0/24"


async def test_machines_with_ipv6_only_find_each_other(tmp_path: Path) -> None:
    with machines(2) as names:
        for i, name in enumerate(names):
            ip("-n", name, "addr", "flush", "dev", "e0", "scope", "global")
            ip("-n", name, "addr", "add", f"fd77::{i + 1}/64", "dev", "e0", "nodad")
        one, two = names
        async with daemon(one, tmp_path / "one") as here, daemon(two, tmp_path / "two") as there:
            (peer,) = await wait_for(here.peers, FOUND_S, every_s=0.2)
            assert "fd77::" in peer["address"]
            await wait_for(there.peers, FOUND_S, every_s=0.2)


async def test_nodes_of_different_networks_do_not_dial_each_other(tmp_path: Path) -> None:
    with machines(2) as (one, two):
        other = {"node": {"network": "another"}}
        async with (
            daemon(one, tmp_path / "one") as here,
            daemon(two, tmp_path / "two", other) as there,
        ):

            async def foreign() -> int:
                return int(
                    (await here.call("discovery.stats"))["counts"].get("services_foreign", 0)
                )

            await wait_for(foreign, FOUND_S, every_s=0.2)
            assert await here.peers() == await there.peers() == []
            assert (await here.call("discovery.stats"))["counts"].get("dials", 0) == 0


async def test_no_multicast_is_said_once_and_an_interface_that_comes_is_used(
    tmp_path: Path,
) -> None:
    with machines(2) as (one, two):
        ip("-n", one, "link", "set", "e0", "down")
        async with daemon(two, tmp_path / "two"):
            ip("-n", one, "link", "set", "lo", "up")
            async with daemon(one, tmp_path / "one") as here:

                async def warned() -> list[Any]:
                    warnings = (await here.call("node.status"))["warnings"]
                    return [w for w in warnings if w["code"] == "multicast"]

                (warning,) = await wait_for(warned, FOUND_S, every_s=0.2)
                assert "no interface with multicast is up" in warning["text"]
                await asyncio.sleep(12)  # time enough to say it again
                assert here.log().count("no interface with multicast is up") == 1
                ip("-n", one, "link", "set", "e0", "up")
                await wait_for(here.peers, FOUND_S, every_s=0.2)

                async def works() -> bool:
                    return not await warned()

                await wait_for(works, FOUND_S, every_s=0.2)


async def test_nothing_leaves_with_mdns_off_and_only_mdns_leaves_with_it(tmp_path: Path) -> None:
    with machines(2) as (one, two):
        async with (
            captured(one) as from_silent,
            captured(two) as from_talkative,
            daemon(one, tmp_path / "one", {"plugins": SILENT}) as silent,
            daemon(two, tmp_path / "two") as talkative,
        ):
            # Long enough for a round of gossip and for each retry.
            await asyncio.sleep(45)
            assert from_silent.destinations == []
            assert set(from_talkative.destinations) == {"224.0.0.251", "ff02::fb"}
            assert await silent.peers() == await talkative.peers() == []


async def test_third_node_is_learned_through_the_second_and_dialled_directly(
    tmp_path: Path,
) -> None:
    quick = {"discovery": {"mdns": False, "gossip_s": 2}}
    with machines(3) as (one, two, three):
        async with daemon(two, tmp_path / "two", {"plugins": quick}):
            to_two = {"plugins": {**quick, "transport": {"bootstrap": "10.77.0.2:8468"}}}
            async with (
                daemon(one, tmp_path / "one", to_two) as a,
                daemon(three, tmp_path / "three", to_two) as c,
            ):
                wanted = await a.id()

                async def direct() -> list[str]:
                    return [p["address"] for p in await c.peers() if p["id"] == wanted]

                (address,) = await wait_for(direct, FOUND_S, every_s=0.2)
                assert address.startswith("/ip4/10.77.0.1/tcp/")
                (row,) = [
                    row for row in (await c.call("discovery.peers"))["peers"] if row["id"] == wanted
                ]
                assert row["connected"]
