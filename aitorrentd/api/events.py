"""Events: what happened, delivered to subscribers.

An event is a frozen dataclass. The publisher never waits. A subscriber that overflows its bounded
queue gets one final `Lagged`, and its subscription ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aitorrentd.api.ids import PeerId
from aitorrentd.api.models.inference import StageView


@dataclass(frozen=True, slots=True)
class Event:
    """Base of every event; `topic` is its name on the control API."""

    topic: ClassVar[str] = "event"


@dataclass(frozen=True, slots=True)
class Lagged(Event):
    """The last event of a subscription that fell behind."""

    topic = "lagged"

    dropped: int
    "Number of events that this subscriber lost."


@dataclass(frozen=True, slots=True)
class PluginChanged(Event):
    """A plugin changed state."""

    topic = "plugin.changed"

    plugin: str
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Draining(Event):
    """The node started or stopped draining: withdraw, or renew, what you offer."""

    topic = "node.draining"

    active: bool


@dataclass(frozen=True, slots=True)
class NetworkChanged(Event):
    """An address, link or route of this machine changed, or it was suspended."""

    topic = "network.changed"

    reason: str = ""


@dataclass(frozen=True, slots=True)
class PeerConnected(Event):
    """A channel to a peer completed its handshake."""

    topic = "peer.connected"

    peer: PeerId
    address: str
    outbound: bool


@dataclass(frozen=True, slots=True)
class PeerDisconnected(Event):
    """The last channel to a peer closed."""

    topic = "peer.disconnected"

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class PeerRouteChanged(Event):
    """The channel to a peer continues on another route, with all its streams."""

    topic = "peer.route_changed"

    peer: PeerId
    route: str
    "`direct`, `punched` and the like, as in `PeerView.route`."


@dataclass(frozen=True, slots=True)
class PeerMisbehaved(Event):
    """A peer committed an offence; evidence for whoever keeps accounts of trust."""

    topic = "peer.misbehaved"

    peer: PeerId
    offence: str
    "A value of `aitorrentd.api.network.protection.Offence`."
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PeerBanned(Event):
    """A peer, host or subnet was banned temporarily."""

    topic = "peer.banned"

    subject: str
    "A peer id, an IP address or a network in CIDR notation."
    seconds: float
    reason: str
    by_operator: bool


@dataclass(frozen=True, slots=True)
class MessageReceived(Event):
    """A peer sent a broadcast message; `text` has at most 4096 characters and is untrusted."""

    topic = "peer.message"

    peer: PeerId
    text: str


@dataclass(frozen=True, slots=True)
class DirectoryChanged(Event):
    """A record for a directory topic appeared, changed or disappeared."""

    topic = "directory.changed"

    key: str
    peer: PeerId


@dataclass(frozen=True, slots=True)
class TransferSucceeded(Event):
    """A peer sent bytes of a file, or got some; it is proven that the peer did.

    A long transfer is told in parts. Each byte is told once, on each side.
    """

    topic = "weights.transfer_succeeded"

    peer: PeerId
    sha256: str
    "The file; empty for a torrent of several files."
    size_bytes: int
    "Bytes of pieces that were verified here, or bytes that were sent."
    direction: str = "from"
    "`from` the peer or `to` the peer."
    info_hash: str = ""
    "The torrent that they belong to."
    duration_s: float = 0.0
    "Between the first of these bytes and the last, to about a second."


@dataclass(frozen=True, slots=True)
class TransferFailed(Event):
    """A peer sent wrong bytes, or not those that it owed; it is proven that the peer did."""

    topic = "weights.transfer_failed"

    peer: PeerId
    sha256: str
    size_bytes: int
    "Bytes that were wasted, or that the peer owed."
    reason: str
    "`wrong file`, `corrupt pieces`, `left` or `refused`."
    info_hash: str = ""
    "The torrent that they belong to."


@dataclass(frozen=True, slots=True)
class FileReady(Event):
    """A file was fetched and verified, or is back after it was missing, and is seeded."""

    topic = "weights.file_ready"

    sha256: str
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FileMissing(Event):
    """A file that was seeded is not at its place; it is seeded again once it is back."""

    topic = "weights.file_missing"

    sha256: str
    "Empty for a torrent of several files."
    path: str
    reason: str
    "With the remedy."


@dataclass(frozen=True, slots=True)
class StageLost(Event):
    """A stage of a running answer was lost; `replacement` is empty if the answer cannot
    continue."""

    topic = "shards.stage_lost"

    model: str
    peer: PeerId
    layers: tuple[int, int]
    replacement: str
    stall_s: float


@dataclass(frozen=True, slots=True)
class GenerationEnded(Event):
    """A request was answered, cancelled or failed."""

    topic = "inference.ended"

    model: str
    backend: str
    reason: str
    "stop, length, tool_calls, cancelled or error; busy if there was no place for it."
    prompt_tokens: int
    completion_tokens: int
    took_s: float
    "From the start of the answer, without `queue_s`."
    first_token_s: float | None = None
    "From the start of the answer to its first output; None if there was none."
    queue_s: float = 0.0
    "How long the request waited for its model before."
    cached_tokens: int = 0
    "How many of the prompt's tokens a cache spared."
    stages: tuple[StageView, ...] = ()
    "Which nodes computed which layers, if the model was split."
