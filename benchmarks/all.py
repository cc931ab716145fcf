"""Run every benchmark, one after the other, and keep what they print: `make bench`.

Each writes `benchmarks/results/NAME.json` with the machine, the commit and the load before it. Run
it on a quiet machine: the ratios hold on a busy one, the figures do not.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {  # and the option of each that takes the file
    "control": "--json",
    "daemon": "--json",
    "records": "--out",
    "streams": "--out",
    "decode": "--json",
    "package": "--json",
}


def main() -> int:
    """Run those that are named, or all."""
    wanted = sys.argv[1:] or list(BENCHMARKS)
    failed = []
    for name in wanted:
        option = BENCHMARKS[name]
        print(f"--- {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", option, f"{RESULTS / name}.json"]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
