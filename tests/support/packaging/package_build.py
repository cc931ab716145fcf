"""Packages built from the working tree, cached while the tree is unchanged."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.support.nodes import REPOSITORY
from tests.support.packaging.package_machine import CACHE, run

PREVIOUS: Final = "0.0.9"
MIGRATED: Final = "plugins/aitorrent_transport/peers/known_peers.py"
"A module of the product with MIGRATIONS."
BUILD_MARK: Final = "built-here"
"Part of the name of every directory that a package is built in, so that tests can search for it."
_BUILD_S: Final = 900.0
_PARTS: Final = ("aitorrentd", "plugins", "packaging", "etc", "debian", "tools")
_FILES: Final = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt")


def sources(to: Path) -> Path:
    """A copy of the working-tree files that make up the package."""
    listed = run("git", "-C", REPOSITORY, "ls-files", "-z", "-c", "-o", "--exclude-standard").out
    for name in listed.split("\0"):
        source = REPOSITORY / name
        if name.partition("/")[0] not in (*_PARTS, *_FILES) or not os.path.lexists(source):
            continue
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    return to


def as_version(tree: Path, version: str) -> None:
    """Change the version of the sources."""
    module, log = tree / "aitorrentd/__init__.py", tree / "packaging/debian/changelog"
    for file, pattern in ((module, r'(__version__ = ")[^"]+'), (log, r"(aitorrentd \()[^)]+")):
        text, count = re.subn(pattern, rf"\g<1>{version}", file.read_text(), count=1)
        assert count == 1, f"no version in {file}"
        file.write_text(text)


def with_older_schema(tree: Path) -> None:
    """Remove the last migration of the database of known peers, as if it did not exist yet."""
    module = tree / MIGRATED
    text = module.read_text()
    (steps,) = (
        node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "MIGRATIONS"
    )
    assert isinstance(steps, ast.Dict) and len(steps.keys) > 1 and steps.keys[-1] is not None
    lines = text.splitlines(keepends=True)
    del lines[steps.keys[-1].lineno - 1 : steps.values[-1].end_lineno]
    module.write_text("".join(lines))


def _digest(tree: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(tree.rglob("*")):
        found.update(
            f"{file.relative_to(tree)} {file.is_symlink()} {file.lstat().st_mode}".encode()
        )
        if file.is_file():
            found.update(file.read_bytes())
    return found.hexdigest()[:16]


def wheelhouse() -> Path:
    """The wheels that packages are made of; fetched only if the lock files changed."""
    directory = CACHE / "wheelhouse"
    run(REPOSITORY / "packaging/wheelhouse", directory, timeout_s=_BUILD_S)
    return directory


def built(
    version: str | None = None,
    *,
    change: Callable[[Path], None] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """The package of the working tree, as it is or as another version; built without a network.

    `change` edits the sources first.
    """
    work = Path(tempfile.mkdtemp(prefix=f"{BUILD_MARK}-"))
    try:
        tree = sources(work / "sources")
        if version is not None:
            as_version(tree, version)
        if change is not None:
            change(tree)
        kept = CACHE / "packages" / f"{version or 'current'}-{_digest(tree)}"
        if not kept.is_dir():
            dist = work / "dist"
            run(
                *("unshare", "--net", REPOSITORY / "packaging/build-deb", dist, tree),
                env={
                    **os.environ,
                    **(environ or {}),
                    "TMPDIR": str(work),
                    "WHEELHOUSE": str(wheelhouse()),
                },
                timeout_s=_BUILD_S,
            )
            for old in kept.parent.glob(f"{version or 'current'}-*"):
                shutil.rmtree(old)
            shutil.copytree(dist, kept)
    finally:
        shutil.rmtree(work)
    (package,) = kept.glob("*.deb")
    return package


def wheel(project: Path, to: Path) -> Path:
    """The wheel of a project, built without an index by this interpreter's tools."""
    source = to / "source" / project.name
    shutil.copytree(project, source, ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--no-index", "--no-build-isolation", "--no-deps", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", to, source)
    (made,) = to.glob(f"{project.name.replace('-', '_')}-*.whl")
    return made
