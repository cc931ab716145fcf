"""`sessions` and `spans` against a control server whose node computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aitorrent_shards.methods import SessionRow, SessionRows, SpanRow, SpanRows
from aitorrentd.api import CallContext, Method, NoParams
from tests.support.cli_runs import run_here
from tests.support.control_server import ServerThread
from tests.support.inference_fakes import node_id

HERE, THERE = node_id(0), node_id(1)


def methods(spans: list[SpanRow], sessions: list[SessionRow]) -> list[Method]:
    names = {THERE: 'the "big" one'}

    def all_spans(call: CallContext, params: NoParams) -> SpanRows:
        return SpanRows(spans=spans, names=names)

    def all_sessions(call: CallContext, params: NoParams) -> SessionRows:
        return SessionRows(sessions=sessions, names=names, answering=1, overhead_us=1500)

    return [
        Method("shards.spans", all_spans, "Spans.", result=SpanRows),
        Method("shards.sessions", all_sessions, "Sessions.", result=SessionRows),
    ]


def span(peer: str, start: int, end: int) -> SpanRow:
    return SpanRow(
        peer=peer,
        this_node=peer == HERE,
        model="demo",
        digest="ab" * 32,
        start=start,
        end=end,
        layers=9,
        dtype="float32",
        max_positions=4096,
        free_positions=1000,
        step_us=2500,
    )


SESSION = SessionRow(
    coordinator=THERE,
    prev=HERE,
    model="demo",
    start=3,
    end=6,
    positions=17,
    max_positions=64,
    journal_bytes=2048,
)


@pytest.fixture
def ctl(tmp_path: Path) -> Callable[..., str]:
    """Runs a command line; returns what it wrote."""

    def call(*words: str) -> str:
        ran = run_here(*words, socket=tmp_path / "s", columns=200)
        assert ran.code == 0, ran.err
        return ran.out

    return call


def test_sessions_tell_who_computes_what_for_whom(ctl: Any, tmp_path: Path) -> None:
    with ServerThread(tmp_path / "s", *methods([], [SESSION])):
        lines = ctl("sessions").splitlines()
        told = json.loads(ctl("sessions", "--json"))
    assert lines[0].split() == [
        *("MODEL", "LAYERS", "COORDINATOR", "FROM", "POSITIONS", "AT", "MOST", "KEPT")
    ]
    for part in ("demo", "3-6", f"…{THERE[-8:]} \"the 'big' one\"", f"…{HERE[-8:]}", "17", "64"):
        assert part in lines[1]
    assert lines[2:] == [
        "This node coordinates 1 answer.",
        "A token spends 1.50 ms here outside of the layers.",
    ]
    assert told["sessions"] == [SESSION.model_dump()]


def test_spans_tell_who_holds_which_layers(ctl: Any, tmp_path: Path) -> None:
    with ServerThread(tmp_path / "s", *methods([span(HERE, 0, 3), span(THERE, 3, 9)], [])):
        lines = ctl("spans").splitlines()
        told = json.loads(ctl("spans", "--json"))
    assert lines[0].split() == [
        *("MODEL", "LAYERS", "OF", "NODE", "TYPE", "FREE", "TOKENS", "STEP", "DIGEST")
    ]
    assert f"…{HERE[-8:]} (this node)" in lines[1]
    assert "0-3" in lines[1]
    assert f"…{THERE[-8:]} \"the 'big' one\"" in lines[2]
    assert "2.50 ms" in lines[2]
    assert [row["start"] for row in told["spans"]] == [0, 3]


def test_idle_node_says_so(ctl: Any, tmp_path: Path) -> None:
    with ServerThread(tmp_path / "s", *methods([], [])):
        assert ctl("sessions").startswith("No sessions: this node computes nothing now.\n")
        assert ctl("spans").startswith("No node holds layers; add a model")
