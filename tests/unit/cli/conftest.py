"""A real node, and `aitorrentctl` against it in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aitorrentd.cli import app, toolkit
from aitorrentd.cli.main import main
from aitorrentd.cli.plugin_commands import PluginCommands
from aitorrentd.cli.toolkit import Options
from tests.support.cli_nodes import Ctl, NodeThread, Ran


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeThread]:
    with NodeThread(tmp_path_factory.mktemp("n")) as node:
        yield node


@pytest.fixture
def ctl(
    node: NodeThread, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Ctl:
    """Runs a command line against the node."""
    monkeypatch.setenv("AITORRENT_SOCKET", str(node.socket))
    monkeypatch.setattr(toolkit, "options", Options())
    monkeypatch.setattr(app, "_plugin_commands", PluginCommands(app.RESERVED))

    def run(*args: str) -> Ran:
        code = main(list(args))
        told = capsys.readouterr()
        return Ran(code, told.out, told.err)

    return run
