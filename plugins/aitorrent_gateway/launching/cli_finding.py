"""Finds where the node serves programs, a token if they need one, and a model."""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import quote, urlsplit

from aitorrent_gateway.launching.programs import Model, Place
from aitorrentd.cli import toolkit

TOKEN_S: Final = 30 * 86_400.0
"How long a token is valid that is made for a program."
_ANSWER_S: Final = 10.0
_MAX_BYTES: Final = 2**20


class Client(Protocol):
    """A connection to the node's control socket."""

    def call(self, method: str, params: Mapping[str, Any] | None = None, /) -> dict[str, Any]:
        """The result of a method."""


def find_place(client: Client, url: str | None, purpose: str) -> Place:
    """Where programs reach the node that `client` is connected to. `url` overrides what the node
    says; a token that is needed is named after `purpose`.

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
    answer, _ = _asked(place)
    if answer == http.client.UNAUTHORIZED:
        place = Place(place.url, _new_token(client, purpose))
        answer, _ = _asked(place)
    if answer == http.client.NOT_FOUND:
        toolkit.fail("this node has no APIs for programs: `plugin enable gateway` starts them")
    if answer != http.client.OK:
        toolkit.fail(f"{place.url} answered with status {answer}; is it this node?")
    return place


def find_model(client: Client, wanted: str | None) -> Model | None:
    """The model of this name, or the only one; None if no model has this as its own name.

    Raises:
        CommandFailed: there is none at all, or there are several.
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
    return Model(wanted, lengths[wanted]) if wanted in lengths else None


def find_further_name(place: Place, wanted: str) -> Model:
    """The model that has this among its further names (`plugins.gateway.aliases`).

    Raises:
        CommandFailed: there is none.
    """
    status, body = _asked(place, f"/v1/models/{quote(wanted)}")
    if status != http.client.OK:
        toolkit.fail(f"no model {wanted!r} can answer now; see `aitorrentctl models`")
    return Model(wanted, json.loads(body).get("max_input_tokens"))


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


def _asked(place: Place, path: str = "/v1/models") -> tuple[int, bytes]:
    """(status, body) with which the node answers a program."""
    parts = urlsplit(place.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        toolkit.fail("--url is not of the form http://HOST:PORT", toolkit.ExitCode.USAGE)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.netloc, timeout=_ANSWER_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=_ANSWER_S)
    try:
        connection.request(
            "GET", f"{parts.path}{path}", headers={"Authorization": f"Bearer {place.key}"}
        )
        response = connection.getresponse()
        return response.status, response.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException) as e:
        toolkit.fail(f"nothing answers at {place.url}: {e}")
    finally:
        connection.close()


def _new_token(client: Client, purpose: str) -> str:
    name = f"{purpose}-{secrets.token_hex(4)}"
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
