from __future__ import annotations

from pathlib import Path

from aitorrentd.cli import app
from aitorrentd.cli.plugin_commands import PluginCommands
from aitorrentd.cli.shell import history_file, next_words
from aitorrentd.system.distributions import Scan


def test_completion_offers_commands_subcommands_and_options() -> None:
    plugins = PluginCommands(app.RESERVED, scan=lambda *groups: Scan())
    group = app.root(plugins=plugins)
    assert set(next_words(group, [])) == {*app.CORE, "help", "quit", "exit"}
    switches = ["list", "info", "enable", "disable", "restart"]
    assert next_words(group, ["plugin"]) == [*switches, "install", "remove", "rebuild", "new"]
    assert "--follow" in next_words(group, ["logs"])
    assert "--origin" in next_words(group, ["config", "show"])
    assert next_words(group, ["nonsense"]) == []
    assert next_words(group, ["help"]) == [*app.CORE]


def test_the_history_is_kept_below_the_state_directory(tmp_path: Path) -> None:
    assert history_file({"XDG_STATE_HOME": str(tmp_path)}) == (
        tmp_path / "aitorrent" / "shell_history"
    )
    assert history_file({"XDG_STATE_HOME": "relative", "HOME": "/home/x"}) == Path(
        "/home/x/.local/state/aitorrent/shell_history"
    )
