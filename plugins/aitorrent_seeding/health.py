"""Health of seeding: warnings for `status`, checks for `doctor`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from aitorrent_seeding.service import SeedingService
from aitorrentd.api import CheckResult, HealthWarning, bytes_text

EXTRA: Final = "aitorrentctl plugin install 'aitorrentd[seeding]'"
LEAST_FREE: Final = 2**30


def has_libtorrent() -> bool:
    """Whether libtorrent is installed; does not import it."""
    return find_spec("libtorrent") is not None


def warnings(service: SeedingService) -> Iterator[HealthWarning]:
    """Yield each current problem with its remedy."""
    library = service.running_library
    if library is None:
        return
    engine = library.means.engine
    if not engine.port:
        yield HealthWarning(
            "port",
            f"no BitTorrent peer can connect to this node: {engine.listen_problem}; set"
            " plugins.seeding.port, or 0 for any free one",
        )
    for entry in library.shelf:
        if entry.problem:
            kind = "missing" if entry.missing else "stopped"
            yield HealthWarning(kind, f"{entry.held.name}: {entry.problem}")


def check_libtorrent() -> CheckResult:
    """Whether libtorrent is there."""
    if has_libtorrent():
        return CheckResult("ok", "libtorrent is installed")
    return CheckResult("fail", "libtorrent is not installed", EXTRA)


def check_port(service: SeedingService | None) -> CheckResult:
    """Whether BitTorrent peers can connect."""
    if service is None:
        return CheckResult("fail", "seeding is not running", "aitorrentctl plugin list")
    if service.running_library is None:
        return CheckResult("ok", "nothing is shared, so no port is bound")
    engine = service.running_library.means.engine
    if engine.port:
        return CheckResult("ok", f"BitTorrent peers are accepted on port {engine.port}")
    return CheckResult(
        "fail", engine.listen_problem or "no port is bound", "set plugins.seeding.port"
    )


def check_disk(directory: Path) -> CheckResult:
    """Whether files can be fetched to `directory`."""
    there = next((p for p in (directory, *directory.parents) if p.exists()), Path("/"))
    if not os.access(there, os.W_OK):
        return CheckResult("fail", f"cannot write to {there}", "set plugins.seeding.directory")
    status = os.statvfs(there)
    free = status.f_bavail * status.f_frsize
    text = f"{bytes_text(free)} free in {directory}"
    if free < LEAST_FREE:
        return CheckResult("warn", text, "free some space there, or set plugins.seeding.directory")
    return CheckResult("ok", text)
