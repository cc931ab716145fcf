"""What a user asked for: a magnet link, an info-hash, a digest, a name such as `hf://org/model`."""

from __future__ import annotations

import base64
import binascii
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

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
_BTMH: Final = "urn:btmh:"
_ESCAPED: Final = "magnet%3a"
_NUMBERED: Final = re.compile(r"\.\d{1,9}\Z", re.ASCII)


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
    if text[:9].lower().startswith(_ESCAPED):
        text = unquote(text)  # some programs copy links that are escaped as a whole
    if text[:7].lower() == "magnet:":
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
    host, _, path = url.partition("://")[2].partition("/")
    if host.lower() in _HUB and (repo := "/".join(path.strip("/").split("/")[:2])):
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
    told = _fields(text)
    topics = [topic for topic in told["xt"] if topic.lower().startswith(_BTIH)]
    info_hash = next(filter(None, (_hash(topic[len(_BTIH) :]) for topic in topics)), "")
    if not info_hash and any(topic.lower().startswith(_BTMH) for topic in told["xt"]):
        raise InvalidParams(
            "the magnet link names a torrent of version 2 only; pass the .torrent file, or a link"
            " that has xt=urn:btih:… too"
        )
    if not info_hash:
        raise InvalidParams("the magnet link has no info-hash (xt=urn:btih:…)")
    trackers = [url for url in told["tr"] if is_tracker(url)]
    name = next(iter(told["dn"]), "")
    return WantedTorrent(
        info_hash,
        tuple(dict.fromkeys(trackers))[:MAX_TRACKERS],
        _peers(told["x.pe"]),
        name if is_plain(name) else "",
    )


def _fields(text: str) -> defaultdict[str, list[str]]:
    """The parameters of a magnet link; those with a number, such as `tr.1`, under their name."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    # From a page's source, `&` is written as `&amp;`.
    query = text.partition("?")[2].replace("&amp;", "&")
    for name, value in parse_qsl(query, max_num_fields=MAX_TEXT):
        found[_NUMBERED.sub("", name.lower())].append(value)
    return found


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
