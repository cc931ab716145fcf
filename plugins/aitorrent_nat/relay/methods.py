"""The control method `nat.relays`: reservations held and given, and circuits."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_nat.relay.part import RelayPart
from aitorrentd.api import CallContext, Method, NoParams


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HeldRow(_Model):
    """A relay of this node."""

    relay: str = Field(description="peer id of the relay")
    addresses: list[str] = Field(description="addresses that lead to this node through it")
    live: bool = Field(description="whether the relay can announce circuits now")
    expires_s: float | None = Field(
        description="seconds until the reservation expires; null before the relay answers"
    )
    rate: int | None = Field(
        description="bytes per second that the relay allows a pair of nodes; null before it answers"
    )
    bytes_per_hour: int | None = Field(
        description="bytes per hour that it allows a pair; null before it answers"
    )
    circuits: int = Field(description="connections through it to this node")


class GivenRow(_Model):
    """A node that may be reached through this one."""

    client: str = Field(description="peer id of the node")
    host: str = Field(description="IP address to which the reservation counts")
    connected: bool = Field(description="whether it is connected, so that circuits to it can open")
    expires_s: float = Field(description="seconds until the reservation expires")
    circuits: int = Field(description="number of its circuits through this node")


class CircuitRow(_Model):
    """Two nodes that this node joins."""

    dialer: str = Field(description="peer id of the node that opened the circuit")
    target: str = Field(description="peer id of the node with the reservation")
    passed: int = Field(description="bytes in both directions")
    age_s: float = Field(description="seconds since it was opened")
    pair_left: int = Field(description="bytes that the pair may still send within the hour")


class RelaysResult(_Model):
    """Relays of this node, and what it relays for others."""

    needed: bool = Field(description="whether this node looks for relays")
    relaying: str = Field(description="why this node relays for nobody now; empty if it relays")
    held: list[HeldRow] = Field(description="reservations of this node at relays")
    problems: dict[str, str] = Field(description="why relays could not be used, by peer id")
    given: list[GivenRow] = Field(description="reservations that this node gave as a relay")
    circuits: list[CircuitRow] = Field(description="circuits through this node")
    passed: int = Field(description="bytes relayed since the plugin started")


def relay_methods(part: RelayPart) -> Iterator[Method]:
    """All methods of the room."""

    def relays(call: CallContext, params: BaseModel) -> RelaysResult:
        return RelaysResult(
            needed=part.is_needed(),
            relaying=part.refusal(),
            held=_held(part),
            problems={str(peer): text for peer, text in part.reserver.problems.items()},
            given=_given(part),
            circuits=_circuits(part),
            passed=part.server.lines.budgets.passed,
        )

    yield Method(
        "nat.relays",
        relays,
        "Relays of this node, and what it relays for others.",
        NoParams,
        RelaysResult,
    )


def _held(part: RelayPart) -> list[HeldRow]:
    now = part.now()
    rows = []
    for held in part.reserver.held:
        given = held.reservation
        rows.append(
            HeldRow(
                relay=held.relay,
                addresses=[str(a) for a in part.reserver.addresses() if a.relay == held.relay],
                live=held.is_live,
                expires_s=held.received_at + given.lifetime_s - now if given else None,
                rate=given.terms.rate if given else None,
                bytes_per_hour=given.terms.bytes_per_hour if given else None,
                circuits=len(held.circuits),
            )
        )
    return rows


def _given(part: RelayPart) -> list[GivenRow]:
    server, now = part.server, part.time()
    return [
        GivenRow(
            client=grant.client,
            host=grant.host,
            connected=server.is_connected(grant.client),
            expires_s=grant.reservation.expires - now,
            circuits=server.lines.circuits.count(grant.client),
        )
        for grant in server.grants
    ]


def _circuits(part: RelayPart) -> list[CircuitRow]:
    now = part.now()
    return [
        CircuitRow(
            dialer=line.circuit.dialer,
            target=line.circuit.target,
            passed=line.passed,
            age_s=now - line.circuit.opened_at,
            pair_left=line.budget.hour.left(now),
        )
        for line in part.server.lines
    ]
