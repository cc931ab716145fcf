"""What a node measures of itself: its process, its event loop, its problems."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

from aitorrentd import __version__
from aitorrentd.api.monitoring.families import counter, gauge
from aitorrentd.api.monitoring.metrics import Metric
from aitorrentd.api.plugin import HealthWarning
from aitorrentd.runtime.loop_lag import LAG, LoopLag

BUILD: Final = gauge("aitorrent_build_info", "1; its labels say what runs.", "version")
UPTIME: Final = gauge(
    "aitorrent_uptime_seconds", "Seconds since the node was started.", unit="seconds"
)
WARNINGS: Final = gauge(
    "aitorrent_warnings", "Problems that aitorrentctl status shows now.", "severity"
)
# The names that every Prometheus client uses for the process.
CPU: Final = counter(
    "process_cpu_seconds_total", "CPU time of the daemon, without its workers.", unit="seconds"
)
RESIDENT: Final = gauge(
    "process_resident_memory_bytes", "Resident memory of the daemon.", unit="bytes"
)
VIRTUAL: Final = gauge(
    "process_virtual_memory_bytes", "Virtual memory of the daemon.", unit="bytes"
)
OPEN_FDS: Final = gauge("process_open_fds", "Open file descriptors of the daemon.")
MAX_FDS: Final = gauge("process_max_fds", "File descriptors that the daemon may open.")
STARTED: Final = gauge(
    "process_start_time_seconds", "When the process started, since the epoch.", unit="seconds"
)
FAMILIES: Final = (
    BUILD,
    UPTIME,
    WARNINGS,
    LAG,
    CPU,
    RESIDENT,
    VIRTUAL,
    OPEN_FDS,
    MAX_FDS,
    STARTED,
)
_SEVERITIES: Final = ("info", "warning", "error")


def read(uptime_s: float, warnings: Iterable[HealthWarning], lag: LoopLag) -> Iterator[Metric]:
    """The metrics now."""
    yield Metric.of(BUILD, {(__version__,): 1})
    yield Metric.of(UPTIME, uptime_s)
    severities = Counter(warning.severity for warning in warnings)
    yield Metric.of(WARNINGS, {(name,): severities[name] for name in _SEVERITIES})
    yield lag.seconds
    yield from _process()


def _process() -> Iterator[Metric]:
    used = os.times()
    yield Metric.of(CPU, used.user + used.system)
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    virtual, resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
    yield Metric.of(RESIDENT, int(resident) * page_bytes)
    yield Metric.of(VIRTUAL, int(virtual) * page_bytes)
    yield Metric.of(OPEN_FDS, len(os.listdir("/proc/self/fd")) - 1)  # without the listing itself
    yield Metric.of(MAX_FDS, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield Metric.of(STARTED, _started_at())


@cache
def _started_at() -> float:
    """When this process started, in seconds since the epoch (proc(5), stat field 22); the same at
    every call, though clocks drift."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
    ticks = int(fields.rpartition(")")[2].split()[19])
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - since_boot_s + ticks / os.sysconf("SC_CLK_TCK")
