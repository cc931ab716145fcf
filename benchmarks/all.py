"""Run every benchmark, one after the other, and keep what they print: `make bench`.

Each writes `benchmarks/results/NAME.json` with the machine, the commit and the load before it. Run
it on an idle machine: on a busy one only the ratios are meaningful.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {  # and how each is invoked; the last option takes the file
    "control": ("control", "--json"),
    "daemon": ("daemon", "--json"),
    "records": ("records", "--out"),
    "streams": ("streams", "--out"),
    "relay": ("relay", "--out"),
    "punch": ("punch", "--out"),
    "nat": ("nat", "--out"),
    "dht": ("dht", "--out"),
    "seeding": ("seeding", "--out"),
    "tracker": ("tracker", "--out"),
    "gateway": ("gateway", "--out"),
    "faces": ("faces", "--out"),
    "mcp_tools": ("mcp_tools", "--out"),
    "scrape": ("scrape", "--out"),
    "silent": ("silent", "--out"),
    "decode": ("decode", "--json"),
    "decode-apart": ("decode", "--apart", "--json"),
    "package": ("package", "--json"),
}


def main() -> int:
    """Run the named benchmarks, or all."""
    wanted = sys.argv[1:] or list(BENCHMARKS)
    failed = []
    for name in wanted:
        module, *options = BENCHMARKS[name]
        print(f"--- {name}", flush=True)
        file = str(RESULTS / f"{name}.json")
        command = [sys.executable, "-m", f"benchmarks.{module}", *options, file]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
