"""A skipped test fails in CI, and what is slow to make is made once, in however many processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ONE_PROCESS
from tests.support.nodes import REPOSITORY
from tests.support.runs import alone

PASSES = """
import pytest

@pytest.mark.skip(reason="hardware: there is no GPU")
def test_gpu(): ...

def test_passes(figures): figures["speed"] = "9 m/s"

@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""
SKIPS = """
import pytest

def test_lazy(): pytest.skip("no server here")
"""
SKIPS_ALL = """
import pytest

pytest.skip("no library here", allow_module_level=True)
"""
WHERE = """
import os, pathlib, pytest

@pytest.mark.parametrize("n", range(5))
def test_it(n): pathlib.Path(os.environ["PYTEST_XDIST_WORKER"]).touch()
"""
NOTES = """
import os, pathlib, pytest

@pytest.mark.parametrize("n", range(12))
def test_it(n):
    kind = pathlib.Path(__file__).parent.name
    with open("order-" + os.environ["PYTEST_XDIST_WORKER"], "a") as order:
        order.write(f"{kind}\\n")
"""
TAKES_TIME = """
import os, pathlib, pytest, time

@pytest.mark.parametrize("n", range(9))
def test_it(n):
    began = time.monotonic()
    time.sleep(0.05)
    with open("spans-" + os.environ["PYTEST_XDIST_WORKER"], "a") as spans:
        spans.write(f"{began} {time.monotonic()} {pathlib.Path(__file__).name}\\n")
"""
IN_TWO = ("-n", "2")


def run_tests(directory: Path, *options: str, ci: str) -> subprocess.CompletedProcess[str]:
    options = ("-q", "-p", "no:cacheprovider", "-p", "tests.conftest", *options)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", os.devnull, "--rootdir", directory, "."],
        cwd=directory,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(REPOSITORY), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ci", "skips", "options"),
    [
        ("true", False, ()),
        ("true", False, IN_TWO),
        ("true", True, ()),
        ("true", True, IN_TWO),
        ("", True, ()),
    ],
)
def test_skip_in_ci_is_a_failure_unless_hardware_is_absent(
    tmp_path: Path, ci: str, skips: bool, options: tuple[str, ...]
) -> None:
    (tmp_path / "test_inner.py").write_text(PASSES)
    if skips:
        (tmp_path / "test_one.py").write_text(SKIPS)
        (tmp_path / "test_module.py").write_text(SKIPS_ALL)
    done = run_tests(tmp_path, *options, ci=ci)
    is_failure = skips and ci == "true"
    assert done.returncode == is_failure, done.stdout + done.stderr
    for told in ("test_one.py::test_lazy: no server here", "test_module.py: no library here"):
        assert done.stdout.count(told) == is_failure
    assert done.stdout.splitlines()[-1].startswith("1 passed, ")
    # Measurements of a worker arrive, too.
    assert "speed: 9 m/s" in done.stdout


@pytest.mark.slow
def test_what_is_slow_to_make_is_made_by_one_worker(tmp_path: Path) -> None:
    together = "tests/packaging/debian"
    assert f"{together}/" in ONE_PROCESS
    for name in ("test_one.py", "test_two.py"):
        file = tmp_path / together / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(WHERE)
    assert run_tests(tmp_path, *IN_TWO, ci="").returncode == 0
    assert len(list(tmp_path.glob("gw*"))) == 1
    (tmp_path / "test_other.py").write_text(WHERE)
    assert run_tests(tmp_path, *IN_TWO, ci="").returncode == 0
    assert len(list(tmp_path.glob("gw*"))) == 2


@pytest.mark.slow
def test_unit_tests_run_beside_the_others(tmp_path: Path) -> None:
    for kind in ("integration", "unit"):
        file = tmp_path / "tests" / kind / f"test_{kind}.py"
        file.parent.mkdir(parents=True)
        file.write_text(NOTES)
    assert run_tests(tmp_path, "-n", "3", ci="").returncode == 0
    orders = {file.name: file.read_text().split() for file in tmp_path.glob("order-*")}
    assert {name: kinds[0] for name, kinds in orders.items()} == {
        "order-gw0": "unit",
        **{f"order-gw{n}": "integration" for n in (1, 2)},
    }
    # Nobody idles while tests of the other kind are left, and none runs twice.
    ran = [kind for kinds in orders.values() for kind in kinds]
    assert sorted(ran) == ["integration"] * 12 + ["unit"] * 12


@pytest.mark.slow
def test_no_test_runs_beside_those_that_compare_rates(tmp_path: Path) -> None:
    for at in (alone.TESTS[0], "tests/integration/test_other.py", "tests/unit/test_unit.py"):
        file = tmp_path / at
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TAKES_TIME)
    assert run_tests(tmp_path, "-n", "3", ci="").returncode == 0
    lines = [line for file in tmp_path.glob("spans-*") for line in file.read_text().splitlines()]
    ran = sorted((float(start), float(end), name) for start, end, name in map(str.split, lines))
    assert len(ran) == 27
    of_rates = [n for n, (_, _, name) in enumerate(ran) if name == Path(alone.TESTS[0]).name]
    assert len(of_rates) == 9
    for n in of_rates:
        assert max(end for _, end, _ in ran[:n]) <= ran[n][0]
        assert all(ran[n][1] <= start for start, _, _ in ran[n + 1 :])
    # Those that the other two workers have been given by then may come after the first.
    assert of_rates[0] >= 27 - 9 - 2 * 2


@pytest.mark.parametrize("path", [*ONE_PROCESS, *alone.TESTS])
def test_path_of_tests_that_stay_together_exists(path: str) -> None:
    assert (REPOSITORY / path).exists()
