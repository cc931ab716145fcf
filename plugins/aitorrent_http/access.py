"""Who sent a request, and what may they do? Checked in this order: Host, Origin, token. No I/O."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final

from aitorrent_http.config import HttpConfig
from aitorrent_http.tokens import PREFIX, Tokens
from aitorrentd.api import Denied, Role
from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.faces.hosts import host_of, is_loopback, is_own
from aitorrentd.api.faces.routes import GRANTS, Scope, scopes_of

_SAFE: Final = frozenset({"GET", "HEAD"})
"Methods that change nothing; a page of another site cannot read their answers."
PROXIED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"Headers of a request that came through a proxy."
"Headers of proxies: the client is not on this machine, whatever its address."


ANONYMOUS: Final = "anonymous"


class Refused(Exception):
    """The request is refused, as `fault` says."""

    def __init__(self, fault: HttpFault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request came from, besides its headers."""

    address: str | None
    "Its IP address; None on the Unix socket."
    role: Role | None
    "On the Unix socket: the role of the process."
    uid: int | None = None
    "Likewise: its user."


@dataclass(frozen=True, slots=True)
class Rights:
    """What the sender of a request may do."""

    scopes: frozenset[Scope]
    caller: str
    """Who it is, for what is kept apart by caller: `token:…`, `uid:…`, or `anonymous`. All programs
    on this machine that have no token are the same caller."""

    @property
    def is_known(self) -> bool:
        """Whether it gave a valid token, or is known by its process."""
        return self.caller != ANONYMOUS


class Access:
    """The rules of a server."""

    def __init__(self, config: HttpConfig, tokens: Tokens, names: Container[str]) -> None:
        """`names` are host names of this machine."""
        self._tokens = tokens
        self._names = names
        self._origins = frozenset(config.origins)
        self._anonymous = frozenset({Scope.PUBLIC}).union(
            *(GRANTS[name] for name in config.anonymous)
        )

    def check_host(self, headers: Mapping[str, str], client: Client) -> None:
        """Refuse a name that a web page may have led to this machine (DNS rebinding).

        Raises:
            Refused: with 421.
        """
        host = host_of(headers.get("host", ""))
        if client.role is None and not is_own(host, self._names):
            text = f"{host or 'this'} is not a name of this server; add it to plugins.http.hosts"
            raise Refused(HttpFault(421, "invalid_request_error", "wrong_host", text[:300]))

    def allowed_origin(self, headers: Mapping[str, str]) -> str:
        """The Origin of a page that the settings allow; empty for any other request."""
        origin = headers.get("origin", "").lower()
        return origin if origin in self._origins else ""

    def check_origin(self, method: str, headers: Mapping[str, str], *, browser: bool) -> None:
        """Refuse a request that a page of another site sent. `browser` says whether the route is
        open to allowed origins.

        Raises:
            Refused: with 403.
        """
        if method in _SAFE or (browser and self.allowed_origin(headers)):
            return
        site, origin = headers.get("sec-fetch-site"), headers.get("origin", "").lower()
        if site in ("same-origin", "none"):
            return
        if site is None and not origin:  # no browser
            return
        if site is None and origin.partition("://")[2] == headers.get("host", "").lower():
            return
        text = (
            f"a page of {origin or 'another site'} may not call this; "
            "add its origin to plugins.http.origins"
        )
        raise Refused(HttpFault(403, "permission_error", "wrong_origin", text[:300]))

    def rights(self, headers: Mapping[str, str], client: Client) -> Rights:
        """What the sender may do.

        Raises:
            Denied: the token is not valid.
        """
        secret = _secret(headers)
        if secret.startswith(PREFIX):
            token = self._tokens.find(secret)
            if token is None:
                raise Denied(
                    "this token is unknown, revoked or expired; see aitorrentctl token list",
                    unknown=True,
                )
            return Rights(GRANTS[token.role], f"token:{token.hash}")
        if client.role is not None:
            return Rights(self._anonymous | scopes_of(client.role), f"uid:{client.uid}")
        if self._is_here(headers, client):
            return Rights(self._anonymous, ANONYMOUS)
        return Rights(frozenset({Scope.PUBLIC}), ANONYMOUS)

    @staticmethod
    def check_scope(rights: Rights, needed: Scope) -> None:
        """Refuse what the sender may not do.

        Raises:
            Denied: with `unknown` in its data if a token could help.
        """
        if needed in rights.scopes:
            return
        role = needed.value
        if rights.is_known:
            raise Denied(f"this needs the role {role}, which the token does not have")
        raise Denied(
            f"this needs a token with the role {role}: aitorrentctl token new NAME --role {role}",
            unknown=True,
        )

    @staticmethod
    def _is_here(headers: Mapping[str, str], client: Client) -> bool:
        """Whether a program on this machine sent the request, and not a proxy for somebody."""
        if client.address is None or any(name in headers for name in PROXIED):
            return False
        return is_loopback(host_of(headers.get("host", ""))) and is_loopback(client.address)


def _secret(headers: Mapping[str, str]) -> str:
    """The credential that is one of our tokens, if one is: clients may send a placeholder too."""
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    bearer = rest.strip() if scheme.lower() == "bearer" else ""
    key = headers.get("x-api-key", "").strip()
    return key if key.startswith(PREFIX) and not bearer.startswith(PREFIX) else bearer
