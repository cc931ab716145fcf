"""One package and one booted machine for all tests of the package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import REPOSITORY
from tests.support.packaging.package_build import PREVIOUS, built, wheel, with_older_schema
from tests.support.packaging.package_machine import Machine, missing_tools

_PROBE = Path(__file__).parent / "aitorrent-probe"
_LOCAL_BUILD = {"DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}


@pytest.fixture(scope="session")
def tools() -> None:
    """What building, checking and booting need."""
    if os.geteuid() != 0:
        pytest.skip("packages are tested as root")
    if missing := missing_tools():
        pytest.skip(f"needs: apt install {' '.join(missing)}")


@pytest.fixture(scope="session")
def package(tools: None) -> Path:
    """The package of the working tree, or the one that $AITORRENT_TEST_DEB names."""
    given = os.environ.get("AITORRENT_TEST_DEB", "")
    return Path(given) if given else built()


@pytest.fixture(scope="session")
def previous(tools: None) -> Path:
    """The package of an earlier version, with an older database, quickly packed."""
    return built(PREVIOUS, change=with_older_schema, environ=_LOCAL_BUILD)


@pytest.fixture(scope="session")
def hello_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin of a third party."""
    return wheel(REPOSITORY / "examples/aitorrent-hello", tmp_path_factory.mktemp("hello"))


@pytest.fixture(scope="session")
def probe_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin that looks around."""
    return wheel(_PROBE, tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="session")
def installed(package: Path, figures: dict[str, str]) -> Iterator[Machine]:
    """A machine on which the package was just installed by apt."""
    with Machine() as machine:
        done = machine.run("apt-get", "install", "-y", machine.share(package), timeout_s=300)
        figures["apt install, with the start to READY"] = f"{done.took_s:.1f} s"
        machine.run("cp", "/etc/aitorrent.yaml", "/var/tmp/aitorrent.yaml")
        yield machine


@pytest.fixture
def machine(installed: Machine) -> Machine:
    """The machine with a daemon that runs; what tests change is undone before the next."""
    restore(installed)
    return installed


def restore(machine: Machine) -> None:
    """Undo what a test changed: settings, drop-ins, mounts, and units that gave up."""
    machine.sh(
        """
        while mountpoint -q /var/lib/aitorrent; do umount -l /var/lib/aitorrent; done
        systemctl reset-failed
        if [ -e /etc/systemd/system/aitorrentd.service.d ] || ls /etc/aitorrent.yaml.d/* ||
            ! cmp -s /etc/aitorrent.yaml /var/tmp/aitorrent.yaml
        then
            rm -rf /etc/systemd/system/aitorrentd.service.d /etc/aitorrent.yaml.d/*
            cp /var/tmp/aitorrent.yaml /etc/aitorrent.yaml
            systemctl daemon-reload
            systemctl restart aitorrentd.service
        fi 2>/dev/null
        systemctl start aitorrentd.socket aitorrentd.service
        """
    )


@pytest.fixture
def probed(machine: Machine, probe_wheel: Path) -> Machine:
    """The machine with the probe among its plugins."""
    if "probe" not in machine.plugins():
        machine.install_plugin(probe_wheel)
        machine.run("systemctl", "restart", "aitorrentd")
    assert machine.plugins()["probe"] == "running"
    return machine
