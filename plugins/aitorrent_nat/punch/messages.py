"""Messages of hole punching: frames on one stream, each a small msgpack map.

    initiator              responder
    offer     ─────────►
              ◄─────────   answer, or refuse
    sync      ─────────►                      with local addresses, if both ends share a public one
              ◄─────────   sync               the initiator now knows the round trip
    go        ─────────►                      it starts half a round trip later, the other now
    result   ◄────────►    result             what each end got, for the traces of both

After DCUtR (libp2p specs, `relay/DCUtR.md`), with the terms of an ICE session (RFC 8445) added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from aitorrent_nat.punch.candidates import (
    MAX_CANDIDATES,
    MAX_HOST_CHARS,
    Candidate,
    Kind,
    canonical,
)
from aitorrent_nat.punch.plan import Behaviour, Nat
from aitorrent_nat.punch.sighting import MAX_SIGHTINGS, Sighting, read_sighting
from aitorrentd.api import Frame, ProtocolError, encode_frame
from aitorrentd.api.fields import blob, flag, text

PROTOCOL: Final = "/ai-torrent/1/punch"
MAX_MESSAGE_BYTES: Final = 2048
SESSION_BYTES: Final = 16
KEY_BYTES: Final = 32
_ICE_CHARS: Final = re.compile(r"[a-zA-Z0-9+/]{4,64}")


class Kinds(StrEnum):
    """The `t` of a message."""

    OFFER = "offer"
    ANSWER = "answer"
    REFUSE = "refuse"
    SYNC = "sync"
    GO = "go"
    RESULT = "result"


@dataclass(frozen=True, slots=True)
class Terms:
    """What one end brings to a session."""

    nat: Nat
    candidates: tuple[Candidate, ...]
    user: str
    "ICE user name fragment."
    password: str
    "ICE password."
    key: bytes
    "This end's half of the key of probes."
    sightings: tuple[Sighting, ...] = ()
    "Who sees this end connect from where."


@dataclass(frozen=True, slots=True)
class Offer:
    """The initiator's terms, for a new session."""

    session: bytes
    terms: Terms


@dataclass(frozen=True, slots=True)
class Answer:
    """The responder's terms."""

    terms: Terms


@dataclass(frozen=True, slots=True)
class Refuse:
    """No session now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Sync:
    """Measures the round trip; answered at once."""

    candidates: tuple[Candidate, ...] = ()
    "Further ones of the initiator, once it knows that both ends may share a local network."


@dataclass(frozen=True, slots=True)
class Go:
    """The initiator starts in half a round trip."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one end got: the leg that connected, or why none did."""

    ok: bool
    said: str


Message = Offer | Answer | Refuse | Sync | Go | Result


def encode(message: Message) -> bytes:
    """`message` as a frame."""
    return encode_frame(_fields(message))


def _fields(message: Message) -> dict[str, Any]:
    match message:
        case Offer(session, terms):
            return {"t": Kinds.OFFER, "session": session, **_terms_fields(terms)}
        case Answer(terms):
            return {"t": Kinds.ANSWER, **_terms_fields(terms)}
        case Refuse(reason):
            return {"t": Kinds.REFUSE, "said": _cut(reason)}
        case Sync(candidates):
            return {"t": Kinds.SYNC, "at": _candidate_fields(candidates)}
        case Go():
            return {"t": Kinds.GO}
        case Result(ok, said):
            return {"t": Kinds.RESULT, "ok": ok, "said": _cut(said)}


def _terms_fields(terms: Terms) -> dict[str, Any]:
    return {
        "nat": [terms.nat.mapping.value, terms.nat.filtering.value],
        "at": _candidate_fields(terms.candidates),
        "user": terms.user,
        "password": terms.password,
        "key": terms.key,
        "seen": [each.fields() for each in terms.sightings],
    }


def _candidate_fields(candidates: Sequence[Candidate]) -> list[list[Any]]:
    return [[each.kind.value, each.host, each.port] for each in candidates[:MAX_CANDIDATES]]


def _cut(said: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in said[:200])


def decode(frame: Frame) -> Message:
    """The message in `frame`, from an untrusted peer.

    Raises:
        ProtocolError: not a message.
    """
    fields = frame.header
    if len(frame.tail):
        raise ProtocolError("bytes after the message")
    kind = text(fields, "t", 16)
    if kind == Kinds.OFFER:
        return Offer(blob(fields, "session", SESSION_BYTES, SESSION_BYTES), _terms(fields))
    if kind == Kinds.ANSWER:
        return Answer(_terms(fields))
    if kind == Kinds.REFUSE:
        return Refuse(text(fields, "said", 200, min_chars=0, printable=True))
    if kind == Kinds.SYNC:
        return Sync(_candidates(fields.get("at")))
    if kind == Kinds.GO:
        return Go()
    if kind == Kinds.RESULT:
        return Result(flag(fields, "ok"), text(fields, "said", 200, min_chars=0, printable=True))
    raise ProtocolError("t is not a kind of message")


def _terms(fields: dict[str, Any]) -> Terms:
    user, password = text(fields, "user", 64, min_chars=4), text(fields, "password", 64)
    if not _ICE_CHARS.fullmatch(user) or not _ICE_CHARS.fullmatch(password) or len(password) < 22:
        raise ProtocolError("user and password must be ICE characters, the password 22 or more")
    return Terms(
        nat=_nat(fields.get("nat")),
        candidates=_candidates(fields.get("at")),
        user=user,
        password=password,
        key=blob(fields, "key", KEY_BYTES, KEY_BYTES),
        sightings=_sightings(fields.get("seen")),
    )


def _sightings(value: object) -> tuple[Sighting, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_SIGHTINGS:
        raise ProtocolError(f"seen must be a list of at most {MAX_SIGHTINGS} sightings")
    return tuple(map(read_sighting, value))


def _nat(value: object) -> Nat:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ProtocolError("nat must be the behaviours of mapping and filtering")
    try:
        return Nat(Behaviour(value[0]), Behaviour(value[1]))
    except ValueError:
        return Nat()  # a newer version knows more behaviours


def _candidates(value: object) -> tuple[Candidate, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_CANDIDATES:
        raise ProtocolError(f"at must be a list of at most {MAX_CANDIDATES} addresses")
    return tuple(found for each in value if (found := _candidate(each)) is not None)


def _candidate(value: object) -> Candidate | None:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ProtocolError("an address must be a kind, a host and a port")
    kind, host, port = value
    if not isinstance(host, str) or len(host) > MAX_HOST_CHARS:
        raise ProtocolError("the host of an address must be an IP address")
    if type(port) is not int or not 1 <= port <= 65_535:
        raise ProtocolError("the port of an address must be an integer from 1 to 65535")
    try:
        host = canonical(host)
    except ValueError:
        raise ProtocolError("the host of an address must be a unicast IP address") from None
    try:
        return Candidate(Kind(kind), host, port)
    except ValueError:
        return None  # a kind of a newer version
