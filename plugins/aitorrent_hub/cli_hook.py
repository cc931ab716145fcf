"""`aitorrentctl hub hook`: puts the hook for huggingface_hub into a Python environment.

The hook is the single module `aitorrent_hf`, which needs nothing but the standard library, and a
.pth file that imports it in programs with AITORRENT_HF=1.
"""

from __future__ import annotations

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from aitorrentd.cli import toolkit

MODULE: Final = "aitorrent_hf"
PTH: Final = "aitorrent_hf.pth"
LINE: Final = (
    "import os; os.environ.get('AITORRENT_HF') == '1' and __import__('aitorrent_hf').autoload()\n"
)
_ASK_S: Final = 30.0
_WHERE: Final = "import json, sysconfig; print(json.dumps([sysconfig.get_path('purelib')]))"
Python = Annotated[
    str,
    typer.Option(
        "--python",
        metavar="PATH",
        help="The Python of the environment (default: python3 of the PATH).",
        show_default=False,
    ),
]


def register(group: typer.Typer) -> None:
    """Add the commands to `aitorrentctl hub`."""
    hook = typer.Typer(
        no_args_is_help=True,
        help="Put the hook for huggingface_hub into a Python environment, or remove it.",
        epilog=toolkit.examples("hub hook install --python ~/venv/bin/python"),
    )
    hook.command(
        "install",
        help="Install the hook: programs with AITORRENT_HF=1 download through the node, and over"
        " HTTP whenever that fails.",
        epilog=toolkit.examples("hub hook install --python ~/venv/bin/python"),
    )(install)
    hook.command(
        "remove",
        help="Remove the hook.",
        epilog=toolkit.examples("hub hook remove --python ~/venv/bin/python"),
    )(remove)
    group.add_typer(hook, name="hook")


def install(python: Python = "python3") -> None:
    """Copy the module, and write the .pth file."""
    place = _packages_of(python)
    spec = find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise toolkit.CommandFailed(f"{MODULE}.py is missing", toolkit.ExitCode.ERROR)
    try:
        source = Path(spec.origin).read_bytes()
        target = place / f"{MODULE}.py"
        if not target.exists() or not target.samefile(spec.origin):
            target.write_bytes(source)
        (place / PTH).write_text(LINE, encoding="ascii")
    except OSError as e:
        raise _cannot_write(place, e) from None
    toolkit.emit({"installed": str(place)}, lambda _: f"installed in {place}; set AITORRENT_HF=1")


def remove(python: Python = "python3") -> None:
    """Delete both files."""
    place = _packages_of(python)
    spec = find_spec(MODULE)
    own = Path(spec.origin) if spec is not None and spec.origin else None
    removed = []
    try:
        for path in (place / PTH, place / f"{MODULE}.py"):
            if path.exists() and not (own is not None and path.samefile(own)):
                path.unlink()
                removed.append(path.name)
    except OSError as e:
        raise _cannot_write(place, e) from None
    shown = f"removed from {place}" if removed else f"{place} has no hook"
    toolkit.emit({"removed": removed, "from": str(place)}, lambda _: shown)


def _packages_of(python: str) -> Path:
    """Where the environment of a Python keeps packages."""
    command = [python, "-I", "-c", _WHERE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=True)
        found: Any = json.loads(done.stdout)
        return Path(found[0])
    except FileNotFoundError:
        reason = "there is no such program"
    except subprocess.TimeoutExpired:
        reason = "it does not answer"
    except (OSError, subprocess.CalledProcessError, ValueError, LookupError, TypeError):
        reason = "it is no Python"
    raise toolkit.CommandFailed(f"{python}: {reason}; give --python", toolkit.ExitCode.USAGE)


def _cannot_write(place: Path, error: OSError) -> toolkit.CommandFailed:
    reason = (error.strerror or str(error)).lower()
    return toolkit.CommandFailed(
        f"cannot write to {place}: {reason}; run it as the owner of that environment",
        toolkit.ExitCode.ERROR,
    )
