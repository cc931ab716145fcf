"""Which headers pass between a client and the Hub. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Pairs = list[tuple[str, str]]
_HOP: Final = frozenset(
    {
        *(
            "connection",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
        ),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    }
)
"Of one connection only (RFC 9110, section 7.6.1)."
_OWN: Final = frozenset(
    {
        *("host", "cookie", "forwarded", "origin", "referer", "via"),
        *("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"),
    }
)
"Of a request to the mirror; not the Hub's business."
_XET: Final = frozenset(
    {"x-xet-hash", "x-xet-refresh-route", "x-xet-access-token", "x-xet-cas-url"}
)


def for_upstream(headers: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """The headers of a client's request that the Hub gets."""
    dropped = _HOP | _OWN
    pairs = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
    return [(name, value) for name, value in pairs if name not in dropped]


def for_client(headers: Iterable[tuple[str, str]], *, upstream: str, mirror: str) -> Pairs:
    """The headers of the Hub's answer that a client gets. URLs of the Hub become the mirror's, so
    that the client stays here with its token; `upstream` and `mirror` are origins."""
    kept: Pairs = []
    for name, value in headers:
        lower = name.lower()
        if lower in _HOP or lower in _XET or lower in ("set-cookie", "strict-transport-security"):
            continue
        if lower in ("location", "link"):
            value = value.replace(f"{upstream}/", f"{mirror}/")
        if lower == "link" and "xet-auth" in value:
            continue
        kept.append((name, value))
    return kept


def token_of(headers: Iterable[tuple[str, str]]) -> str:
    """The value of Authorization; empty without one."""
    return next((value for name, value in headers if name.lower() == "authorization"), "")


def without_token(headers: Iterable[tuple[str, str]]) -> Pairs:
    """Headers for another host than the Hub."""
    return [(name, value) for name, value in headers if name.lower() != "authorization"]
