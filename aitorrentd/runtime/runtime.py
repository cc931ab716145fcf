"""Runtime: the parts of a node, started in order and stopped in reverse.

Identity and locks come first, then the control socket, then the plugins; a failure stops what was
started. The control socket's service is injected, so nothing here knows a control method.
`aitorrentd.node` adds the programming interface on top.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from aitorrentd.api.context import ControlDoor
from aitorrentd.api.events import Draining
from aitorrentd.api.ids import PeerId
from aitorrentd.api.monitoring.metrics import Metric
from aitorrentd.api.network.reachability import REACHABILITY, Reachability
from aitorrentd.api.network.transport import TRANSPORT, PeerView
from aitorrentd.api.plugin import HealthWarning
from aitorrentd.api.services import ServiceKey
from aitorrentd.api.tasks import Tasks
from aitorrentd.config import Config
from aitorrentd.display import short
from aitorrentd.errors import Conflict, ShuttingDown, Unavailable
from aitorrentd.kernel.context.drain import Work, work_text
from aitorrentd.kernel.kernel import Kernel, KernelSettings
from aitorrentd.runtime import measuring
from aitorrentd.runtime.callbacks import Callbacks
from aitorrentd.runtime.identity import Identity, load_or_create
from aitorrentd.runtime.logs import ROOT, LogRing, Redactor, capture
from aitorrentd.runtime.loop_lag import LoopLag
from aitorrentd.runtime.state_lock import state_lock
from aitorrentd.system.files import make_directory
from aitorrentd.system.paths import is_system
from aitorrentd.workers.running import Workers

if TYPE_CHECKING:
    from aitorrentd.kernel.found import PluginSource

T = TypeVar("T")

ServeControl = Callable[["Runtime", contextlib.AsyncExitStack], Awaitable[Path]]
"Opens a node's control socket and returns its path; the stack closes it."
State = Literal["new", "starting", "running", "stopping", "stopped"]
DRAIN_S: Final = 300.0


class Runtime:
    """A node's identity, its plugins and, unless `control.socket` is null, its socket.

    `config` is a path, a mapping as in the file, a Config, or None for the file that the daemon
    would read. `serve` opens the control socket. `name` replaces `node.name`. `sources` replaces
    the installed plugins, `sockets` are control sockets that already listen, and `given` are
    sockets for plugins, by their names.
    """

    def __init__(
        self,
        config: Config | Mapping[str, Any] | str | Path | None = None,
        *,
        serve: ServeControl,
        name: str | None = None,
        sources: Sequence[PluginSource] | None = None,
        sockets: Sequence[socket.socket] = (),
        given: Mapping[str, Sequence[socket.socket]] | None = None,
        control: Callable[[Runtime], ControlDoor] | None = None,
    ) -> None:
        if isinstance(config, Mapping):
            config = Config.of(config)
        elif not isinstance(config, Config):
            config = Config.load(config)
        self.config = config
        self.log = logging.getLogger(ROOT)
        self.redactor = Redactor(config.secrets)
        self.lag = LoopLag(self.log)
        self.state: State = "new"
        self.settled = asyncio.Event()
        "Set while the node runs and its plugins have settled."
        self.stop_requested = asyncio.Event()
        "Set when a control API client asks the owner of this node to stop it."
        self._closed = asyncio.Event()
        self._name = name
        self.started_as = config.settings.node
        "The effective `node:` table: a reload changes it only for the next start."
        self._serve = serve
        self.control_path: Path | None = None
        "The path of the control socket in service, or None."
        self.sources = sources
        self.changing = asyncio.Lock()
        "Held while the configuration changes; see `aitorrentd.runtime.reload`."
        self.sockets = sockets
        self._given = dict(given or {})
        self._control = control
        self._callbacks = Callbacks(self.log)
        self._throw_away: Path | None = None
        self._stack = contextlib.AsyncExitStack()
        self._started_at = 0.0
        self._identity: Identity | None = None
        self._kernel: Kernel | None = None
        self._ring: LogRing | None = None
        self.notices: list[Callable[[], HealthWarning | None]] = []
        "Report problems of the process around the plugins: its log output, its sockets."
        self.workers = Workers()
        "The processes that the plugins started."

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything; returns once every plugin has settled, in whatever state.

        Raises:
            ConfigError, Denied: identity or directories are unusable. Conflict: another daemon uses
            this state directory or this socket. ShuttingDown: `stop` was called meanwhile.
        """
        if self.state != "new":
            raise Conflict(f"this node is {self.state}; a node can be started only once")
        self.state = "starting"
        self._started_at = time.monotonic()
        try:
            await self._start()
            if self.state != "starting":
                raise ShuttingDown("the node was stopped during startup")
        except BaseException:
            await self._close()
            raise
        self.state = "running"
        self.settled.set()
        self.log.info("node %s is running", short(self.id))

    async def stop(self) -> None:
        """Stop everything in reverse order; safe to call at any time and more than once.

        A start in progress ends with ShuttingDown.
        """
        if self.state not in ("stopping", "stopped"):
            await self._close()
        await self._closed.wait()

    async def _close(self) -> None:
        self.state = "stopping"
        self.settled.clear()
        try:
            await self._stack.aclose()
        finally:
            self.state = "stopped"
            self._closed.set()

    async def _start(self) -> None:
        stack, config = self._stack, self.config
        directories = config.directories
        if self._throw_away is not None:
            stack.callback(shutil.rmtree, self._throw_away, ignore_errors=True)
        make_directory(directories.state, setting="node.state_dir")
        make_directory(directories.cache, setting="node.cache_dir")
        # Members of the control group must be able to reach the socket of a system service.
        runtime_mode = 0o755 if is_system() else 0o700
        make_directory(directories.runtime, setting="node.runtime_dir", mode=runtime_mode)
        stack.enter_context(state_lock(directories.state))
        for sock in itertools.chain.from_iterable(self._given.values()):
            stack.callback(sock.close)
        self._ring = stack.enter_context(capture(self.redactor, self.log))
        make_directory(config.identity_file.parent, setting="node.identity")
        self._identity = await asyncio.to_thread(load_or_create, config.identity_file)
        tasks = Tasks(self.log)
        stack.push_async_callback(tasks.close)
        tasks.spawn(self.lag.run(), "loop-lag")
        self._kernel = Kernel(
            settings=self._kernel_settings(config), identity=self._identity, sources=self.sources
        )
        self._callbacks.start(self._kernel.bus)
        stack.push_async_callback(self._callbacks.stop)
        stack.push_async_callback(self._kernel.stop)
        # Served before the plugins start, so that clients can watch; closed before they stop.
        if config.socket is not None or self.sockets:
            self.control_path = await self._serve(self, stack)
        await self._kernel.start()
        plugins = {row.name for row in self._kernel.rows()}
        for name in self._given.keys() - plugins:
            # Clients of a socket that nobody serves would wait.
            for sock in self._given[name]:
                sock.close()

    def _kernel_settings(self, config: Config) -> KernelSettings:
        return KernelSettings(
            plugins=config.settings.plugins,
            required=config.settings.required,
            network=config.settings.node.network,
            # The hostname, which stands in for a missing name, must not be disclosed.
            node_name=self._name or config.settings.node.name or "",
            data_dir=config.directories.state,
            cache_dir=config.directories.cache,
            runtime_dir=config.directories.runtime,
            spawn_worker=self.workers.spawn,
            control=self._control(self) if self._control is not None else None,
            sockets=self._given,
            metrics=self._metrics,
        )

    def _metrics(self) -> Iterator[Metric]:
        warnings = (warning for _, warning in self.health())
        return measuring.read(self.uptime_s, warnings, self.lag)

    async def drain(
        self,
        *,
        timeout_s: float = DRAIN_S,
        told: Callable[[tuple[Work, ...]], None] = lambda _: None,
    ) -> bool:
        """Refuse new work and wait for running work to end; True if it all ended.

        The node keeps draining after `timeout_s` seconds, until `undrain`. `told` receives the
        remaining work, at once and after every change.
        """
        kernel = self.kernel
        if not kernel.drain.active:
            kernel.drain.switch(True)
            kernel.bus.publish(Draining(True))
            self.log.info("draining: %s running", work_text(kernel.drain.under_way()))
        return await kernel.drain.ended(timeout_s, told)

    def undrain(self) -> None:
        """Accept new work again."""
        if self.kernel.drain.active:
            self.kernel.drain.switch(False)
            self.kernel.bus.publish(Draining(False))
            self.log.info("no longer draining")

    @property
    def identity(self) -> Identity:
        """The node's signer."""
        if self._identity is None:
            raise Unavailable("the node has not been started")
        return self._identity

    @property
    def kernel(self) -> Kernel:
        """The plugins."""
        if self._kernel is None:
            raise Unavailable("the node has not been started")
        return self._kernel

    @property
    def ring(self) -> LogRing:
        """The last log records."""
        if self._ring is None:
            raise Unavailable("the node has not been started")
        return self._ring

    @property
    def id(self) -> PeerId:
        """This node's public name."""
        return self.identity.peer_id

    @property
    def name(self) -> str:
        """This node's display name: as configured, else the hostname."""
        return self._name or self.started_as.name or socket.gethostname()

    @property
    def uptime_s(self) -> float:
        """Seconds since `start` was called."""
        return time.monotonic() - self._started_at if self._started_at else 0.0

    def service(self, key: ServiceKey[T]) -> T:
        """A service of a plugin; Unavailable if none provides it now."""
        return self.kernel.service(key)

    def health(self) -> list[tuple[str, HealthWarning]]:
        """(plugin, or "core"; warning) of current problems."""
        found = [notice() for notice in self.notices]
        own = [("core", warning) for warning in found if warning is not None]
        return own + self.kernel.health()

    def addresses(self) -> list[str]:
        """Addresses where peers can dial this node; empty without a transport."""
        try:
            return list(self.service(TRANSPORT).addresses())
        except Unavailable:
            return []

    def reachability(self) -> Reachability | None:
        """How strangers can reach this node; None while no plugin finds it out."""
        try:
            return self.service(REACHABILITY)
        except Unavailable:
            return None

    def peers(self) -> list[PeerView]:
        """Connected peers; empty without a transport."""
        try:
            return list(self.service(TRANSPORT).peers())
        except Unavailable:
            return []
