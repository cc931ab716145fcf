"""Requests to one catalogue.

The plugin imports this module in a thread when it makes the first request: httpx takes a few
megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from aitorrent_catalogue.config import ServerConfig
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Conflict,
    Denied,
    InvalidParams,
    NotFound,
    ProtocolError,
    Unavailable,
)
from aitorrentd.api.relays.client import HttpServer

MAX_ANSWER_BYTES: Final = 8 * 2**20
MAX_METAINFO_BYTES: Final = 5 * 2**20
_KINDS: Final[Mapping[int, type[AitorrentError]]] = {
    400: InvalidParams,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    413: InvalidParams,
    429: Busy,
}
_SHOWN_CHARS: Final = 300


class CatalogueConnection:
    """Connections to one catalogue; end them with `close`."""

    def __init__(self, config: ServerConfig, timeout_s: float) -> None:
        self.name = urlsplit(config.url).netloc
        key = config.key.get_secret_value().strip() if config.key is not None else ""
        self._http = HttpServer(
            f"catalogue {self.name}",
            config.url,
            refused=self._refusal,
            absent=lambda reason: Unavailable(
                f"catalogue {self.name}: cannot connect to {config.url} ({reason})"
            ),
            connect_timeout_s=timeout_s,
            read_timeout_s=timeout_s,
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def listing(self, asked: Mapping[str, str | int]) -> Any:
        """The JSON of a page of a listing.

        Raises:
            AitorrentError: the server refused, or cannot be reached.
        """
        path = f"/api/v1/torrents?{urlencode(asked)}"
        return await self._http.fetch("GET", path, max_bytes=MAX_ANSWER_BYTES)

    async def publish(self, body: Mapping[str, Any]) -> Any:
        """The JSON of the answer to a publication.

        Raises:
            AitorrentError: the server refused, or cannot be reached.
        """
        return await self._http.fetch("POST", "/api/v1/publish", body, max_bytes=MAX_ANSWER_BYTES)

    async def metainfo(self, info_hash: str) -> bytes:
        """The .torrent file of a publication; its info-hash is not verified.

        Raises:
            AitorrentError: there is none, or the server cannot be reached.
        """
        whole = bytearray()
        async with self._http.opened("GET", f"/api/v1/torrents/{info_hash}.torrent") as answer:
            async for part in answer.parts:
                whole += part
                if len(whole) > MAX_METAINFO_BYTES:
                    raise ProtocolError(
                        f"catalogue {self.name} sent a .torrent file that is too long"
                    )
        return bytes(whole)

    def _refusal(self, status: int, answer: bytes, _: Mapping[str, Any]) -> AitorrentError:
        """The error that the catalogue reports, with its own words."""
        try:
            found = json.loads(answer)["error"]["message"]
            text = "".join(c for c in str(found) if c.isprintable())[:_SHOWN_CHARS]
        except (ValueError, KeyError, TypeError, RecursionError):
            text = f"HTTP status {status}"
        return _KINDS.get(status, Unavailable)(f"catalogue {self.name}: {text}")
