"""Parameters and results of the core's control methods, as `rpc.describe` shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

LevelName = Literal["debug", "info", "warning", "error"]


class Params(BaseModel):
    """Base of parameters: unknown ones are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Result(BaseModel):
    """Base of results: later versions only add fields."""

    model_config = ConfigDict(frozen=True)


class Pong(Result):
    """A reply without content."""

    pong: bool


class Prefix(Params):
    """Which methods."""

    prefix: str = Field("", max_length=128, description="only names that start with this")


class MethodView(Result):
    """A method of the control API."""

    name: str
    summary: str
    plugin: str = Field(description="the plugin that provides it; core for the daemon itself")
    role: Literal["read", "operate", "admin"]
    stream: bool
    since: str
    params: dict[str, Any] | None = Field(None, description="JSON Schema; absent in rpc.list")
    result: dict[str, Any] | None = Field(None, description="JSON Schema, of one item of a stream")


class MethodList(Result):
    """Methods by name."""

    methods: list[MethodView]


class PluginCount(Result):
    """Counts of plugins by state."""

    running: int
    skipped: int = Field(0, description="have nothing to do on this node")
    disabled: int = 0
    total: int = Field(description="all but the disabled ones")


class WarningView(Result):
    """A current problem."""

    plugin: str
    code: str
    text: str
    severity: Literal["info", "warning", "error"]


class WorkView(Result):
    """Work items of one kind in progress."""

    plugin: str
    what: str = Field(description="kind of work, in the singular, such as answer")
    count: int


class DrainParams(Params):
    """How long to wait."""

    timeout_s: float = Field(
        300.0, ge=0, le=86_400, description="how long to wait; the node keeps draining afterwards"
    )


class Drained(Result):
    """Work that a drain still waits for."""

    draining: bool = Field(description="false when the drain was cancelled meanwhile")
    under_way: list[WorkView] = Field(description="empty when all work has finished")


class WorkerView(Result):
    """A worker process."""

    name: str
    pid: int | None
    rss_bytes: int | None = Field(
        description="resident memory last reported by the worker; null before the first report"
    )


class ReachView(Result):
    """How strangers can reach the node."""

    word: str = Field(description="public, behind a cone NAT, relayed, offline and the like")
    reason: str = Field(description="what the word rests on, in one line")


class Status(Result):
    """A node at a glance."""

    version: str
    id: str
    name: str
    network: str
    pid: int
    uptime_s: float
    state: str = Field(description="starting, running or stopping")
    draining: bool = Field(False, description="the node takes no new work")
    under_way: list[WorkView] = Field([], description="work a drain waits for")
    addresses: list[str]
    peers: int
    reach: ReachView | None = Field(None, description="null while no plugin finds it out")
    plugins: PluginCount
    warnings: list[WarningView]
    rss_bytes: int = Field(description="resident memory of the daemon, without its workers")
    workers: list[WorkerView] = Field([], description="worker processes of plugins")
    loop_lag_s: float = Field(description="longest delay of the event loop in the last minute")
    control_socket: str | None
    config_files: list[str]


class NodeId(Result):
    """A node's names."""

    id: str = Field(description="libp2p peer id")
    name: str = Field(description="the node's self-chosen name; not proof of identity")
    public_key: str = Field(description="Ed25519, hex")
    dht_id: str = Field(description="first 20 bytes of the SHA-256 of the public key, hex")
    addresses: list[str]


class Version(Result):
    """Versions of the daemon and its libraries."""

    version: str
    proto: list[int] = Field(description="lowest and highest version of the control protocol")
    python: str
    libraries: dict[str, str]


class WaitParams(Params):
    """What to wait for."""

    plugin: str | None = Field(None, max_length=64, description="a plugin; null = the node")
    state: str = Field("running", max_length=32)
    timeout_s: float = Field(30.0, gt=0, le=3600)


class WaitResult(Result):
    """What was waited for."""

    name: str
    state: str


class EventsParams(Params):
    """Which events."""

    topics: list[str] = Field(
        default=[], max_length=64, description="such as peer.connected, or peer. for all of them"
    )


class EventItem(Result):
    """An event."""

    topic: str
    at: float = Field(description="seconds since the epoch")
    event: dict[str, Any]


class LogsParams(Params):
    """Which log records."""

    follow: bool = Field(False, description="also follow new records")
    level: LevelName = Field("debug", description="minimum level")
    plugin: str | None = Field(None, max_length=64, description="only records of this plugin")
    lines: int = Field(200, ge=0, le=2000, description="maximum number of past records")


class LogItem(Result):
    """A log record."""

    at: float = Field(description="seconds since the epoch")
    level: str
    logger: str
    text: str


class DoctorParams(Params):
    """Which checks."""

    plugin: str | None = Field(
        None, max_length=64, description="only the checks of this plugin, or of core"
    )


class CheckView(Result):
    """The outcome of a check."""

    name: str
    plugin: str
    summary: str
    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str


class CheckList(Result):
    """The results of the checks."""

    checks: list[CheckView]


class Nothing(Result):
    """Done."""


class ReloadResult(Result):
    """What a reload changed."""

    changed: list[str] = Field(description="keys whose value changed")
    applied: list[str] = Field(description="those already in effect")
    restart: list[str] = Field(description="those that need a daemon restart")
    not_running: list[str] = Field(
        description="plugins that were restarted for this and are not running, with the reason"
    )


class PluginName(Params):
    """A plugin."""

    name: str = Field(max_length=64)


class PluginView(Result):
    """The current state of a plugin."""

    name: str
    summary: str
    tier: str = Field(description="builtin or third-party")
    dist: str
    version: str
    state: str
    detail: str
    since_s: float
    restarts: int
    provides: list[str]
    requires: list[str]
    wants: list[str]
    start_s: float | None


class PluginList(Result):
    """All plugins."""

    plugins: list[PluginView]


class PluginDetail(PluginView):
    """A plugin with its contributions."""

    methods: list[str]
    protocols: list[str]
    config: dict[str, Any] = Field(description="its configured table, secrets redacted")


class ConfigShowParams(Params):
    """How to show the configuration."""

    origin: bool = Field(False, description="also return where each value comes from")


class ConfigShown(Result):
    """The effective configuration, defaults included, secrets concealed."""

    config: dict[str, Any]
    origins: dict[str, str] = Field(description="by key; empty unless requested")
    unset: list[str] = Field(description="keys left at their default")
    files: list[str]


class ConfigKey(Params):
    """A setting."""

    key: str = Field(max_length=512, description="such as plugins.transport.port")


class ConfigValue(Result):
    """A setting's value."""

    key: str
    value: Any
    origin: str = Field(description="file, environment variable, command line, code or default")


class ConfigSetParams(Params):
    """A setting and its new value."""

    key: str = Field(max_length=512, description="such as plugins.transport.port")
    value: Any = Field(description="the new value; text is parsed as YAML: 8468, true, [a, b]")


class ConfigSetResult(ReloadResult):
    """The effect of a change."""

    key: str
    file: str = Field(description="the drop-in file written")


class ConfigProblems(Result):
    """Problems in the configuration files; an empty list means none."""

    files: list[str]
    problems: list[str]
