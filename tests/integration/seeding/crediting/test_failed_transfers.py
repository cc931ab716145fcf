"""Nodes that refuse what they offered, and nodes that vouch for a wrong file: both are named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aitorrent_seeding.sources.asking import PROTOCOL
from aitorrent_transport.plugin import TransportPlugin
from aitorrentd import Node
from aitorrentd.api import (
    PluginContext,
    PluginInfo,
    ProtocolError,
    Stream,
    WireProtocol,
    encode_frame,
    hookimpl,
    read_frame,
)
from aitorrentd.api.models.weights import TORRENT_INDEXES, KnownTorrent, WantedFile
from aitorrentd.kernel.found import PluginSource
from tests.support.nodes import LOOPBACK, NodeFactory, wait_for
from tests.support.seeding.daemons import MIB, make_file
from tests.support.seeding.transfers import address_of, sharing_node, told_by, weights

SIZE = 24 * MIB
TOLD_S = 40.0


async def fetch(node: Node, digest: str) -> Path:
    """The whole file."""
    asked = await weights(node).fetch(WantedFile(digest, SIZE, "f"))
    try:
        return await asked.wait()
    finally:
        asked.release()


async def test_node_that_offers_a_torrent_and_refuses_connections_is_told_of_once(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    """It accepts peers at an address that is not the one of its channel."""
    digest = make_file(tmp_path / "f", SIZE)
    good = await sharing_node(node_factory, upload_limit="4MiB/s")
    deaf = await sharing_node(node_factory, listen="127.0.0.2")
    for node in (good, deaf):
        await weights(node).offer(tmp_path / "f")
    node = await sharing_node(node_factory, address_of(good), address_of(deaf))
    async with told_by(node) as told:
        await fetch(node, digest)
        await wait_for(lambda: told.failed and told.bytes_by("from")[good.id] >= SIZE, TOLD_S)
        (failed,) = told.failed
    assert (failed.peer, failed.reason, failed.size_bytes) == (deaf.id, "refused", 0)
    assert (failed.sha256, failed.info_hash) == (digest, told.succeeded[0].info_hash)
    assert set(told.bytes_by("from")) == {good.id}


class Liar:
    """A plugin that names the torrent of one file for another of the same size."""

    def __init__(self, wanted: str, named: KnownTorrent, port: int) -> None:
        self._wanted = wanted
        self._named = named
        self._port = port

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("liar", "lies about files")

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        yield

    @hookimpl
    def aitorrent_protocols(self, ctx: PluginContext) -> Iterable[WireProtocol]:
        return [WireProtocol(PROTOCOL, self._answer)]

    async def _answer(self, stream: Stream) -> None:
        question = (await read_frame(stream, max_bytes=256)).header
        asked = (bytes.fromhex(self._wanted), bytes.fromhex(self._named.info_hash))
        if question["file"] == asked[0] or question["hash"] == asked[1]:
            header = {
                "hash": asked[1],
                "size": self._named.size,
                "piece": self._named.piece_length,
                "port": self._port,
            }
            await stream.write(encode_frame(header, self._named.metainfo))
        else:
            await stream.write(encode_frame({}))
        await stream.close()


async def test_node_that_vouches_for_a_wrong_file_is_told_of_and_not_the_one_that_sent_it(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    right, other = (make_file(tmp_path / n, SIZE, seed=len(n)) for n in ("a", "bb"))
    honest = await sharing_node(node_factory, upload_limit="8MiB/s")
    await weights(honest).offer(tmp_path / "bb")
    asking = await sharing_node(node_factory, address_of(honest))
    (known,) = await asking.kernel.service(TORRENT_INDEXES).get("peers").find(other)
    (port,) = await ports(asking, known.info_hash)
    liar = await node_factory(
        {"plugins": {"transport": LOOPBACK}},
        sources=[
            PluginSource.of(TransportPlugin, name="transport"),
            PluginSource.of(lambda: Liar(right, known, port), name="liar"),
        ],
    )
    node = await sharing_node(node_factory, address_of(liar), address_of(honest))
    async with told_by(node) as told:
        with pytest.raises(ProtocolError, match="no source sent the file"):
            await fetch(node, right)
        await wait_for(lambda: told.failed, TOLD_S)
    (failed,) = told.failed
    assert (failed.peer, failed.reason, failed.sha256) == (liar.id, "wrong file", right)
    assert (failed.size_bytes, failed.info_hash) == (SIZE, known.info_hash)
    assert weights(node).local(right) is None


async def ports(node: Node, info_hash: str) -> list[int]:
    """Ports at which nodes seed a torrent."""
    nearby = node.kernel.service(TORRENT_INDEXES).get("peers")
    found = nearby.endpoints(sha256="", info_hash=info_hash)  # type: ignore[attr-defined]
    return [at.port for at in await anext(found)]
