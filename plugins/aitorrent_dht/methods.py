"""Control methods of the DHT: `dht.*`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_dht.core.contact import ID_BYTES
from aitorrent_dht.core.record import MAX_VALUE_BYTES
from aitorrent_dht.directory import MAX_KEY_CHARS
from aitorrent_dht.service import DhtService, Value
from aitorrentd.api import (
    CallContext,
    InvalidParams,
    Method,
    PeerId,
    Role,
    TimedOut,
    parse_peer_id,
    peer_id,
)

_Name = Annotated[
    str,
    Field(min_length=1, max_length=256, description="name of the value, chosen by its publisher"),
]
_Timeout = Annotated[float, Field(gt=0, le=120, description="seconds to wait for the result")]
TIMEOUT_S: Final = 10.0


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PutParams(_Model):
    """A value to publish."""

    name: _Name
    value: Annotated[
        str, Field(max_length=MAX_VALUE_BYTES, description="text, at most 700 bytes as UTF-8")
    ]
    timeout_s: _Timeout = TIMEOUT_S


class NameParams(_Model):
    """A value of this node."""

    name: _Name
    timeout_s: _Timeout = TIMEOUT_S


class GetParams(_Model):
    """A value of some node."""

    name: _Name
    publisher: Annotated[
        str, Field(max_length=64, description="peer id of the publisher; empty = this node")
    ] = ""
    timeout_s: _Timeout = TIMEOUT_S


class ValueResult(_Model):
    """A published value."""

    name: str = Field(description="as given")
    publisher: str = Field(description="peer id of the node that signed the value")
    value: str = Field(description="text; bytes that are not UTF-8 are replaced")
    seq: int = Field(description="sequence number; increases with each change of the value")
    expires: int = Field(description="expiry in seconds since the epoch; republishing extends it")
    stored: int = Field(description="number of nodes that store it, if this node is the publisher")


class DeleteResult(_Model):
    """How many nodes took the deletion."""

    name: str = Field(description="as given")
    stored: int = Field(
        description="number of nodes that store the deletion; 0 if none did in time"
    )


class FindParams(_Model):
    """A key of the directory."""

    key: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_KEY_CHARS,
            description="such as `ait:cap:<model>` or `ait:shard:<digest>`",
        ),
    ]
    timeout_s: _Timeout = TIMEOUT_S


class ProviderRow(_Model):
    """What one node offers under the key."""

    peer: str = Field(description="peer id of the provider")
    addresses: list[str] = Field(description="multiaddrs, as claimed by the peer")
    value: dict[str, Any] = Field(description="claimed by the peer, not verified")


class FindResult(_Model):
    """Providers of the key."""

    key: str = Field(description="as given")
    providers: list[ProviderRow] = Field(
        description="one row per node, this node included; empty if nobody provides the key"
    )


class StatsResult(_Model):
    """The state of this node in the DHT."""

    id: str = Field(description="id of this node in the DHT, hex")
    mode: str = Field(description="server, or client if other nodes cannot reach this one")
    joined: bool = Field(description="whether a lookup of this node's own id has completed")
    ports: list[int] = Field(description="UDP ports")
    seen_at: str = Field(description="address at which other nodes see this one; empty if unknown")
    nodes: int = Field(description="number of verified nodes in the routing table")
    buckets: int = Field(description="non-empty buckets of the routing table, of 160")
    network_size: int = Field(description="estimated number of nodes")
    rtt_s: float | None = Field(
        description="smoothed round-trip time to all nodes; null before the first reply"
    )
    records: int = Field(description="number of records stored for other nodes")
    records_bytes: int = Field(description="memory that these records take, as an estimate")
    published: int = Field(description="number of records that this node publishes")
    lookups: int = Field(description="since the plugin started")
    requests: int = Field(
        description="sent to other nodes since the plugin started, without retransmissions"
    )
    timeouts: int = Field(description="requests of this node without a timely reply")
    served: int = Field(description="requests of other nodes that were answered")
    bytes_in: int = Field(description="UDP payload received since the plugin started")
    bytes_out: int = Field(description="UDP payload sent since the plugin started")
    checked: int = Field(description="messages with a valid signature")
    dropped: dict[str, int] = Field(description="ignored datagrams, by reason")


class DhtMethods:
    """Handlers of the control methods."""

    def __init__(self, service: DhtService) -> None:
        self._service = service

    def methods(self) -> Iterable[Method]:
        """All methods."""
        return (
            Method(
                "dht.put",
                self.put,
                "Publish a value under a name until it is deleted.",
                params=PutParams,
                result=ValueResult,
                role=Role.OPERATE,
            ),
            Method(
                "dht.get",
                self.get,
                "Find the value that a node published under a name.",
                params=GetParams,
                result=ValueResult,
                role=Role.OPERATE,
            ),
            Method(
                "dht.delete",
                self.delete,
                "Delete a value that this node published.",
                params=NameParams,
                result=DeleteResult,
                role=Role.OPERATE,
            ),
            Method(
                "dht.find",
                self.find,
                "Find the nodes that provide a key of the directory.",
                params=FindParams,
                result=FindResult,
                role=Role.OPERATE,
            ),
            Method("dht.stats", self.stats, "This node's state in the DHT.", result=StatsResult),
        )

    async def put(self, call: CallContext, params: PutParams) -> ValueResult:
        """`dht.put`"""
        value = await self._service.put(
            params.name, params.value.encode(), timeout_s=params.timeout_s
        )
        return _value(params.name, value)

    async def get(self, call: CallContext, params: GetParams) -> ValueResult:
        """`dht.get`"""
        try:
            publisher: PeerId | None = parse_peer_id(params.publisher) if params.publisher else None
        except ValueError as e:
            raise InvalidParams(str(e)) from None
        try:
            value = await self._service.get(params.name, publisher, timeout_s=params.timeout_s)
        except TimeoutError:
            raise TimedOut(f"the search did not end within {params.timeout_s:g} s") from None
        return _value(params.name, value)

    async def delete(self, call: CallContext, params: NameParams) -> DeleteResult:
        """`dht.delete`"""
        stored = await self._service.delete(params.name, timeout_s=params.timeout_s)
        return DeleteResult(name=params.name, stored=stored)

    async def find(self, call: CallContext, params: FindParams) -> FindResult:
        """`dht.find`"""
        try:
            found = await self._service.source.find(params.key, timeout_s=params.timeout_s)
        except TimeoutError:
            raise TimedOut(f"the search did not end within {params.timeout_s:g} s") from None
        rows = [
            ProviderRow(peer=r.peer, addresses=list(r.addresses), value=dict(r.value))
            for r in found
        ]
        return FindResult(key=params.key, providers=rows)

    def stats(self, call: CallContext, params: BaseModel) -> StatsResult:
        """`dht.stats`"""
        service = self._service
        state, endpoint = service.node.state, service.endpoint
        return StatsResult(
            id=state.id.to_bytes(ID_BYTES, "big").hex(),
            mode="client" if state.is_client else "server",
            joined=service.node.upkeep.is_joined,
            ports=sorted(set(endpoint.bound.values())),
            seen_at=state.reachability.seen_at(),
            nodes=len(state.table),
            buckets=sum(1 for _ in state.table.buckets()),
            network_size=round(state.network_size()),
            rtt_s=state.round_trip.srtt_s,
            records=len(state.store),
            records_bytes=state.store.size_bytes,
            published=len(service.node.publishing),
            lookups=state.counts["lookups"],
            requests=state.counts["requests"],
            timeouts=state.counts["timeouts"],
            served=state.counts["served"],
            bytes_in=endpoint.bytes_in,
            bytes_out=endpoint.bytes_out,
            checked=service.gate.checked,
            dropped=dict(service.gate.dropped),
        )


def _value(name: str, value: Value) -> ValueResult:
    record = value.record
    return ValueResult(
        name=name,
        publisher=peer_id(record.publisher),
        value=record.value.decode("utf-8", "replace"),
        seq=record.seq,
        expires=record.expires,
        stored=value.stored,
    )
