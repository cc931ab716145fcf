"""Tools that every plugin needs exist once: a second copy fails here, with the name of the first.

Each rule recognises what a copy looks like in the syntax tree, whatever it is called. The rooms in
which that may stand are listed with the reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.sources import nodes

ROOT = Path(__file__).parents[3]
SOURCES = sorted(p for top in ("aitorrentd", "plugins") for p in (ROOT / top).rglob("*.py"))

# What a copy looks like


def called(node: ast.AST) -> str:
    """The dotted name that a call calls, such as `os.rename`; "" for anything else."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def replaces_a_file(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    if called(node) in ("os.rename", "os.replace", "os.link", "os.fsync", "shutil.move"):
        return True
    # Path.rename and Path.replace take one argument; str.replace takes two.
    return node.func.attr in ("rename", "replace", "hardlink_to") and len(node.args) == 1


def opens_without_waiting(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "O_NONBLOCK"


def starts_a_task_without_an_owner(node: ast.AST) -> bool:
    owner, _, name = called(node).rpartition(".")
    if name not in ("create_task", "ensure_future"):
        return False
    return owner in ("", "asyncio", "super()") or "loop" in owner  # anything else is a TaskGroup


def doubles_a_wait(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Pow, ast.LShift)):
        base = node.left.value if isinstance(node.left, ast.Constant) else None
        return base in (1, 2) and not isinstance(node.right, (ast.Constant, ast.UnaryOp))
    if called(node) != "min" and not isinstance(node, ast.AugAssign):
        return False
    doubled = [node] if isinstance(node, ast.AugAssign) else ast.walk(node)
    return any(
        isinstance(each, (ast.BinOp, ast.AugAssign))
        and isinstance(each.op, ast.Mult)
        and re.search(r"\w_s\b", ast.unparse(each))
        and re.search(r"\b2(\.0)?\b", ast.unparse(each))
        for each in doubled
    )


def checks_a_field(node: ast.AST) -> bool:
    """A function that gets one value of a map by a name that it is given, and refuses its type."""
    if not isinstance(node, ast.FunctionDef):
        return False
    names = {arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)}
    inside = list(ast.walk(node))
    gets = any(
        isinstance(each, ast.Call)
        and isinstance(each.func, ast.Attribute)
        and each.func.attr == "get"
        and any(isinstance(arg, ast.Name) and arg.id in names for arg in each.args)
        for each in inside
    )
    looks = any(called(each) in ("isinstance", "type") for each in inside)
    return gets and looks and any(isinstance(each, ast.Raise) for each in inside)


def counts_down_for_somebody(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.AugAssign)
        and isinstance(node.op, ast.Sub)
        and isinstance(node.target, ast.Subscript)
        and ast.unparse(node.value) == "1"
    )


def shortens_an_id(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Slice)
        and node.lower is not None
        and (ast.unparse(node.lower) == "-8" and node.upper is None)
    )


def words_a_size(node: ast.AST) -> bool:
    """A unit beside a number that is put into text, or in a list of units."""
    if isinstance(node, ast.JoinedStr):
        return any(
            isinstance(part, ast.Constant) and re.match(r"\s?[KMGT]i?B\b", str(part.value))
            for part in node.values[1:]
        )
    units = node.elts if isinstance(node, (ast.Tuple, ast.List)) else ()
    return any(isinstance(u, ast.Constant) and u.value in ("KiB", "MiB", "KB", "MB") for u in units)


def words_an_address(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) and "]:{" in ast.unparse(node)


# The rules


@dataclass(frozen=True)
class Rule:
    """`use` names the one place; `rooms` are where else the pattern may stand, and why."""

    pattern: Callable[[ast.AST], bool]
    home: str
    use: str
    copies: tuple[str, ...]
    "Code that the rule must recognise."
    harmless: tuple[str, ...] = ()
    rooms: Mapping[str, str] | None = None


