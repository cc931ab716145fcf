"""Control method for the ways to a peer: `transport.why`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_transport.routes.why import explained, in_use
from aitorrent_transport.selecting import find_peer
from aitorrent_transport.service import TransportService
from aitorrentd.api import CallContext, Method


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WhyParams(_Model):
    """The peer, connected or not."""

    peer: Annotated[
        str, Field(description="peer id, or its last characters if unique", max_length=400)
    ]


class AttemptRow(_Model):
    """One attempt to reach the peer."""

    at: float = Field(description="when it began, in seconds since the epoch")
    way: str = Field(description="direct, relay, tcp-punch, move and the like")
    where: str = Field(description="the address tried, as a multiaddr; empty if there is none")
    ok: bool = Field(description="whether it led to a connection")
    outcome: str = Field(description="what happened, in one line")
    took_s: float = Field(description="duration in seconds")
    in_use: bool = Field(description="whether the channel in use came about by it")


class WhyResult(_Model):
    """How a peer is connected and why, and what was tried in the last 24 hours."""

    id: str = Field(description="peer id")
    summary: str = Field(description="the explanation in one line")
    route: str = Field(description="direct, relay, punched and the like; empty if not connected")
    address: str = Field(description="where the peer is reached; empty if not connected")
    relayed: bool = Field(description="whether a third node forwards the bytes")
    attempts: list[AttemptRow] = Field(description="oldest first, the last 64")


class WhyMethods:
    """Handler of the control method."""

    def __init__(self, service: TransportService) -> None:
        self._service = service

    def methods(self) -> Iterable[Method]:
        """All methods."""
        return (
            Method(
                "transport.why",
                self.why,
                "How a peer is connected and why, with every attempt to reach it.",
                params=WhyParams,
                result=WhyResult,
            ),
        )

    def why(self, call: CallContext, params: WhyParams) -> WhyResult:
        """`transport.why`"""
        service = self._service
        tried = service.attempts.peers()
        peer = find_peer(service, params.peer, command="peers why", more=tried)
        view, entry = service.peer(peer), service.table.get(peer)
        is_relayed = entry is not None and entry.is_relayed
        attempts = service.attempts.of(peer)
        used = in_use(view, attempts)
        return WhyResult(
            id=peer,
            summary=explained(view, is_relayed, attempts),
            route=view.route if view is not None else "",
            address=view.address if view is not None else "",
            relayed=is_relayed,
            attempts=[
                AttemptRow(
                    at=a.at,
                    way=a.way,
                    where=a.where,
                    ok=a.ok,
                    outcome=a.outcome,
                    took_s=round(a.took_s, 4),
                    in_use=a is used,
                )
                for a in attempts
            ],
        )
