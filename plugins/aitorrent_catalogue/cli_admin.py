"""Commands for the administrator of a catalogue: its REST API, opened by a token."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote, urlsplit

import typer

from aitorrentd.cli import toolkit

TOKEN_VARIABLE: Final = "AITORRENT_CATALOGUE_TOKEN"
_MAX_BYTES: Final = 8 * 2**20
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_TOKEN: Final = (
    f"\n\nThe administrator's token is read from --token-file or {TOKEN_VARIABLE}; it is"
    " plugins.tracker.catalogue.admin_token of the tracker."
)
_PENDING: Final = f"List what waits for approval at a catalogue.{_TOKEN}"
_APPROVE: Final = f"Approve entries of a catalogue, so that it lists them.{_TOKEN}"
_DELETE: Final = (
    "Delete entries of a catalogue.\n\nA deleted entry cannot be published again until it is"
    f" approved.{_TOKEN}"
)
_PEERS: Final = f"List the peers of a torrent, as its tracker knows them.{_TOKEN}"
_EXAMPLE: Final = "--token-file catalogue.token"

Server = Annotated[
    str, typer.Option(help="Address of the tracker that has the catalogue.", metavar="URL")
]
TokenFile = Annotated[
    str, typer.Option(help="File with the administrator's token.", metavar="FILE")
]
Ids = Annotated[
    list[int],
    typer.Argument(help="Numbers that `catalogue pending` shows.", min=1, metavar="ID"),
]
HERE: Final = "http://127.0.0.1:6969"


def register(group: typer.Typer) -> None:
    """Add the commands to `aitorrentctl catalogue`."""
    for name, command, text, arguments in (
        ("pending", pending, _PENDING, ""),
        ("approve", approve, _APPROVE, " 17"),
        ("delete", delete, _DELETE, " 17"),
        ("peers", peers, _PEERS, " $INFO_HASH"),
    ):
        example = toolkit.examples(f"catalogue {name}{arguments} {_EXAMPLE}")
        group.command(name, help=text, epilog=example)(command)


def pending(
    state: Annotated[
        str, typer.Option(help="State of the entries: pending, approved or removed.")
    ] = "pending",
    limit: Annotated[int, typer.Option(help="Most entries to list.", min=1, max=200)] = 50,
    server: Server = HERE,
    token_file: TokenFile = "",
) -> None:
    """List what waits for approval."""
    path = f"?state={quote(state)}&limit={limit}"
    toolkit.emit(_asked("GET", path, server, token_file), _render_entries)


def _render_entries(reply: Mapping[str, Any]) -> str:
    rows = reply["torrents"]
    if not rows:
        return "No entries."
    columns: list[toolkit.Column] = [
        ("id", "ID"),
        ("repo_id", "MODEL"),
        ("filename", "FILE"),
        ("total_size", "SIZE", toolkit.bytes_text),
        ("publisher", "PUBLISHER", toolkit.short),
        ("info_hash", "INFO-HASH"),
    ]
    text = toolkit.table(rows, columns, drop=("info_hash", "publisher"))
    more = reply["total"] - len(rows)
    return f"{text}\n{more} more; raise --limit" if more > 0 else text


def approve(ids: Ids, server: Server = HERE, token_file: TokenFile = "") -> None:
    """Approve entries."""
    _each("POST", ids, "/approve", server, token_file)


def delete(ids: Ids, server: Server = HERE, token_file: TokenFile = "") -> None:
    """Delete entries."""
    _each("DELETE", ids, "", server, token_file)


def _each(method: str, ids: list[int], action: str, server: str, token_file: str) -> None:
    done = [_asked(method, f"/{each}{action}", server, token_file) for each in ids]
    toolkit.emit({"torrents": done}, _render_done)


def _render_done(reply: Mapping[str, Any]) -> str:
    columns = [("id", "ID"), ("repo_id", "MODEL"), ("filename", "FILE"), ("state", "STATE")]
    return toolkit.table(reply["torrents"], columns)


def peers(
    info_hash: Annotated[
        str, typer.Argument(help="Info-hash of 40 hexadecimal digits.", metavar="INFO_HASH")
    ],
    server: Server = HERE,
    token_file: TokenFile = "",
) -> None:
    """List the peers of a torrent."""
    path = f"/{quote(info_hash, safe='')}/peers"
    toolkit.emit(_asked("GET", path, server, token_file), _render_peers)


def _render_peers(reply: Mapping[str, Any]) -> str:
    if not reply["peers"]:
        return "Nobody shares this torrent now."
    rows = [{**row, "role": "seed" if row["is_seed"] else "leecher"} for row in reply["peers"]]
    return toolkit.table(rows, [("ip", "ADDRESS"), ("port", "PORT"), ("role", "ROLE")])


def _token(token_file: str) -> str:
    if not token_file:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            toolkit.fail(
                f"Give the administrator's token in --token-file or {TOKEN_VARIABLE}",
                toolkit.ExitCode.USAGE,
            )
    else:
        try:
            with open(token_file, encoding="utf-8") as stream:
                token = stream.read(4096).strip()
        except (OSError, UnicodeDecodeError) as e:
            toolkit.fail(f"Cannot read {token_file}: {getattr(e, 'strerror', None) or e}")
    if not token or not token.isascii() or not token.isprintable():
        toolkit.fail(f"{token_file or TOKEN_VARIABLE} does not have a token of ASCII characters")
    return token


def _asked(method: str, path: str, server: str, token_file: str) -> dict[str, Any]:
    """The answer of the catalogue. The token goes to that server alone: no redirect, no proxy."""
    from http.client import HTTPConnection, HTTPException, HTTPSConnection

    token = _token(token_file)
    try:
        parts = urlsplit(server)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        scheme, host, port = "", "", None
    if scheme not in ("http", "https") or not host:
        toolkit.fail(
            f"{server!r} is not an address such as http://tracker.example:6969",
            toolkit.ExitCode.USAGE,
        )
    if scheme == "http" and host not in _LOOPBACK:
        toolkit.warn(f"the token is sent to {host} unencrypted; use https")
    connect = HTTPSConnection if scheme == "https" else HTTPConnection
    connection = connect(host, port, timeout=toolkit.timeout_s())
    base = quote(parts.path.rstrip("/"))
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    try:
        connection.request(method, f"{base}/api/v1/admin/torrents{path}", headers=headers)
        answer = connection.getresponse()
        status, raw = answer.status, answer.read(_MAX_BYTES + 1)
    except (OSError, HTTPException) as e:
        reason = (e.strerror if isinstance(e, OSError) else "") or str(e) or type(e).__name__
        toolkit.fail(
            f"{server} does not answer: {reason}; name the tracker with --server",
            toolkit.ExitCode.TRY_LATER,
        )
    finally:
        connection.close()
    try:
        found = json.loads(raw) if len(raw) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if status == 200 and isinstance(found, dict):
        return found
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict) or not isinstance(text := error.get("message"), str):
        toolkit.fail(f"{server} is no catalogue: it answered with status {status}")
    is_denied = status in (401, 403)
    toolkit.fail(text, toolkit.ExitCode.DENIED if is_denied else toolkit.ExitCode.ERROR)
