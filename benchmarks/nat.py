"""Time to connect two daemons, for every kind of NAT against every other; needs root and nftables.

Thirteen daemons with their real peer port run in network namespaces: three public ones, which are
relays and mirrors, and two of each kind. Each pair is connected in both directions. Measured are
the seconds from the dial to a usable channel, maybe through a relay, and to the final route.

    python -m benchmarks.nat --out benchmarks/results/nat.json
    python -m benchmarks.nat --no-punch --rounds 1     # what is left without hole punching
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from pathlib import Path
from typing import Any, Final

import uvloop

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from aitorrent_nat.punch.upgrading import FLAP_S  # noqa: E402
from aitorrentd.api import AitorrentError  # noqa: E402
from benchmarks.report import finish, spread  # noqa: E402
from tests.support.nat.daemons import peer_id, route_to  # noqa: E402
from tests.support.nat.lab import Lab, lab  # noqa: E402
from tests.support.nat.matrix import (  # noqa: E402
    ALONE,
    BIRTHDAY,
    BIRTHDAY_S,
    KINDS,
    Took,
    connected,
    disconnected,
    expected,
    internet,
    joined,
    knows_its_nat,
)
from tests.support.nodes import Daemon, DaemonFactory, merged, wait_for  # noqa: E402

KNOWN_S: Final = 90.0
WITHIN_S: Final = 40.0


class Cell:
    """What was measured for one ordered pair."""

    def __init__(self) -> None:
        self.took: list[Took] = []
        self.others: list[str] = []
        "Routes of channels that did not get the expected one in time."

    def figures(self, route: str) -> dict[str, Any]:
        """Routes and seconds."""
        found: dict[str, Any] = {"route": route, "times": f"{len(self.took)}"}
        if self.took:
            found["usable_s"] = spread([each.usable_s for each in self.took])
            found["route_s"] = spread([each.route_s for each in self.took])
        if self.others:
            found["instead"] = self.others
        return found


async def once(a: str, b: str, one: Daemon, two: Daemon, cell: Cell, *, punch: bool) -> None:
    """Connect one pair once."""
    two_id = await peer_id(two)
    within_s = BIRTHDAY_S if {a, b} == BIRTHDAY else WITHIN_S
    try:
        wait_s = within_s if punch else 6.0
        cell.took.append(await connected(one, two, two_id, expected(a, b), wait_s))
    except (AssertionError, AitorrentError):
        cell.others.append(await route_to(one, two_id) or "not connected")
    await disconnected(one, two)
    await asyncio.sleep(0.5)


async def matrix(net: Lab, make: DaemonFactory, rounds: int, *, punch: bool) -> dict[str, Any]:
    """All cells, in rounds."""
    publics = await internet(net, make)
    tree = merged(ALONE, {"plugins": {"nat": {"punch": punch}}})
    nodes = {
        (kind, end): await joined(make, net.place(kind), publics, tree)
        for end in ("one", "two")
        for kind in KINDS
    }
    for node in nodes.values():
        await wait_for(lambda: knows_its_nat(node), KNOWN_S, every_s=0.3)  # noqa: B023
    cells = {(a, b): Cell() for a in KINDS for b in KINDS}
    for i in range(rounds):
        if i:
            await asyncio.sleep(FLAP_S)  # who was direct a moment ago is not sought again at once
        for (a, b), cell in cells.items():
            await once(a, b, nodes[a, "one"], nodes[b, "two"], cell, punch=punch)
            last = cell.took[-1] if cell.took else cell.others[-1]
            print(f"{a} to {b}: {last}", file=sys.stderr, flush=True)
    quick = [t.route_s for (a, b), c in cells.items() if {a, b} != BIRTHDAY for t in c.took]
    slow = [t.route_s for (a, b), c in cells.items() if {a, b} == BIRTHDAY for t in c.took]
    return {
        "rounds": rounds,
        "punch": punch,
        "as_expected": f"{sum(not c.others for c in cells.values())} of {len(cells)} cells",
        "all_but_birthday_s": _percentiles(quick),
        "birthday_s": _percentiles(slow),
        "cells": {f"{a} to {b}": c.figures(expected(a, b)) for (a, b), c in cells.items()},
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 3),
        "p90": round(ordered[int(0.9 * len(ordered))], 3),
        "max": round(ordered[-1], 3),
    }


async def run(rounds: int, *, punch: bool) -> dict[str, Any]:
    """The figures, with every daemon stopped afterwards."""
    with lab() as net:
        make = DaemonFactory()
        try:
            return await matrix(net, make, rounds, punch=punch)
        finally:
            await make.close()


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-punch", action="store_true", help="with plugins.nat.punch false")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    finish(uvloop.run(run(options.rounds, punch=not options.no_punch)), options.out)


if __name__ == "__main__":
    main()
