"""A booted Debian to install the package in: systemd as process 1, in a systemd-nspawn container.

The container has no network but its own loopback, so its daemon has no peers. debootstrap makes its
root file system once, from the package sources of the test machine, and it is cached.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

CACHE: Final = Path(os.environ.get("AITORRENT_TEST_CACHE", "/var/cache/aitorrentd-ci"))
RELEASE: Final = "bookworm"
SOCKET: Final = "/run/aitorrent/control.sock"
_PACKAGES: Final = "systemd,systemd-sysv,dbus,ca-certificates,iproute2,procps,python3,adduser"
_SHELLS: Final = "zsh,fish"
_ARCHIVE: Final = CACHE / f"{RELEASE}-root-with-shells.tar.zst"
_SCRATCH_BYTES: Final = 2 * 1024**3
_DEBOOTSTRAP_S: Final = 900.0
_BOOT_S: Final = 60.0
_OFF_S: Final = 15.0
_CONTROLLERS: Final = ("memory", "pids", "cpu", "cpuacct")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_MOST_SHARES: Final = "262144"
_numbers = itertools.count()
"A name is never used again: the kernel may still be cleaning up after an earlier machine."
_NAMESPACES: Final = ("-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w")
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": _PATH,
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
}


@dataclass(frozen=True, slots=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str
    took_s: float

    @property
    def text(self) -> str:
        """Both outputs, for messages and searches."""
        return self.out + self.err


def run(*command: str | Path, timeout_s: float = 120.0, check: bool = True, **more: Any) -> Done:
    """Run a command; a failure shows its output."""
    started = time.monotonic()
    done = subprocess.run(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        **more,
    )
    took_s = time.monotonic() - started
    if check and done.returncode != 0:
        shown = " ".join(map(str, command))[-300:]
        raise AssertionError(f"{shown}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return Done(done.returncode, done.stdout, done.stderr, took_s)


def pause(seconds: float) -> None:
    """Wait between two polls of another system."""
    select.select([], [], [], seconds)


def until(condition: Callable[[], T], timeout_s: float = 30.0, *, every_s: float = 0.2) -> T:
    """The first true value of `condition`."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not true within {timeout_s:g} s; last seen: {value!r}"
        pause(every_s)
    return value


def missing_tools() -> list[str]:
    """Debian packages that these tests need and the machine lacks."""
    needs = {
        "systemd-nspawn": "systemd-container",
        "systemd-analyze": "systemd",
        "debootstrap": "debootstrap",
        "zstd": "zstd",
        "dh": "debhelper",
        "lintian": "lintian",
        "gpg": "gpg",
        "man": "man-db",
    }
    path = f"{os.environ.get('PATH', '')}:{_PATH}"
    return [package for tool, package in needs.items() if not shutil.which(tool, path=path)]


def _mirror() -> str:
    """The package sources of this machine; never stored."""
    places = [*sorted(Path("/etc/apt/sources.list.d").glob("*.sources"))]
    for file in places:
        for stanza in re.split(r"\n\s*\n", file.read_text()):
            suites = re.search(rf"^Suites:.*\b{RELEASE}\b", stanza, re.M)
            found = re.search(r"^URIs:\s*(\S+)", stanza, re.M)
            if suites and found:
                return found[1]
    lists = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.list")]
    for file in lists:
        if file.exists():
            found = re.search(rf"^deb (?:\[[^]]*\] )?(\S+) {RELEASE} ", file.read_text(), re.M)
            if found:
                return found[1]
    raise AssertionError(f"no source of {RELEASE} packages in /etc/apt")


def _scratch() -> Path:
    memory = Path("/dev/shm")
    is_roomy = memory.is_dir() and shutil.disk_usage(memory).free > _SCRATCH_BYTES
    return Path(tempfile.mkdtemp(prefix="aitorrent-machine-", dir=memory if is_roomy else None))


