"""One network namespace in which a node and BitTorrent programs have an address each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.support.clients.programs import (
    CAN_RUN,
    REASON,
    Aria2,
    Client,
    QBittorrent,
    Transmission,
)
from tests.support.nat.namespaces import CAN_MAKE, ip, namespaces

NEEDS: Final = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE or not CAN_RUN, reason=REASON),
]
"Marks of tests that run the programs."
NODE: Final = "10.77.0.1"
LIBTORRENT: Final = "10.77.0.5"
PROGRAMS: Final[dict[str, type[Client]]] = {
    "10.77.0.2": Transmission,
    "10.77.0.3": QBittorrent,
    "10.77.0.4": Aria2,
}
HELD_S: Final = 100.0
"Transmission considers whom to serve every 10 to 20 s."


@contextmanager
def street() -> Iterator[str]:
    """The namespace with all addresses, while the block runs."""
    with namespaces() as made:
        name = made.make()
        for address in (NODE, *PROGRAMS, LIBTORRENT):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "lo")
        yield name
