"""Distributions on the module path: the good ones are found, each damaged one is named."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from aitorrentd.errors import InvalidParams
from aitorrentd.system import distributions
from aitorrentd.system.distributions import PLUGINS, Point, Scan
from tests.support.distributions import CASES, METADATA, distribution

GOOD = b"[aitorrentd.plugins]\ngood = good:Plugin\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all there is on the module path, with one good plugin in it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    distribution(tmp_path, "good", plugins="good = good:Plugin")
    return tmp_path


def scanned() -> Scan:
    found = distributions.scan(PLUGINS)
    # Whatever stands beside it, the good one is there.
    assert "good" in [point.name for point in found.points]
    return found


def only_problem(found: Scan) -> str:
    assert [point.name for point in found.points] == ["good"]
    (problem,) = found.problems
    assert "\n" not in problem.text
    return problem.text


@pytest.mark.parametrize(
    ("case", "named", "why"),
    [
        ("no-metadata", "case-nometa", "it has no METADATA"),
        ("bad-line", "case-tool", "line 2 of entry_points.txt has no `=`"),
        ("latin1", "case-latin", "entry_points.txt is not UTF-8"),
    ],
)
def test_reported_damage_is_named_and_left_out(site: Path, case: str, named: str, why: str) -> None:
    sys.path.insert(0, str(CASES / case))
    text = only_problem(scanned())
    assert text.startswith(f"distribution {named} ({CASES / case}/")
    assert why in text
    assert f"pip install --force-reinstall {named}" in text


@pytest.mark.parametrize(
    ("entry_points", "why"),
    [
        (b"[aitorrentd.plugins]\nx", "line 2 of entry_points.txt has no `=`: 'x'"),
        (b"x = y:Z\n", "line 1 of entry_points.txt is in no section"),
        (b"[other]\nx\n" + GOOD, "line 2 of entry_points.txt has no `=`"),
        (b"\xff\xfe" + GOOD, "entry_points.txt is not UTF-8"),
        (GOOD.decode().encode("utf-16"), "entry_points.txt is not UTF-8"),
        (GOOD + b"# " + b"x" * 1024 * 1024, "entry_points.txt is over 1.0 MiB"),
        (b"[aitorrentd.plugins\nx = y:Z\n", "entry_points.txt has no `=`"),
    ],
)
def test_damaged_entry_points_are_named(site: Path, entry_points: bytes, why: str) -> None:
    distribution(site, "bad-one", entry_points=entry_points)
    text = only_problem(scanned())
    assert text.startswith("distribution bad-one (")
    assert why in text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "it has no METADATA"),
        (b"\n", "its METADATA names no distribution"),
        (b"Name: caf\xe9\nVersion: 1\n", "METADATA is not UTF-8"),
        (b"Name:\nVersion: 1\n", "its METADATA names no distribution"),
        (b"Name: ../../etc\nVersion: 1\n", "its METADATA names no distribution"),
        (b"Name: aitorrentd\nVersion: 1\n", "its METADATA is that of aitorrentd"),
        (b"Name: bad-one\nDescription: " + b"x" * 1024 * 1024, "METADATA is over 1.0 MiB"),
    ],
)
def test_damaged_metadata_is_named(site: Path, content: bytes | None, why: str) -> None:
    distribution(site, "bad-one", plugins="bad = bad:Plugin", metadata=content)
    text = only_problem(scanned())
    assert text.startswith("distribution bad-one (")
    assert why in text


@pytest.mark.parametrize("name", ["entry_points.txt", "METADATA"])
def test_directory_and_fifo_in_the_place_of_a_file_are_named(site: Path, name: str) -> None:
    for number, make in enumerate((os.mkdir, os.mkfifo)):
        folder = distribution(site, f"bad-{number}", plugins="bad = bad:Plugin")
        (folder / name).unlink()
        make(folder / name)
    found = scanned()
    assert [point.name for point in found.points] == ["good"]
    assert sorted(problem.dist for problem in found.problems) == ["bad-0", "bad-1"]
    assert all(
        f"{name} cannot be read (not a regular file)" in problem.text for problem in found.problems
    )


def test_file_that_cannot_be_opened_is_named(site: Path) -> None:
    folder = distribution(site, "bad-one")
    (folder / "entry_points.txt").unlink()
    (folder / "entry_points.txt").symlink_to("entry_points.txt")
    assert "entry_points.txt cannot be read (Too many levels" in only_problem(scanned())


def test_what_a_terminal_would_obey_is_not_shown(site: Path) -> None:
    distribution(site, "bad-one", entry_points=b"[a]\nx\x1b[2J" + b"y" * 500)
    text = only_problem(scanned())
    assert "\x1b" not in text
    assert len(text) < 500 + len(str(site))


def test_distribution_without_entry_points_is_nobody_of_interest(site: Path) -> None:
    folder = distribution(site, "library", metadata=b"\xff")
    (folder / "entry_points.txt").unlink()
    (site / "empty-1.dist-info").mkdir()
    assert scanned().problems == []


def test_odd_but_readable_files_are_read(site: Path) -> None:
    head = "\ufeff# comment\r\n; another\r\n\r\n"
    lines = f"{head}[ aitorrentd.plugins ]\r\n  odd=odd : Plugin [a, b]\r\n"
    distribution(site, "odd", entry_points=lines.encode())
    found = scanned()
    assert found.problems == []
    (odd,) = [point for point in found.points if point.dist == "odd"]
    assert (odd.name, odd.module, odd.extras) == ("odd", "odd", ("a", "b"))


@pytest.mark.parametrize("value", ["", "not a module", "a:b:c", "a;b", "/etc/passwd"])
def test_value_that_names_no_module_is_told_when_it_is_used(value: str) -> None:
    point = Point(PLUGINS, "x", value, "their-dist", "1")
    with pytest.raises(
        InvalidParams, match="their-dist is .* which is not of the form `module:attribute`"
    ):
        point.load()


def test_first_on_the_path_counts_for_two_of_one_name(site: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    distribution(earlier, "Good", version="2", plugins="good = good:Plugin")
    sys.path.insert(0, str(earlier))
    found = scanned()
    assert [(p.name, p.version) for p in found.points] == [("good", "2")]
    assert found.problems == []


def test_same_directory_under_two_names_is_read_once(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "lib64"
    other.symlink_to(site)
    sys.path.append(str(other))
    found = scanned()
    assert len(found.points) == 1
    assert found.problems == []


def test_upgrade_that_broke_off_leaves_the_newer_one_and_a_sentence(site: Path) -> None:
    old = site / "good-1.dist-info"
    os.utime(old, (1, 1))
    distribution(site, "good", version="2", plugins="good = good:Plugin")
    found = scanned()
    assert [point.version for point in found.points] == ["2"]
    (problem,) = found.problems
    assert "is installed twice" in problem.text
    assert "good-2.dist-info is used" in problem.text


def test_leftover_of_an_uninstall_is_ignored(site: Path) -> None:
    distribution(site, "~ood", plugins="good = good:Plugin", metadata=METADATA.encode())
    found = scanned()
    assert len(found.points) == 1
    assert found.problems == []


def test_import_hook_that_raises_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hook:
        def find_distributions(self, context: metadata.DistributionFinder.Context) -> None:
            raise RuntimeError("no list")

    monkeypatch.setattr(sys, "meta_path", [Hook(), *sys.meta_path])
    text = only_problem(scanned())
    assert text == "the import hook Hook cannot list distributions: RuntimeError('no list')"


def test_installed_library_is_found_past_a_damaged_one(site: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    distribution(damaged, "good", version="0", metadata=b"\xff")
    sys.path.insert(0, str(damaged))
    found = distributions.installed("good")
    assert found is not None
    assert found.version == "1"
    assert distributions.installed("absent") is None
