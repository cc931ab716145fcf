"""The REST API: publish, search, download, administer."""

from __future__ import annotations

import ipaddress
import re
from itertools import islice
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aitorrent_tracker.catalogue.rest.reading import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    json_body,
    path_id,
    query,
    whole,
)
from aitorrent_tracker.catalogue.rest.showing import Shower
from aitorrent_tracker.catalogue.service import Catalogue
from aitorrent_tracker.catalogue.sql.entries import APPROVED, REMOVED, STATES
from aitorrent_tracker.catalogue.sql.searching import Search
from aitorrent_tracker.catalogue.sql.store import CREATED
from aitorrent_tracker.catalogue.torrents.metainfo import served_metainfo
from aitorrent_tracker.swarms.storage import Storage
from aitorrentd.api import Denied, InvalidParams, NotFound

_FILTERS: Final = (
    "q", "sha256", "repo_id", "revision", "filename", "publisher", "info_hash", "limit", "cursor",
)  # fmt: skip
_HASH: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_ROOT: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
MAX_PEERS: Final = 1000
"Peers of one torrent that the administrator sees at once."


class Api:
    """The handlers of the routes."""

    def __init__(self, catalogue: Catalogue, storage: Storage, shower: Shower) -> None:
        self._catalogue = catalogue
        self._storage = storage
        self._shower = shower

    def routes(self) -> list[Route]:
        """All of them."""
        base, admin = "/api/v1", "/api/v1/admin/torrents"
        return [
            Route(f"{base}/publish", self.publish, methods=["POST"]),
            Route(f"{base}/torrents", self.torrents),
            Route(f"{base}/torrents/{{info_hash}}.torrent", self.torrent_file),
            Route(f"{base}/file-sources", self.file_sources),
            Route(admin, self.admin_list),
            Route(f"{admin}/{{id}}/approve", self.approve, methods=["POST"]),
            Route(f"{admin}/{{id}}", self.remove, methods=["DELETE"]),
            Route(f"{admin}/{{info_hash}}/peers", self.peers),
        ]

    async def publish(self, request: Request) -> Response:
        """201 for a new publication, 202 if it waits for the operator, 200 if it was known."""
        outcome = await self._catalogue.publish(await json_body(request))
        shown = self._shower.shown(outcome.entry, self._shower.announced(request))
        shown["outcome"] = outcome.what
        waits = outcome.entry.state != APPROVED
        status = 202 if waits else 201 if outcome.what == CREATED else 200
        return JSONResponse(shown, status)

    async def torrents(self, request: Request) -> Response:
        """Approved entries that match all filters, the newest first."""
        return await self._listed(request, query(request, _FILTERS), APPROVED)

    async def _listed(self, request: Request, asked: Any, state: str) -> Response:
        limit = whole(asked, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        entries, total = await self._catalogue.store.search(
            Search(
                text=asked.get("q", ""),
                sha256=asked.get("sha256", "").lower(),
                repo_id=asked.get("repo_id", ""),
                commit_hash=asked.get("revision", "").lower(),
                filename=asked.get("filename", ""),
                publisher=asked.get("publisher", ""),
                info_hash=asked.get("info_hash", "").lower(),
                state=state,
            ),
            before=whole(asked, "cursor", 0, 1),
            limit=limit + 1,
        )
        announced = self._shower.announced(request)
        shown = [self._shower.shown(entry, announced) for entry in entries[:limit]]
        cursor = str(entries[limit - 1].id) if len(entries) > limit else None
        return JSONResponse({"torrents": shown, "total": total, "cursor": cursor})

    async def torrent_file(self, request: Request) -> Response:
        """The .torrent file that was uploaded with a publication, with this tracker in it."""
        info_hash = request.path_params["info_hash"].lower()
        if not _HASH.fullmatch(info_hash):
            raise InvalidParams("the info-hash must have 40 hexadecimal digits")
        raw, entry = await self._catalogue.store.metainfo(info_hash)
        publication = entry.publication() or {}
        body = served_metainfo(
            raw, self._shower.trackers(request), publication.get("web_seeds", ())
        )
        name = quote(entry.filename.rpartition("/")[2] + ".torrent", safe="")
        return Response(
            body,
            media_type="application/x-bittorrent",
            headers={"Content-Disposition": f"attachment; filename*=UTF-8''{name}"},
        )

    async def file_sources(self, request: Request) -> Response:
        """Torrents that have the same bytes, whatever they are called."""
        asked = query(request, ("root", "size"))
        root = asked.get("root", "").lower()
        if not _ROOT.fullmatch(root) or "size" not in asked:
            raise InvalidParams("give root, the 64 hexadecimal digits of BEP 52, and size in bytes")
        entries = await self._catalogue.store.sources(
            root, whole(asked, "size", 0, 1), limit=MAX_LIMIT
        )
        announced = self._shower.announced(request)
        return JSONResponse({"torrents": [self._shower.shown(e, announced) for e in entries]})

    async def admin_list(self, request: Request) -> Response:
        """Entries in any state; `state=pending` are those that wait."""
        self._check_admin(request)
        asked = query(request, (*_FILTERS, "state"))
        state = asked.get("state", "pending")
        if state not in STATES:
            raise InvalidParams(f"state must be one of {', '.join(STATES)}")
        return await self._listed(request, asked, state)

    async def approve(self, request: Request) -> Response:
        """List an entry."""
        return await self._set_state(request, APPROVED)

    async def remove(self, request: Request) -> Response:
        """Remove an entry; it cannot be published again until it is approved."""
        return await self._set_state(request, REMOVED)

    async def _set_state(self, request: Request, state: str) -> Response:
        self._check_admin(request)
        entry = await self._catalogue.set_state(path_id(request), state)
        return JSONResponse(self._shower.shown(entry, self._shower.announced(request)))

    async def peers(self, request: Request) -> Response:
        """Peers of a torrent, as they announced themselves."""
        self._check_admin(request)
        info_hash = request.path_params["info_hash"].lower()
        if not _HASH.fullmatch(info_hash):
            raise InvalidParams("the info-hash must have 40 hexadecimal digits")
        found = islice(self._storage.peers(bytes.fromhex(info_hash)), MAX_PEERS)
        shown = [
            {
                "ip": str(ipaddress.ip_address(entry[:-2])),
                "port": int.from_bytes(entry[-2:], "big"),
                "is_seed": is_seed,
            }
            for entry, _, is_seed, _ in found
        ]
        return JSONResponse({"peers": shown})

    def _check_admin(self, request: Request) -> None:
        if not self._catalogue.has_admin:
            raise NotFound(
                "this tracker has no admin API; set plugins.tracker.catalogue.admin_token"
            )
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._catalogue.is_admin(token.strip()):
            raise Denied("send Authorization: Bearer, with the token of the administrator")
