"""From an earlier version over an apt repository to purge, on a machine of its own."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from aitorrent_transport.peers.known_peers import MIGRATIONS
from aitorrentd import __version__
from tests.support.nodes import REPOSITORY
from tests.support.packaging.package_build import PREVIOUS
from tests.support.packaging.package_machine import Machine, run, until

pytestmark = [pytest.mark.systemd, pytest.mark.slow, pytest.mark.timeout(900)]

_DATABASE: Final = "var/lib/aitorrent/transport/transport.sqlite"
_OTHER: Final = """\
node: {state_dir: /srv/other/state, cache_dir: /srv/other/cache, runtime_dir: /srv/other/run}
control: {socket: /srv/other/run/control.sock}
plugins: {transport: {port: 8469}}
"""
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


def meet_somebody(machine: Machine) -> str:
    """Connect to another node for a moment; returns its id."""
    machine.sh(
        f"install -d -o aitorrent /srv/other; cat > /srv/other/node.yaml <<'END'\n{_OTHER}END"
    )
    start = ("systemd-run", "--quiet", "--unit=other", "--uid=aitorrent", "--collect")
    machine.run(*start, "aitorrentd", "--config", "/srv/other/node.yaml")
    until(lambda: machine.ctl("connect", "127.0.0.1:8469").code == 0)
    (row,) = machine.call("transport.peers")["peers"]
    machine.run("systemctl", "stop", "other.service")
    machine.run("rm", "-r", "/srv/other")
    found: str = row["id"]
    return found


def stored(machine: Machine) -> tuple[int, set[str], list[tuple[Any, ...]]]:
    """Of the database of known peers: its version, what it consists of, and its rows."""
    at = f"file:{machine.root / _DATABASE}?mode=ro"
    with closing(sqlite3.connect(at, uri=True)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        parts = {str(name) for (name,) in db.execute("SELECT name FROM sqlite_master")}
        return version, parts, db.execute("SELECT * FROM known ORDER BY peer, address").fetchall()


def refuses_newer_database(machine: Machine, previous: Path, versions: tuple[int, int]) -> None:
    """Go back to the earlier package: it must say what is wrong and leave the database alone."""
    older, newer = versions
    machine.run("systemctl", "stop", "aitorrentd.service")
    database = machine.root / _DATABASE
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    back = ("apt-get", "install", "-y", "--allow-downgrades", machine.share(previous))
    machine.run(*back, timeout_s=300)
    assert machine.call("node.version")["version"] == PREVIOUS
    said = (
        f"the database /{_DATABASE} has version {newer}, but this program supports at most {older}"
    )
    until(lambda: said in machine.call("plugin.info", "name=transport")["detail"])
    assert machine.plugins()["transport"] != "running"
    assert machine.plugins()["inference"] == "running"
    assert said in json.dumps(json.loads(machine.ctl("--json", "doctor").out)["checks"])
    machine.run("systemctl", "stop", "aitorrentd.service")
    assert hashlib.sha256(database.read_bytes()).hexdigest() == before


def test_life_of_a_package(
    old_machine: Machine, package: Path, previous: Path, tmp_path: Path, probe_wheel: Path
) -> None:
    machine = old_machine
    assert machine.call("node.version")["version"] == PREVIOUS
    node = machine.identity()
    peer = meet_somebody(machine)
    older, parts, rows = stored(machine)
    assert older == max(MIGRATIONS) - 1
    assert [row[0] for row in rows] == [peer]
    machine.run("aitorrentctl", "config", "set", "node.name", "attic")
    machine.install_plugin(probe_wheel)
    conffile = machine.root / "etc/aitorrent.yaml"
    conffile.write_text(conffile.read_text().replace("level: info", "level: debug"))

    # An upgrade over the repository keeps identity, settings, plugins and what databases hold, and
    # asks nothing.
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
    assert machine.plugins()["transport"] == "running"
    newer, parts_now, rows_now = stored(machine)
    assert newer == max(MIGRATIONS)
    assert parts_now > parts
    assert [row[:2] for row in rows_now] == [row[:2] for row in rows]
    assert [row["id"] for row in machine.call("transport.known")["known"]] == [peer]

    # The way back is refused by the database alone, and the way forth is open again.
    refuses_newer_database(machine, previous, (older, newer))
    machine.run("apt-get", "install", "-y", "aitorrentd", timeout_s=300)
    assert machine.plugins()["transport"] == "running"
    assert stored(machine)[:2] == (newer, parts_now)
    assert [row["id"] for row in machine.call("transport.known")["known"]] == [peer]

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
