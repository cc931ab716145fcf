"""The client of catalogues: against real trackers, and against servers that lie, stall or break."""

from __future__ import annotations

import asyncio
import copy
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aitorrent_catalogue import service
from aitorrent_catalogue.config import CatalogueConfig
from aitorrent_catalogue.health import check_servers
from aitorrent_catalogue.service import CatalogueClient
from aitorrentd.api import Conflict, Denied, InvalidParams, NotFound, ProtocolError, Unavailable
from aitorrentd.api.models.weights import KnownTorrent, Published
from aitorrentd.kernel.context.context import SystemClock
from tests.support.catalogue.publishing import COMMIT, Publisher
from tests.support.catalogue.trackers import OFF, Trackers, call, fresh, torrent
from tests.support.nodes import NodeFactory
from tests.support.servers.http_server import Handler, HttpServer, Reply, Request

ALICE, MALLORY = Publisher("alice"), Publisher("mallory")
SOURCE = Published("org/model", COMMIT, "model.safetensors")


@asynccontextmanager
async def client(*urls: Any, **settings: Any) -> AsyncIterator[CatalogueClient]:
    """A client of catalogues whose node is Alice's."""
    ctx = SimpleNamespace(
        config=CatalogueConfig(servers=urls, **settings),
        clock=SystemClock(),
        identity=ALICE,
        random=random.Random(1),
        log=logging.getLogger("test.catalogue"),
    )
    made = CatalogueClient(cast(Any, ctx))
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def against(handler: Handler) -> AsyncIterator[tuple[HttpServer, CatalogueClient]]:
    """A server of a test's own, and a client of it."""
    async with HttpServer(handler) as server, client(f"http://127.0.0.1:{server.port}") as index:
        yield server, index


def known(content: bytes = b"weights" * 9000) -> KnownTorrent:
    made = torrent(content)
    fields = made["fields"]
    return KnownTorrent(
        fields["sha256"], fields["size"], fields["info_hash"], fields["piece_length"],
        metainfo=b"d4:info" + made["info"] + b"e",
    )  # fmt: skip


async def test_what_is_published_is_found_with_trackers_and_torrent_file(
    trackers: Trackers,
) -> None:
    one = await trackers(publishers=[ALICE.peer_id])
    ours = known()
    async with client(one.url) as index:
        assert list(await index.find("0" * 64)) == []
        await index.publish(ours, SOURCE)
        (found,) = await index.find(ours.sha256)
        assert (found.info_hash, found.publisher) == (ours.info_hash, ALICE.peer_id)
        assert f"http://127.0.0.1:{one.port}/announce" in found.trackers
        assert ours.metainfo.removeprefix(b"d").removesuffix(b"e") in found.metainfo
        await index.publish(ours, SOURCE)  # again, which changes nothing
        files = await index.resolve("org/model")
        assert (files.revision, files.files[0][0]) == (COMMIT, "model.safetensors")
        assert (await index.resolve("org/model", COMMIT)).files == files.files
        with pytest.raises(NotFound, match="no catalogue lists revision"):
            await index.resolve("org/model", "f" * 40)
        with pytest.raises(NotFound, match="must be a repository"):
            await index.resolve("../etc")


async def test_what_has_no_repository_or_may_not_be_published_stays_here(
    trackers: Trackers,
) -> None:
    one = await trackers(others="accept")
    async with client(one.url) as index:
        await index.publish(known(), Published())
        await index.publish(known(), Published("org/model", "", "f"))
        with pytest.raises(InvalidParams, match="commit_hash must be a commit"):
            await index.publish(known(), Published("org/model", "main", "f"))
    async with client(one.url, publish=False) as index:
        await index.publish(known(), SOURCE)
    assert await one.listed() == []


async def test_refusal_is_told_in_the_words_of_the_catalogue(trackers: Trackers) -> None:
    one = await trackers(publishers=[MALLORY.peer_id])
    async with client(one.url) as index:
        with pytest.raises(Denied, match=r"catalogue 127.*may not publish here; ask the operator"):
            await index.publish(known(), SOURCE)


async def test_conflict_is_told(trackers: Trackers) -> None:
    one = await trackers(others="accept")
    assert (await one.publish(fresh(MALLORY))).status_code == 201
    async with client(one.url) as index:
        with pytest.raises(Conflict, match="published with info-hash"):
            await index.publish(known(), SOURCE)


