"""The package itself: what is in it, what it says, what its units allow."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.nodes import REPOSITORY
from tests.support.packaging.package_build import BUILD_MARK
from tests.support.packaging.package_machine import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MAX_BYTES: Final = 45_000_000
EXPOSURE: Final = {
    "aitorrentd.service": 1.3,
    "aitorrent-worker@.service": 0.9,
    "aitorrent-sandbox@.service": 0.5,
}
MANUAL: Final = ("aitorrentd.8", "aitorrentctl.1", "aitorrent.yaml.5", "aitorrent-plugins.7")


@pytest.fixture(scope="module")
def content(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the package and, below DEBIAN, its scripts."""
    directory = tmp_path_factory.mktemp("content")
    run("dpkg-deb", "--raw-extract", package, directory)
    return directory


def files(content: Path) -> Iterator[Path]:
    return (file for file in content.rglob("*") if file.is_file() and not file.is_symlink())


def test_package_is_small(package: Path, figures: dict[str, str]) -> None:
    size = package.stat().st_size
    figures["package"] = f"{size / 1e6:.1f} MB"
    assert size <= MAX_BYTES


def test_lintian_finds_nothing(package: Path) -> None:
    # It takes 100 s of processor time, which other tests want as well.
    command = ("lintian", "--allow-root", "--fail-on", "error,warning")
    done = run(*command, package, check=False, timeout_s=600)
    assert (done.code, done.out) == (0, ""), done.text


def test_every_override_of_lintian_has_a_reason() -> None:
    lines = (REPOSITORY / "packaging/debian/aitorrentd.lintian-overrides").read_text().splitlines()
    assert lines[0].startswith("#")
    for before, line in itertools.pairwise(lines):
        assert line.startswith(("#", "aitorrentd: ")), line
        assert before.startswith(("#", "aitorrentd: ")), before


def test_nothing_names_the_place_it_was_built_in(content: Path) -> None:
    for file in files(content):
        raw = file.read_bytes()
        for place in (BUILD_MARK.encode(), bytes(REPOSITORY)):
            assert place not in raw, f"{file} names {place.decode()}"


def test_what_the_build_wrote_names_no_place_that_is_gone(content: Path) -> None:
    home = content / "usr/lib/aitorrentd"
    (metadata,) = home.glob("lib/*/site-packages/aitorrentd-*.dist-info")
    written = [home / "pyvenv.cfg", home / "constraints.txt", *metadata.iterdir()]
    written += [script for script in (home / "bin").iterdir() if not script.is_symlink()]
    for file in written:
        if file.is_file():
            assert not re.search(r"/tmp/|/root/|/home/|file:", file.read_text()), file
    assert not list(home.rglob("direct_url.json"))


def test_nothing_compiled_is_in_it(content: Path) -> None:
    assert not [file for file in files(content) if file.suffix == ".pyc"]
    assert not list(content.rglob("__pycache__"))


def test_nothing_is_writable_by_others_than_root(content: Path) -> None:
    loose = [f for f in content.rglob("*") if not f.is_symlink() and f.stat().st_mode & 0o022]
    assert not loose


def test_scripts_use_the_private_interpreter_and_nothing_around_it(content: Path) -> None:
    home = content / "usr/lib/aitorrentd"
    scripts = [file for file in (home / "bin").iterdir() if not file.is_symlink()]
    names = ["aitorrent-sandbox", "aitorrent-worker", "aitorrentctl", "aitorrentd"]
    assert sorted(s.name for s in scripts) == names
    for script in scripts:
        first = script.read_text().splitlines()[0]
        assert first == "#!/usr/lib/aitorrentd/bin/python3 -I"
    link = home / "bin/python3"
    assert Path(os.path.normpath(link.parent / link.readlink())) == content / "usr/bin/python3"
    assert (home / "plugin-layer").read_text() == "/usr/local/lib/aitorrentd/plugins\n"


def test_constraints_pin_every_library(content: Path) -> None:
    home = content / "usr/lib/aitorrentd"
    pinned = set((home / "constraints.txt").read_text().split())
    found = {
        re.sub(r"[-_.]+", "-", name).lower() + f"=={version}"
        for name, version in (
            file.parent.name.removesuffix(".dist-info").split("-", 1)
            for file in home.rglob("*.dist-info/METADATA")
        )
        if name != "aitorrentd"
    }
    assert found == {re.sub(r"[-_.]+(?=.*==)", "-", line).lower() for line in pinned}


def test_configuration_is_a_conffile(content: Path) -> None:
    assert (content / "DEBIAN/conffiles").read_text() == "/etc/aitorrent.yaml\n"


def test_dependencies_name_the_interpreter_that_it_was_built_for(content: Path) -> None:
    control = (content / "DEBIAN/control").read_text()
    (site,) = (content / "usr/lib/aitorrentd/lib").iterdir()
    minor = int(site.name.removeprefix("python3."))
    assert f"python3 (>= 3.{minor}), python3 (<< 3.{minor + 1})" in control


@pytest.mark.parametrize("name", MANUAL)
def test_manual_page_renders_without_a_warning(content: Path, name: str) -> None:
    page = content / f"usr/share/man/man{name[-1]}/{name}.gz"
    done = run("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page)
    assert done.err == ""


@pytest.mark.parametrize("unit", EXPOSURE)
def test_unit_is_no_more_exposed_than_promised(
    unit: str, content: Path, figures: dict[str, str], tmp_path: Path
) -> None:
    file = content / "lib/systemd/system" / unit
    done = run(
        *("systemd-analyze", "security", "--offline=true", "--no-pager"),
        *(f"--threshold={round(EXPOSURE[unit] * 10)}", file),
        check=False,
    )
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.out)
    assert level is not None, done.text
    figures[f"exposure of {unit}"] = level[1]
    assert done.code == 0
    assert float(level[1]) <= EXPOSURE[unit]


def test_units_are_understood(content: Path, tmp_path: Path) -> None:
    units = []
    for unit in (content / "lib/systemd/system").iterdir():
        copy = tmp_path / unit.name
        # What they run is installed on no machine that only tests them.
        copy.write_text(re.sub(r"(?m)^(Exec\w+)=.*", r"\1=/bin/true", unit.read_text()))
        units.append(copy)
    done = run("systemd-analyze", "verify", "--man=no", *sorted(units), check=False)
    assert (done.code, done.text) == (0, "")
