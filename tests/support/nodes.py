"""Nodes for tests: in this process, or real daemons."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, TypeVar, overload

import yaml

from aitorrentd.config import Config
from aitorrentd.control.aclient import AsyncClient
from aitorrentd.kernel.found import PluginSource
from aitorrentd.node import Node

T = TypeVar("T")

REPOSITORY: Final = Path(__file__).parents[2]
READY_S: Final = 60.0
STOP_S: Final = 30.0
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_ERROR_LINE: Final = re.compile(
    r"^\S+ \S+ (?:error|critical) |^Traceback |^Exception ignored|^Fatal Python error", re.M
)
LOOPBACK: Final[Mapping[str, Any]] = {"listen": "127.0.0.1", "port": 0}
# Tests choose who is connected to whom, and one mirror of the Hub, and one HTTP server, has
# its port; the tests of these plugins turn them on.
APART: Final[Mapping[str, Any]] = {"enabled": False}
# Many nodes share this machine and its UDP ports; none needs a router.
ANY_PORT: Final[Mapping[str, Any]] = {"port": 0, "upnp": False}
QUIET: Final[Mapping[str, Any]] = {
    "transport": LOOPBACK,
    "discovery": APART,
    "nat": ANY_PORT,
    "hub": APART,
    "http": APART,
}

BUILT_IN_OFF: Final[Mapping[str, Any]] = {
    plugin.name: {"enabled": False}
    for plugin in entry_points(group="aitorrentd.plugins")
    if plugin.dist is not None and plugin.dist.name == "aitorrentd"
}
"For tests of what the daemon does alone, or with a plugin of theirs."


@overload
async def wait_for(
    condition: Callable[[], Coroutine[Any, Any, T]],
    timeout_s: float = 10.0,
    *,
    every_s: float = ...,
) -> T: ...


@overload
async def wait_for(
    condition: Callable[[], T], timeout_s: float = 10.0, *, every_s: float = ...
) -> T: ...


async def wait_for(
    condition: Callable[[], Any], timeout_s: float = 10.0, *, every_s: float = 0.02
) -> Any:
    """The first true value of `condition`, plain or async; fails after `timeout_s`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    while True:
        value = condition()
        found = await value if inspect.isawaitable(value) else value
        if found:
            return found
        if loop.time() > until:
            raise AssertionError(f"not true within {timeout_s:g} s: {_source(condition)}")
        await asyncio.sleep(every_s)


def _source(condition: Callable[[], object]) -> str:
    if not inspect.isfunction(condition):
        return repr(condition)
    return inspect.getsource(condition).strip()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now, for UDP and TCP, and that the kernel gives to no
    other socket meanwhile."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    ports = range(10_000, max(lowest, 10_000))
    for port in random.SystemRandom().sample(ports, min(100, len(ports))):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as streams,
        ):
            try:
                datagrams.bind(("127.0.0.1", port))
                streams.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    with socket.create_server(("127.0.0.1", 0)) as sock:  # the kernel gives out all of them
        return int(sock.getsockname()[1])


def short_dir() -> Path:
    """A new temporary directory whose path is short enough for a socket in it."""
    return Path(tempfile.mkdtemp(prefix="ait-", dir="/tmp"))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two configuration trees merged; `over` wins."""
    tree = dict(base)
    for key, value in over.items():
        below = tree.get(key)
        is_table = isinstance(below, Mapping) and isinstance(value, Mapping)
        tree[key] = merged(below, value) if is_table else value  # type: ignore[arg-type]
    return tree


class Leaks:
    """Finds tasks, sockets and files that a test leaves behind."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._sockets, self._files = self._open_files()

    async def check(self, timeout_s: float = 5.0) -> None:
        """Fail unless everything new disappears within `timeout_s`."""
        with contextlib.suppress(AssertionError):
            await wait_for(lambda: not self._found(), timeout_s)
        found = self._found()
        assert not found, f"left behind: {found}"

    def _found(self) -> list[str]:
        tasks = asyncio.all_tasks() - self._tasks - {asyncio.current_task()}
        sockets, files = self._open_files()
        # By number, because uvloop recreates its socket pair for each run of the loop.
        extra = [f"sockets: {sockets} (there were {self._sockets})"] * (sockets > self._sockets)
        return [f"task {t.get_name()}" for t in tasks] + extra + sorted(files - self._files)

    @staticmethod
    def _open_files() -> tuple[int, set[str]]:
        sockets, files = 0, set()
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{fd}")
                sockets += target.startswith("socket:")
                if target.startswith("/tmp/"):
                    files.add(target)
        return sockets, files