async def test_key_opens_a_private_catalogue(trackers: Trackers) -> None:
    key = "k" * 20
    one = await trackers(tracker={"keys": [key]}, publishers=[ALICE.peer_id])
    async with client(one.url) as index:
        with pytest.raises(Denied, match="announce key"):
            await index.find("a" * 64)
        checked = await check_servers(index)
        assert checked.status == "fail" and "announce key" in checked.text
        assert "plugins.catalogue.servers" in checked.remedy
    async with client({"url": one.url, "key": key}) as index:
        await index.publish(known(), SOURCE)
        (found,) = await index.find(known().sha256)
        assert f"http://127.0.0.1:{one.port}/{key}/announce" in found.trackers


def answering(value: Any) -> Handler:
    async def handle(request: Request, reply: Reply) -> None:
        if request.path.endswith(".torrent"):
            await reply.json({"error": {"message": "none"}}, 404)
        else:
            await reply.json(value)

    return handle


def listing(*rows: Any) -> dict[str, Any]:
    return {"torrents": list(rows), "total": len(rows), "cursor": None}


def row(posted: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**posted, "seeders": 3, "magnet_link": "magnet:?tr=udp://t.example:1/announce", **more}


def swapped(field: str, value: Any) -> dict[str, Any]:
    posted = copy.deepcopy(fresh(ALICE))
    posted["publication"][field] = value
    return row(posted)


SHA = fresh(ALICE)["publication"]["sha256"]
LIES: dict[str, Any] = {
    "another info-hash": swapped("info_hash", "e" * 40),
    "another size": swapped("size", 9),
    "another publisher": swapped("publisher", MALLORY.peer_id),
    "no signature": {**row(fresh(ALICE)), "signature": "0" * 128},
    "somebody else's signature": {**row(fresh(ALICE)), "signature": fresh(MALLORY)["signature"]},
    "a signed publication of another file": row(fresh(ALICE, sha256="e" * 64)),
    "a path that leaves the directory": swapped("filename", "../x"),
    "no object": 5,
    "a signature without a publication": {"signature": "0" * 128},
}


