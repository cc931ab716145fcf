"""One key on two machines, and a new key in an old place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aitorrent_transport.health import warnings
from aitorrentd.api import Conflict, PeerConnected, PeerDisconnected
from tests.support.nodes import wait_for
from tests.support.transport.transport_nodes import Identity, TestNode, node


def codes(of: TestNode) -> dict[str, str]:
    return {w.code: w.text for w in warnings(of.transport)}


async def test_copy_of_a_live_node_changes_nothing_and_all_three_are_told(tmp_path: Path) -> None:
    async with (
        node(tmp_path, "hub") as hub,
        node(tmp_path / "1", "twin", bootstrap=[hub.address]) as first,
    ):
        first.transport.directory.publish("ait:shard:x", {"layers": 6})
        await wait_for(lambda: len(hub.transport.directory.known("ait:")) == 1)
        async with node(tmp_path / "2", "twin", bootstrap=[hub.address]) as second:
            second.transport.directory.publish("ait:shard:y", {"layers": 6})
            await wait_for(lambda: "duplicate_key" in codes(second), 10)
            await wait_for(lambda: "duplicate_key" in codes(first), 10)
            told = codes(hub)["duplicate_key"]
            assert told.startswith("two nodes use the key of")
            assert told.count("/ip4/127.0.0.1/tcp/") == 2
            assert "another node uses this node's key" in codes(first)["duplicate_key"]
            for each in (hub, first, second):
                checks = {check.name: check for _, check in each.kernel.checks()}
                assert (await checks["key"].run()).status == "fail"
            # Some more tries of the copy: the first one's records and channel stay as they are.
            await asyncio.sleep(2)
            assert [r.key for r in hub.transport.directory.known("ait:")] == ["ait:shard:x"]
            assert hub.count(PeerConnected) == 1
            assert hub.count(PeerDisconnected) == 0
        assert len(hub.transport.peers()) == 1


async def test_node_that_died_without_a_word_is_replaced_by_its_next_process(
    tmp_path: Path,
) -> None:
    async with node(tmp_path, "hub") as hub, node(tmp_path / "1", "twin") as first:
        await first.transport.connect(hub.address)
        (before,) = hub.transport.table
        (dead,) = before.channels
        dead.link._transport.pause_reading()  # type: ignore[attr-defined]
        async with node(tmp_path / "2", "twin") as second:
            second.transport.directory.publish("ait:shard:y", {"layers": 6})
            await second.transport.connect(hub.address)
            await wait_for(lambda: hub.transport.directory.known("ait:shard:y"), 10)
            (after,) = hub.transport.table
            assert after is not before
            assert "duplicate_key" not in codes(hub)


@pytest.mark.parametrize("disguise", ["", "/ws"])
async def test_node_that_dials_its_own_key_and_the_node_it_dials_name_the_true_cause(
    tmp_path: Path, disguise: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(tmp_path / "1", "twin") as first, node(tmp_path / "2", "twin") as second:
        place = first.address.partition("/p2p/")[0]
        for _ in range(3):
            with pytest.raises(Conflict, match="another node with this node's own key answers"):
                await second.transport.connect(place + disguise)
        assert place in codes(second)["duplicate_key"]
        await wait_for(lambda: "duplicate_key" in codes(first))
        assert "this node and /ip4/127.0.0.1/tcp/" in codes(first)["duplicate_key"]
        for each in (first, second):
            checks = {check.name: check for _, check in each.kernel.checks()}
            assert (await checks["key"].run()).status == "fail"
        logged = [r.message for r in caplog.records if "two nodes use the key" in r.message]
        assert len(logged) == 2
        assert not first.transport.peers()


async def test_bootstrap_address_without_an_id_accepts_a_new_key_there_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(tmp_path, "old") as old:
        port, before = old.port, old.id
        async with node(tmp_path, "follower", bootstrap=[f"127.0.0.1:{port}"]) as follower:
            await wait_for(follower.transport.peers)
            await old.kernel.stop()
            await wait_for(lambda: not follower.transport.peers())
            async with node(tmp_path, "new", port=port) as new:
                await wait_for(lambda: follower.transport.peer(new.id), 20)

                def told() -> list[str]:
                    texts = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
                    return [text for text in texts if "another node answers at" in text]

                await wait_for(told)
                assert len(told()) == 1
                assert f"/p2p/{before} to this bootstrap address" in told()[0]
                assert new.id in told()[0]


async def test_bootstrap_address_with_an_id_refuses_a_new_key_and_status_says_why(
    tmp_path: Path,
) -> None:
    async with node(tmp_path, "new") as new:
        wrong = f"/ip4/127.0.0.1/tcp/{new.port}/p2p/{Identity('old').peer_id}"
        async with node(tmp_path, "follower", bootstrap=[wrong]) as follower:
            await wait_for(lambda: "bootstrap" in codes(follower))
            text = codes(follower)["bootstrap"]
            assert f"the peer at that address is {new.id}, not {Identity('old').peer_id}" in text
            assert not follower.transport.peers()
