"""What a plugin declares: PluginInfo, control methods, doctor checks, health warnings, policies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from aitorrentd.api.ids import PeerId
from aitorrentd.api.services import ServiceKey
from aitorrentd.api.settings import SettingsTable


class PluginConfig(SettingsTable):
    """Base of a plugin's configuration; tables inside it are SettingsTables."""

    enabled: bool = Field(True, description="whether the plugin is loaded at all")


class SkipPlugin(Exception):
    """Raised by a lifespan to say "not here", with the reason a person reads; it is not a
    failure."""


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin's manifest, read before any of its code runs further."""

    name: str
    summary: str
    provides: tuple[ServiceKey[Any], ...] = ()
    requires: tuple[ServiceKey[Any], ...] = ()
    "Services without which it cannot run: it starts after them and stops with them."
    wants: tuple[ServiceKey[Any], ...] = ()
    "Services it uses when they are there: it starts after them, and runs without them."
    config: type[PluginConfig] = PluginConfig
    start_timeout_s: float = 30.0


class Role(IntEnum):
    """Who may call a method; each role includes those below it."""

    READ = 0
    OPERATE = 1
    ADMIN = 2


class CallContext(Protocol):
    """The call that a method handler serves."""

    @property
    def role(self) -> Role:
        """The caller's role."""

    @property
    def trace(self) -> str:
        """The causal chain of the call, for logs: `ctl:models.pull#3/hub:fetch#1`."""

    def progress(
        self, text: str, *, done: float | None = None, total: float | None = None, unit: str = ""
    ) -> None:
        """Tell the caller how far the work is; never waits."""


class NoParams(BaseModel):
    """A method without parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the control API. Its name starts with the plugin's name and a dot.

    `handler(call, params)` returns a `result` (instance, or a dict of that shape); it may be a
    plain function, a coroutine function, or with `stream=True` an async generator of results,
    whose last value may be an `End`.
    """

    name: str
    handler: Callable[[CallContext, Any], Any | Awaitable[Any] | AsyncIterator[Any]]
    summary: str
    params: type[BaseModel] = NoParams
    result: type[BaseModel] = NoParams
    role: Role = Role.READ
    stream: bool = False
    since: str = "0.1.0"


@dataclass(frozen=True, slots=True)
class End:
    """What a stream handler yields last to give the stream a summary."""

    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a doctor check found."""

    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A doctor check. `run` has 10 s."""

    name: str
    "Without the plugin's, which the doctor puts before it: `port` is shown as `transport.port`."
    summary: str
    run: Callable[[], Awaitable[CheckResult]]


@dataclass(frozen=True, slots=True)
class HealthWarning:
    """Something that is wrong now."""

    code: str
    text: str
    severity: Literal["info", "warning", "error"] = "warning"


@dataclass(frozen=True, slots=True)
class PeerCandidate:
    """A peer that completed its handshake and asks to stay; for the policy hook."""

    id: PeerId
    address: str
    outbound: bool
    agent: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy's decision about a peer."""

    admit: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class OfferView:
    """Work that a peer asks for, to be priced."""

    peer: PeerId
    service: str
    amount: float
    unit: str


@dataclass(frozen=True, slots=True)
class Price:
    """What a unit of work costs."""

    credits: float
