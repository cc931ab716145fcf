"""A real Docker Engine for tests: private, with its own directories, socket and network namespace.

An engine on the machine's network builds the images, because packages are fetched; containers run
on an engine in an isolated network namespace. Both use the same data directory below CACHE, so that
a second run reuses the layers.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import pytest

REPOSITORY: Final = Path(__file__).parents[3]
CACHE: Final = Path("/var/cache/aitorrentd-ci")
BASE: Final = "debian:bookworm-slim"
SUITE: Final = "bookworm"
PACKAGES: Final = "docker.io docker-compose iptables iproute2 debootstrap make"
COMMANDS: Final = ("dockerd", "docker-compose", "iptables", "ip", "nsenter", "debootstrap", "make")
HOME_PREFIX: Final = "aitc-engine-"
START_S: Final = 30.0
STOP_S: Final = 30.0
LOCK_S: Final = 900.0
KEEP_LAYERS: Final = "4GB"
# Debian's own tools, even where a machine has others.
PATH: Final = f"/usr/sbin:/usr/bin:/sbin:/bin:{os.environ.get('PATH', '')}"


def require_docker() -> None:
    """Skip unless running as root on a machine with Debian's Docker."""
    missing = [name for name in COMMANDS if shutil.which(name, path=PATH) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root and: apt install --no-install-recommends {PACKAGES}")


def run(
    *command: str | Path, timeout_s: float = 60.0, check: bool = True, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command; returns its output, which a failure shows."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        **options,
    )
    if check and done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise AssertionError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{tail}")
    return done


def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether `condition` became true in time."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.1)
    return True


class Engine:
    """dockerd and its containers; `stop` removes everything but the cache."""

    def __init__(self, data_root: Path, home: Path) -> None:
        self.data_root = data_root
        self.home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which docker and docker-compose use this engine."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "COMPOSE_"))}
        return {
            **kept,
            "PATH": PATH,
            "HOME": str(self.home),
            "DOCKER_HOST": f"unix://{self.home}/docker.sock",
            "DOCKER_BUILDKIT": "1",
        }

    def start(self, *, isolated: bool) -> None:
        """Start it: on the machine's network without bridges, or isolated with Docker's own
        bridge."""
        command = ["dockerd", "--data-root", str(self.data_root), "--storage-driver", "overlay2"]
        command += ["-H", f"unix://{self.home}/docker.sock", "--exec-root", f"{self.home}/exec"]
        command += ["--pidfile", f"{self.home}/pid", "--cgroup-parent", f"/{self.home.name}"]
        if isolated:
            namespace = self.home.name
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
            # Not `ip netns exec`: that mounts another /sys, where dockerd misses its cgroups.
            command = ["nsenter", f"--net=/run/netns/{namespace}", *command]
        else:
            command += ["--bridge", "none", "--iptables=false", "--ip-forward=false"]
        # It ends with this process, even if that is killed.
        command = ["setpriv", "--pdeathsig", "TERM", *command]
        self._log = (self.home / "dockerd.log").open("wb")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "PATH": PATH},
            start_new_session=True,
        )
        if not until(lambda: self.docker("version", check=False).returncode == 0, START_S):
            log = (self.home / "dockerd.log").read_text(errors="replace")
            raise AssertionError(f"dockerd does not answer:\n{log[-4000:]}")

    def docker(
        self, *words: str | Path, timeout_s: float = 60.0, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker`."""
        docker = shutil.which("docker", path=PATH) or "docker"
        return run(docker, *words, timeout_s=timeout_s, check=check, env=self.environ, **options)

    def inspect(self, name: str, template: str) -> str:
        """A field of a container or an image."""
        return self.docker("inspect", "--format", template, name).stdout.strip()

    def logs(self, name: str) -> str:
        """The output of a container."""
        done = self.docker("logs", name)
        return done.stdout + done.stderr

    def stop(self) -> None:
        """Remove its containers, stop it, and clean up."""
        try:
            self._end()
        finally:
            if self._log is not None:
                self._log.close()
            self._remove()

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        try:
            if process.poll() is None:
                if names := self.docker("ps", "-aq", check=False).stdout.split():
                    self.docker("rm", "-f", "-v", *names, check=False)
                process.terminate()
                process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)

    def _remove(self) -> None:
        # A killed engine leaves containers, containerd and its shims.
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self._left(), 5.0)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        ours = (f"{self.home}/", f"{self.data_root}/")
        for mount in sorted((m for m in mounts if f"{m}/".startswith(ours)), reverse=True):
            run("umount", "-l", mount, check=False)
        if Path("/run/netns", self.home.name).exists():
            run("ip", "netns", "del", self.home.name, check=False)
        for group in self._cgroups():
            with contextlib.suppress(OSError):
                group.rmdir()
        shutil.rmtree(self.home, ignore_errors=True)

    def _cgroups(self) -> list[Path]:
        """Its cgroups, innermost first."""
        root = Path("/sys/fs/cgroup")
        tops = [top for top in root.glob(f"*/{self.home.name}") if top.is_dir()]
        if (root / self.home.name).is_dir():
            tops.append(root / self.home.name)
        below = [d for top in tops for d in top.rglob("*") if d.is_dir()]
        return sorted([*tops, *below], reverse=True)

    def _left(self) -> set[int]:
        """The processes of its containers, and those with its directory in their command line."""
        found: set[int] = set()
        for group in self._cgroups():
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in (group / "cgroup.procs").read_text().split())
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{self.home}/exec".encode() in (directory / "cmdline").read_bytes():
                    found.add(int(directory.name))
        return found


def _is_locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def engine(*, isolated: bool) -> Iterator[Engine]:
    """An engine while the block runs; one at a time per machine, as engines share the layers."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "docker.lock").open("w") as lock:
        assert until(lambda: _is_locked(lock), LOCK_S), "another test run keeps the engine"
        data_root = CACHE / "docker"
        # Remains of a killed test run: with the lock held, nobody else can own them.
        for home in Path("/tmp").glob(f"{HOME_PREFIX}*"):
            if home.stat().st_uid == os.geteuid():
                Engine(data_root, home).stop()
        # In /tmp, because socket paths must be short.
        made = Engine(data_root, Path(tempfile.mkdtemp(prefix=HOME_PREFIX, dir="/tmp")))
        try:
            made.start(isolated=isolated)
            yield made
        finally:
            made.stop()


def import_base(of: Engine) -> None:
    """Import a Debian image as BASE, since no registry is used; made once by debootstrap."""
    if of.docker("image", "inspect", BASE, check=False).returncode == 0:
        return
    archive = CACHE / f"container-base-{SUITE}.tar"
    if not archive.exists():
        with tempfile.TemporaryDirectory(prefix="aitc-", dir=CACHE) as work:
            root = Path(work, "root")
            command = ["debootstrap", "--variant=minbase", SUITE, str(root), *mirror()]
            run(*command, timeout_s=600, env={**os.environ, "PATH": PATH})
            for unwanted in ("var/cache/apt/archives", "var/lib/apt/lists"):
                shutil.rmtree(root / unwanted)
                (root / unwanted / "partial").mkdir(parents=True)
            made = Path(work, "root.tar")
            run("tar", "-C", root, "-cf", made, ".")
            made.rename(archive)
    of.docker("import", archive, BASE, timeout_s=120)


def mirror() -> list[str]:
    """The Debian mirror of this machine, if apt reports it."""
    targets = run("apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)")
    rows = [line.split() for line in targets.stdout.splitlines()]
    return next(([row[2]] for row in rows if row[:2] == ["Debian", SUITE]), [])


def wheels() -> Path:
    """A directory with every wheel for both images, fetched once with this machine's pip."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    torch = project["optional-dependencies"]["torch"]
    locks = [REPOSITORY / "packaging/debian" / f"{n}.lock" for n in ("requirements", "build")]
    constraints = REPOSITORY / "constraints.txt"
    stamp = b"".join(p.read_bytes() for p in [*locks, constraints]) + repr(torch).encode()
    place = CACHE / "container-wheels" / hashlib.sha256(stamp).hexdigest()[:16]
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="aitc-", dir=place.parent) as work:
        made = Path(work, "wheels")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        pip += ["--only-binary=:all:", "--python-version", "3.11", "--dest", str(made)]
        for lock in locks:
            run(*pip, "--require-hashes", "-r", lock, timeout_s=300)
        run(*pip, "-c", constraints, *torch, timeout_s=600)
        for old in place.parent.glob("?" * 16):
            shutil.rmtree(old)
        made.rename(place)
    return place


def build_context(at: Path) -> Path:
    """A copy of the working tree in `at`, with wheels, so that the build needs no package index."""
    listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=REPOSITORY).stdout
    for name in filter(None, listed.split("\0")):
        source = REPOSITORY / name
        if source.is_file() and not source.is_symlink():
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, at / name)
    target = at / "packaging/container/wheels"
    target.mkdir(exist_ok=True)
    for wheel in wheels().iterdir():
        try:
            os.link(wheel, target / wheel.name)
        except OSError:
            shutil.copy2(wheel, target)
    return at


def compose(
    of: Engine, file: Path, *words: str, environ: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run docker-compose on a file of the build context."""
    program = shutil.which("docker-compose", path=PATH) or "docker-compose"
    variables = {**of.environ, **(environ or {})}
    return run(program, "-f", file, *words, env=variables, **options)
