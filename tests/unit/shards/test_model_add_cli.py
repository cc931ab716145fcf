"""`model add`: what its source is taken for, and what it shows meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aitorrent_shards.cli_adding import where
from aitorrent_shards.methods_models import Added, AddParams
from aitorrentd.api import CallContext, Method
from aitorrentd.cli.toolkit import CommandFailed
from tests.support.cli_runs import run_here
from tests.support.control_server import ServerThread

DIGEST = "AB" * 32


def test_paths_are_told_from_names_and_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somewhere")
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / DIGEST).mkdir()
    assert where("hf://org/name@main") == {"source": "hf://org/name@main"}
    assert where("catalogue://org/name") == {"source": "catalogue://org/name"}
    assert where(DIGEST) == {"source": DIGEST}
    for path in ("org/name", "./org/name/", str(tmp_path / "org" / "name")):
        assert where(path) == {"path": str(tmp_path / "org" / "name")}
    assert where(f"./{DIGEST}") == {"path": str(tmp_path / DIGEST)}
    assert where("..") == {"path": str(tmp_path.parent)}
    assert where("~/m") == {"path": "/somewhere/m"}
    assert where("org") == {"path": str(tmp_path / "org")}
    with pytest.raises(CommandFailed, match="no folder org/other here; .* write hf://org/other"):
        where("org/other")


def slow(call: CallContext, params: AddParams) -> Added:
    for done in range(0, 1001, 5):
        call.progress("fetching weights", done=done, total=1000, unit="B")
    call.progress("loading")
    return Added(name=params.name, state="ready", problem="", digest="", bytes=1000)


@pytest.fixture
def server(tmp_path: Path) -> ServerThread:
    method = Method("shards.add_model", slow, "Add.", params=AddParams, result=Added)
    return ServerThread(tmp_path / "s", method)


def test_states_are_told_on_standard_error_without_a_terminal(
    server: ServerThread, tmp_path: Path
) -> None:
    with server:
        ran = run_here("model", "add", "toy", "hf://org/toy", socket=tmp_path / "s")
    assert (ran.code, ran.out) == (0, "model toy is ready, 1000 B of weights\n")
    assert ran.err.splitlines()[-1] == "loading"
    assert set(ran.err.splitlines()) <= {"fetching weights", "loading"}


def test_states_are_objects_on_standard_error_with_json(
    server: ServerThread, tmp_path: Path
) -> None:
    with server:
        ran = run_here("model", "add", "toy", "hf://org/toy", "--json", socket=tmp_path / "s")
    assert json.loads(ran.out)["state"] == "ready"
    told = [json.loads(line)["progress"] for line in ran.err.splitlines()]
    assert told[-1] == {"text": "loading", "done": None, "total": None, "unit": ""}
    assert len(told) <= 102
