"""What a user asked for: a magnet link, an info-hash, a digest, a name such as `hf://org/model`."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from aitorrent_seeding.torrents.metainfo import is_plain
from aitorrentd.api import InvalidParams
from aitorrentd.api.models.weights import is_sha256

MAX_TEXT: Final = 8192
MAX_TRACKERS: Final = 32
_INFO_HASH: Final = re.compile(r"[0-9a-fA-F]{40}", re.ASCII)
_BASE32: Final = re.compile(r"[a-zA-Z2-7]{32}", re.ASCII)
_NAME: Final = re.compile(r"([a-z][a-z0-9+.-]{0,31})://(\S+?)(?:@([^\s@/]+))?", re.ASCII)
_REPO: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[^\s@/]+)?", re.ASCII)
_HUB: Final = ("huggingface.co", "www.huggingface.co", "hf.co")
_BTIH: Final = "urn:btih:"


@dataclass(frozen=True, slots=True)
class WantedTorrent:
    """A torrent by its info-hash."""

    info_hash: str
    trackers: tuple[str, ...] = ()
    peers: tuple[tuple[str, int], ...] = ()
    "Host and port of peers that a magnet link names."
    name: str = ""
    "What a magnet link calls it, if that is a plain name of a file."


@dataclass(frozen=True, slots=True)
class WantedDigest:
    """A file by its SHA-256."""

    sha256: str


@dataclass(frozen=True, slots=True)
class WantedName:
    """A model by a name of some scheme; `revision` is empty for the newest."""

    scheme: str
    name: str
    revision: str = ""


def parse(text: str) -> WantedTorrent | WantedDigest | WantedName:
    """What `text` asks for.

    Raises:
        InvalidParams: it is none of the forms.
    """
    text = text.strip()
    if len(text) > MAX_TEXT:
        raise InvalidParams(f"a link has at most {MAX_TEXT} characters, not {len(text)}")
    if text.startswith("magnet:"):
        return _magnet(text)
    if is_sha256(text.lower()):
        return WantedDigest(text.lower())
    if found := _hash(text):
        return WantedTorrent(found)
    if text.startswith(("http://", "https://")):
        raise InvalidParams(_about_url(text))
    if _REPO.fullmatch(text):
        raise InvalidParams(f"for the model {text} of the Hugging Face Hub, write hf://{text}")
    if match := _NAME.fullmatch(text):
        return WantedName(match[1], match[2], match[3] or "")
    raise InvalidParams(
        f"{text[:80]!r} is not a magnet link, a SHA-256 (64 hexadecimal digits), an info-hash (40),"
        " a .torrent file, or a name such as hf://org/model"
    )


def _about_url(url: str) -> str:
    """What to write instead of a web address."""
    parts = urlsplit(url)
    if parts.hostname in _HUB and (repo := "/".join(parts.path.strip("/").split("/")[:2])):
        return f"{url[:200]!r} is a web page; for the model, write hf://{repo}"
    return (
        f"{url[:200]!r} does not say which bytes are right: pass the SHA-256 of the file, and this"
        " address with --url, or download the .torrent file and pass its path"
    )


def _hash(text: str) -> str:
    """An info-hash in hexadecimal, from that or base32; empty if `text` is neither."""
    if _INFO_HASH.fullmatch(text):
        return text.lower()
    if _BASE32.fullmatch(text):
        try:
            return base64.b32decode(text.upper()).hex()
        except binascii.Error:
            return ""
    return ""


def _magnet(text: str) -> WantedTorrent:
    query = parse_qs(urlsplit(text).query, max_num_fields=256)
    topics = [topic.removeprefix(_BTIH) for topic in query.get("xt", ()) if _BTIH in topic]
    info_hash = _hash(topics[0]) if topics else ""
    if not info_hash:
        raise InvalidParams("the magnet link has no info-hash (xt=urn:btih:…)")
    trackers = [url for url in query.get("tr", ()) if is_tracker(url)]
    name = query.get("dn", [""])[0]
    return WantedTorrent(
        info_hash,
        tuple(dict.fromkeys(trackers))[:MAX_TRACKERS],
        _peers(query.get("x.pe", [])),
        name if is_plain(name) else "",
    )


def is_tracker(url: str) -> bool:
    """Whether this may be the URL of a tracker."""
    return url.startswith(("http://", "https://", "udp://"))


def _peers(texts: list[str]) -> tuple[tuple[str, int], ...]:
    """BEP 9 `x.pe`: host and port."""
    found = []
    for text in texts[:MAX_TRACKERS]:
        host, _, port = text.rpartition(":")
        if host and port.isdecimal() and port.isascii() and 0 < int(port[:6]) < 65_536:
            found.append((host.strip("[]"), int(port)))
    return tuple(found)


def magnet_link(info_hash: str, name: str, trackers: tuple[str, ...]) -> str:
    """The magnet link of a torrent (BEP 9)."""
    tail = "".join(f"&tr={quote(tracker, safe='')}" for tracker in trackers)
    return f"magnet:?xt={_BTIH}{info_hash}&dn={quote(name, safe='')}{tail}"
