"""A node that shares nothing pays nothing for libtorrent."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aitorrent_seeding import health

_HEAVY = ("libtorrent", "aiohttp")


def test_plugin_is_loaded_without_libtorrent() -> None:
    code = (
        "import sys; import aitorrent_seeding.plugin, aitorrent_seeding.cli;"
        f"print([name for name in {_HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_libtorrent_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "find_spec", lambda name: None)
    check = health.check_libtorrent()
    assert (check.status, check.remedy) == (
        "fail",
        "aitorrentctl plugin install 'aitorrentd[seeding]'",
    )
