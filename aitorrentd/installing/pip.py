"""Runs pip under the core's constraints and turns its errors into sentences."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aitorrentd.errors import Conflict, InvalidParams, TimedOut, Unavailable
from aitorrentd.installing.target import Target
from aitorrentd.system.distributions import normalized

# Environment variables of pip that would make it install somewhere else.
_DROPPED: Final = (
    *(f"PIP_{name}" for name in ("TARGET", "PREFIX", "ROOT", "USER", "PYTHON", "CONSTRAINT")),
    *(f"PIP_{name}" for name in ("REQUIREMENT", "DRY_RUN", "IGNORE_INSTALLED", "FORCE_REINSTALL")),
    *("PIP_NO_DEPS", "PIP_UPGRADE", "PIP_REPORT", "PIP_QUIET", "PIP_VERBOSE"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE"),
)
_LAST_LINES: Final = 12
_KEPT_LINES: Final = 2000
_STEPS: Final = ("Collecting ", "Downloading ", "Building ", "Installing ", "Uninstalling ")

Told = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Where pip looks for distributions, besides its own configuration."""

    find_links: tuple[str, ...] = ()
    "Directories with wheels, or pages with links."
    has_index: bool = True

    @property
    def options(self) -> list[str]:
        """As pip options."""
        links = [option for link in self.find_links for option in ("--find-links", link)]
        return links if self.has_index else [*links, "--no-index"]


class Pip:
    """pip for one target. `deadline_s` bounds each run, in seconds.

    `told` receives pip's progress in the form of the control API's: text, done, total, unit.
    """

    def __init__(
        self,
        target: Target,
        source: Source,
        constraints: Path,
        *,
        deadline_s: float,
        told: Told = lambda state: None,
    ) -> None:
        self._target = target
        self._source = source
        self._constraints = constraints
        self._deadline_s = deadline_s
        self._told = told

    def wheel(self, what: str, into: Path) -> Path:
        """Download, or build, the wheel of one distribution, without its dependencies.

        Raises:
            InvalidParams, Unavailable: as pip reports.
        """
        self._run(["wheel", "--no-deps", "--wheel-dir", str(into), *self._source.options, what])
        wheels = list(into.glob("*.whl"))
        if len(wheels) != 1:
            raise InvalidParams(f"{what} does not name exactly one distribution")
        return wheels[0]

    def resolve(self, what: Sequence[str], report: Path) -> list[tuple[str, str]]:
        """(name, version) of what an installation would add or replace; installs nothing.

        Raises:
            Conflict: it is incompatible with the core or with other plugins.
        """
        command = ["install", "--dry-run", "--report", str(report)]
        self._run([*command, *self._common(), *what], for_target=True)
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return [(i["metadata"]["name"], i["metadata"]["version"]) for i in found["install"]]

    def install(self, what: Sequence[str]) -> None:
        """Install and byte-compile."""
        command = ["install", "--compile", "--no-warn-script-location"]
        self._run([*command, *self._common(), *what], for_target=True)

    def uninstall(self, name: str) -> None:
        """Remove one distribution."""
        self._run(["uninstall", "--yes", name], for_target=True)

    def _common(self) -> list[str]:
        return ["--constraint", str(self._constraints), *self._source.options]

    def _run(self, arguments: Sequence[str], *, for_target: bool = False) -> None:
        command = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
        if for_target and self._target.layer is not None:
            command += ["--python", str(self._target.python)]
        environ = {k: v for k, v in os.environ.items() if k not in _DROPPED}
        # "raw" prints download progress in lines, whatever the output is.
        environ["PIP_PROGRESS_BAR"] = "raw"
        pip = subprocess.Popen(
            [*command, *arguments],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # The daemon's user must be able to read files that root's pip writes.
            umask=0o022,
        )
        late = threading.Timer(self._deadline_s, pip.kill)
        late.start()
        try:
            with pip:
                said = self._listen(pip)
        finally:
            pip.kill()
            is_late = not late.is_alive()
            late.cancel()
            late.join()
        if is_late:
            raise TimedOut(
                f"pip did not finish within {self._deadline_s:g} s; allow more time with --timeout"
            )
        if pip.returncode != 0:
            raise complaint(said)

    def _listen(self, pip: subprocess.Popen[str]) -> str:
        """Report pip's progress until it ends; returns its last output."""
        said: deque[str] = deque(maxlen=_KEPT_LINES)
        at = ""
        for line in pip.stdout or ():
            if progress := re.match(r"Progress (\d+) of (\d+)", line):
                done, total = int(progress[1]), int(progress[2])
                self._told({"text": at, "done": done, "total": total, "unit": "B"})
                continue
            said.append(line)
            if line.lstrip().startswith(_STEPS):
                at = line.strip()
                self._told({"text": at})
        return "".join(said)


def complaint(said: str) -> Conflict | InvalidParams | Unavailable:
    """pip's last output as an error with the reason and a remedy."""
    if reasons := conflicts(said):
        return Conflict(f"incompatible: {'; '.join(reasons)}; nothing was changed")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    for line in errors:
        if "not a supported wheel" in line:
            return InvalidParams(f"built for another Python or platform: {line.rstrip('.')}")
        found = re.match(r"No matching distribution found for (.+)", line)
        if found:
            return Unavailable(
                f"no compatible version of {found[1]} was found; check the name, the network, "
                "and the indexes "
                "in pip's configuration (pip config list)"
            )
    text = "; ".join(errors) or " / ".join(lines[-_LAST_LINES:]) or "no reason given"
    return Unavailable(f"pip failed: {text}")


def conflicts(said: str) -> list[str]:
    """Sentences about conflicting requirements; empty if there is no conflict."""
    _, found, rest = said.partition("The conflict is caused by:")
    if not found:
        return []
    wishes: list[tuple[str, str]] = []
    fixed: dict[str, str] = {}
    for line in rest.splitlines()[1:]:
        if not line.strip():
            break
        if m := re.match(r"\s*(.+?) depends on (.+)", line):
            wishes.append((m[1], m[2].strip()))
        elif m := re.match(r"\s*The user requested \(constraint\) ([^=]+)==(.+)", line):
            fixed[normalized(m[1].strip())] = m[2].strip()
        elif m := re.match(r"\s*The user requested (.+)", line):
            wishes.append(("this command", m[1].strip()))
    sentences = []
    for who, wish in wishes:
        name = re.split(r"[\[<>=!~;@ (]", wish, maxsplit=1)[0]
        if (version := fixed.get(normalized(name))) is not None:
            sentences.append(f"{who} needs {wish}, but aitorrentd ships {name} {version}")
    return sentences or [" and ".join(f"{who} needs {wish}" for who, wish in wishes)]
