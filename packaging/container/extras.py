"""Print the requirements of extras, one per line: extras.py PYPROJECT EXTRA...

The Dockerfile installs them before it has the project, so that its sources may change without the
libraries being installed again.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main(pyproject: str, extras: list[str]) -> str | None:
    """Print them; returns what is wrong, or None."""
    known = tomllib.loads(Path(pyproject).read_text())["project"]["optional-dependencies"]
    for extra in extras:
        if extra not in known:
            return f"there is no extra {extra!r}; there is {', '.join(known)}"
        for requirement in known[extra]:
            sys.stdout.write(f"{requirement}\n")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