def root_archive() -> Path:
    """The packed root file system, made if missing (about two minutes)."""
    if _ARCHIVE.exists():
        return _ARCHIVE
    _ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
    work = _scratch()
    try:
        tree, packed = work / "root", work / "root.tar.zst"
        options = ("--variant=minbase", f"--include={_PACKAGES},{_SHELLS}")
        run("debootstrap", *options, RELEASE, tree, _mirror(), timeout_s=_DEBOOTSTRAP_S)
        for name in ("etc/apt/sources.list", "etc/resolv.conf"):
            (tree / name).unlink(missing_ok=True)
        for pattern in ("var/lib/apt/lists/*", "var/cache/apt/archives/*.deb", "var/log/*.log"):
            for file in tree.glob(pattern):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        (tree / "var/lib/apt/lists/partial").mkdir(parents=True)
        run("tar", "--zstd", "-C", tree, "-cf", packed, ".", timeout_s=_DEBOOTSTRAP_S)
        beside = _ARCHIVE.with_suffix(f".{os.getpid()}")
        shutil.copyfile(packed, beside)
        beside.rename(_ARCHIVE)
    finally:
        shutil.rmtree(work)
    return _ARCHIVE


def _own_cgroups(name: str) -> list[Path]:
    """New control groups for a container, so that the kernel enforces the limits set by its
    systemd.

    With only version 2 none are needed: systemd-nspawn delegates that hierarchy itself.
    """
    made = []
    for hierarchy in (*_CONTROLLERS, "systemd", "unified"):
        if (_CGROUPS / hierarchy / "cgroup.procs").exists():
            made.append(_CGROUPS / hierarchy / name)
            made[-1].mkdir()
    return made


