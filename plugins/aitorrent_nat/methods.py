"""Control methods of NAT traversal: `nat.*`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_nat.config import server_place
from aitorrent_nat.probing import Probed, probe
from aitorrent_nat.service import NatService
from aitorrent_nat.stun.behaviour import Behaviour
from aitorrentd.api import CallContext, InvalidParams, Method, NoParams, Role
from aitorrentd.api.network.addresses import host_port


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BehaviourFields(_Model):
    """How the NATs in front of this node behave, in the terms of RFC 4787."""

    mapping: str = Field(description="unknown, none, endpoint-independent or another dependence")
    filtering: str = Field(description="unknown, endpoint-independent or another dependence")
    external: str = Field(description="IP address that others see; empty while unknown")
    keeps_ports: bool | None = Field(
        description="whether the external port is the local one; null while unknown"
    )
    hairpins: bool | None = Field(
        description="whether this node reaches its external address; null while unknown"
    )
    lifetime_s: float | None = Field(
        description="seconds that an idle mapping lasts at least; null while not measured"
    )


class StatusResult(_Model):
    """What NAT traversal does."""

    reach: str = Field(description="how strangers can reach this node, in a word")
    reason: str = Field(description="the evidence, in one line")
    behaviour: BehaviourFields = Field(description="how the NATs behave, as far as known")
    parts: dict[str, str] = Field(description="state of each part in one line, by its name")


class ProbeParams(_Model):
    """Whom to ask, and whether to wait for the lifetime of mappings."""

    server: str = Field("", description="STUN server as HOST or HOST:PORT; empty: as configured")
    lifetime: bool = Field(
        False,
        description="also measure how long an idle mapping lasts, which takes up to 5 minutes",
    )


class SeenBy(_Model):
    """What a STUN server, or a peer's, said."""

    server: str = Field(description="HOST:PORT")
    mapped: str = Field(description="where it saw this node, HOST:PORT; empty without an answer")
    problem: str = Field(description="why its answer was unusable; empty if it was usable")


class ProbeResult(_Model):
    """What a test of the NAT found."""

    behaviour: BehaviourFields = Field(description="how the NATs behave, as far as determined")
    seen_by: list[SeenBy] = Field(description="one row per server or peer that was asked")
    problem: str = Field(description="why the result is incomplete; empty if it is complete")


def nat_methods(service: NatService) -> Iterator[Method]:
    """All methods."""

    def status(call: CallContext, params: BaseModel) -> StatusResult:
        return StatusResult(
            reach=service.reach.reach,
            reason=service.reach.reason,
            behaviour=_behaviour(service.reach.behaviour, service.reach.external),
            parts={part.name: part.state() for part in service.parts},
        )

    async def probing(call: CallContext, params: ProbeParams) -> ProbeResult:
        try:
            servers = [server_place(params.server)] if params.server else None
        except ValueError as e:
            raise InvalidParams(str(e)) from None
        found = await probe(service, servers, lifetime=params.lifetime, progress=call.progress)
        return _probed(found)

    yield Method("nat.status", status, "What NAT traversal does.", NoParams, StatusResult)
    yield Method(
        "nat.probe",
        probing,
        "Test the NAT now, by STUN servers or peers.",
        ProbeParams,
        ProbeResult,
        role=Role.OPERATE,
    )


def _behaviour(found: Behaviour, external: str) -> BehaviourFields:
    return BehaviourFields(
        mapping=found.mapping,
        filtering=found.filtering,
        external=found.external or external,
        keeps_ports=found.keeps_ports,
        hairpins=found.hairpins,
        lifetime_s=found.lifetime_s,
    )


def _probed(found: Probed) -> ProbeResult:
    seen = [
        SeenBy(server=host_port(*each.server), mapped=host_port(*each.mapped), problem="")
        for each in found.observed
    ]
    seen += [
        SeenBy(server=host_port(*server), mapped="", problem=text)
        for server, text in found.problems.items()
    ]
    return ProbeResult(
        behaviour=_behaviour(found.behaviour, ""), seen_by=seen, problem=found.problem
    )
