"""From an earlier version over an apt repository to purge, on a machine of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aitorrentd import __version__
from tests.support.nodes import REPOSITORY
from tests.support.package_build import PREVIOUS
from tests.support.package_machine import Machine, run

pytestmark = [pytest.mark.systemd, pytest.mark.slow]

_SOURCES = """\
Types: deb
URIs: file:/srv/aitorrentd
Suites: ./
Signed-By: /usr/share/keyrings/aitorrentd-archive-keyring.gpg
"""


@pytest.fixture(scope="module")
def old_machine(previous: Path) -> Iterator[Machine]:
    """A machine with the earlier version."""
    with Machine() as machine:
        machine.run("apt-get", "install", "-y", machine.share(previous), timeout_s=300)
        yield machine


def offer(machine: Machine, package: Path, tmp_path: Path) -> None:
    """Make a signed repository with the package known to apt in there."""
    made = tmp_path / "apt"
    run(REPOSITORY / "packaging/apt-repo", made, package)
    machine.run("mkdir", "-p", "/srv/aitorrentd")
    for file in made.iterdir():
        machine.run("cp", machine.share(file), "/srv/aitorrentd/")
    keyring = "aitorrentd-archive-keyring.gpg"
    machine.run("cp", f"/srv/aitorrentd/{keyring}", f"/usr/share/keyrings/{keyring}")
    (machine.root / "etc/apt/sources.list.d/aitorrentd.sources").write_text(_SOURCES)


def test_life_of_a_package(
    old_machine: Machine, package: Path, tmp_path: Path, probe_wheel: Path
) -> None:
    machine = old_machine
    assert machine.call("node.version")["version"] == PREVIOUS
    node = machine.identity()
    machine.run("aitorrentctl", "config", "set", "node.name", "attic")
    machine.install_plugin(probe_wheel)
    conffile = machine.root / "etc/aitorrent.yaml"
    conffile.write_text(conffile.read_text().replace("level: info", "level: debug"))

    # An upgrade over the repository keeps identity, settings and plugins, and asks nothing.
    offer(machine, package, tmp_path)
    machine.run("apt-get", "update")
    machine.run("apt-get", "install", "-y", "aitorrentd", timeout_s=300)
    assert machine.call("node.version")["version"] == __version__
    assert machine.identity() == node
    assert machine.call("config.get", "key=node.name")["value"] == "attic"
    assert machine.call("config.get", "key=log.level")["value"] == "debug"
    assert machine.plugins()["probe"] == "running"
    assert machine.unit("ActiveState", "aitorrentd.socket") == "active"
    assert machine.unit("ActiveState", "aitorrent-worker.socket") == "active"

    # A repository that somebody else changed is refused.
    packages = machine.root / "srv/aitorrentd/Packages"
    packages.write_text(packages.read_text().replace("net", "web"))
    (machine.root / "srv/aitorrentd/Packages.gz").unlink()
    machine.sh("rm -r /var/lib/apt/lists/*")
    assert machine.run("apt-get", "update", check=False).code != 0

    # Removal stops everything and leaves settings and state.
    machine.run("apt-get", "remove", "-y", "aitorrentd")
    for unit in ("aitorrentd.service", "aitorrentd.socket", "aitorrent-worker.socket"):
        assert machine.unit("ActiveState", unit) == "inactive"
    assert not (machine.root / "usr/lib/aitorrentd").exists()
    assert not (machine.root / "usr/bin/aitorrentctl").is_symlink()
    assert (machine.root / "var/lib/aitorrent/identity.key").is_file()
    assert conffile.is_file()

    # Installed again, the node is who it was.
    machine.run("apt-get", "install", "-y", machine.share(package), timeout_s=300)
    assert machine.identity() == node

    # Purge keeps nothing but the users.
    machine.run("apt-get", "purge", "-y", "aitorrentd")
    elsewhere = ("proc", "srv", "mnt", "var/log", "var/cache/apt", "var/lib/apt", "etc/apt")
    skipped = " ".join(f"-not -path '/{place}/*'" for place in elsewhere)
    left = machine.sh(
        f"find / -xdev -name '*aitorrent*' {skipped} -not -path '/usr/share/keyrings/*'; "
        "ls -d /run/aitorrent || true"
    ).out
    assert left == ""
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend").out == ""
