"""Trackers with a catalogue, and what a client posts to them."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any, cast

import httpx
from pydantic import BaseModel

from aitorrent_tracker.wire.bencode import bencode
from aitorrentd.api import CallContext
from aitorrentd.methods.source import Methods
from aitorrentd.node import Node
from tests.support.catalogue.publishing import Publisher
from tests.support.nodes import NodeFactory, wait_for

OTHERS = (
    "transport",
    "discovery",
    "nat",
    "dht",
    "inference",
    "ollama",
    "openai",
    "shards",
    "seeding",
)
OFF = {name: {"enabled": False} for name in OTHERS}
TOKEN = "the-token-of-the-operator"


async def call(node: Node, name: str, /, **params: Any) -> dict[str, Any]:
    """What a control method returns."""
    method = Methods(node).method(name)[1]
    reply = method.handler(cast(CallContext, None), method.params(**params))
    result = reply if isinstance(reply, BaseModel) else await cast(Any, reply)
    return cast(dict[str, Any], result.model_dump())


class TrackerWithCatalogue:
    """A running tracker and a client of it."""

    def __init__(self, node: Node, port: int, state_dir: Path, settings: Mapping[str, Any]) -> None:
        self.node = node
        self.settings = dict(settings)
        self.state_dir = state_dir
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.AsyncClient(base_url=self.url, timeout=20, trust_env=False)

    async def wait_until_open(self) -> None:
        async def is_open() -> bool:
            return not (await call(self.node, "tracker.stats"))["problem"]

        await wait_for(is_open, 20)

    async def publish(self, body: object) -> httpx.Response:
        return await self.client.post("/api/v1/publish", json=body)

    async def listed(self, **filters: Any) -> list[dict[str, Any]]:
        reply = await self.client.get("/api/v1/torrents", params=filters)
        assert reply.status_code == 200, reply.text
        return cast(list[dict[str, Any]], reply.json()["torrents"])

    async def admin(self, method: str, path: str, token: str = TOKEN) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return await self.client.request(method, f"/api/v1/admin/torrents{path}", headers=headers)

    async def announce(self, info_hash: str, port: int = 7001, left: int = 0) -> bytes:
        escaped = "".join(f"%{info_hash[i : i + 2]}" for i in range(0, 40, 2))
        query = f"info_hash={escaped}&peer_id={'p' * 20}&port={port}&left={left}&event=started"
        reply = await self.client.get(f"/announce?{query}")
        return reply.content


class Trackers:
    """Starts trackers; `close` ends the clients."""

    def __init__(self, factory: NodeFactory, directory: Path) -> None:
        self.factory = factory
        self._directory = directory
        self._made: list[TrackerWithCatalogue] = []

    async def __call__(
        self, database_url: str = "", *, tracker: Mapping[str, Any] | None = None, **catalogue: Any
    ) -> TrackerWithCatalogue:
        """A tracker whose catalogue is open."""
        made: dict[str, Any] = {"admin_token": TOKEN, **catalogue}
        if database_url:
            made["database"] = database_url
        on = {"enabled": True, "listen": ["127.0.0.1"], "port": 0, "catalogue": made}
        state_dir = self._directory / f"tracker-{len(self._made)}"
        state_dir.mkdir(mode=0o700)
        settings = on | dict(tracker or {})
        node = await self.factory({"plugins": {**OFF, "tracker": settings}}, state_dir=state_dir)
        stats = await call(node, "tracker.stats")
        port = int(stats["listening"][0].rpartition(":")[2].partition("/")[0])
        found = TrackerWithCatalogue(node, port, state_dir, settings)
        self._made.append(found)
        await found.wait_until_open()
        return found

    async def close(self) -> None:
        for each in self._made:
            await each.client.aclose()


def fresh(publisher: Publisher, **changes: Any) -> dict[str, Any]:
    """A signed publication of now."""
    return publisher.signed(created_at=int(time.time()), **changes)


def torrent(content: bytes, name: str = "model.safetensors", **info: Any) -> dict[str, Any]:
    """The torrent of a small file: its bytes, and the fields of a publication that tell of it."""
    piece_length = 16 * 1024
    pieces = b"".join(
        sha1(content[at : at + piece_length]).digest()
        for at in range(0, len(content), piece_length)
    )
    fields: dict[bytes, Any] = {
        b"length": len(content),
        b"name": name.encode(),
        b"piece length": piece_length,
        b"pieces": pieces,
        **{key.encode(): value for key, value in info.items()},
    }
    span = bencode(fields)
    return {
        "info": span,
        "metainfo": b"d8:announce20:http://evil.example/4:info" + span + b"e",
        "fields": {
            "size": len(content),
            "sha256": sha256(content).hexdigest(),
            "info_hash": sha1(span).hexdigest(),
            "piece_length": piece_length,
        },
    }


def with_metainfo(posted: dict[str, Any], raw: bytes) -> dict[str, Any]:
    return posted | {"metainfo": b64encode(raw).decode()}
