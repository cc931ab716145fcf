"""The catalogue of a running tracker over HTTP, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import time
from hashlib import sha1, sha256
from typing import Any

import httpx
import libtorrent
import pytest

from aitorrent_tracker.wire.bencode import bencode
from aitorrentd.api.models.publications import read_signed
from tests.support.catalogue.publishing import COMMIT, Publisher
from tests.support.catalogue.trackers import (
    TOKEN,
    Trackers,
    TrackerWithCatalogue,
    call,
    fresh,
    torrent,
    with_metainfo,
)
from tests.support.nodes import wait_for

ALICE, BOB, MALLORY = Publisher("alice"), Publisher("bob"), Publisher("mallory")
LISTED: dict[str, Any] = {"publishers": [ALICE.peer_id, BOB.peer_id]}


async def test_what_is_published_is_found_signed_and_served_by_the_tracker(
    trackers: Trackers, database_url: str
) -> None:
    one = await trackers(database_url, **LISTED)
    posted = fresh(ALICE)
    info_hash = posted["publication"]["info_hash"]
    assert b"unregistered torrent" in await one.announce(info_hash)
    reply = await one.publish(posted)
    assert reply.status_code == 201, reply.text
    assert b"complete" in await one.announce(info_hash, 7001, left=0)
    await one.announce(info_hash, 7002, left=5)
    (found,) = await one.listed(sha256=posted["publication"]["sha256"])
    assert (found["seeders"], found["leechers"]) == (1, 1)
    assert found["magnet_link"].startswith(f"magnet:?xt=urn:btih:{info_hash}&dn=model.safetensors")
    assert f"tr=http%3A%2F%2F127.0.0.1%3A{one.port}%2Fannounce" in found["magnet_link"]
    assert f"tr=udp%3A%2F%2F127.0.0.1%3A{one.port}%2Fannounce" in found["magnet_link"]
    # The client needs no trust in the server: the signature is the publisher's.
    assert read_signed(found)[0].publisher == ALICE.peer_id
    assert (await call(one.node, "tracker.stats"))["published"] == 1


async def test_each_filter_finds_its_files_and_pages_neither_repeat_nor_skip(
    trackers: Trackers, database_url: str
) -> None:
    one = await trackers(database_url, **LISTED)
    for number in range(7):
        body = fresh(ALICE, repo_id="org/Big", filename=f"part-{number}.safetensors")
        assert (await one.publish(body)).status_code == 201
    other = fresh(BOB, repo_id="bob/under_score", commit_hash="b" * 40, filename="a_b/ÄRGER.gguf")
    assert (await one.publish(other)).status_code == 201
    assert len(await one.listed()) == 8
    assert len(await one.listed(repo_id="org/Big")) == 7
    assert len(await one.listed(revision="b" * 40)) == 1
    assert len(await one.listed(filename="part-3.safetensors")) == 1
    assert len(await one.listed(publisher=BOB.peer_id)) == 1
    assert len(await one.listed(q="BIG part-5")) == 1
    assert len(await one.listed(q="ärger")) == 1
    assert len(await one.listed(q="under_score")) == 1
    # Parts of words count, also short ones, and so do quotes and words of the index's language.
    assert len(await one.listed(q="er_sc ärge")) == len(await one.listed(q="r_ .g")) == 1
    for text in (
        '"under_score',
        "under_score NOT xyz",
        "under* AND",
        "-under_score",
    ):
        assert await one.listed(q=text) == []
    # Wildcards of SQL are characters like any other.
    assert await one.listed(q="%") == await one.listed(q="t_r") == []
    assert await one.listed(q="'; DROP TABLE catalogue_publications; --") == []
    assert await one.listed(repo_id="org/Big' OR '1'='1") == []
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page: dict[str, Any] = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        reply = (await one.client.get("/api/v1/torrents", params=page)).json()
        assert reply["total"] == 8 and len(reply["torrents"]) <= 3
        seen += [each["filename"] for each in reply["torrents"]]
        cursor = reply["cursor"]
        if len(seen) == 3:  # published while somebody pages
            assert (await one.publish(fresh(BOB, filename="new.gguf"))).status_code == 201
            assert (await one.listed(limit=1))[0]["filename"] == "new.gguf"
            assert (
                await one.admin("DELETE", f"/{(await one.listed())[0]['id']}")
            ).status_code == 200
    assert len(seen) == len(set(seen)) == 8


async def test_file_is_published_once_and_only_its_publisher_replaces_it(
    trackers: Trackers, database_url: str
) -> None:
    one = await trackers(database_url, **LISTED)
    first = fresh(ALICE)
    old = first["publication"]["info_hash"]
    assert (await one.publish(first)).status_code == 201
    again = await one.publish(fresh(ALICE))
    assert again.status_code == 200 and again.json()["outcome"] == "unchanged"
    by_bob = await one.publish(fresh(BOB))
    assert by_bob.status_code == 200 and by_bob.json()["publisher"] == ALICE.peer_id
    for other in (
        fresh(BOB, info_hash="b" * 40),
        fresh(BOB, info_hash="b" * 40, supersedes=old),
        fresh(ALICE, info_hash="b" * 40),
        fresh(ALICE, info_hash="b" * 40, supersedes="c" * 40),
        fresh(BOB, sha256="e" * 64),
        fresh(BOB, size=7),
    ):
        reply = await one.publish(other)
        assert reply.status_code == 409
        assert "supersedes" in reply.json()["error"]["message"]
    reply = await one.publish(fresh(ALICE, info_hash="b" * 40, supersedes=old))
    assert reply.status_code == 200 and reply.json()["outcome"] == "updated"
    (found,) = await one.listed()
    assert found["info_hash"] == "b" * 40 == read_signed(found)[0].info_hash
    assert b"unregistered" in await one.announce(old)
    assert b"complete" in await one.announce("b" * 40)


async def test_replay_changes_nothing_even_after_a_restart(
    trackers: Trackers, database_url: str
) -> None:
    one = await trackers(database_url, **LISTED)
    first = fresh(ALICE)
    old = first["publication"]["info_hash"]
    assert (await one.publish(first)).status_code == 201
    # A client that did not get its answer asks again.
    assert (await one.publish(first)).json()["outcome"] == "unchanged"
    second = fresh(ALICE, info_hash="b" * 40, supersedes=old)
    assert (await one.publish(second)).status_code == 200
    reply = await one.publish(first)
    assert reply.status_code == 409 and "new nonce" in reply.json()["error"]["message"]
    state = one.state_dir
    await one.node.stop()
    on = {"enabled": True, "listen": ["127.0.0.1"], "port": one.port}
    made = {**LISTED, **({"database": database_url} if database_url else {})}
    await trackers.factory(
        {"plugins": {"tracker": {**on, "catalogue": made}}, "node": {"state_dir": str(state)}}
    )

    async def is_refused() -> bool:
        return (await one.publish(first)).status_code == 409

    await wait_for(is_refused, 20)
    assert [each["info_hash"] for each in await one.listed()] == ["b" * 40]
    assert b"complete" in await one.announce("b" * 40)


def signed_at(seconds: float) -> dict[str, Any]:
    return ALICE.signed(created_at=int(time.time() + seconds))


def forged() -> dict[str, Any]:
    return fresh(ALICE) | {"signature": fresh(BOB)["signature"]}


def changed(**fields: Any) -> dict[str, Any]:
    posted = fresh(ALICE)
    posted["publication"] |= fields
    return posted


REFUSED_PUBLISHES: dict[str, tuple[Any, int, str]] = {
    "not an object": (lambda: [1, 2], 400, "must be a JSON object"),
    "nothing in it": (dict, 400, "publication must be a JSON object"),
    "a field that nobody knows": (
        lambda: fresh(ALICE) | {"torrent_url": "http://10.0.0.1/x"}, 400, "no field 'torrent_url'"
    ),
    "no signature": (lambda: {"publication": fresh(ALICE)["publication"]}, 400, "signature must"),
    "a signature that is no hexadecimal": (
        lambda: fresh(ALICE) | {"signature": "z" * 128}, 400, "signature must be the publisher's"
    ),
    "somebody else's signature": (forged, 400, "signature must be the publisher's"),
    "a field changed after signing": (lambda: changed(size=1), 400, "signature must be the"),
    "another publisher after signing": (
        lambda: changed(publisher=BOB.peer_id), 400, "signature must be the publisher's"
    ),
    "signed an hour ago": (lambda: signed_at(-3600), 400, "created_at must be within 300 s"),
    "signed in the future": (lambda: signed_at(3600), 400, "created_at must be within 300 s"),
    "a stranger": (lambda: fresh(MALLORY), 403, "may not publish here; ask the operator"),
    "a web seed on another host": (
        lambda: fresh(ALICE, web_seeds=("https://files.example/f",)), 400, "huggingface.co"
    ),
    "a web seed in the local network": (
        lambda: fresh(ALICE, web_seeds=("https://router.lan/f",)), 400, "web_seeds must be https"
    ),
    "a path that leaves the repository": (
        lambda: changed(filename="../../etc/passwd"), 400, "filename must be relative"
    ),
    "a name written from right to left": (
        lambda: changed(filename="a\u202esrotnesefas.bin"), 400, "filename must not have control"
    ),
    "metainfo that is no base64": (
        lambda: fresh(ALICE) | {"metainfo": "§"}, 400, "metainfo must be base64"
    ),
    "metainfo that is a number": (lambda: fresh(ALICE) | {"metainfo": 5}, 400, "metainfo must"),
    "metainfo that is no bencode": (
        lambda: with_metainfo(fresh(ALICE), b"hello"), 400, "metainfo: a torrent must be"
    ),
    "metainfo of another torrent": (
        lambda: with_metainfo(fresh(ALICE), torrent(b"x")["metainfo"]), 400, "another info-hash"
    ),
}  # fmt: skip


@pytest.fixture
async def tracker(trackers: Trackers) -> TrackerWithCatalogue:
    return await trackers(**LISTED)


@pytest.mark.parametrize("name", REFUSED_PUBLISHES)
async def test_hostile_publish_is_refused_with_a_reason(
    tracker: TrackerWithCatalogue, name: str
) -> None:
    make, status, reason = REFUSED_PUBLISHES[name]
    reply = await tracker.publish(make())
    assert reply.status_code == status, reply.text
    assert reason in reply.json()["error"]["message"]
    assert await tracker.listed() == []


REFUSED_BODIES: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "half": (b'{"publication": {', 400),
    "not UTF-8": (b'"\xff\xfe"', 400),
    "a key twice": (b'{"signature": "", "signature": ""}', 400),
    "not a number": (b'{"publication": NaN}', 400),
    "nested too deep": (b"[" * 100_000 + b"]" * 100_000, 400),
    "a number with a million digits": (b"1" * 1_000_000, 400),
    "too long": (b'"' + b"x" * (6 * 2**20) + b'"', 413),
}


@pytest.mark.parametrize("name", REFUSED_BODIES)
async def test_hostile_body_is_refused(tracker: TrackerWithCatalogue, name: str) -> None:
    raw, status = REFUSED_BODIES[name]
    headers = {"Content-Type": "application/json"}
    reply = await tracker.client.post("/api/v1/publish", content=raw, headers=headers)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["message"]


async def test_browsers_of_other_sites_cannot_publish(tracker: TrackerWithCatalogue) -> None:
    """Only a request with a preflight may have this content type, and none is answered."""
    raw = json.dumps(fresh(ALICE))
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"Content-Type": kind, "Origin": "https://evil.example"}
        reply = await tracker.client.post("/api/v1/publish", content=raw, headers=headers)
        assert reply.status_code == 400 and "application/json" in reply.text
    reply = await tracker.client.options("/api/v1/publish", headers={"Origin": "https://e.example"})
    assert reply.status_code == 405
    reply = await tracker.client.get("/api/v1/torrents", headers={"Origin": "https://e.example"})
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/api/v1/torrents?limit=0", "limit must be a whole number from 1 to 200"),
        ("/api/v1/torrents?limit=201", "limit must be"),
        ("/api/v1/torrents?limit=+5", "limit must be"),
        ("/api/v1/torrents?limit=1_0", "limit must be"),
        ("/api/v1/torrents?limit=%D9%A1", "limit must be"),
        ("/api/v1/torrents?cursor=-1", "cursor must be"),
        ("/api/v1/torrents?cursor=" + "9" * 19, "cursor must be"),
        ("/api/v1/torrents?repo=org/model", "unknown parameter 'repo'; known: q, sha256"),
        ("/api/v1/torrents?q=a&q=b", "q is repeated"),
        ("/api/v1/torrents?q=%00", "q has a NUL"),
        ("/api/v1/torrents?q=" + "x" * 1100, "more than 1024 characters"),
        ("/api/v1/file-sources", "give root"),
        ("/api/v1/file-sources?root=abc&size=1", "give root"),
        ("/api/v1/file-sources?root=" + "a" * 64 + "&size=-1", "size must be"),
        ("/api/v1/torrents/xyz.torrent", "40 hexadecimal digits"),
    ],
)
async def test_wrong_query_says_what_is_right(
    tracker: TrackerWithCatalogue, path: str, reason: str
) -> None:
    reply = await tracker.client.get(path)
    assert reply.status_code == 400
    assert reason in reply.json()["error"]["message"]


async def test_what_is_not_there_is_404_and_wrong_methods_are_405(
    tracker: TrackerWithCatalogue,
) -> None:
    for path in ("/api/v1/nothing", "/api/v2/torrents", "/static/../../../etc/passwd", "/.env"):
        reply = await tracker.client.get(path)
        assert reply.status_code == 404, path
        assert reply.json()["error"]["code"] == "not_found"
    reply = await tracker.client.get(f"/api/v1/torrents/{'a' * 40}.torrent")
    assert reply.status_code == 404 and "magnet" in reply.json()["error"]["message"]
    for method, path in (("GET", "/api/v1/publish"), ("PUT", "/api/v1/torrents"), ("POST", "/")):
        reply = await tracker.client.request(method, path)
        assert reply.status_code == 405 and reply.json()["error"]["message"]
    assert (await tracker.client.head("/api/v1/torrents")).status_code == 200


async def test_every_answer_forbids_sniffing_and_strangers_scripts(
    tracker: TrackerWithCatalogue,
) -> None:
    for path in ("/", "/api/v1/torrents", "/static/catalogue.js", "/nothing", "/models/a/b"):
        headers = (await tracker.client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["content-security-policy"].startswith("default-src 'self';"), path
        assert "server" not in headers


async def test_torrent_file_keeps_the_info_dictionary_byte_for_byte(
    trackers: Trackers, database_url: str
) -> None:
    one = await trackers(
        database_url, url="https://tracker.example", **LISTED
    )  # fmt: skip
    made = torrent(b"weights" * 9000, private=1, source=b"net", zzz=b"unknown to us")
    seed = "https://huggingface.co/org/model/resolve/main/model.safetensors"
    body = with_metainfo(fresh(ALICE, web_seeds=(seed,), **made["fields"]), made["metainfo"])
    assert (await one.publish(body)).status_code == 201
    info_hash = made["fields"]["info_hash"]
    reply = await one.client.get(f"/api/v1/torrents/{info_hash.upper()}.torrent")
    assert reply.headers["content-type"] == "application/x-bittorrent"
    assert reply.headers["content-disposition"].endswith("''model.safetensors.torrent")
    raw = reply.content
    assert b"4:info" + made["info"] in raw and b"evil.example" not in raw
    assert b"8:announce32:https://tracker.example/announce" in raw
    assert b"8:url-listl63:" + seed.encode() in raw or seed.encode() in raw
    span = raw[raw.index(b"4:info") + 6 :][: len(made["info"])]
    assert sha1(span).hexdigest() == info_hash
    loaded = libtorrent.torrent_info(raw)
    assert str(loaded.info_hash()) == info_hash
    assert (await one.admin("DELETE", "/1")).status_code == 200
    assert (await one.client.get(f"/api/v1/torrents/{info_hash}.torrent")).status_code == 404


def metainfo_of(span: bytes) -> bytes:
    return b"d4:info" + span + b"e"


HOSTILE_INFOS: dict[str, tuple[dict[bytes, Any], str]] = {
    "a name with a slash": ({b"name": b"a/b"}, "name in metainfo"),
    "a name that goes up": ({b"name": b".."}, "name in metainfo must be relative"),
    "a name that is no text": ({b"name": b"\xff"}, "name in metainfo must be UTF-8"),
    "a name with a line feed": ({b"name": b"a\nb"}, "name in metainfo must not have control"),
    "a symbolic link": ({b"attr": b"l"}, "symbolic link"),
    "several files": ({b"files": []}, "must be of one file"),
    "another size": ({b"length": 99}, "must be of one file"),
    "another piece length": ({b"piece length": 32768}, "another piece length"),
    "too few pieces": ({b"pieces": b""}, "piece hashes"),
    "a v2 part that was not published": ({b"meta version": 2}, "another v2 info-hash"),
}


@pytest.mark.parametrize("name", HOSTILE_INFOS)
async def test_hostile_torrent_file_is_refused(tracker: TrackerWithCatalogue, name: str) -> None:
    changes, reason = HOSTILE_INFOS[name]
    content = b"x" * 100
    fields: dict[bytes, Any] = {
        b"length": 100, b"name": b"f", b"piece length": 16384, b"pieces": sha1(content).digest(),
    }  # fmt: skip
    span = bencode(fields | changes)
    publication = {
        "size": 100, "piece_length": 16384, "info_hash": sha1(span).hexdigest(),
        "sha256": sha256(content).hexdigest(),
    }  # fmt: skip
    reply = await tracker.publish(with_metainfo(fresh(ALICE, **publication), metainfo_of(span)))
    assert reply.status_code == 400
    assert reason in reply.json()["error"]["message"]


async def test_same_bytes_are_found_by_their_v2_root_whatever_they_are_called(
    trackers: Trackers, database_url: str
) -> None:
    one = await trackers(database_url, **LISTED)
    for commit in ("a" * 40, "b" * 40):
        body = fresh(ALICE, commit_hash=commit, v2_root="d" * 64)
        assert (await one.publish(body)).status_code == 201
    assert (await one.publish(fresh(ALICE, filename="x", v2_root="d" * 64, size=9))).is_success
    query: dict[str, Any] = {"root": "D" * 64, "size": 5 * 2**20}
    reply = await one.client.get("/api/v1/file-sources", params=query)
    assert [e["commit_hash"] for e in reply.json()["torrents"]] == ["a" * 40, "b" * 40]


async def test_operator_approves_and_removes(trackers: Trackers, database_url: str) -> None:
    one = await trackers(database_url, others="approve", **LISTED)
    posted = fresh(MALLORY)
    info_hash = posted["publication"]["info_hash"]
    reply = await one.publish(posted)
    assert reply.status_code == 202 and reply.json()["state"] == "pending"
    assert await one.listed() == [] and b"unregistered" in await one.announce(info_hash)
    for path, method in (("", "GET"), ("/1/approve", "POST"), ("/1", "DELETE")):
        assert (await one.admin(method, path, "x" * 25)).status_code == 403
    (waiting,) = (await one.admin("GET", "?state=pending")).json()["torrents"]
    assert (await one.admin("POST", f"/{waiting['id']}/approve")).json()["state"] == "approved"
    assert b"complete" in await one.announce(info_hash, 7009)
    peers = (await one.admin("GET", f"/{info_hash}/peers")).json()["peers"]
    assert peers == [{"ip": "127.0.0.1", "port": 7009, "is_seed": True}]
    assert (await one.admin("DELETE", f"/{waiting['id']}")).json()["state"] == "removed"
    assert await one.listed() == [] and b"unregistered" in await one.announce(info_hash)
    reply = await one.publish(fresh(MALLORY))
    assert reply.status_code == 403 and "removed this file" in reply.json()["error"]["message"]
    assert (await one.admin("POST", "/99/approve")).status_code == 404
    assert (await one.admin("POST", "/x/approve")).status_code == 400


async def test_squatter_gives_way_to_a_listed_publisher(trackers: Trackers) -> None:
    one = await trackers(others="approve", **LISTED)
    assert (await one.publish(fresh(MALLORY, info_hash="e" * 40))).status_code == 202
    assert (await one.publish(fresh(ALICE))).json()["state"] == "approved"
    (found,) = await one.listed()
    assert found["publisher"] == ALICE.peer_id and found["info_hash"] != "e" * 40


async def test_limits_hold_what_strangers_can_store(trackers: Trackers) -> None:
    limits = {"pending": 1, "per_publisher": 2, "entries": 4}
    one = await trackers(others="approve", limits=limits, **LISTED)
    assert (await one.publish(fresh(MALLORY, filename="a"))).status_code == 202
    reply = await one.publish(fresh(MALLORY, filename="b"))
    assert reply.status_code == 429 and "wait for the operator" in reply.text
    for name in ("c", "d"):
        assert (await one.publish(fresh(ALICE, filename=name))).status_code == 201
    reply = await one.publish(fresh(ALICE, filename="e"))
    assert reply.status_code == 429 and "you have published 2 files" in reply.text
    assert (await one.publish(fresh(BOB, filename="f"))).status_code == 201
    reply = await one.publish(fresh(BOB, filename="g"))
    assert reply.status_code == 429 and "full" in reply.text


async def test_without_a_token_there_is_no_admin(trackers: Trackers) -> None:
    one = await trackers(admin_token=None, **LISTED)
    for token in ("x", "x" * 20):
        reply = await one.client.get(
            "/api/v1/admin/torrents", headers={"Authorization": f"Bearer {token}"}
        )
        assert reply.status_code == 404 and "admin_token" in reply.text


async def test_private_tracker_shows_its_catalogue_to_holders_of_a_key(
    trackers: Trackers,
) -> None:
    key = "k" * 20
    one = await trackers(tracker={"keys": [key]}, **LISTED)
    assert (await one.publish(fresh(ALICE))).status_code == 401
    for auth in (("", "wrong-key-wrong-key"), ("anyone", "")):
        reply = await one.client.get("/", auth=auth)
        assert reply.status_code == 401 and "Basic" in reply.headers["www-authenticate"]
    bearer = {"Authorization": f"Bearer {key}"}
    reply = await one.client.post("/api/v1/publish", json=fresh(ALICE), headers=bearer)
    assert reply.status_code == 201
    reply = await one.client.get("/api/v1/torrents", auth=("anyone", key))
    assert f"%2F{key}%2Fannounce" in reply.json()["torrents"][0]["magnet_link"]
    assert (await one.admin("GET", "")).status_code == 200
    reply = await one.client.get("/api/v1/torrents", headers={"Authorization": f"Bearer {TOKEN}"})
    assert key not in reply.text


async def test_announces_and_pages_share_a_connection(tracker: TrackerWithCatalogue) -> None:
    await tracker.publish(fresh(ALICE))
    (found,) = await tracker.listed()
    escaped = "".join(f"%{found['info_hash'][i : i + 2]}" for i in range(0, 40, 2))
    query = f"info_hash={escaped}&peer_id={'q' * 20}&port=7005&left=0"
    announce = f"GET /announce?{query} HTTP/1.1\r\nHost: t\r\n\r\n".encode()
    scrape = f"GET /scrape?info_hash={escaped} HTTP/1.1\r\nHost: t\r\n\r\n".encode()
    page = b"GET /api/v1/torrents HTTP/1.1\r\nHost: t\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", tracker.port)

    async def reply() -> bytes:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return await asyncio.wait_for(reader.readexactly(size), 10)

    try:
        # Also pipelined: what was read with an announce belongs to the page behind it.
        writer.write(announce + page + announce)
        assert b"8:complete" in await reply()
        assert json.loads(await reply())["total"] == 1
        assert b"8:completei1e" in await reply()
        for raw, sign in ((scrape, b"5:files"), (page, b"torrents"), (announce, b"8:complete")):
            writer.write(raw)
            assert sign in await reply()
        writer.write(page[:20])
        await asyncio.sleep(0)
        writer.write(page[20:])
        assert b"torrents" in await reply()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_connections_that_were_handed_over_count_and_are_forgotten(
    tracker: TrackerWithCatalogue,
) -> None:
    await tracker.client.aclose()

    async def connections() -> int:
        return int((await call(tracker.node, "tracker.stats"))["connections"])

    async def is_alone() -> bool:
        return await connections() == 0

    await wait_for(is_alone)
    async with httpx.AsyncClient(base_url=tracker.url, trust_env=False) as client:
        assert (await client.get("/api/v1/torrents")).status_code == 200
        assert await connections() == 1
    await wait_for(is_alone)


async def test_header_and_request_that_never_end_are_cut_off(
    tracker: TrackerWithCatalogue,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", tracker.port)
    writer.write(b"GET /models/a HTTP/1.1\r\nX-Filler: ")
    writer.write(b"x" * 40_000)
    reply = await asyncio.wait_for(reader.read(), 10)
    assert reply.startswith(b"HTTP/1.1 431")
    writer.close()


async def test_requests_of_one_network_are_limited(trackers: Trackers) -> None:
    proxied = {"trusted_proxies": ["127.0.0.1/32"], "limits": {"requests_per_s": 1}}
    one = await trackers(tracker=proxied, **LISTED)
    reply = await one.client.get("/api/v1/torrents")
    assert reply.status_code == 400 and "X-Forwarded-For" in reply.text
    headers = {"X-Forwarded-For": "198.51.100.7"}
    replies = [await one.client.get("/api/v1/torrents", headers=headers) for _ in range(20)]
    assert {reply.status_code for reply in replies} == {200, 429}
    refused = [reply for reply in replies if reply.status_code == 429]
    assert {reply.headers["retry-after"] for reply in refused} == {"60"}


async def test_publication_of_commit_is_found_by_its_revision(
    tracker: TrackerWithCatalogue,
) -> None:
    await tracker.publish(fresh(ALICE))
    assert len(await tracker.listed(revision=COMMIT.upper())) == 1
