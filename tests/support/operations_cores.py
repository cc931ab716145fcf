"""Cores to install plugins into: packaged ones with a layer, and tiny distributions to install."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import Final

from aitorrentd.installing.target import core_distributions
from tests.support.nodes import REPOSITORY

COMMAND_S: Final = 180.0
OFFLINE: Final = {
    "PIP_NO_INDEX": "1",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_FIND_LINKS": "",
    "PIP_NO_BUILD_ISOLATION": "0",
    "NO_COLOR": "1",
}
"""None of these tests needs a network. `PIP_NO_BUILD_ISOLATION=0` does disable isolation: pip reads
it as the value of `--no-build-isolation`."""


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Core:
    """An environment with aitorrentd; `layer` is None for a developer's environment."""

    prefix: Path
    layer: Path | None

    @property
    def python(self) -> Path:
        return self.prefix / "bin" / "python"

    @property
    def site(self) -> Path:
        """The directory for its plugins."""
        base = self.layer or self.prefix
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return base / "lib" / version / "site-packages"

    def ctl(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """`aitorrentctl` of this core, offline."""
        done = subprocess.run(
            [str(self.python), "-m", "aitorrentd.cli.main", *map(str, arguments)],
            env={**os.environ, **OFFLINE, **(env or {})},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def run(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Done:
        """Its interpreter."""
        done = subprocess.run(
            [str(self.python), *map(str, arguments)],
            env={**os.environ, **OFFLINE, **(env or {})},
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


def make_core(directory: Path, *, packaged: bool, lean: bool = False) -> Core:
    """An environment with this repository's aitorrentd.

    It also sees the libraries of the tests, or with `lean` only the dependencies of aitorrentd.
    """
    prefix = directory / "core"
    venv.create(prefix, with_pip=False, symlinks=True)
    layer = directory / "local" / "layer" if packaged else None
    core = Core(prefix, layer)
    own = Core(prefix, None).site
    libraries = Path(sysconfig.get_path("purelib"))
    paths = [REPOSITORY, REPOSITORY / "plugins"]
    if lean:
        for top in {top for dist in core_distributions().values() for top in _tops(dist)}:
            (own / top).symlink_to(libraries / top)
    else:
        paths.append(libraries)
    (own / "aitorrentd-under-test.pth").write_text("".join(f"{path}\n" for path in paths))
    if layer is not None:
        (prefix / "plugin-layer").write_text(f"{layer}\n")
    return core


def _tops(dist: Distribution) -> set[str]:
    """The entries of a distribution in site-packages."""
    return {f.parts[0] for f in dist.files or () if f.parts[0] not in ("..", "__pycache__")}


def make_wheel(
    directory: Path,
    name: str,
    version: str = "1.0.0",
    *,
    files: Mapping[str, str] | None = None,
    plugins: Mapping[str, str] | None = None,
    commands: Mapping[str, str] | None = None,
    requires: Sequence[str] = (),
    tag: str = "py3-none-any",
) -> Path:
    """A handmade wheel (PEP 427)."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {line}" for line in requires]
    points = []
    for group, entries in (("aitorrentd.plugins", plugins), ("aitorrentd.cli", commands)):
        if entries:
            points += [f"[{group}]", *(f"{k} = {v}" for k, v in entries.items())]
    content = {
        **(files or {}),
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    if points:
        content[f"{info}/entry_points.txt"] = "\n".join(points) + "\n"
    record = [f"{path},{_digest(text)},{len(text.encode())}" for path, text in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    wheel = directory / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    return wheel


def _digest(text: str) -> str:
    sha = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(sha).rstrip(b"=").decode()


PLUGIN: Final = """
from aitorrentd.api import PluginInfo, hookimpl


class Plugin:
    @hookimpl
    def aitorrent_info(self):
        return PluginInfo(name="{name}", summary="Does nothing, version {version}.")
"""


def plugin_wheel(
    directory: Path, name: str, version: str = "1.0.0", *, requires: Sequence[str] = ()
) -> Path:
    """A wheel with a plugin that does nothing."""
    package = f"aitorrent_{name}"
    return make_wheel(
        directory,
        f"aitorrent-{name}",
        version,
        files={f"{package}.py": PLUGIN.format(name=name, version=version)},
        plugins={name: f"{package}:Plugin"},
        requires=requires,
    )
