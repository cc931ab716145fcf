"""Kills daemons at random moments of sharing, downloading and fetching layers, and examines them.

    python benchmarks/kill_trials.py --trials 200 --out benchmarks/results/kill_trials.json

Stops at the first fault, with the seed that repeats it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from benchmarks.report import finish  # noqa: E402
from tests.support.nodes import DaemonFactory  # noqa: E402
from tests.support.seeding.kill_kinds import KINDS, works  # noqa: E402
from tests.support.seeding.kill_trials import Found  # noqa: E402


async def run(trials: int, seed: int, kinds: list[str], folder: Path) -> dict[str, Any]:
    """Trials of all kinds in turn."""
    daemons = DaemonFactory()
    found = {kind: Found() for kind in kinds}
    started = time.monotonic()
    try:
        async with works(daemons, found, folder) as made:
            draw = random.Random(seed)
            for work in made.values():
                await work.whole()
            for n in range(trials):
                kind = kinds[n % len(kinds)]
                await made[kind].trial(draw)
                print(f"{n + 1}: {kind} {found[kind].as_json()}", file=sys.stderr)
            for work in made.values():
                await work.end()
    finally:
        errors = await daemons.close()
    if errors:
        raise SystemExit("errors in logs:\n" + "\n".join(errors))
    return {
        "trials": sum(sum(one.kills.values()) for one in found.values()),
        "seed": seed,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "faults": 0,
        **{kind: one.as_json() for kind, one in found.items()},
    }


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    print(f"seed {args.seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="ait-kills-") as folder:
        figures = asyncio.run(run(args.trials, args.seed, args.kinds, Path(folder)))
    finish(figures, args.out)


if __name__ == "__main__":
    main()