class NodeFactory:
    """Nodes in this process; stopped in reverse order when the test ends."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._directories: list[Path] = []

    async def __call__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        sources: Sequence[PluginSource] | None = None,
        state_dir: Path | None = None,
    ) -> Node:
        """A started node: loopback, free port, its own state, no control socket unless
        requested."""
        node = self.make(config, name=name, sources=sources, state_dir=state_dir)
        await node.start()
        return node

    async def get(self, n: int, config: Mapping[str, Any] | None = None) -> list[Node]:
        """`n` started nodes with the same configuration."""
        return [await self(config, name=f"n{i + 1}") for i in range(n)]

    def make(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        sources: Sequence[PluginSource] | None = None,
        state_dir: Path | None = None,
        given: Mapping[str, Sequence[socket.socket]] | None = None,
    ) -> Node:
        """A node that is not started yet; same arguments as a call. `given` are sockets for its
        plugins, by their names."""
        if state_dir is None:
            state_dir = short_dir()
            self._directories.append(state_dir)
        base: dict[str, Any] = {"node": {"state_dir": str(state_dir)}, "control": {"socket": None}}
        if sources is None:
            base["plugins"] = merged({}, QUIET)
        tree = Config.of(merged(base, config or {}), environ={"HOME": str(state_dir)})
        node = Node(tree, name=name, sources=sources, given=given)
        self._nodes.append(node)
        return node

    async def close(self) -> None:
        """Stop the nodes and remove their directories."""
        for node in reversed(self._nodes):
            await node.stop()
        for directory in self._directories:
            shutil.rmtree(directory, ignore_errors=True)


class Daemon:
    """A real daemon in its own process; the test is its service manager."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], notify: Notify) -> None:
        self.directory = directory
        self.process = process
        self.notify = notify
        self.state_dir = directory / "state"
        self.socket = self.state_dir / "run" / "control.sock"
        self.log_file = directory / "stderr.log"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def log(self) -> str:
        """Its standard error so far, over all its starts."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    async def ready(self, timeout_s: float = READY_S) -> None:
        """Wait until it sends READY=1; fails with its log if it exits or takes too long."""
        try:
            await wait_for(
                lambda: self.notify.has("READY=1") or self.process.poll() is not None, timeout_s
            )
        except AssertionError:
            raise AssertionError(f"not ready within {timeout_s:g} s:\n{self.log()}") from None
        assert self.notify.has("READY=1"), f"ended with {self.process.returncode}:\n{self.log()}"

    async def ended(self, timeout_s: float = STOP_S) -> int:
        """Wait for its exit; returns the exit code, negative for a signal."""
        await wait_for(lambda: self.process.poll() is not None, timeout_s)
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process only."""
        if self.process.poll() is None:
            os.kill(self.pid, number)

    async def stop(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM and wait; returns the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended(timeout_s)

    async def kill(self) -> None:
        """SIGKILL and wait."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def client(self, timeout_s: float = 30.0) -> AsyncClient:
        """A connection to its control socket; close it."""
        return await AsyncClient.connect(self.socket, timeout_s)

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float = 30.0
    ) -> dict[str, Any]:
        """Call a control method on a new connection."""
        async with await self.client(timeout_s) as client:
            return await client.call(method, params)

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Notify:
    """The service manager's end of sd_notify: every datagram received, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[tuple[float, str]] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind(str(path))

    def receive(self) -> None:
        """Receive the datagrams that arrived since."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.messages.append((time.monotonic(), self._sock.recv(65_536).decode()))

    def lines(self) -> list[str]:
        """Every assignment so far."""
        self.receive()
        return [line for _, message in self.messages for line in message.split("\n")]

    def has(self, line: str) -> bool:
        """Whether `line` was received."""
        return line in self.lines()

    def count(self, line: str) -> int:
        """How often `line` was received."""
        return self.lines().count(line)

    def forget(self) -> None:
        """Reset for the next start of the daemon."""
        self.receive()
        self.messages.clear()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


class DaemonFactory:
    """Real daemons; stopped when the test ends."""

    def __init__(self) -> None:
        self._daemons: list[Daemon] = []

    async def __call__(
        self,
        config: Mapping[str, Any] | str | None = None,
        *,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        directory: Path | None = None,
        ready: bool = True,
        pass_fds: Sequence[int] = (),
        loopback: bool = True,
        files: int | None = None,
        stderr: str = "",
        namespace: str = "",
        user: int = 0,
        boot: str = "",
    ) -> Daemon:
        """A daemon that is ready, unless `ready` is false.

        `config` is a tree or the text of a file, in `<directory>/aitorrent.yaml`; `loopback` binds
        its transport to a free loopback port; `files` limits its open descriptors; its standard
        error goes to `stderr` in place of its log file; it runs in a network `namespace`, and as
        `user`, if one is given, without any capability; `boot` is the id of the machine's start
        that it sees. Pass the directory of a stopped daemon to start it again.
        """
        directory = directory or short_dir()
        before = next((d for d in self._daemons if d.directory == directory), None)
        notify = before.notify if before else Notify(directory / "notify.sock")
        notify.forget()
        file = directory / "aitorrent.yaml"
        if isinstance(config, str):
            file.write_text(config, encoding="utf-8")
        elif config is not None or not file.exists():
            base = {"plugins": merged({}, QUIET)} if loopback else {}
            file.write_text(yaml.safe_dump(merged(base, config or {})), encoding="utf-8")
        command = [sys.executable, "-m", "aitorrentd.main", "--config", str(file)]
        command += ["--state-dir", str(directory / "state"), *args]
        environ = {
            **os.environ,
            "NOTIFY_SOCKET": str(notify.path),
            "PYTHONFAULTHANDLER": "1",
            **(env or {}),
        }
        if files is not None:
            command = ["/bin/sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
        if user:
            # A user namespace: the files of the tests stay readable, and nothing else is gained.
            command = ["unshare", "--user", f"--map-user={user}", f"--map-group={user}", *command]
        if boot:
            (directory / "boot_id").write_text(f"{boot}\n", encoding="ascii")
            lie = f'mount --bind "$0" {BOOT_ID} && exec "$@"'
            own = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", lie]
            command = [*own, str(directory / "boot_id"), *command]
        if namespace:
            command = ["ip", "netns", "exec", namespace, *command]
        (directory / "stderr.log").touch()
        process = self._spawn(command, environ, Path(stderr or directory / "stderr.log"), pass_fds)
        daemon = Daemon(directory, process, notify)
        self._daemons = [d for d in self._daemons if d is not before] + [daemon]
        if ready:
            await daemon.ready()
        return daemon

    @staticmethod
    def _spawn(
        command: list[str], environ: Mapping[str, str], log_file: Path, pass_fds: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        with log_file.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
            )

    async def close(self) -> list[str]:
        """Stop every daemon; returns the errors in their logs. Fails if one does not stop."""
        for daemon in self._daemons:
            daemon.signal(signal.SIGCONT)
            daemon.signal(signal.SIGTERM)
        errors: list[str] = []
        for daemon in self._daemons:
            try:
                await daemon.ended()
            except AssertionError:
                await daemon.kill()
                errors.append(f"pid {daemon.pid} did not stop on SIGTERM:\n{daemon.log()}")
            daemon.notify.close()
            if _ERROR_LINE.search(log := daemon.log()):
                errors.append(log)
            shutil.rmtree(daemon.directory, ignore_errors=True)
        return errors
