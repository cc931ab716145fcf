"""Which peer an operator means: by its id or the end of it, never by its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from aitorrentd.api import InvalidParams, NotFound, PeerId, parse_peer_id, short

if TYPE_CHECKING:
    from aitorrent_transport.service import TransportService

MIN_SUFFIX: Final = 4


def find_peer(
    service: TransportService,
    text: str,
    *,
    command: str,
    or_banned: bool = False,
    more: Iterable[PeerId] = (),
) -> PeerId:
    """The connected peer that `text`, an id or its last characters, identifies.

    `command` is what `aitorrentctl` was asked to do, for errors that say what to run instead. With
    `or_banned`, banned peers are found too, and always those in `more`.

    Raises:
        NotFound: no match. InvalidParams: a name, several matches, or too few characters.
    """
    text = text.removeprefix("…")
    try:
        return parse_peer_id(text)
    except ValueError:
        pass
    connected = service.peers()
    banned = _banned_peers(service)
    known = {*(view.id for view in connected), *(banned if or_banned else ()), *more}
    found: list[PeerId] = sorted(peer for peer in known if peer.endswith(text))
    if not found and (named := [view.id for view in connected if view.name == text]):
        runs = " or ".join(f"aitorrentctl {command} {_end(peer)}" for peer in named)
        ids = ", ".join(map(short, named))
        raise InvalidParams(
            f"peers are selected by id, because any node can call itself {text!r}; "
            f"matches: {ids}; run: {runs}"
        )
    if len(text) < MIN_SUFFIX:
        lists = "aitorrentctl peers" + (", or peers --banned" if banned else "")
        raise InvalidParams(
            f"{text!r} is neither a peer id nor at least the last {MIN_SUFFIX} characters of one; "
            f"for ids, see {lists}"
        )
    if not found:
        raise NotFound(f"no connected peer's id ends with {text!r}; {_hint(text, banned)}")
    if len(found) > 1:
        raise InvalidParams(f"{len(found)} peers end with {text!r}; pass more characters")
    return found[0]


def _banned_peers(service: TransportService) -> list[PeerId]:
    peers = []
    for ban in service.guard.bans.current(service.now()):
        try:
            peers.append(parse_peer_id(ban.subject))
        except ValueError:  # an address or a network
            continue
    return peers


def _hint(text: str, banned: list[PeerId]) -> str:
    for peer in banned:
        if peer.endswith(text):
            return f"{short(peer)} is banned; lift the ban: aitorrentctl peers unban {_end(peer)}"
    return "an address is HOST:PORT" if "." in text else "see `aitorrentctl peers`"


def _end(peer: PeerId) -> str:
    return short(peer).removeprefix("…")