@pytest.mark.parametrize("name", LIES)
async def test_lie_of_a_catalogue_is_found_out(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with against(answering(listing(LIES[name], row(fresh(ALICE))))) as (_, index):
        found = await index.find(SHA)
        assert [(t.sha256, t.publisher) for t in found] == [(SHA, ALICE.peer_id)]
        assert "lies, or is broken: 1 of its entries" in caplog.text
        _, (told,) = await index.search({"sha256": SHA}, "", 50)
        assert len(told.lies) == 1


@pytest.mark.parametrize(
    "value", [[], {}, {"torrents": 5}, listing(*range(300)), "x", None], ids=str
)
async def test_answer_that_is_no_listing_is_refused(value: Any) -> None:
    async with against(answering(value)) as (_, index):
        with pytest.raises(ProtocolError, match="did not answer with a listing"):
            await index.find(SHA)


async def test_trackers_and_counts_of_a_hostile_server_are_bounded() -> None:
    urls = [
        "file:///etc/passwd",
        "javascript:x",
        "udp://a.example:1/announce",
        "http://",
        "x" * 999,
    ]
    urls += [f"http://t{i}.example/announce" for i in range(50)]
    magnet = "magnet:?" + "&".join(f"tr={url}" for url in urls)
    hostile = row(fresh(ALICE), magnet_link=magnet, seeders="9" * 50)
    async with against(answering(listing(hostile))) as (_, index):
        (found,) = await index.find(SHA)
    assert len(found.trackers) == 4 and found.trackers[0] == "udp://a.example:1/announce"


async def test_unsigned_entries_are_left_out_and_counted() -> None:
    old = {"publication": None, "signature": "", "info_hash": "a" * 40}
    async with against(answering(listing(old, row(fresh(ALICE))))) as (_, index):
        entries, (told,) = await index.search({}, "", 50)
        assert len(entries) == 1 and told.unsigned == 1


async def test_only_believed_publishers_count() -> None:
    rows = (row(fresh(MALLORY, sha256=SHA, info_hash="d" * 40)), row(fresh(ALICE)))
    async with HttpServer(answering(listing(*rows))) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with client(url, publishers=[ALICE.peer_id]) as index:
            assert [t.publisher for t in await index.find(SHA)] == [ALICE.peer_id]
        async with client(url) as index:
            assert len(await index.find(SHA)) == 2


async def test_listing_that_never_ends_ends() -> None:
    asked = 0

    async def handle(request: Request, reply: Reply) -> None:
        nonlocal asked
        asked += 1
        await reply.json({**listing(row(fresh(ALICE))), "cursor": "7"})

    async with against(handle) as (_, index):
        assert (await index.resolve("org/model")).revision == COMMIT
    assert asked == 2


async def test_doctor_tells_catalogues_that_answer_from_dead_slow_and_lying_ones(
    trackers: Trackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await trackers(others="accept")
    assert (await one.publish(fresh(MALLORY))).status_code == 201
    async with client() as index:
        assert (await check_servers(index)).text == "no catalogue is configured"
    async with client(one.url) as index:
        assert (await check_servers(index)).text == f"answered: {one.url}"
    async with client(one.url, "http://127.0.0.1:1") as index:
        checked = await check_servers(index)
        assert (
            checked.status == "fail" and "http://127.0.0.1:1 (Connection refused)" in checked.text
        )
        assert one.url not in checked.text

    async def stall(request: Request, reply: Reply) -> None:
        await asyncio.sleep(60)

    async def lie(request: Request, reply: Reply) -> None:
        listing = (await one.client.get("/api/v1/torrents")).json()
        listing["torrents"][0]["publication"]["size"] += 1
        await reply.json(listing)

    monkeypatch.setattr(service, "CHECK_S", 0.3)
    async with against(stall) as (_, index):
        assert "does not answer within 0.3 s" in (await check_servers(index)).text
    monkeypatch.setattr(service, "CHECK_S", 8.0)
    async with against(lie) as (_, index):
        checked = await check_servers(index)
        assert checked.status == "fail" and "signature" in checked.text
    assert (await check_servers(None)).status == "fail"


async def test_dead_and_slow_catalogues_do_not_stop_the_others(trackers: Trackers) -> None:
    async def stall(request: Request, reply: Reply) -> None:
        await asyncio.Event().wait()

    one = await trackers(publishers=[ALICE.peer_id])
    assert (await one.publish(fresh(ALICE))).status_code == 201
    async with HttpServer(stall) as slow:
        urls = ("http://127.0.0.1:1", f"http://127.0.0.1:{slow.port}", one.url)
        started = time.monotonic()
        async with client(*urls, timeout_s=0.3) as index:
            (found,) = await index.find(SHA)
            assert found.publisher == ALICE.peer_id
            # Remembered: the next search asks nobody.
            requests = len(slow.requests)
            assert list(await index.find(SHA)) == [found]
            assert len(slow.requests) == requests == 3
        assert time.monotonic() - started < 20
    async with client("http://127.0.0.1:1") as index:
        with pytest.raises(Unavailable, match="cannot connect to http://127"):
            await index.find(SHA)


async def test_server_that_fails_once_is_asked_again() -> None:
    replies = iter([503, 200])

    async def handle(request: Request, reply: Reply) -> None:
        if next(replies, 200) == 503:
            await reply.json({"error": {"message": "the database is away"}}, 503)
        else:
            await reply.json(listing())

    async with against(handle) as (_, index):
        assert list(await index.find(SHA)) == []


async def test_answer_that_was_lost_is_published_once(trackers: Trackers) -> None:
    """The same signed bytes are sent again; the catalogue knows their nonce."""
    one = await trackers(publishers=[ALICE.peer_id])
    losses = iter([True])

    async def between(request: Request, reply: Reply) -> None:
        passed = await one.client.post(
            request.path, content=request.body, headers={"Content-Type": "application/json"}
        )
        if next(losses, False):
            await reply.json({}, 504)
        else:
            await reply.json(passed.json(), passed.status_code)

    async with against(between) as (proxy, index):
        await index.publish(known(), SOURCE)
        assert len(proxy.requests) == 2
    assert len(await one.listed()) == 1


async def test_node_searches_and_shows_by_methods(
    trackers: Trackers, node_factory: NodeFactory
) -> None:
    one = await trackers(publishers=[ALICE.peer_id])
    for name in ("model.safetensors", "pytorch_model.bin"):
        assert (await one.publish(fresh(ALICE, filename=name))).status_code == 201
    off: dict[str, Any] = {**OFF, "catalogue": {"servers": one.url}}
    node = await node_factory({"plugins": off})
    found = await call(node, "catalogue.search", text="PYTORCH")
    assert [f["filename"] for f in found["files"]] == ["pytorch_model.bin"]
    assert found["files"][0]["pickle"] and found["rejected"] == 0
    shown = await call(node, "catalogue.show", name="org/model")
    assert [f["filename"] for f in cast(Sequence[Any], shown["files"])] == [
        "model.safetensors", "pytorch_model.bin",
    ]  # fmt: skip
    with pytest.raises(InvalidParams, match="must be a commit"):
        await call(
            node, "catalogue.publish", path="/x", repo_id="org/model", revision="x", filename="x"
        )


async def test_no_server_is_contacted_unless_configured(node_factory: NodeFactory) -> None:
    node = await node_factory({"plugins": OFF})
    with pytest.raises(Unavailable, match="plugins.catalogue.servers"):
        await call(node, "catalogue.search")
