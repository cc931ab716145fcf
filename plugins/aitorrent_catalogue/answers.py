"""Answers of catalogues: nothing in them is believed that no publisher signed. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from aitorrentd.api import ProtocolError
from aitorrentd.api.fields import count_of
from aitorrentd.api.models.publications import Publication, read_signed

MAX_LISTED: Final = 200
"Entries in one answer; more are a mistake of the server."
MAX_TRACKERS: Final = 4
MAX_URL_CHARS: Final = 512


@dataclass(frozen=True, slots=True)
class Listed:
    """A publication whose signature was verified, and what the server adds without proof."""

    publication: Publication
    server: str
    seeders: int
    trackers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of an answer."""

    entries: tuple[Listed, ...]
    lies: tuple[str, ...]
    "Why entries were left out: each is the fault of the server."
    unsigned: int
    "Entries of older catalogues, which nobody signed."
    total: int
    cursor: str
    "Continues the listing; empty at its end."


@dataclass(frozen=True, slots=True)
class Taken:
    """What a catalogue did with a publication, as it says."""

    server: str
    outcome: str
    state: str
    trackers: tuple[str, ...]


def read_taken(value: object, server: str) -> Taken:
    """What a server answered to a publication."""
    found = value if isinstance(value, Mapping) else {}
    outcome, state = (str(found.get(name, ""))[:32] for name in ("outcome", "state"))
    return Taken(server, outcome, state, _trackers(found.get("magnet_link")))


def read_listing(
    value: object,
    server: str,
    *,
    asked: Mapping[str, str],
    believed: Collection[str] = (),
) -> Listing:
    """What a server answered to a search for `asked`, fields of publications and their values.

    Raises:
        ProtocolError: it is no listing at all.
    """
    rows = value.get("torrents") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(rows, list) or len(rows) > MAX_LISTED:
        raise ProtocolError(f"{server} did not answer with a listing of a catalogue")
    entries, lies, unsigned = [], [], 0
    for row in rows:
        if isinstance(row, Mapping) and not row.get("signature") and not row.get("publication"):
            unsigned += 1
            continue
        try:
            publication, _ = read_signed(row)
            _check_asked(publication, asked)
        except ProtocolError as e:
            lies.append(e.message)
            continue
        if believed and publication.publisher not in believed:
            continue
        trackers = _trackers(row.get("magnet_link"))
        entries.append(Listed(publication, server, count_of(row.get("seeders")), trackers))
    cursor = value.get("cursor")
    is_cursor = isinstance(cursor, str) and cursor.isascii() and cursor.isdigit()
    return Listing(
        tuple(entries),
        tuple(lies),
        unsigned,
        count_of(value.get("total")),
        cursor[:20] if isinstance(cursor, str) and is_cursor else "",
    )


def _check_asked(publication: Publication, asked: Mapping[str, str]) -> None:
    """A signed publication of another file is no answer, though its signature is right."""
    for name, wanted in asked.items():
        if getattr(publication, name) != wanted:
            raise ProtocolError(f"the publication has another {name} than was asked for")


def _trackers(magnet: Any) -> tuple[str, ...]:
    """Announce URLs in a magnet link."""
    if not isinstance(magnet, str) or len(magnet) > 16_384 or not magnet.startswith("magnet:?"):
        return ()
    try:
        found = parse_qs(magnet.removeprefix("magnet:?"), max_num_fields=64).get("tr", [])
    except ValueError:
        return ()
    return tuple(url for url in found if _is_tracker(url))[:MAX_TRACKERS]


def _is_tracker(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https", "udp") and bool(parts.hostname)
    except ValueError:
        return False
    return is_whole and len(url) <= MAX_URL_CHARS and url.isascii() and url.isprintable()
