"""What a plugin declares: PluginInfo, control methods, doctor checks, health warnings, policies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from aitorrentd.api.ids import PeerId
from aitorrentd.api.monitoring.families import Family
from aitorrentd.api.services import ServiceKey
from aitorrentd.api.settings import SettingsTable


class PluginConfig(SettingsTable):
    """Base of a plugin's configuration; tables inside it are SettingsTables."""

    enabled: bool = Field(True, description="whether to load the plugin")


class SkipPlugin(Exception):
    """Raised by a lifespan when the plugin does not apply here, with the reason; not a failure."""


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin's manifest, read before any more of its code runs."""

    name: str
    summary: str
    provides: tuple[ServiceKey[Any], ...] = ()
    requires: tuple[ServiceKey[Any], ...] = ()
    "Services that the plugin requires: it starts after them and stops with them."
    wants: tuple[ServiceKey[Any], ...] = ()
    "Services that the plugin uses if present: it starts after them, and runs without them."
    config: type[PluginConfig] = PluginConfig
    start_timeout_s: float = 30.0
    metrics: tuple[Family, ...] = ()
    "What the hook `aitorrent_metrics` reads; names start with `aitorrent_`."


class Role(IntEnum):
    """Who may call a method; each role includes the lower ones."""

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
        """The call chain, for logs: `ctl:models.pull#3/hub:fetch#1`."""

    def progress(
        self, text: str, *, done: float | None = None, total: float | None = None, unit: str = ""
    ) -> None:
        """Report progress to the caller; never waits."""


class NoParams(BaseModel):
    """Parameters of a method that takes none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the control API. Its name starts with the plugin's name and a dot.

    `handler(call, params)` returns a `result` (an instance, or a dict of that shape). It may be a
    plain function, a coroutine function or, with `stream=True`, an async generator of results,
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
    """Yielded last by a stream handler to give the stream a summary."""

    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of a doctor check."""

    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A doctor check. `run` has a limit of 10 s."""

    name: str
    "Without the plugin prefix, which the doctor adds: `port` is shown as `transport.port`."
    summary: str
    run: Callable[[], Awaitable[CheckResult]]


@dataclass(frozen=True, slots=True)
class HealthWarning:
    """A current problem."""

    code: str
    text: str
    severity: Literal["info", "warning", "error"] = "warning"


@dataclass(frozen=True, slots=True)
class PeerCandidate:
    """A peer that completed its handshake and wants to stay; for the policy hook."""

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
    """Work that a peer requests, to be priced."""

    peer: PeerId
    service: str
    amount: float
    unit: str


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a unit of work."""

    credits: float
