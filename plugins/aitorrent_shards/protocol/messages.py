"""Messages of `/ai-torrent/1/shards`, validated. No I/O.

Streams carry frames of `aitorrentd.wire`; the first frame says what a stream is for.

Control, coordinator to stage; it opens a session, and the session lives as long as the stream:

    open {id, v, session, digest, dtype, start, end, max_positions, prev, last, prompt}  -> {id}
    link {id, peer, addresses, session}    send output to that session       -> {id, have}
    prev {id, peer}                        take activations from that peer     -> {id}
    ping {id}                                                                  -> {id, have, queue}
    candidates {id, k, temperature}        the last position's best k (0: all) -> {id, p, n, k, lse}
    an answer may be {id, error}; the stage says {event: failed | unlinked, error} on its own

Questions, one on a stream of its own:

    hello {id}                             only answer                      -> {id}
    reach {id, peer, addresses}            say hello to that peer           -> {id} or {id, error}

Hop, to the next stage or back to the coordinator: `hop {session}` is answered once with `{have}`
(positions already computed there) or `{error}`; then frames `{p, n, w}` with token ids or hidden
states as their tail flow one way, and `{p, n, k, lse}` with candidates from the last stage.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aitorrentd.api import PeerId, ProtocolError, parse_peer_id
from aitorrentd.api.fields import blob, flag, number, text, texts, whole, whole_or

PROTOCOL: Final = "/ai-torrent/1/shards"
VERSION: Final = 2
"""Of what a stage computes from these messages. An older stage skips fields that it does not know
and would compute something else without an error, so only nodes of one version work together. In
version 2 the position encoding depends on `prompt`."""
MAX_VERSION: Final = 1 << 16
SESSION_BYTES: Final = 16
MAX_CONTROL_BYTES: Final = 16 * 1024
MAX_HEADER_BYTES: Final = 1024
MAX_POSITIONS: Final = 1 << 24
MAX_LAYERS: Final = 4096
MAX_CHUNK: Final = 1024
"Positions in one hop frame; bounds a receiver's memory."
MAX_TAIL_BYTES: Final = 64 * 2**20
"Maximum bytes of hidden states in one hop frame, for any model width."
MAX_HIDDEN: Final = 1 << 17
MAX_VOCAB: Final = 1 << 22
MIN_TEMPERATURE: Final = 1e-4
"Dividing logits by less loses all precision; 0 means greedy."
REACH_S: Final = 5.0
"How long a node tries to reach another one to answer `reach`."
MAX_ADDRESSES: Final = 16
MAX_ADDRESS_CHARS: Final = 256
DTYPE_BYTES: Final[Mapping[str, int]] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Open:
    """A coordinator asks for a session for the layers [start, end)."""

    session: bytes
    digest: str
    dtype: str
    start: int
    end: int
    max_positions: int
    prev: PeerId
    last: bool
    prompt: int = 0
    "Positions of the whole prompt; some models' position encoding depends on it."
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Link:
    """Tells a stage where to send its output."""

    peer: PeerId
    addresses: tuple[str, ...]
    session: bytes


@dataclass(frozen=True, slots=True)
class Prev:
    """Tells a stage which peer to take its input from, from now on."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks whether the stage is alive, and for its position."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Asks for an answer only: the link works."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Asks whether the node can reach a peer."""

    peer: PeerId
    addresses: tuple[str, ...]


class Want(NamedTuple):
    """Candidates to return for the last position of a frame: the best `k` of the softmax at
    `temperature` (0 counts as 1)."""

    k: int
    temperature: float


@dataclass(frozen=True, slots=True)
class WantMore:
    """More candidates for the newest position; k = 0 means all."""

    want: Want


Request = Open | Link | Prev | Ping | WantMore | Hello | Reach


@dataclass(frozen=True, slots=True)
class Candidates:
    """The likeliest tokens after a position, best first, ties by id."""

    length: int
    "Positions computed, including the one these candidates follow."
    ids: tuple[int, ...]
    logits: tuple[float, ...]
    lse: float
    "log of the sum over the whole vocabulary of exp(logit / temperature)."


def _peer(header: Mapping[str, Any], key: str) -> PeerId:
    try:
        return parse_peer_id(text(header, key, 64))
    except ValueError:
        raise ProtocolError(f"{key} is not a peer id") from None


def _session(header: Mapping[str, Any]) -> bytes:
    return blob(header, "session", SESSION_BYTES, SESSION_BYTES)


def parse_addresses(value: object) -> tuple[str, ...]:
    """A list of at most MAX_ADDRESSES strings.

    Raises:
        ProtocolError: anything else.
    """
    return texts({"addresses": value}, "addresses", MAX_ADDRESSES, MAX_ADDRESS_CHARS)


def request_id(header: Mapping[str, Any]) -> int:
    """The request number, repeated in the answer.

    Raises:
        ProtocolError: none, or out of range.
    """
    return whole(header, "id", 0, 2**53)


def _open(header: Mapping[str, Any]) -> Open:
    version = whole_or(header, "v", 1, 1, MAX_VERSION)  # version 1 did not say so
    start = whole(header, "start", 0, MAX_LAYERS - 1)
    dtype = text(header, "dtype", 16)
    if dtype not in DTYPE_BYTES:
        raise ProtocolError(f"dtype must be one of {', '.join(DTYPE_BYTES)}")
    return Open(
        session=_session(header),
        digest=text(header, "digest", 128),
        dtype=dtype,
        start=start,
        end=whole(header, "end", start + 1, MAX_LAYERS),
        max_positions=whole(header, "max_positions", 1, MAX_POSITIONS),
        prev=_peer(header, "prev"),
        last=flag(header, "last"),
        prompt=whole(header, "prompt", 0, MAX_POSITIONS) if version == VERSION else 0,
        version=version,
    )


def _want(header: Mapping[str, Any]) -> Want:
    return Want(whole(header, "k", 0, MAX_VOCAB), number(header, "temperature", 0.0, 100.0))


def parse_request(header: Mapping[str, Any]) -> Request:
    """The control request of a coordinator.

    Raises:
        ProtocolError: unknown, or a field is missing or out of range.
    """
    match header.get("op"):
        case "open":
            return _open(header)
        case "link":
            addresses = parse_addresses(header.get("addresses"))
            return Link(_peer(header, "peer"), addresses, _session(header))
        case "prev":
            return Prev(_peer(header, "peer"))
        case "ping":
            return Ping()
        case "candidates":
            return WantMore(_want(header))
        case "hello":
            return Hello()
        case "reach":
            return Reach(_peer(header, "peer"), parse_addresses(header.get("addresses")))
    raise ProtocolError("unknown control message")


def open_header(message: Open) -> dict[str, Any]:
    """The header of an open request; the sender adds `id`."""
    return {
        "op": "open",
        "v": message.version,
        "session": message.session,
        "digest": message.digest,
        "dtype": message.dtype,
        "start": message.start,
        "end": message.end,
        "max_positions": message.max_positions,
        "prev": message.prev,
        "last": message.last,
        "prompt": message.prompt,
    }


def parse_hop(header: Mapping[str, Any]) -> bytes:
    """The target session of a hop stream.

    Raises:
        ProtocolError: not the first frame of a hop.
    """
    if header.get("op") != "hop":
        raise ProtocolError("expected a hop")
    return _session(header)


def parse_have(header: Mapping[str, Any]) -> int:
    """The number of positions that the answering side already has.

    Raises:
        ProtocolError: missing or out of range.
    """
    return whole(header, "have", 0, MAX_POSITIONS)


def parse_queue(header: Mapping[str, Any]) -> int:
    """The number of queued steps in the stage that answered a ping.

    Raises:
        ProtocolError: missing or out of range.
    """
    return whole(header, "queue", 0, 1 << 20)


def parse_step(header: Mapping[str, Any]) -> tuple[int, int, Want | None]:
    """Position, count and `want` of a hop frame that carries ids or activations.

    Raises:
        ProtocolError: missing or out of range.
    """
    pos = whole(header, "p", 0, MAX_POSITIONS)
    n = whole(header, "n", 1, MAX_CHUNK)
    want = header.get("w")
    if want is None:
        return pos, n, None
    if not isinstance(want, (list, tuple)) or len(want) != 2:
        raise ProtocolError("w must be [k, temperature]")
    return pos, n, _want({"k": want[0], "temperature": want[1]})


def layers_us(header: Mapping[str, Any]) -> int:
    """Microseconds spent in layers so far, reported by the stages before; 0 if not reported."""
    return whole_or(header, "us", 0, high=2**40)


def parse_candidates(
    header: Mapping[str, Any], tail: bytes | memoryview, *, vocab: int
) -> Candidates:
    """The candidates in a frame: `k` u32 ids, then `k` float32 logits, little-endian.

    Raises:
        ProtocolError: wrong size, an id outside the vocabulary, a number that is not finite, or not
        sorted by descending logit and ascending id.
    """
    pos = whole(header, "p", 0, MAX_POSITIONS)
    n = whole(header, "n", 1, MAX_CHUNK)
    k = whole(header, "k", 1, vocab)
    if len(tail) != 8 * k:
        raise ProtocolError(f"{k} candidates take {8 * k} bytes, got {len(tail)}")
    lse = header.get("lse")
    if type(lse) is not float or not math.isfinite(lse):
        raise ProtocolError("lse must be a finite number")
    values = struct.unpack(f"<{k}I{k}f", tail)
    ids, logits = values[:k], values[k:]
    if max(ids) >= vocab:
        raise ProtocolError(f"candidate {max(ids)} in a vocabulary of {vocab}")
    if not math.isfinite(logits[0]) or not math.isfinite(logits[-1]):
        raise ProtocolError("a candidate's logit is not finite")
    for i in range(k - 1):
        if not (logits[i] > logits[i + 1] or (logits[i] == logits[i + 1] and ids[i] < ids[i + 1])):
            raise ProtocolError("candidates are not sorted")
    return Candidates(pos + n, ids, logits, lse)
