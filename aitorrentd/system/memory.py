"""Memory use of a node's processes."""

from __future__ import annotations

import os
from pathlib import Path


def rss_bytes() -> int:
    """Resident memory of this process (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
