from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from aitorrent_transport.protocols.book import MAX_RECORDS
from aitorrent_transport.protocols.directory import PROTOCOL, ChannelDirectory
from aitorrentd.api import (
    DirectoryChanged,
    InvalidParams,
    PeerGone,
    TooLarge,
    encode_frame,
)
from tests.support.nodes import wait_for
from tests.support.transport.transport_nodes import TestNode, node


def directory(here: TestNode) -> ChannelDirectory:
    return here.transport.channels


def said(here: TestNode, by: TestNode) -> dict[str, object]:
    return {r.key: dict(r.value) for r in directory(here).known("") if r.peer == by.id}


async def test_records_come_change_and_go_with_their_peer(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        directory(a).publish("ait:cap:early", {"v": 1})
        directory(a).publish("ait:cap:gone", {"v": 1})
        directory(a).withdraw("ait:cap:gone")
        await b.transport.connect(a.address)
        await wait_for(lambda: said(b, a) == {"ait:cap:early": {"v": 1}})
        directory(a).publish("ait:cap:late", {"v": 2})
        directory(b).publish("ait:cap:late", {"v": 3})
        await wait_for(lambda: said(b, a).get("ait:cap:late") == {"v": 2})
        await wait_for(lambda: said(a, b) == {"ait:cap:late": {"v": 3}})
        assert {r.peer for r in await directory(a).find("ait:cap:late")} == {a.id, b.id}
        assert [r.key for r in directory(a).known("ait:cap:e")] == ["ait:cap:early"]
        found = next(r for r in directory(b).known("ait:cap:late") if r.peer == a.id)
        assert a.address in found.addresses
        directory(a).publish("ait:cap:late", {"v": 4})
        await wait_for(lambda: said(b, a)["ait:cap:late"] == {"v": 4})
        directory(a).withdraw("ait:cap:early")
        await wait_for(lambda: said(b, a) == {"ait:cap:late": {"v": 4}})
        await b.transport.disconnect(a.id)
        await wait_for(lambda: said(b, a) == {})
        assert said(b, b) == {"ait:cap:late": {"v": 3}}
        # Appeared, changed, went away with its peer.
        await wait_for(lambda: b.events.count(DirectoryChanged("ait:cap:late", a.id)) == 3)


async def test_many_records_arrive_whole(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        for i in range(MAX_RECORDS):
            directory(a).publish(f"ait:shard:{i}", {"blob": b"x" * 4000})
        with pytest.raises(InvalidParams, match="more than 256"):
            directory(a).publish("ait:shard:more", {})
        await b.transport.connect(a.address)
        await wait_for(lambda: len(said(b, a)) == MAX_RECORDS)


async def test_own_bad_records_are_refused(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a:
        with pytest.raises(TooLarge, match="the limit is 4096"):
            directory(a).publish("k", {"v": "x" * 5000})
        with pytest.raises(InvalidParams, match="printable"):
            directory(a).publish("k\n", {})
        assert directory(a).known("") == []


BAD = {
    "more than 256 directory records": [
        encode_frame({"op": "put", "key": str(i), "value": {}}) for i in range(300)
    ],
    "longer than 4096": [encode_frame({"op": "put", "key": "k", "value": {"v": "x" * 4097}})],
    "frame of 9000 bytes": [(9000).to_bytes(4, "big")],
    "unknown directory operation": [encode_frame({"op": "steal"})],
    "printable characters": [encode_frame({"op": "del", "key": 7})],
    "invalid msgpack": [encode_frame({})[:4] + b"\x00\x01\xc1"],
}


@pytest.mark.parametrize("message", BAD)
async def test_bad_frames_end_the_stream_and_not_the_channel(tmp_path: Path, message: str) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.connect(b.address)
        await wait_for(lambda: b.transport.peer(a.id))
        stream = await a.transport.open_stream(b.id, PROTOCOL)
        frames: Sequence[bytes] = BAD[message]
        with pytest.raises(PeerGone, match=message):
            async with asyncio.timeout(10):
                await stream.write(b"".join(frames))
                await stream.read()
        assert await a.transport.ping(b.id) < 5
        assert len(said(b, a)) <= MAX_RECORDS


async def test_records_survive_a_move_to_another_stream(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        directory(a).publish("ait:cap:x", {"v": 1})
        await b.transport.connect(a.address)
        await wait_for(lambda: said(b, a))
        changes = b.count(DirectoryChanged)
        directory(a).peer_moved(b.id)
        directory(a).publish("ait:cap:y", {"v": 1})
        await wait_for(lambda: len(said(b, a)) == 2)
        await wait_for(lambda: b.count(DirectoryChanged) == changes + 1)
