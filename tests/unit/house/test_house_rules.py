"""The rules that keep the house in order, checked on the source itself."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.sources import nodes, tree

ROOT = Path(__file__).parents[3]
CORE = ROOT / "aitorrentd"
PLUGINS = ROOT / "plugins"
SOURCES = sorted([*CORE.rglob("*.py"), *PLUGINS.rglob("*.py")])
MAX_SOURCE_LINES = 600
MAX_TEST_LINES = 800
MAX_MODULES = 20
"In one folder; more of them want rooms."
# Rooms that are no packages: an __init__.py in packaging/ would hide PyPI's `packaging`.
NO_PACKAGE = ("packaging", "plugins", "etc", "examples", "benchmarks", "docs")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, also inside functions, with the line."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: imports are absolute"
            yield node.module or "", node.lineno


def plugin_packages() -> list[str]:
    return sorted(p.name for p in PLUGINS.iterdir() if p.is_dir() and p.name != "__pycache__")


@pytest.mark.parametrize("package", plugin_packages())
def test_plugin_imports_only_the_api_and_itself(package: str) -> None:
    wrong = []
    for path in sorted((PLUGINS / package).rglob("*.py")):
        # A command line module runs in aitorrentctl, not in the daemon: it has a door of its own.
        door = "aitorrentd.cli" if path.name.startswith("cli") else "aitorrentd.api"
        for module, line in imports(path):
            top = module.split(".")[0]
            inside = top == package or (top == "aitorrentd" and f"{module}.".startswith(f"{door}."))
            if top.startswith(("aitorrent_", "aitorrentd")) and not inside:
                wrong.append(f"{name_of(path)}:{line}: {module}")
    assert wrong == []


def test_core_imports_no_plugin() -> None:
    wrong = [
        f"{name_of(path)}:{line}: {module}"
        for path in CORE.rglob("*.py")
        for module, line in imports(path)
        if module.split(".")[0].startswith("aitorrent_")
    ]
    assert wrong == []


def test_torch_is_imported_only_by_the_shard_worker() -> None:
    """The daemon's process must never load torch: only modules of the worker process may."""
    heavy = {"torch", "transformers", "numpy", "safetensors"}
    room = PLUGINS / "aitorrent_shards" / "worker"
    wrong = [
        f"{name_of(path)}:{line}: {module}"
        for path in SOURCES
        for module, line in imports(path)
        if module.split(".")[0] in heavy and room not in path.parents
    ]
    assert wrong == []


def import_graph() -> dict[str, set[str]]:
    """Which module of the house imports which, by dotted name."""
    names = {path: dotted_name(path) for path in SOURCES}
    known = set(names.values())
    graph: dict[str, set[str]] = {}
    for path, name in names.items():
        found: set[str] = set()
        for node in nodes(path):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= parts & known or {node.module or ""}
        graph[name] = found & known - {name}
    return graph


def dotted_name(path: Path) -> str:
    base = PLUGINS if PLUGINS in path.parents else ROOT
    name = ".".join(path.relative_to(base).with_suffix("").parts)
    return name.removesuffix(".__init__")


def test_no_two_modules_import_each_other_in_a_loop() -> None:
    graph = import_graph()
    # The package hands on `Node`, loaded on first use: the one import that runs upwards.
    graph["aitorrentd"] = set()
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as e:
        pytest.fail(f"these import each other: {' -> '.join(e.args[1])}")


def test_no_folder_is_a_long_corridor() -> None:
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    count = Counter(path.parent for path in files if path.name != "__init__.py")
    long = {name_of(folder): modules for folder, modules in count.items() if modules > MAX_MODULES}
    assert long == {}


def test_no_source_file_is_too_long() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    long = [
        f"{name_of(path)}: {lines} lines"
        for path in [*SOURCES, *tests]
        if (lines := len(path.read_text().splitlines()))
        > (MAX_TEST_LINES if path in tests else MAX_SOURCE_LINES)
    ]
    assert long == []


def test_rooms_that_are_no_packages_have_no_init() -> None:
    assert [name_of(p) for room in NO_PACKAGE for p in (ROOT / room).glob("__init__.py")] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [name_of(p) for p in SOURCES if p.read_text() and not ast.get_docstring(tree(p))]
    assert silent == []


def test_every_plugin_has_the_same_front_door() -> None:
    for package in plugin_packages():
        door = PLUGINS / package / "plugin.py"
        assert door.is_file(), f"{package} has no plugin.py"
        assert len(door.read_text().splitlines()) <= 120, f"{name_of(door)} is over 120 lines"


def test_remote_input_is_not_checked_by_assert() -> None:
    """`python -O` drops asserts; rooms that decode strangers' bytes may not lean on them."""
    rooms = [
        CORE / "control",
        *(PLUGINS / "aitorrent_transport" / r for r in ("secure", "links", "streams", "protocols")),
        *(PLUGINS / "aitorrent_shards" / r for r in ("protocol", "hops")),
        *(PLUGINS / "aitorrent_dht" / r for r in ("core", "wire", "net")),
        *(PLUGINS / "aitorrent_discovery" / r for r in ("records", "gossip", "lan")),
        *(PLUGINS / "aitorrent_nat" / r for r in ("stun", "reach")),
        *(
            PLUGINS / "aitorrent_tracker" / r
            for r in ("swarms", "sharing", "wire", "answering", "net", "catalogue")
        ),
        *(
            PLUGINS / "aitorrent_seeding" / r
            for r in ("torrents", "library", "sources", "crediting")
        ),
    ]
    rooms += [CORE / "api" / "faces", PLUGINS / "aitorrent_catalogue", PLUGINS / "aitorrent_http"]
    rooms += [PLUGINS / "aitorrent_gateway", PLUGINS / "aitorrent_monitor"]
    rooms += [PLUGINS / "aitorrent_hub" / r for r in ("mirror", "upstream", "files", "scan")]
    decoders = [CORE / "wire.py", *(path for room in rooms for path in room.rglob("*.py"))]
    assert all(room.is_dir() for room in rooms)
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in decoders
        for node in nodes(path)
        if isinstance(node, ast.Assert)
    ]
    assert wrong == []


def test_every_entry_point_names_a_module_of_this_tree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["entry-points"]
    targets = [t for group in groups.values() for t in group.values()]
    for target in [*targets, *project["scripts"].values()]:
        module = target.split(":")[0].split(" ")[0].replace(".", "/")
        found = [base / f"{module}.py" for base in (ROOT, PLUGINS)]
        assert any(path.is_file() for path in found), f"{target} does not exist"
