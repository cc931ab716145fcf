"""The help of every core command, frozen: UPDATE_GOLDEN=1 writes it anew."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

from aitorrentd.cli import app
from aitorrentd.cli.main import main

GOLDEN = Path(__file__).parents[2] / "golden" / "cli_help.txt"

COMMANDS = [
    [],
    *[[name] for name in app.CORE],
    *[["plugin", name] for name in ("list", "info", "enable", "disable", "restart")],
    *[["plugin", name] for name in ("install", "remove", "rebuild", "new")],
    *[["config", name] for name in ("show", "check", "get", "set")],
    *[["rpc", name] for name in ("list", "describe")],
]


def test_help_is_what_the_snapshot_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "_plugin_commands", app._PluginCommands())
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    monkeypatch.setenv("COLUMNS", "80")
    parts = []
    for command in COMMANDS:
        assert main([*command, "--help"]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        parts.append(f"$ {' '.join(['aitorrentctl', *command, '--help'])}\n{told.out}")
    text = "\n".join(parts)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "UPDATE_GOLDEN=1 accepts the change"


def test_every_core_command_is_registered_by_its_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "_plugin_commands", app._PluginCommands())
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    group = app.root()
    for name in app.CORE:
        command = group.get_command(None, name)
        assert command is not None
        assert command.name == name
