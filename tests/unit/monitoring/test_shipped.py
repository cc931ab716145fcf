"""The dashboard and the alerting rules that are shipped: each expression names what exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from aitorrent_monitor.cli import ALERTS, DASHBOARD
from aitorrentd.api.monitoring.families import PREFIX, problem_of
from tools.dashboard import text
from tools.metrics_page import families

DECLARED = {f.name: f for listed in families().values() for f in listed}
SUFFIXES = ("_bucket", "_sum", "_count")
OTHERS = {"up"}
"What Prometheus itself adds."


def panels() -> list[dict[str, Any]]:
    return [p for p in json.loads(DASHBOARD.read_text())["panels"] if p["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]


def names(expression: str) -> set[str]:
    """The metrics that an expression reads: words before a selector, a comparison or the end."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", "", expression)
    return {*re.findall(r"[a-z_]{2,}(?!\w|\()", bare)} - {"sum"}


def labels(expression: str) -> set[str]:
    return set(re.findall(r'(\w+)(?:=~|!=|=)"', expression)) - {"job", "instance"}


def base(name: str) -> str:
    """The family of a name."""
    whole = next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name)
    return name if name in DECLARED else whole


def test_all_families_are_valid_and_unlike() -> None:
    every = [f for listed in families().values() for f in listed]
    assert len(every) > 40
    assert [problem_of(family) for family in every if problem_of(family)] == []
    assert len({family.base for family in every}) == len(every)
    assert all(f.name.startswith((PREFIX, "process_")) for f in every)
    assert [f.name for f in every if {"peer", "peer_id", "path", "user"} & {*f.labels}] == [
        "aitorrent_hop_seconds"  # its values are local, direct and relayed
    ]


def test_dashboard_is_fresh_and_whole() -> None:
    assert DASHBOARD.read_text() == text()
    shown = {base(name) for expression in expressions() for name in names(expression)}
    hidden = {"aitorrent_build_info", "process_start_time_seconds"}
    assert shown - OTHERS == {*DECLARED} - hidden
    idents = [panel["id"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len({*idents}) == len(idents)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert all(0 <= x < 24 for x, _ in cells)
        taken |= cells


def test_expressions_name_families_and_labels_that_exist() -> None:
    for expression in [*expressions(), *(rule["expr"] for rule in rules())]:
        found = names(expression) - OTHERS
        assert {name for name in found if base(name) not in DECLARED} == set(), expression
        known = {label for name in found for label in DECLARED[base(name)].labels}
        assert labels(expression) <= known, expression


def test_promtool_accepts_rules_and_expressions(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (apt install prometheus)")
    plain = [
        e.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")
        for e in expressions()
    ]
    recorded = [{"record": f"expression:{i}", "expr": e} for i, e in enumerate(plain)]
    group = {"groups": [{"name": "dashboard", "rules": recorded}]}
    (tmp_path / "dashboard.yaml").write_text(yaml.safe_dump(group))
    done = subprocess.run(
        [promtool, "check", "rules", ALERTS, tmp_path / "dashboard.yaml"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr
