"""Which publications are taken: whose, when signed, and with what beside them. No I/O."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from aitorrent_tracker.catalogue.config import CatalogueConfig
from aitorrent_tracker.catalogue.sql.entries import APPROVED, PENDING, Entry, entry_from
from aitorrent_tracker.catalogue.torrents.metainfo import MAX_METAINFO_BYTES, check_metainfo
from aitorrentd.api import Denied, ProtocolError
from aitorrentd.api.models.publications import Publication, read_signed

WINDOW_S: Final = 300
"How far from now a publication may have been signed; its nonce is kept for as long."
_FIELDS: Final = {"publication", "signature", "metainfo"}


class Checked(NamedTuple):
    """A publication that may be entered."""

    publication: Publication
    entry: Entry
    metainfo: bytes
    "The .torrent file, or empty."
    valid_until: int
    "Seconds since the epoch: until then it could be replayed."


class Publishers:
    """Who may publish; `now` returns seconds since the epoch."""

    def __init__(self, config: CatalogueConfig, now: Callable[[], int]) -> None:
        self._listed = frozenset(config.publishers)
        self._others = config.others
        self._hosts = frozenset(config.web_seed_hosts)
        self._now = now

    def checked(self, body: object) -> Checked:
        """The publication in what a client posted: `publication`, `signature` (128 hexadecimal
        digits) and, if it wants, `metainfo` (base64).

        Raises:
            ProtocolError: malformed, not signed by its publisher, or signed at another time.
            Denied: this publisher may not publish here.
        """
        if isinstance(body, Mapping) and (unknown := sorted(body.keys() - _FIELDS)):
            raise ProtocolError(f"a request to publish has no field {unknown[0][:32]!r}")
        publication, signature = read_signed(body)
        now = self._now()
        if abs(now - publication.created_at) > WINDOW_S:
            raise ProtocolError(
                f"created_at must be within {WINDOW_S} s of this server's time, {now}; set the"
                " clock, and sign again"
            )
        state = self._state(publication)
        for url in publication.web_seeds:
            if (urlsplit(url).hostname or "") not in self._hosts:
                raise ProtocolError(
                    f"web_seeds may name these hosts here: {', '.join(sorted(self._hosts))}"
                )
        raw = _metainfo(body)
        if raw:
            check_metainfo(raw, publication)
        entry = entry_from(publication, signature, state=state, now=now)
        return Checked(publication, entry, raw, publication.created_at + WINDOW_S)

    def _state(self, publication: Publication) -> str:
        if publication.publisher in self._listed or self._others == "accept":
            return APPROVED
        if self._others == "approve":
            return PENDING
        raise Denied(
            f"{publication.publisher} may not publish here; ask the operator to list it in"
            " plugins.tracker.catalogue.publishers"
        )


def _metainfo(body: object) -> bytes:
    text = body.get("metainfo", "") if isinstance(body, Mapping) else ""
    if not isinstance(text, str) or len(text) > MAX_METAINFO_BYTES * 4 // 3 + 4:
        raise ProtocolError(f"metainfo must be base64 of at most {MAX_METAINFO_BYTES} bytes")
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError("metainfo must be base64") from None
