"""Godot 3 as a server, without a screen, in a namespace without an internet.

Its HTTP client is not the browser's, as that of Godot 4 is in the tests of games: a request that is
cancelled ends at the node.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest

from tests.support.nodes import wait_for
from tests.support.scraping import scraped
from tests.support.shards.split_daemons import Split

PROJECT: Final = Path(__file__).parents[3] / "support" / "clients" / "godot3"


async def test_godot_3(split: Split, tmp_path: Path) -> None:
    if shutil.which("godot3-server") is None:
        pytest.skip("needs Godot 3 (apt install godot3-server)")
    game = tmp_path / "game"
    shutil.copytree(PROJECT, game)
    env = {"PATH": "/usr/games:/usr/bin:/bin", "HOME": str(tmp_path)}
    command = ("godot3-server", "--path", str(game), "--script", "client.gd")
    lines = (await split.run(*command, cwd=game, env=env)).splitlines()
    said = dict(line.partition(": ")[::2] for line in lines)
    assert said["whole"] and said["streamed"]
    assert said["last"] == "data: [DONE]"
    assert lines.count("/v1/chat/completions 200") == 2
    assert lines[-1] == "cancelled"

    async def is_free() -> bool:
        page = await scraped(split.address)
        return page.values["aitorrent_generations_running"] == 0

    await wait_for(is_free)
    page = await scraped(split.address)
    cancelled = 'aitorrent_generations_total{backend="shards",reason="cancelled"}'
    assert page.values[cancelled] >= 1
