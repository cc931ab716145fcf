"""Print the requirements of extras, one per line: extras.py PYPROJECT EXTRA...

The Dockerfile installs them before it copies the project, so that source changes do not reinstall
the libraries.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main(pyproject: str, extras: list[str]) -> str | None:
    """Print them; returns an error message, or None."""
    known = tomllib.loads(Path(pyproject).read_text())["project"]["optional-dependencies"]
    for extra in extras:
        if extra not in known:
            return f"there is no extra {extra!r}; available: {', '.join(known)}"
        for requirement in known[extra]:
            sys.stdout.write(f"{requirement}\n")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
