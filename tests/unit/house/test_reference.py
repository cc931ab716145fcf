"""The reference pages and the frozen control API say what the code says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_reference_pages_are_fresh() -> None:
    """`make docs` writes them; this fails when code changed and they did not."""
    command = [sys.executable, "-m", "tools.reference", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_says_what_it_means() -> None:
    lines = (ROOT / "docs" / "reference" / "settings.md").read_text().splitlines()
    keys = [line for line in lines if line.startswith("| `")]
    assert len(keys) > 40
    assert [line for line in keys if line.rstrip().endswith("|  |")] == []


def test_every_method_has_a_summary_and_bounded_parameters() -> None:
    methods: list[dict[str, Any]] = json.loads((ROOT / "tests/golden/rpc.json").read_text())
    assert len(methods) > 30
    for method in methods:
        assert method["summary"].endswith("."), method["name"]
        assert method["params"].get("additionalProperties") is False, method["name"]
        assert method["result"]["type"] == "object", method["name"]


def test_every_field_of_a_method_says_what_it_means() -> None:
    methods: list[dict[str, Any]] = json.loads((ROOT / "tests/golden/rpc.json").read_text())
    fields = {
        f"{method['name']}: {schema.get('title', '')}.{key}": str(field.get("description", ""))
        for method in methods
        for whole in (method["params"], method["result"])
        for schema in (whole, *whole.get("$defs", {}).values())
        for key, field in schema.get("properties", {}).items()
    }
    assert len(fields) > 300
    assert [name for name, meaning in fields.items() if not meaning.strip()] == []
    assert [name for name, meaning in fields.items() if meaning.rstrip().endswith(".")] == []


def _properties_of(operation: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    found: dict[str, Any] = schema.get("properties", {})
    return found


def test_openapi_document_is_frozen_and_whole() -> None:
    """Written with the reference pages, so that a changed path shows in a review."""
    found: dict[str, Any] = json.loads((ROOT / "tests/golden/openapi.json").read_text())
    operations = [one for path in found["paths"].values() for one in path.values()]
    typed = [one for one in operations if "requestBody" in one and _properties_of(one)]
    assert {one["tags"][0] for one in typed} == {"gateway"}
    assert len(typed) >= 14
    assert len(operations) > 15
    idents = [one["operationId"] for one in operations]
    assert len({*idents}) == len(idents)
    assert [one["operationId"] for one in operations if not one["summary"].endswith(".")] == []
    for path, methods in found["paths"].items():
        named = set(re.findall(r"\{([a-z_]+)\}", path))
        for one in methods.values():
            assert {p["name"] for p in one.get("parameters", ())} == named, path


def test_every_hook_is_documented() -> None:
    from aitorrentd.api import hooks

    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    names = [name for name in vars(hooks) if name.startswith("aitorrent_")]
    assert len(names) >= 9
    assert [name for name in names if f"### {name}(" not in page] == []


def test_every_public_name_of_the_api_is_listed_with_its_meaning() -> None:
    import aitorrentd.api

    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    listed = dict(re.findall(r"(?m)^\| `(\w+)(?:\([^`]*\))?`[ *]* \|(.*)\|$", page))
    assert len(listed) > 120
    assert [name for name, meaning in listed.items() if not meaning.strip(" |")] == []
    events_and_errors = set(re.findall(r"(?m)^\| `[\w.]+` \| `(\w+)", page))
    found = {*listed, *events_and_errors}
    assert sorted(set(aitorrentd.api.__all__) - found) == []
    for file in (ROOT / "aitorrentd" / "api").rglob("*.py"):
        defined = re.findall(r"(?m)^(?:class|def|async def) ([A-Za-z]\w*)", file.read_text())
        hooks = {name for name in defined if name.startswith("aitorrent_")}
        assert sorted({*defined} - hooks - found) == [], file.name


def test_every_service_says_who_provides_it() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    table = page.partition("## Services")[2].partition("\n## ")[0]
    services = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert len(services) >= 6
    for cells in services:
        assert all(cell.strip(" |") for cell in cells), cells
