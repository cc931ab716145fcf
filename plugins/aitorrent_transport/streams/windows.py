"""Flow-control windows: their sizes, and the budget out of which they grow.

The receiver grants credit; the sender never has more unacknowledged bytes under way than that.
A window starts at 256 KiB and doubles, up to 16 MiB, while the reader consumes half of it within
two round trips, since then the window and not the reader limits the speed (the rule of QUIC
implementations). Growth comes out of a budget that all channels of the node share.
"""

from __future__ import annotations

from typing import Final

INITIAL_WINDOW: Final = 256 * 1024
MAX_WINDOW: Final = 16 * 1024 * 1024


class WindowBudget:
    """Bytes by which the windows of all streams together may exceed their initial size."""

    def __init__(self, limit: int = 256 * 1024 * 1024) -> None:
        self.left = limit

    def take(self, wanted: int) -> int:
        """`wanted`, or 0 when that much is not left."""
        if wanted > self.left:
            return 0
        self.left -= wanted
        return wanted

    def give(self, amount: int) -> None:
        """Return what was taken."""
        self.left += amount
