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

    pong: bool = Field(description="always true")


class Prefix(Params):
    """Which methods."""

    prefix: str = Field("", max_length=128, description="only names that start with this")


class MethodView(Result):
    """A method of the control API."""

    name: str = Field(description="plugin or group, a dot and a verb, such as transport.ping")
    summary: str = Field(description="one sentence")
    plugin: str = Field(description="the plugin that provides it; core for the daemon itself")
    role: Literal["read", "operate", "admin"] = Field(description="lowest role that may call it")
    stream: bool = Field(description="whether it returns any number of results, one by one")
    since: str = Field(description="version of aitorrentd, or of the plugin, that introduced it")
    params: dict[str, Any] | None = Field(None, description="JSON Schema; absent in rpc.list")
    result: dict[str, Any] | None = Field(None, description="JSON Schema, of one item of a stream")


class MethodList(Result):
    """Methods by name."""

    methods: list[MethodView] = Field(
        description="sorted by name; those of plugins that are not running are absent"
    )


class PluginCount(Result):
    """Counts of plugins by state."""

    running: int = Field(description="in the state running")
    skipped: int = Field(0, description="nothing to do on this node")
    disabled: int = Field(0, description="by the configuration")
    total: int = Field(description="all, also those in other states")


class WarningView(Result):
    """A current problem."""

    plugin: str = Field(description="the plugin that reports it; core for the daemon itself")
    code: str = Field(description="stable identifier for scripts, such as control_socket")
    text: str = Field(description="what is wrong, for people")
    severity: Literal["info", "warning", "error"] = Field(
        description="error if something does not work; info if no action is needed"
    )


class WorkView(Result):
    """Work items of one kind in progress."""

    plugin: str = Field(description="the plugin that does the work")
    what: str = Field(description="kind of work, in the singular, such as answer")
    count: int = Field(description="items in progress")


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

    name: str = Field(description="chosen by the plugin that started it")
    pid: int | None = Field(description="null until a service manager that started it reports it")
    rss_bytes: int | None = Field(
        description="resident memory last reported by the worker; null before the first report"
    )


class ReachView(Result):
    """How strangers can reach the node."""

    word: str = Field(description="public, behind a cone NAT, relayed, offline and the like")
    reason: str = Field(description="the evidence, in one line")


class Status(Result):
    """A node at a glance."""

    version: str = Field(description="of aitorrentd")
    id: str = Field(description="libp2p peer id")
    name: str = Field(description="the node's self-chosen name; the hostname by default")
    network: str = Field(description="network id; nodes of different networks cannot connect")
    pid: int = Field(description="process id of the daemon")
    uptime_s: float = Field(description="seconds since the node began to start")
    state: str = Field(description="starting, running or stopping")
    draining: bool = Field(False, description="whether the node refuses new work")
    under_way: list[WorkView] = Field(
        [], description="work that a drain waits for, by plugin and kind"
    )
    addresses: list[str] = Field(
        description="multiaddrs at which peers can dial this node; empty without a transport"
    )
    peers: int = Field(description="number of connected peers")
    reach: ReachView | None = Field(None, description="null while no plugin finds it out")
    plugins: PluginCount = Field(description="number of plugins, by state")
    warnings: list[WarningView] = Field(description="current problems of the node and its plugins")
    rss_bytes: int = Field(description="resident memory of the daemon, without its workers")
    workers: list[WorkerView] = Field([], description="worker processes of plugins")
    loop_lag_s: float = Field(description="longest delay of the event loop in the last minute")
    control_socket: str | None = Field(
        description="path of the socket in service; null if the node has none"
    )
    config_files: list[str] = Field(
        description="the main file and its drop-ins, in the order in which they were merged"
    )


class NodeId(Result):
    """A node's names."""

    id: str = Field(description="libp2p peer id")
    name: str = Field(description="the node's self-chosen name; not proof of identity")
    public_key: str = Field(description="Ed25519, hex")
    dht_id: str = Field(description="first 20 bytes of the SHA-256 of the public key, hex")
    addresses: list[str] = Field(
        description="multiaddrs at which peers can dial this node; empty without a transport"
    )


class Version(Result):
    """Versions of the daemon and its libraries."""

    version: str = Field(description="of aitorrentd")
    proto: list[int] = Field(description="lowest and highest version of the control protocol")
    python: str = Field(description="version of the interpreter")
    libraries: dict[str, str] = Field(
        description="version by distribution; those that are not installed are absent"
    )


class WaitParams(Params):
    """What to wait for."""

    plugin: str | None = Field(
        None, max_length=64, description="name of a plugin; null for the node"
    )
    state: str = Field(
        "running",
        max_length=32,
        description="running, stopping, stopped, failed, blocked, broken, invalid, skipped or "
        "disabled; for the node, only running",
    )
    timeout_s: float = Field(30.0, gt=0, le=3600, description="seconds after which the call fails")