RULES = {
    "replacing files": Rule(
        replaces_a_file,
        "aitorrentd/system/files.py",
        "replace_file or create_file of aitorrentd.api",
        ("os.rename(a, b)", "temporary.replace(path)", "os.fsync(fd)"),
        ('text.replace("a", "b")', "replace(record, a=1)"),
        {
            "plugins/aitorrent_hf.py": "runs where aitorrentd is not installed",
            "aitorrentd/installing": "moves whole directories aside; no file replacement does that",
        },
    ),
    "opening files": Rule(
        opens_without_waiting,
        "aitorrentd/system/files.py",
        "open_regular or read_regular of aitorrentd.api",
        ("os.open(path, os.O_RDONLY | os.O_NONBLOCK)",),
    ),
    "background tasks": Rule(
        starts_a_task_without_an_owner,
        "aitorrentd/api/tasks.py",
        "Tasks or beside of aitorrentd.api.tasks, or a TaskGroup",
        ("asyncio.create_task(work())", "self._loop.create_task(work())", "ensure_future(work())"),
        ("group.create_task(work())", "ctx.tasks.create_task(work())"),
        {
            "aitorrentd/kernel": "owns the tasks of plugins; their state is the report",
            "aitorrentd/control": "a call's task ends with its connection and reports by an answer",
            "aitorrentd/daemon": "start, drain and stop are awaited where they begin",
            "aitorrentd/workers": "the reaper ends with its process, which is what it reports",
            "plugins/aitorrent_inference": "lanes of a race, awaited by the race",
            "plugins/aitorrent_transport/links": "attempts of a race, ended by the race",
            "plugins/aitorrent_nat/punch": "attempts of a race, ended by the race",
        },
    ),
    "backoff": Rule(
        doubles_a_wait,
        "aitorrentd/api/backoff.py",
        "full_jitter_s or equal_jitter_s of aitorrentd.api.backoff",
        (
            "x = base * 2.0**attempt",
            "x = 1 << attempt",
            "delay_s = min(delay_s * 2, 60)",
            "a_s *= 2",
        ),
        ("x = 2**30", "x = 1 << 20", "size = min(size * 2, most)"),
    ),
    "checked fields": Rule(
        checks_a_field,
        "aitorrentd/api/fields.py",
        "aitorrentd.api.fields",
        (
            "def _i(m, k):\n v = m.get(k)\n if type(v) is not int:\n  raise ValueError\n return v",
            "def f(m, *, key):\n if not isinstance(m.get(key), str):\n  raise ValueError",
        ),
        ('def f(m):\n if not isinstance(m.get("a"), str):\n  raise ValueError',),
    ),
    "limits per peer": Rule(
        counts_down_for_somebody,
        "aitorrentd/api/limits.py",
        "InUse or Slots of aitorrentd.api.limits",
        ("self._open[peer] -= 1",),
        ("self.used -= 1", "self._open[peer] -= size"),
        {"aitorrentd/kernel/context": "counts work a drain waits for, and limits nothing"},
    ),
    "short ids": Rule(
        shortens_an_id,
        "aitorrentd/display.py",
        "short or called of aitorrentd.api, in commands of aitorrentd.cli.toolkit",
        ('"…" + peer[-8:]',),
        ("rows[-8:-1]", "rows[:8]"),
    ),
    "sizes": Rule(
        words_a_size,
        "aitorrentd/display.py",
        "bytes_text of aitorrentd.api, in commands of aitorrentd.cli.toolkit",
        ('f"{n // MIB} MiB"', 'for unit in ("B", "KiB"): pass', 'f"{n:.1f}GB"'),
        ('f"at most 4 KiB, not {n}"', 'UNITS = {"KB": 10**3}'),
    ),
    "host and port": Rule(
        words_an_address,
        "aitorrentd/api/network/addresses.py",
        "host_port of aitorrentd.api.network.addresses",
        ('f"[{host}]:{port}"',),
    ),
}


def found(pattern: Callable[[ast.AST], bool], among: Iterable[ast.AST]) -> Iterator[int]:
    """The lines on which the pattern stands."""
    yield from (getattr(node, "lineno", 0) for node in among if pattern(node))


def is_in(path: Path, room: str) -> bool:
    return (ROOT / room) in (path, *path.parents)


@pytest.mark.parametrize("name", RULES)
def test_there_is_one_copy(name: str) -> None:
    rule = RULES[name]
    allowed = (rule.home, *(rule.rooms or ()))
    second = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        if not any(is_in(path, room) for room in allowed)
        for line in found(rule.pattern, nodes(path))
    ]
    assert second == [], f"{name}: use {rule.use}"


@pytest.mark.parametrize("name", RULES)
def test_each_room_of_a_rule_still_needs_its_place_there(name: str) -> None:
    rule = RULES[name]
    for room in (rule.home, *(rule.rooms or ())):
        inside = [path for path in SOURCES if is_in(path, room)]
        assert any(True for path in inside for _ in found(rule.pattern, nodes(path))), room


@pytest.mark.parametrize("name", RULES)
def test_a_copy_would_be_recognised(name: str) -> None:
    rule = RULES[name]
    for code in rule.copies:
        assert list(found(rule.pattern, ast.walk(ast.parse(code)))), code
    for code in rule.harmless:
        assert not list(found(rule.pattern, ast.walk(ast.parse(code)))), code