class Machine:
    """A container that `with` boots and then discards."""

    def __init__(self) -> None:
        self._work = _scratch()
        self.root = self._work / "root"
        "Its file system as seen from the host; not for its private /run and /tmp."
        self._share = self._work / "share"
        self._container: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._name = f"aitorrent-{os.getpid()}-{next(_numbers)}"
        self._cgroups: list[Path] = []

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self._off()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._off()

    def _boot(self) -> None:
        self.root.mkdir()
        self._share.mkdir()
        run("tar", "--zstd", "-C", self.root, "-xf", root_archive())
        self._cgroups = _own_cgroups(self._name)
        join = 'while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs"; shift; done; shift; exec "$@"'
        with (self._work / "boot.log").open("wb") as log:
            self._container = subprocess.Popen(
                [
                    *("sh", "-ec", join, "sh", *map(str, self._cgroups), "--"),
                    *("systemd-nspawn", "--quiet", "--boot", "--directory", str(self.root)),
                    *("--machine", self._name),
                    # The host may lack a systemd to register with.
                    *("--register=no", "--keep-unit", "--console=read-only"),
                    *("--private-network", f"--bind={self._share}:/mnt/share"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        children = Path(f"/proc/{self._container.pid}/task/{self._container.pid}/children")

        def leader() -> int:
            return int((children.read_text().split() or ["0"])[0])

        self._leader = until(leader, _BOOT_S)
        until(self._is_up, _BOOT_S)
        if self._cgroups:
            # systemd-nspawn shows the controllers of version 1 read-only.
            for group in self._cgroups:
                self.run("mount", "-o", "remount,bind,rw", str(group.parent))
            self.run("systemctl", "daemon-reexec")

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).out.strip() in (
            "running",
            "degraded",
        )

    def _off(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            if self._leader:
                with contextlib.suppress(ProcessLookupError):
                    # SIGRTMIN+4 asks systemd to power off (systemd(1)).
                    os.kill(self._leader, signal.SIGRTMIN + 4)
            try:
                container.wait(_OFF_S)
            except subprocess.TimeoutExpired:
                container.kill()
                container.wait(_OFF_S)
        for group in self._cgroups:
            for below in (*sorted(group.rglob("*/"), reverse=True), group):
                with contextlib.suppress(OSError):  # the kernel may still be cleaning up
                    below.rmdir()
        shutil.rmtree(self._work, ignore_errors=True)

    def run(
        self, *command: str, timeout_s: float = 120.0, check: bool = True, user: str = ""
    ) -> Done:
        """Run a command in the container, as root or as `user`."""
        inside = (*("runuser", "-u", user, "--"), *command) if user else command
        enter = ("nsenter", "-t", str(self._leader), *_NAMESPACES)
        clean = ("env", "-i", *(f"{name}={value}" for name, value in _ENVIRONMENT.items()))
        return run(*enter, "--", *clean, *inside, timeout_s=timeout_s, check=check)

    def sh(self, script: str, *, timeout_s: float = 120.0, check: bool = True) -> Done:
        """Run a shell script in the container."""
        return self.run("sh", "-ec", script, timeout_s=timeout_s, check=check)

    def ctl(self, *arguments: str, user: str = "", timeout_s: float = 60.0) -> Done:
        """Run `aitorrentctl`; the caller checks the exit code."""
        return self.run("aitorrentctl", *arguments, check=False, user=user, timeout_s=timeout_s)

    def answer(self, *arguments: str) -> Any:
        """The output of `aitorrentctl --json`."""
        return json.loads(self.run("aitorrentctl", "--json", *arguments).out)

    def call(self, method: str, *params: str) -> Any:
        """The result of a control API method."""
        return json.loads(self.run("aitorrentctl", "call", method, *params).out)

    @contextlib.contextmanager
    def favoured(self) -> Iterator[None]:
        """Its processes go before all others of the host, where its control groups allow that.

        Code that is to use up its quota has to get that much of a busy host first.
        """
        shares = [file for g in self._cgroups if (file := g / "cpu.shares").exists()]
        before = [file.read_text() for file in shares]
        for file in shares:
            file.write_text(_MOST_SHARES)
        try:
            yield
        finally:
            for file, text in zip(shares, before, strict=True):
                file.write_text(text)

    def drop_in(self, text: str) -> None:
        """Add settings to the daemon's unit, effective at its next start."""
        directory = self.root / "etc/systemd/system/aitorrentd.service.d"
        directory.mkdir(exist_ok=True)
        (directory / "test.conf").write_text(text)
        self.run("systemctl", "daemon-reload")

    def plugins(self) -> dict[str, str]:
        """The state of each plugin."""
        return {row["name"]: row["state"] for row in self.call("plugin.list")["plugins"]}

    def install_plugin(self, wheel: Path) -> None:
        """Install a third-party plugin; takes effect at the daemon's next start."""
        self.run("aitorrentctl", "plugin", "install", "--yes", self.share(wheel), timeout_s=300)

    def share(self, file: Path) -> str:
        """Make a file visible in the container; returns its path there."""
        shutil.copy(file, self._share)
        return f"/mnt/share/{file.name}"

    def unit(self, name: str, unit: str = "aitorrentd.service") -> str:
        """A property of a unit, as shown by systemd."""
        return self.run("systemctl", "show", "-P", name, unit).out.strip()

    def journal(self, *more: str, own: bool = False) -> list[str]:
        """Messages about the daemon's unit, or only those of its `own` processes."""
        self.run("journalctl", "--sync")
        which = ("_SYSTEMD_UNIT=aitorrentd.service",) if own else ("-u", "aitorrentd.service")
        return self.run(
            "journalctl", "--no-pager", "-q", "-o", "cat", *more, *which
        ).out.splitlines()

    def now(self) -> str:
        """The journalctl option that selects entries from now on.

        A time, not a cursor: with a filter, `--after-cursor` loses the first entry (systemd 252).
        """
        return f"--since=@{time.time():.6f}"

    def identity(self) -> str:
        """The node's id."""
        found: str = self.call("node.id")["id"]
        return found
