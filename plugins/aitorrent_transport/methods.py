"""Control methods of the transport: `transport.*`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_transport.protocols.broadcast import MAX_CHARS
from aitorrent_transport.selecting import find_peer
from aitorrent_transport.service import TransportService
from aitorrentd.api import (
    CallContext,
    Method,
    PeerView,
    Role,
    TimedOut,
)

_PAUSE_S: Final = 0.2


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PeerRow(_Model):
    """A connected peer."""

    id: str = Field(description="peer id")
    address: str = Field(description="multiaddr of the other end of the channel, without /p2p")
    outbound: bool = Field(description="whether this node dialled")
    connected_s: float = Field(description="seconds since the handshake")
    rtt_s: float | None = Field(
        description="smoothed round-trip time of keepalive pings; null before the first"
    )
    streams: int = Field(description="number of open streams")
    bytes_in: int = Field(description="received on its open channels")
    bytes_out: int = Field(description="sent on its open channels")
    agent: str = Field(description="software that the peer reports, such as aitorrentd/0.1.0")
    name: str = Field("", description="self-chosen name; only the id is proven")
    route: str = Field("direct", description="direct, relay, punched and the like")
    host: str = Field("", description="its IP address; empty if unknown, as behind a relay")
    observed: str = Field(
        "", description="this node's address as the peer sees it, HOST:PORT; empty if unknown"
    )


class PeersResult(_Model):
    """Connected peers, in order of connection."""

    peers: list[PeerRow] = Field(description="in order of connection")


class ConnectParams(_Model):
    """The peer to connect to."""

    address: Annotated[str, Field(description="multiaddr or host:port", max_length=400)]
    timeout_s: Annotated[
        float, Field(gt=0, le=120, description="seconds to wait for the handshake")
    ] = 10.0


class ConnectResult(_Model):
    """The peer that answered."""

    peer: PeerRow = Field(description="the peer that answered")


class PeerParams(_Model):
    """A connected peer."""

    peer: Annotated[
        str, Field(description="peer id, or its last characters if unique", max_length=400)
    ]


class DisconnectResult(_Model):
    """The peer whose channel ended."""

    id: str = Field(description="peer id whose channels were closed")


class PingParams(_Model):
    """The peer to ping, and how often."""

    peer: Annotated[
        str,
        Field(description="peer id, its last characters if unique, or an address", max_length=400),
    ]
    count: Annotated[
        int, Field(ge=1, le=100, description="number of pings, one after the other")
    ] = 4
    timeout_s: Annotated[
        float, Field(gt=0, le=60, description="seconds to wait for each answer")
    ] = 5.0


class PingResult(_Model):
    """Round-trip times in milliseconds, None for a ping without an answer."""

    id: str = Field(description="peer id of the node that was pinged")
    address: str = Field(
        description="multiaddr at which it was reached; empty if it disconnected meanwhile"
    )
    rtt_ms: list[float | None] = Field(
        description="round-trip time of each ping, in order; null = no answer in time"
    )


class BroadcastParams(_Model):
    """The message for every connected peer."""

    text: Annotated[
        str,
        Field(min_length=1, max_length=MAX_CHARS, description="the message, 1 to 4096 characters"),
    ]


class BroadcastResult(_Model):
    """How many peers accepted the message."""

    sent: int = Field(description="number of peers that accepted it")


class AddressesResult(_Model):
    """Addresses at which peers can dial this node."""

    addresses: list[str] = Field(description="multiaddrs with /p2p")


class KnownRow(_Model):
    """A place where a peer answered this node's dial."""

    id: str = Field(description="peer id")
    address: str = Field(description="multiaddr without /p2p; a peer has one row for each")
    last_seen: float = Field(
        description="when a dial there last succeeded, in seconds since the epoch"
    )
    "Seconds since the epoch."
    fails: int = Field(description="failed dials there since then")
    wanted: bool = Field(description="whether this node keeps a channel to the peer")
    connected: bool = Field(description="whether a channel to the peer is open now")


class KnownResult(_Model):
    """Known peers, most recently seen first."""

    known: list[KnownRow] = Field(description="most recently seen first")


class DirectoryParams(_Model):
    """Which keys to list."""

    prefix: Annotated[str, Field(max_length=256, description="only keys that start with this")] = ""


class RecordRow(_Model):
    """One node's record under a key."""

    key: str = Field(description="such as `ait:cap:<model>` or `ait:shard:<digest>`")
    peer: str = Field(description="peer id of the node that published it")
    value: dict[str, Any] = Field(description="claimed by the peer, not verified")
    addresses: list[str] = Field(description="multiaddrs of the peer; empty if unknown")


