"""Health of the mirror: warnings for `status`, a check for `doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aitorrentd.api import CheckResult, HealthWarning

if TYPE_CHECKING:
    from aitorrent_hub.service import HubService


def warnings(service: HubService) -> Iterator[HealthWarning]:
    """Yield each current problem with its remedy."""
    if service.problem:
        yield HealthWarning("no_mirror", f"no mirror of the Hub: {service.problem}")


def check_mirror(service: HubService | None) -> CheckResult:
    """Whether the mirror listens."""
    if service is None:
        return CheckResult("warn", "the hub plugin is not running", "aitorrentctl plugin list")
    if service.problem:
        return CheckResult("warn", service.problem, "set plugins.hub.port, then restart the daemon")
    return CheckResult("ok", f"listening on {', '.join(service.listening)}")
