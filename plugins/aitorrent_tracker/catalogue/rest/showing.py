"""How clients see an entry: with its live swarm, and links that work for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote, urlsplit

from starlette.requests import Request

from aitorrent_tracker.catalogue.config import CatalogueConfig
from aitorrent_tracker.catalogue.rest.gate import KEY
from aitorrent_tracker.catalogue.sql.entries import Entry
from aitorrent_tracker.swarms.storage import Counts, Storage
from aitorrentd.api.network.addresses import host_port

_NO_SEEDS: Final = '"web_seeds":[]'
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")


class Shower:
    """Turns entries into JSON. `udp_port` is 0 if the tracker has no UDP."""

    def __init__(self, storage: Storage, config: CatalogueConfig, udp_port: int) -> None:
        self._storage = storage
        self._config = config
        self._udp_port = udp_port

    def base(self, request: Request) -> str:
        """The origin under which this client reaches the tracker: `http://tracker.example:6969`."""
        if self._config.url:
            return self._config.url
        host = request.headers.get("host", "")
        if not _AUTHORITY.fullmatch(host):
            address, port = request.scope["server"] or ("localhost", 0)
            host = host_port(address, port)
        return f"http://{host}"

    def trackers(self, request: Request) -> list[str]:
        """Announce URLs for this client; those of a private tracker have its key."""
        base = self.base(request)
        key = request.scope.get("state", {}).get(KEY, "")
        path = f"/{key}/announce" if key else "/announce"
        found = [base + path]
        name = urlsplit(base).hostname or ""
        if self._udp_port:
            found.append(f"udp://{host_port(name, self._udp_port)}{path}")
        return found

    def counts(self, entry: Entry) -> Counts:
        """The live swarm of an entry: of its v1 and its v2 info-hash together."""
        if not entry.info_hash_v2:
            return self._storage.counts(bytes.fromhex(entry.info_hash))
        parts = [self._storage.counts(info_hash) for info_hash in entry.info_hashes]
        return Counts(*(sum(numbers) for numbers in zip(*parts, strict=True)))

    def seeds(self, info_hashes: Iterable[bytes]) -> list[int]:
        """Live seeders of each torrent."""
        return [self._storage.counts(info_hash).seeds for info_hash in info_hashes]

    def announced(self, request: Request) -> str:
        """The end of magnet links for this client: its trackers."""
        return "".join(f"&tr={quote(url, safe='')}" for url in self.trackers(request))

    def magnet(self, entry: Entry, announced: str) -> str:
        """A magnet link (BEP 9) with the signed web seeds, and an end that `announced` made."""
        topics = [f"xt=urn:btih:{entry.info_hash}"]
        if entry.info_hash_v2:
            topics.append(f"xt=urn:btmh:1220{entry.info_hash_v2}")
        name = entry.filename.rpartition("/")[2] or entry.repo_id
        topics += [f"dn={quote(name, safe='')}", f"xl={entry.size}"]
        if _NO_SEEDS not in entry.document:
            seeds = (entry.publication() or {}).get("web_seeds", ())
            topics += [f"ws={quote(url, safe='')}" for url in seeds]
        return "magnet:?" + "&".join(topics) + announced

    def shown(self, entry: Entry, announced: str) -> dict[str, Any]:
        """An entry as JSON; `announced` is the end of its magnet link."""
        seeds, leechers, completed = self.counts(entry)
        return {
            "id": entry.id,
            "repo_id": entry.repo_id,
            "commit_hash": entry.commit_hash,
            "filename": entry.filename,
            "total_size": entry.size,
            "file_count": entry.file_count,
            "sha256": entry.sha256,
            "info_hash": entry.info_hash,
            "info_hash_v2": entry.info_hash_v2,
            "v2_root": entry.v2_root,
            "piece_length": entry.piece_length,
            "gated": entry.gated,
            "publisher": entry.publisher,
            "state": entry.state,
            "published_at": entry.published_at,
            "seeders": seeds,
            "leechers": leechers,
            "completed": completed,
            "magnet_link": self.magnet(entry, announced),
            "publication": entry.publication(),
            "signature": entry.signature,
        }
