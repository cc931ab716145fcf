"""Health of a running tracker: warnings for `status`, a check for `doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aitorrentd.api import CheckResult, HealthWarning

if TYPE_CHECKING:
    from aitorrent_tracker.service import TrackerService


def warnings(service: TrackerService) -> Iterator[HealthWarning]:
    """Yield each current problem with its remedy."""
    catalogue = service.catalogue
    if catalogue is not None and catalogue.problem:
        yield HealthWarning("catalogue", f"the catalogue is not available: {catalogue.problem}")
    config = service.config
    can_publish = catalogue is not None and catalogue.can_grow
    if not config.open and not config.torrents and not can_publish:
        yield HealthWarning(
            "no_torrents",
            "the tracker refuses every announce: list who may publish in"
            " plugins.tracker.catalogue.publishers, or info-hashes in plugins.tracker.torrents, or"
            " set plugins.tracker.open to true",
        )
    if service.exchange is not None and service.exchange.problem:
        yield HealthWarning("not_shared", service.exchange.problem)
    if service.counters.problem:
        yield HealthWarning("not_saved", service.counters.problem)


def check_port(service: TrackerService | None) -> CheckResult:
    """Whether the tracker listens."""
    if service is None:
        return CheckResult("fail", "the tracker is not running", "aitorrentctl plugin list")
    return CheckResult("ok", f"listening on {', '.join(service.listening)}")