class DirectoryResult(_Model):
    """Records of this node and of connected peers."""

    records: list[RecordRow] = Field(description="those that this node knows, its own included")


def _row(view: PeerView) -> PeerRow:
    return PeerRow(**asdict(view))


class TransportMethods:
    """Handlers of the control methods."""

    def __init__(self, service: TransportService) -> None:
        self._service = service

    def methods(self) -> Iterable[Method]:
        """All methods."""
        return (
            Method("transport.peers", self.peers, "Connected peers.", result=PeersResult),
            Method(
                "transport.connect",
                self.connect,
                "Connect to an address and keep the channel open.",
                params=ConnectParams,
                result=ConnectResult,
                role=Role.OPERATE,
            ),
            Method(
                "transport.disconnect",
                self.disconnect,
                "Disconnect from a peer and stop redialling it.",
                params=PeerParams,
                result=DisconnectResult,
                role=Role.OPERATE,
            ),
            Method(
                "transport.ping",
                self.ping,
                "Measure the round-trip time to a peer.",
                params=PingParams,
                result=PingResult,
                role=Role.OPERATE,
            ),
            Method(
                "transport.broadcast",
                self.broadcast,
                "Send a message to every connected peer.",
                params=BroadcastParams,
                result=BroadcastResult,
                role=Role.OPERATE,
            ),
            Method(
                "transport.addresses",
                self.addresses,
                "Addresses at which peers can dial this node.",
                result=AddressesResult,
            ),
            Method(
                "transport.known",
                self.known,
                "Known peers: every peer that has ever answered this node's dial.",
                result=KnownResult,
            ),
            Method(
                "transport.directory",
                self.directory,
                "Directory records of this node and its peers.",
                params=DirectoryParams,
                result=DirectoryResult,
            ),
        )

    def peers(self, call: CallContext, params: BaseModel) -> PeersResult:
        """`transport.peers`"""
        return PeersResult(peers=[_row(view) for view in self._service.peers()])

    async def connect(self, call: CallContext, params: ConnectParams) -> ConnectResult:
        """`transport.connect`"""
        view = await self._service.connect(params.address, timeout_s=params.timeout_s)
        return ConnectResult(peer=_row(view))

    async def disconnect(self, call: CallContext, params: PeerParams) -> DisconnectResult:
        """`transport.disconnect`"""
        peer = find_peer(self._service, params.peer, command="disconnect")
        await self._service.disconnect(peer)
        return DisconnectResult(id=peer)

    async def ping(self, call: CallContext, params: PingParams) -> PingResult:
        """`transport.ping`; an address that is not connected is dialled first."""
        service = self._service
        if ":" in params.peer or params.peer.startswith("/"):
            view = await service.dial_once(params.peer, timeout_s=params.timeout_s)
            peer, address = view.id, view.address
        else:
            peer = find_peer(service, params.peer, command="ping")
            connected = service.peer(peer)
            address = connected.address if connected else ""
        times: list[float | None] = []
        for i in range(params.count):
            if i:
                await asyncio.sleep(_PAUSE_S)
            call.progress("ping", done=i, total=params.count)
            try:
                times.append(await service.ping(peer, timeout_s=params.timeout_s) * 1000)
            except TimedOut:
                times.append(None)
        return PingResult(id=peer, address=address, rtt_ms=times)

    async def broadcast(self, call: CallContext, params: BroadcastParams) -> BroadcastResult:
        """`transport.broadcast`"""
        return BroadcastResult(sent=await self._service.broadcast(params.text))

    def addresses(self, call: CallContext, params: BaseModel) -> AddressesResult:
        """`transport.addresses`"""
        return AddressesResult(addresses=list(self._service.addresses()))

    async def known(self, call: CallContext, params: BaseModel) -> KnownResult:
        """`transport.known`"""
        rows = [
            KnownRow(
                id=k.peer,
                address=k.address,
                last_seen=k.last_seen,
                fails=k.fails,
                wanted=k.wanted,
                connected=self._service.peer(k.peer) is not None,
            )
            for k in await self._service.store.all()
        ]
        return KnownResult(known=rows)

    def directory(self, call: CallContext, params: DirectoryParams) -> DirectoryResult:
        """`transport.directory`"""
        records = [
            RecordRow(key=r.key, peer=r.peer, value=dict(r.value), addresses=list(r.addresses))
            for r in self._service.directory.known(params.prefix)
        ]
        return DirectoryResult(records=records)