class WaitResult(Result):
    """What was waited for."""

    name: str = Field(description="the plugin, or node")
    state: str = Field(description="the state reached")


class EventsParams(Params):
    """Which events."""

    topics: list[str] = Field(
        default=[], max_length=64, description="such as peer.connected, or peer. for all of them"
    )


class EventItem(Result):
    """An event."""

    topic: str = Field(description="such as peer.connected")
    at: float = Field(description="seconds since the epoch")
    event: dict[str, Any] = Field(description="fields of the event, which depend on the topic")


class LogsParams(Params):
    """Which log records."""

    follow: bool = Field(False, description="also follow new records")
    level: LevelName = Field("debug", description="minimum level")
    plugin: str | None = Field(None, max_length=64, description="only records of this plugin")
    lines: int = Field(200, ge=0, le=2000, description="maximum number of past records")


class LogItem(Result):
    """A log record."""

    at: float = Field(description="seconds since the epoch")
    level: str = Field(description="debug, info, warning, error or critical")
    logger: str = Field(description="aitorrentd, or aitorrentd.PLUGIN and below")
    text: str = Field(description="the message, with its traceback if any; secrets redacted")


class DoctorParams(Params):
    """Which checks."""

    plugin: str | None = Field(
        None, max_length=64, description="only the checks of this plugin, or of core"
    )


class CheckView(Result):
    """The outcome of a check."""

    name: str = Field(description="without the plugin: port stands for transport.port")
    plugin: str = Field(description="the plugin that provides it, or core")
    summary: str = Field(description="what it examines")
    status: Literal["ok", "warn", "fail"] = Field(
        description="warn if it works but needs attention; fail if it does not work"
    )
    text: str = Field(description="what it found")
    remedy: str = Field(description="what to do; empty if there is nothing to do")


class CheckList(Result):
    """The results of the checks."""

    checks: list[CheckView] = Field(description="the core's first, then those of running plugins")


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

    name: str = Field(max_length=64, description="name of an installed plugin")


class PluginView(Result):
    """The current state of a plugin."""

    name: str = Field(description="also its key under plugins in the configuration")
    summary: str = Field(description="from its manifest; empty until it is loaded")
    tier: str = Field(description="builtin or third-party")
    dist: str = Field(description="Python distribution that contains it")
    version: str = Field(description="of the distribution")
    state: str = Field(
        description="found, loaded, configured, starting, running, stopping, stopped, failed, "
        "blocked, broken, invalid, skipped or disabled"
    )
    detail: str = Field(description="why it is in that state; empty if there is nothing to say")
    since_s: float = Field(description="seconds in that state")
    restarts: int = Field(description="after a failure, since the daemon started")
    provides: list[str] = Field(description="names of the services that it declares")
    requires: list[str] = Field(description="services without which it does not run")
    wants: list[str] = Field(description="services that it uses if present")
    start_s: float | None = Field(
        description="seconds that the last start took; null before the first"
    )


class PluginList(Result):
    """All plugins."""

    plugins: list[PluginView] = Field(description="the built-in ones first, then by name")


class PluginDetail(PluginView):
    """A plugin with its contributions."""

    methods: list[str] = Field(
        description="names of its control methods; empty unless it is running"
    )
    protocols: list[str] = Field(
        description="ids of the protocols that it serves to peers; empty unless it is running"
    )
    config: dict[str, Any] = Field(description="its configured table, secrets redacted")


class ConfigShowParams(Params):
    """How to show the configuration."""

    origin: bool = Field(False, description="also return where each value comes from")


class ConfigShown(Result):
    """The effective configuration, defaults included, secrets concealed."""

    config: dict[str, Any] = Field(
        description="every setting of the core and of the installed plugins"
    )
    origins: dict[str, str] = Field(description="by key; empty unless requested")
    unset: list[str] = Field(description="keys left at their default")
    files: list[str] = Field(
        description="the main file and its drop-ins, in the order in which they were merged"
    )


class ConfigKey(Params):
    """A setting."""

    key: str = Field(max_length=512, description="such as plugins.transport.port")


class ConfigValue(Result):
    """A setting's value."""

    key: str = Field(description="as given")
    value: Any = Field(description="the effective value, or a table; secrets redacted")
    origin: str = Field(
        description="file, environment variable, command line, code or default; empty for a table"
    )


class ConfigSetParams(Params):
    """A setting and its new value."""

    key: str = Field(max_length=512, description="such as plugins.transport.port")
    value: Any = Field(description="the new value; text is parsed as YAML: 8468, true, [a, b]")


class ConfigSetResult(ReloadResult):
    """The effect of a change."""

    key: str = Field(description="as given")
    file: str = Field(description="the drop-in file written")


class ConfigProblems(Result):
    """Problems in the configuration files; an empty list means none."""

    files: list[str] = Field(
        description="the main file and its drop-ins; empty for a node configured in code"
    )
    problems: list[str] = Field(
        description="one line each, with file and key; empty if there are none"
    )
