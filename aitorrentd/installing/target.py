"""Where plugins are installed: a packaged core's layer, or beside an unpackaged core."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from aitorrentd.errors import Busy, Conflict, Denied, Unavailable
from aitorrentd.installing import layer as layers
from aitorrentd.installing.wheels import Facts, of_installed
from aitorrentd.system.distributions import DamagedError, installed, normalized
from aitorrentd.system.files import replace_file

CORE: Final = "aitorrentd"
CORE_PATHS: Final = "_aitorrentd_core.pth"
"In the layer; it shows pip the core's packages, so that nothing is installed twice."
_MAKE_S: Final = 120.0
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Target:
    """The environment that plugins go into."""

    layer: Path | None
    "None: beside the core."

    @property
    def python(self) -> Path:
        """The interpreter that pip installs for."""
        return self.layer / "bin" / "python" if self.layer else Path(sys.executable)

    @property
    def site(self) -> Path:
        """The directory that packages go into."""
        return layers.packages(self.layer) if self.layer else Path(sysconfig.get_path("purelib"))

    @property
    def title(self) -> str:
        """The name shown to users."""
        return str(self.layer) if self.layer else f"{self.site} (beside aitorrentd)"

    @property
    def wheels(self) -> Path | None:
        """Where a layer keeps its plugins' wheels, so that it can be rebuilt."""
        return self.layer / "wheels" if self.layer else None

    @property
    def record(self) -> Path | None:
        """The file with a requirement for each plugin in the layer."""
        return self.layer / "requirements.txt" if self.layer else None

    def check(self) -> None:
        """Check that this user may change it, and that no other user can.

        Raises:
            Denied: the wrong user. Conflict: another user can write to the layer.
        """
        if self.layer is None:
            if not os.access(self.site, os.W_OK):
                raise Denied(f"no permission to write to {self.site}; run the command as its owner")
            if (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").exists() and (
                sys.prefix == sys.base_prefix
            ):
                raise Conflict(
                    f"{sys.prefix} belongs to the operating system (PEP 668); "
                    "install aitorrentd in a virtual environment of its own"
                )
            return
        if os.geteuid() != 0:
            raise Denied("installing plugins requires root; run: sudo aitorrentctl plugin ...")
        if problem := layers.problem(self.layer):
            raise Conflict(f"{problem}; nothing was changed", layer=str(self.layer))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other installations while the block runs.

        Raises:
            Busy: another one is running.
        """
        place = self.layer.parent if self.layer else self.site
        _make_readable(place)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("another plugin installation is in progress; try again later") from None
        else:
            yield
        finally:
            os.close(fd)

    def make(self) -> None:
        """Create the layer, if this target has one; a valid one is left alone.

        Raises:
            Unavailable: it cannot be created.
        """
        if self.layer is None:
            return
        if not (self.python.exists() and self.site.is_dir()):
            command = [sys.executable, "-I", "-m", "venv", "--without-pip", str(self.layer)]
            made = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_MAKE_S,
                check=False,
                umask=0o022,
            )
            if made.returncode != 0:
                said = (made.stdout + made.stderr).strip() or "no reason given"
                raise Unavailable(f"cannot create the plugin layer {self.layer}: {said}")
        self._write(self.site / CORE_PATHS, "".join(f"{path}\n" for path in core_paths()))

    def _write(self, file: Path, text: str) -> None:
        replace_file(file, text.encode(), mode=0o644)

    def distributions(self) -> list[Facts]:
        """Distributions installed in the target itself, without the core and its libraries."""
        if not self.site.is_dir():
            return []
        core = core_distributions()
        found = []
        for dist in metadata.distributions(path=[str(self.site)]):
            with contextlib.suppress(DamagedError):  # `doctor` reports it
                found.append(of_installed(dist))
        return sorted(
            (facts for facts in found if self.layer or normalized(facts.name) not in core),
            key=lambda facts: facts.name,
        )

    def requirements(self) -> list[str]:
        """The requested distributions, as recorded in the layer."""
        if self.record is None or not self.record.exists():
            return []
        lines = self.record.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    def remember(self, requirements: list[str]) -> None:
        """Record what the layer should contain."""
        if self.record is not None:
            head = (
                "# Written by `aitorrentctl plugin`; `plugin rebuild` builds the layer from it.\n"
            )
            self._write(self.record, head + "".join(f"{line}\n" for line in requirements))

    def forget_wheels(self, name: str) -> None:
        """Delete a distribution's stored wheels."""
        if self.wheels is not None and self.wheels.is_dir():
            for wheel in self.wheels.glob("*.whl"):
                if normalized(wheel.name.split("-")[0]) == normalized(name):
                    wheel.unlink()

    def keep_wheel(self, wheel: Path) -> Path:
        """Store a copy of a plugin's wheel in the layer; returns what to install."""
        if self.wheels is None:
            return wheel
        _make_readable(self.wheels)
        kept = self.wheels / wheel.name
        shutil.copyfile(wheel, kept)
        kept.chmod(0o644)
        return kept


def _make_readable(directory: Path) -> None:
    """Create a directory and its parents, readable by everyone regardless of the umask."""
    if not directory.is_dir():
        _make_readable(directory.parent)
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)


def here() -> Target:
    """The target of this installation of aitorrentd."""
    return Target(layers.layer())


def requirement_name(requirement: str) -> str:
    """The distribution that a requirement such as `torch>=2; extra == "x"` names."""
    found = _NAME.match(requirement.strip())
    return normalized(found[0]) if found else ""


def core_distributions() -> dict[str, metadata.Distribution]:
    """aitorrentd and all its dependencies, without its extras, by normalized name."""
    found: dict[str, metadata.Distribution] = {}
    wanted = [CORE, "pip"]
    while wanted:
        name = normalized(wanted.pop())
        if name in found:
            continue
        if (dist := installed(name)) is None:
            continue  # a requirement for another platform or Python version
        found[name] = dist
        wanted += [
            requirement_name(line)
            for line in dist.requires or ()
            if not re.search(r";.*\bextra\b", line)
        ]
    return found


def missing_libraries() -> list[str]:
    """Missing dependencies of aitorrentd itself."""
    there = core_distributions()
    dist = there.get(CORE)
    needed = dist.requires or () if dist else ()
    names = {requirement_name(line) for line in needed if ";" not in line}
    return sorted(names - set(there))


def core_paths() -> list[str]:
    """The directories that contain the core's distributions."""
    return sorted({str(dist.locate_file("")) for dist in core_distributions().values()})


def constraints() -> list[str]:
    """The constraints for plugins: the exact versions of the core and its libraries.

    The file `constraints.txt` of a packaged core adds versions for packages not yet installed.
    """
    lines = {name: f"{name}=={dist.version}" for name, dist in core_distributions().items()}
    try:
        listed = Path(sys.prefix, "constraints.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        listed = []
    for line in listed:
        if name := requirement_name(line):
            lines.setdefault(name, line)
    return [lines[name] for name in sorted(lines)]


def activate(target: Target) -> None:
    """Make newly installed packages visible to this process."""
    if target.layer is not None and target.site.is_dir():
        site.addsitedir(str(target.site))
