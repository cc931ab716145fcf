"""What a start of `aitorrentctl` imports, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "starlette", "httpx", "libtorrent", "numpy", "uvloop", "yaml"}
SLOW = {"pydantic", "asyncio", "rich", "cryptography", "nacl"}
REPOSITORY = Path(__file__).parents[3]


def modules_after(code: str) -> set[str]:
    """The top-level modules that are loaded after `code` ran."""
    program = (
        f"import sys\n{code}\nprint('\\n' + ' '.join({{m.split('.')[0] for m in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=REPOSITORY,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_entry_point_imports_next_to_nothing() -> None:
    loaded = modules_after("import aitorrentd.cli.main")
    assert not loaded & (HEAVY | SLOW | {"typer", "msgpack"})


@pytest.mark.parametrize("module", ["aitorrentd.cli.toolkit", "aitorrentd.control.client"])
def test_the_toolkit_and_the_client_are_light(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert not loaded & (HEAVY | SLOW | {"typer"})


@pytest.mark.parametrize("args", [["status"], ["id"], ["plugin", "list"], ["version"]])
def test_everyday_commands_load_neither_pydantic_nor_asyncio(args: list[str]) -> None:
    code = (
        "import sys\nfrom aitorrentd.cli.main import main\n"
        f"main({json.dumps([*args, '--socket', '/nonexistent'])})"
    )
    loaded = modules_after(code)
    assert "typer" in loaded
    assert not loaded & (HEAVY | SLOW)
    assert "aitorrent_transport" not in loaded


def test_the_scan_for_plugins_does_not_import_importlib_metadata() -> None:
    code = (
        "from aitorrentd.system import distributions\n"
        "found = distributions.scan(distributions.COMMANDS)\n"
        "assert any(point.name == 'transport' for point in found.points), found"
    )
    program = f"import sys\n{code}\nprint('importlib.metadata' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"
