"""Control methods of discovery: `discovery.*`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_discovery.service import DiscoveryService
from aitorrentd.api import CallContext, Method, NoParams, PeerId


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StatsResult(_Model):
    """What discovery has and does."""

    outbound: int = Field(description="open connections that this node dialled")
    outbound_wanted: int = Field(
        description="connections that this node dials and keeps, as configured"
    )
    candidates: dict[str, int] = Field(
        description="number of peers that can be dialled, connected or not, by how they were found"
    )
    records: int = Field(description="number of peer records of others")
    sequence: int = Field(
        description="sequence number of this node's own record; 0 before the first"
    )
    addresses: list[str] = Field(description="multiaddrs in this node's own record")
    gossip: bool = Field(description="whether it exchanges peer records, as configured")
    counts: dict[str, int] = Field(description="number of events since the plugin started, by name")
    local_network: str = Field(
        description="state of multicast DNS in one line, or why it does not work"
    )
    clock_ahead_s: float | None = Field(
        description="how far the peers' clocks are ahead of this one; null while unknown"
    )


class PeerRow(_Model):
    """A peer that was found."""

    id: str = Field(description="peer id")
    connected: bool = Field(description="whether a channel to it is open now")
    found: str = Field(
        description="lan (multicast DNS), dialled (by this node earlier) or heard (gossip)"
    )
    addresses: list[str] = Field(
        description="multiaddrs at which it can be dialled; empty while unknown"
    )
    standing: float = Field(description="1 for a stranger, up to 4, towards 0 after failures")
    failed_dials: int = Field(description="since the last dial that succeeded")
    retry_s: float = Field(description="seconds until it may be dialled again")
    hops: int | None = Field(
        description="hops that its record may still travel; null without a record"
    )
    expires_s: float | None = Field(
        description="seconds until its record expires; null without a record"
    )


class PeersResult(_Model):
    """Peers that were found, connected ones first."""

    peers: list[PeerRow] = Field(description="connected ones first, then by id")


def discovery_methods(service: DiscoveryService) -> Iterator[Method]:
    """All methods."""

    def stats(call: CallContext, params: BaseModel) -> StatsResult:
        gossip = service.gossip
        own = gossip.own_record()
        return StatsResult(
            outbound=sum(view.outbound for view in service.transport.peers()),
            outbound_wanted=service.config.outbound,
            candidates=service.candidates.count(),
            records=len(gossip.book),
            sequence=gossip.sequence,
            addresses=[address.location for address in own.addresses] if own else [],
            gossip=service.config.gossip,
            counts=dict(sorted((gossip.counts + service.local.counts).items())),
            local_network=service.local.problem or service.local.state,
            clock_ahead_s=gossip.clocks.ahead_s,
        )

    def peers(call: CallContext, params: BaseModel) -> PeersResult:
        anchors = dict(service.candidates.anchors)
        lan = service.candidates.lan
        heard = {h.record.peer for h in service.gossip.book}
        rows = [_row(service, peer, lan) for peer in sorted(heard | set(anchors) | set(lan))]
        return PeersResult(peers=sorted(rows, key=lambda row: (not row.connected, row.id)))

    yield Method("discovery.stats", stats, "What discovery has and does.", NoParams, StatsResult)
    yield Method("discovery.peers", peers, "Peers that were found.", NoParams, PeersResult)


def _row(service: DiscoveryService, peer: PeerId, lan: list[PeerId]) -> PeerRow:
    now = service.ctx.clock.monotonic()
    anchor = dict(service.candidates.anchors).get(peer)
    heard = service.gossip.book.get(peer)
    standing = service.standings.of(peer)
    places = heard.places if heard is not None and heard.places else anchor or ()
    expires_s = heard.record.expires - service.ctx.clock.time() if heard is not None else None
    return PeerRow(
        id=peer,
        connected=service.transport.peer(peer) is not None,
        found="lan" if peer in lan else "dialled" if anchor else "heard",
        addresses=[address.location for address in places],
        standing=round(service.standings.trust(peer, now), 2),
        failed_dials=standing.failed_dials,
        retry_s=max(0.0, standing.dial_after - now),
        hops=heard.hops if heard is not None else None,
        expires_s=expires_s,
    )
