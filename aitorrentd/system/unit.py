"""The system's service from the tools' view: its state, its restart, and advice where it is
absent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aitorrentd.errors import TimedOut, Unavailable

DAEMON: Final = "aitorrentd.service"
SOCKET: Final = "/run/aitorrent/control.sock"
_ASK_S: Final = 10.0
_PROPERTIES: Final = ("LoadState", "ActiveState", "SubState", "Result", "UnitFileState")


def _systemctl(*arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemctl", "--no-ask-password", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


@dataclass(frozen=True, slots=True)
class Systemd:
    """The service manager of this machine, as far as the daemon's service is concerned."""

    booted: Path = Path("/run/systemd/system")
    "Exists where systemd is process 1: sd_booted(3)."
    units: Sequence[Path] = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"))
    socket: str = SOCKET
    ask: Callable[..., subprocess.CompletedProcess[str]] = _systemctl
    "Runs systemctl."

    def properties(self, unit: str, names: Sequence[str] = _PROPERTIES) -> dict[str, str]:
        """Properties of a unit; empty if systemd does not run or does not answer."""
        if not self.booted.is_dir():
            return {}
        try:
            shown = self.ask("show", unit, "--property", ",".join(names), timeout_s=_ASK_S)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        pairs = (line.partition("=") for line in shown.stdout.splitlines())
        return {name: value for name, is_pair, value in pairs if is_pair}

    def is_active(self, unit: str) -> bool:
        """Whether the unit runs."""
        return self.properties(unit).get("ActiveState") in ("active", "activating", "reloading")

    def sleeps(self, path: str | Path) -> bool:
        """Whether systemd holds the socket `path`, so that connecting starts the daemon."""
        if str(path) != self.socket:
            return False
        state = self.properties(DAEMON).get("ActiveState", "")
        return state in ("inactive", "failed") and Path(path).is_socket()

    def serves(self, path: str | Path) -> bool:
        """Whether the control socket `path` belongs to a service that systemd manages here."""
        return (
            str(path) == self.socket
            and self.booted.is_dir()
            and any((directory / DAEMON).exists() for directory in self.units)
        )

    def restart_remedy(self, path: str | Path) -> str:
        """How to restart the daemon that listens on `path`."""
        if self.serves(path) and self.is_active(DAEMON):
            return "systemctl restart aitorrentd"
        return "restart the daemon"

    def restart(self, unit: str, *, timeout_s: float) -> None:
        """Restart the unit, however many times it was restarted before.

        Raises:
            Unavailable, TimedOut: it did not start again; its journal says why.
        """
        try:
            # Several restarts in a few minutes are no crash loop, which StartLimitBurst= is about.
            self.ask("reset-failed", unit, timeout_s=timeout_s)
            done = self.ask("restart", unit, timeout_s=timeout_s)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"{unit} was not restarted within {timeout_s:g} s") from None
        except OSError as e:
            raise Unavailable(f"cannot run systemctl: {e.strerror}") from None
        if done.returncode != 0:
            said = " ".join(done.stderr.split()) or "it failed"
            raise Unavailable(f"{unit} did not restart: {said}; see: journalctl -u {unit} -n 50")


SYSTEM: Final = Systemd()
