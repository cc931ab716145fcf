"""Flow-control windows: their sizes and the budget for their growth.

The receiver grants credit, which bounds the sender's unacknowledged bytes in flight. A window
starts at 256 KiB and doubles, up to 16 MiB, while the reader consumes half of it within two round
trips, because then the window, not the reader, limits throughput (as in QUIC implementations).
Growth is drawn from a budget that all channels of the node share.
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
        """Take and return `wanted`, or 0 if less than that remains."""
        if wanted > self.left:
            return 0
        self.left -= wanted
        return wanted

    def give(self, amount: int) -> None:
        """Return bytes to the budget."""
        self.left += amount
