"""What README.md and docs/quickstart.md tell people to type works as it stands there.

All blocks of one page run in one shell, in a copy of the repository whose `.venv` is the
environment of this test run. Blocks in `ONLY_CHECKED` need root, Docker or a package index; of
those the syntax and every file, make target and command that they name are checked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aitorrentd
from tests.support.nodes import REPOSITORY, short_dir

pytestmark = pytest.mark.slow

PAGES = ("README.md", "docs/quickstart.md")
ONLY_CHECKED = ("make deb", "python3 -m venv ~/aitorrentd-venv", "make up")
"First lines of the blocks that do not run here: root, a package index, Docker."
LIMIT_S = 240.0


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language, in order."""
    text = (REPOSITORY / page).read_text()
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


def first_line(block: str) -> str:
    return block.partition("\n")[0]


@pytest.fixture
def clone() -> Iterator[Path]:
    """A copy of the working tree, with an installed `.venv` that costs nothing."""
    at = short_dir()
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (source := REPOSITORY / name).is_file():
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, at / name)
    venv = at / ".venv"
    venv.mkdir()
    for entry in Path(sys.prefix).iterdir():
        (venv / entry.name).symlink_to(entry)
    for stamp in (".run", ".dev"):  # newer than pyproject.toml: make installs nothing
        (venv / stamp).unlink(missing_ok=True)
        (venv / stamp).touch()
    yield at
    shutil.rmtree(at, ignore_errors=True)


def typed(clone: Path, script: str) -> str:
    """What a person sees who types `script` in the clone; every command must succeed."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("AITORRENT")}
    out = clone / "output"
    with out.open("w") as seen:
        shell = subprocess.Popen(
            ["bash", "-ec", script],
            cwd=clone,
            env={**environ, "HOME": str(clone), "TMPDIR": str(clone)},
            stdin=subprocess.DEVNULL,
            stdout=seen,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = shell.wait(LIMIT_S)
        finally:
            left = leave_nothing(clone, shell.pid)
    text = out.read_text()
    logs = "\n".join(log.read_text() for log in clone.glob("three-nodes/*.log"))
    assert code == 0, f"{text}\n{logs}"
    assert left == [], f"still running: {left}"
    return text


def leave_nothing(clone: Path, session: int) -> list[str]:
    """End what still runs of the session; returns their command lines."""
    left = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session:
                left.append((entry / "cmdline").read_text().replace("\0", " "))
                os.kill(int(entry.name), 9)
        except (OSError, ProcessLookupError):  # it ended meanwhile
            continue
    return left


def run_page(clone: Path, page: str) -> str:
    run = [b for b in blocks(page, "sh") if first_line(b) not in ONLY_CHECKED]
    return typed(clone, "\n".join(run))


def test_commands_of_the_readme_work(clone: Path) -> None:
    seen = run_page(clone, "README.md")
    assert re.search(r'(?m)^layers 6-9  …\w{8} "cyd"$', seen)
    assert "Usage: aitorrentctl" in seen


def test_python_of_the_readme_works(clone: Path) -> None:
    (program,) = blocks("README.md", "python")
    (clone / "readme.py").write_text(program)
    assert "aitorrentd" in typed(clone, ".venv/bin/python readme.py")


def test_commands_of_the_quickstart_work(clone: Path) -> None:
    seen = run_page(clone, "docs/quickstart.md")
    assert f"aitorrentd {aitorrentd.__version__}" in seen
    assert "demo is ready" in seen
    holders = re.findall(r'(?m)^layers (\d-\d)  …\w{8} "(one|two|three)"', seen)
    assert holders == [("0-3", "one"), ("3-6", "two"), ("6-9", "three")]
    assert "layer" in seen.rpartition('"three"')[2], "ask.py printed no answer"


def test_settings_of_the_quickstart_are_valid(tmp_path: Path) -> None:
    key = tmp_path / "lab.key"
    key.write_text("secret")
    found = blocks("docs/quickstart.md", "yaml")
    assert len(found) >= 3
    for number, text in enumerate(found):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text.replace("/etc/aitorrent/lab.key", str(key)))
        done = subprocess.run(
            [sys.executable, "-m", "aitorrentd.main", "--check", "--config", str(file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"


def test_blocks_that_are_only_checked_name_what_exists() -> None:
    every = [b for page in PAGES for b in blocks(page, "sh")]
    checked = {first_line(b): b for b in every if first_line(b) in ONLY_CHECKED}
    assert sorted(checked) == sorted(ONLY_CHECKED)
    for block in checked.values():
        subprocess.run(["bash", "-n", "-c", block], check=True)
    makefile = (REPOSITORY / "Makefile").read_text()
    text = "\n".join(checked.values())
    for target in re.findall(r"(?m)^make ([a-z-]+)", text):
        assert re.search(rf"(?m)^([a-z -]+ )?{target}( [a-z -]+)?:", makefile), target
    assert re.findall(r"\./dist/(\S+)", text) == [f"aitorrentd_{aitorrentd.__version__}_amd64.deb"]
    assert (REPOSITORY / "constraints.txt").is_file()
    assert re.search(r"(?m)^torch = \[", (REPOSITORY / "pyproject.toml").read_text())
    stack = (REPOSITORY / "packaging/container/stack").read_text()
    compose = REPOSITORY / "packaging/container/compose.yaml"
    assert re.findall(r"-f (\S+)", text) == [str(compose.relative_to(REPOSITORY))]
    assert re.findall(r"-p (\S+)", text) == ["aitorrentd-nodes"]
    assert "aitorrentd-$what" in stack
    assert "node1:" in compose.read_text()
