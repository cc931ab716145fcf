"""Control methods for bans and offences: `transport.ban`, `unban`, `bans` and `trust`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_transport.protection.bans import Ban, parse_subject
from aitorrent_transport.protection.guard import BAN_AT
from aitorrent_transport.selecting import find_peer
from aitorrent_transport.service import TransportService
from aitorrentd.api import CallContext, InvalidParams, Method, Role, parse_peer_id

MAX_BAN_S: Final = 366 * 86_400.0
_DAY_S: Final = 86_400.0


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BanParams(_Model):
    """Whom to ban, and for how long."""

    subject: Annotated[
        str,
        Field(
            description="peer id, its last characters if unique, an IP address, or a network",
            max_length=400,
        ),
    ]
    seconds: Annotated[
        float,
        Field(
            gt=0,
            le=MAX_BAN_S,
            description="duration of the ban; one day by default, at most 366 days",
        ),
    ] = _DAY_S
    reason: Annotated[
        str, Field(description="reason for the ban, sent to the peer", max_length=200)
    ] = ""


class SubjectParams(_Model):
    """A banned peer, address or network."""

    subject: Annotated[str, Field(description="as listed by `transport.bans`", max_length=400)]


class BanRow(_Model):
    """A ban."""

    subject: str = Field(description="peer id, IP address, or network in CIDR notation")
    left_s: float = Field(description="seconds until the ban expires")
    reason: str = Field(description="as sent to the peer")
    times: int = Field(description="bans of this subject within a day, this one included")
    by_operator: bool = Field(
        description="true for a ban by this API; false for one by the node itself"
    )


class BansResult(_Model):
    """Current bans, the longest remaining first."""

    bans: list[BanRow] = Field(description="the longest remaining first")


class UnbanResult(_Model):
    """The subject whose ban was lifted."""

    subject: str = Field(description="what was banned, in full")


class TrustParams(_Model):
    """A peer, connected or not."""

    peer: Annotated[
        str, Field(description="peer id, or its last characters if unique", max_length=400)
    ]


class OffenceRow(_Model):
    """What a peer did wrong."""

    at: float = Field(description="seconds since the epoch")
    offence: str = Field(
        description="protocol_error, invalid_message, failed_handshake, flood or excess_call"
    )
    detail: str = Field(description="such as the limit that it exceeded; may be empty")


class TrustResult(_Model):
    """What this node knows of a peer's conduct since it started."""

    id: str = Field(description="peer id")
    score: float = Field(description="threat score; halves every ten minutes")
    ban_at: float = Field(description="the score at which a peer is banned")
    ban: BanRow | None = Field(description="current ban of this peer id; null if there is none")
    offences: list[OffenceRow] = Field(
        description="the latest ones since the node started, oldest first"
    )


class BanMethods:
    """Handlers of the control methods."""

    def __init__(self, service: TransportService) -> None:
        self._service = service

    def methods(self) -> Iterable[Method]:
        """All methods."""
        return (
            Method("transport.bans", self.bans, "Banned peers and addresses.", result=BansResult),
            Method(
                "transport.ban",
                self.ban,
                "Disconnect a peer, address or network and ban it temporarily.",
                params=BanParams,
                result=BanRow,
                role=Role.OPERATE,
            ),
            Method(
                "transport.unban",
                self.unban,
                "Lift a ban.",
                params=SubjectParams,
                result=UnbanResult,
                role=Role.OPERATE,
            ),
            Method(
                "transport.trust",
                self.trust,
                "A peer's offences and threat score.",
                params=TrustParams,
                result=TrustResult,
            ),
        )

    def bans(self, call: CallContext, params: BaseModel) -> BansResult:
        """`transport.bans`"""
        now = self._service.now()
        return BansResult(bans=[_row(b, now) for b in self._service.guard.bans.current(now)])

    async def ban(self, call: CallContext, params: BanParams) -> BanRow:
        """`transport.ban`"""
        subject = self._subject(params.subject, "peers ban")
        if subject == self._service.node_id:
            raise InvalidParams("this is the node's own id")
        reason = params.reason or "by the operator"
        ban = await self._service.banning.ban(subject, params.seconds, reason)
        return _row(ban, self._service.now())

    async def unban(self, call: CallContext, params: SubjectParams) -> UnbanResult:
        """`transport.unban`"""
        banned = [b.subject for b in self._service.guard.bans.current(self._service.now())]
        text = params.subject.removeprefix("…")
        ends = [subject for subject in banned if subject.endswith(text)]
        subject = ends[0] if len(ends) == 1 else self._subject(params.subject, "peers unban")
        await self._service.banning.unban(subject)
        return UnbanResult(subject=subject)

    def trust(self, call: CallContext, params: TrustParams) -> TrustResult:
        """`transport.trust`"""
        service, now = self._service, self._service.now()
        peer = find_peer(service, params.peer, command="trust", or_banned=True)
        ban = service.guard.bans.of(peer, now)
        return TrustResult(
            id=peer,
            score=round(service.guard.score(peer), 2),
            ban_at=BAN_AT,
            ban=_row(ban, now) if ban else None,
            offences=[
                OffenceRow(at=e.at, offence=e.offence.value, detail=e.detail)
                for e in service.guard.history(peer)
            ],
        )

    def _subject(self, text: str, command: str) -> str:
        try:
            return parse_peer_id(text)
        except ValueError:
            pass
        if "." in text or ":" in text:
            return parse_subject(text)
        return find_peer(self._service, text, command=command)


def _row(ban: Ban, now: float) -> BanRow:
    return BanRow(
        subject=ban.subject,
        left_s=round(ban.left_s(now), 1),
        reason=ban.reason,
        times=ban.times,
        by_operator=ban.by_operator,
    )
