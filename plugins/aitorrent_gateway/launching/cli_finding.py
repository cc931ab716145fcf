"""Finds where the node serves programs, a token if they need one, and a model."""

from __future__ import annotations

import http.client
import secrets
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import urlsplit

from aitorrent_gateway.launching.programs import Model, Place
from aitorrentd.cli import toolkit

TOKEN_S: Final = 30 * 86_400.0
"How long a token is valid that is made for a program."
_ANSWER_S: Final = 10.0
# Of a certificate, as OpenSSL's x509_vfy.h numbers them.
_SELF_SIGNED: Final = 18
_UNKNOWN: Final = (2, 19, 20, 21)
_OTHER_NAME: Final = (62, 64)


class Client(Protocol):
    """A connection to the node's control socket."""

    def call(self, method: str, params: Mapping[str, Any] | None = None, /) -> dict[str, Any]:
        """The result of a method."""


def find_place(client: Client, url: str | None) -> tuple[Place, bool]:
    """Where programs reach the node that `client` is connected to, and whether they need a token
    there. `url` overrides what the node says.

    Raises:
        CommandFailed: programs cannot reach it, with the reason.
    """
    try:
        status = client.call("http.status")
    except toolkit.AitorrentError as e:
        if e.code != "method_not_found":
            raise
        toolkit.fail("this node serves no programs: start its plugin with `plugin enable http`")
    place = Place((url or _address(status)).rstrip("/"))
    answer = _asked(place)
    if answer == http.client.NOT_FOUND:
        toolkit.fail("this node has no APIs for programs: `plugin enable gateway` starts them")
    if answer not in (http.client.OK, http.client.UNAUTHORIZED):
        _fail_elsewhere(place, answer)
    return place, answer == http.client.UNAUTHORIZED


def with_token(client: Client, place: Place, purpose: str) -> Place:
    """The place with a new token, named after `purpose`. None remains if it is of no use.

    Raises:
        CommandFailed: this user may not create one, or it is not accepted there.
    """
    name = f"{purpose}-{secrets.token_hex(4)}"
    found = Place(place.url, _new_token(client, name))
    answer = 0
    try:
        answer = _asked(found)
    finally:
        if answer != http.client.OK:
            client.call("http.tokens.revoke", {"name": name})
    if answer != http.client.OK:
        _fail_elsewhere(place, answer)
    return found


def find_model(client: Client, wanted: str | None) -> Model:
    """The model of this name, also of a further one (`gateway.aliases`), or the only one.

    Raises:
        CommandFailed: there is none, or there are several.
    """
    rows = client.call("inference.models")["models"]
    lengths: dict[str, int | None] = {}
    for row in rows:
        lengths.setdefault(row["name"], row.get("context_length"))
    if not lengths:
        toolkit.fail("no model can answer now; see `aitorrentctl models`")
    if wanted is None:
        if len(lengths) > 1:
            there = f"there are {', '.join(sorted(lengths))}"
            toolkit.fail(f"choose a model with --model; {there}", toolkit.ExitCode.USAGE)
        wanted = next(iter(lengths))
    aliases = client.call("gateway.aliases")["aliases"]
    own = aliases.get(wanted, wanted)
    if own not in lengths:
        toolkit.fail(f"no model {wanted!r} can answer now; see `aitorrentctl models`")
    return Model(wanted, lengths[own])


def _address(status: Mapping[str, Any]) -> str:
    """The best address for programs on this machine."""
    places = [str(place) for place in status["listening"] if not str(place).startswith("/")]
    if not places:
        reason = status["problem"] or "it listens on no TCP port; set plugins.http.port"
        toolkit.fail(f"programs cannot reach this node: {reason}")
    if status["tls"]:
        toolkit.fail(
            "this node's HTTP server has a certificate; give the address that is in it:"
            " --url https://NAME:PORT"
        )
    return f"http://{_nearest(places)}"


def _nearest(places: Sequence[str]) -> str:
    for place in places:
        if place.startswith(("127.", "[::1]")):
            return place
    host, _, port = places[0].rpartition(":")
    return f"{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]'}.get(host, host) }:{port}"


def _asked(place: Place) -> int:
    """The status with which the node answers a program."""
    parts = urlsplit(place.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        toolkit.fail("--url is not of the form http[s]://HOST:PORT", toolkit.ExitCode.USAGE)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.netloc, timeout=_ANSWER_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=_ANSWER_S)
    try:
        connection.request(
            "GET", f"{parts.path}/v1/models", headers={"Authorization": f"Bearer {place.key}"}
        )
        return connection.getresponse().status
    except ssl.SSLCertVerificationError as e:
        why = e.verify_message.rstrip(".")
        toolkit.fail(f"the certificate at {place.url} is not trusted: {why}; {_remedy(e)}")
    except (OSError, http.client.HTTPException) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else e
        toolkit.fail(f"nothing answers at {place.url}: {reason}")
    finally:
        connection.close()


def _remedy(error: ssl.SSLCertVerificationError) -> str:
    """What to do about a certificate that is not trusted."""
    if error.verify_code in _OTHER_NAME:
        return "give an address that is in it"
    if error.verify_code == _SELF_SIGNED:
        return "name it in SSL_CERT_FILE"
    if error.verify_code in _UNKNOWN:
        return "name the root certificate of its authority in SSL_CERT_FILE"
    return "the node needs another one"


def _fail_elsewhere(place: Place, status: int) -> NoReturn:
    toolkit.fail(f"{place.url} answered with status {status}; is it this node?")


def _new_token(client: Client, name: str) -> str:
    asked = {"name": name, "role": "generate", "lifetime_s": TOKEN_S}
    try:
        return str(client.call("http.tokens.new", asked)["token"])
    except toolkit.AitorrentError as e:
        if e.code != "denied":
            raise
        toolkit.fail(
            "programs need a token here, and only an administrator of the node may create one",
            toolkit.ExitCode.DENIED,
        )
