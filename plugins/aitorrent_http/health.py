"""Health of the server: warnings for `status`, a check for `doctor`."""

from __future__ import annotations

from collections.abc import Iterator

from aitorrent_http.service import HttpService
from aitorrentd.api import CheckResult, HealthWarning


def warnings(service: HttpService) -> Iterator[HealthWarning]:
    """Yield each current problem with its remedy."""
    if service.problem:
        yield HealthWarning("no_http", f"no HTTP server: {service.problem}")


def check_server(service: HttpService | None) -> CheckResult:
    """Whether the server listens."""
    if service is None:
        return CheckResult("warn", "the http plugin is not running", "aitorrentctl plugin list")
    if service.problem:
        return CheckResult(
            "warn", service.problem, "set plugins.http.port, then restart the daemon"
        )
    return CheckResult("ok", f"listening on {', '.join(service.listening)}")
