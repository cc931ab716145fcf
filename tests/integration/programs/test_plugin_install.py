"""`aitorrentctl plugin install`, `remove`, `rebuild`: real pip, real wheels, no network."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import REPOSITORY, DaemonFactory, short_dir
from tests.support.operations_cores import Core, Done, make_core, make_wheel, plugin_wheel

NOBODY = 65534
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="hardware: a plugin layer needs root")
pytestmark = [pytest.mark.root, pytest.mark.slow, NEEDS_ROOT]


@pytest.fixture
def core(tmp_path: Path) -> Core:
    return make_core(tmp_path, packaged=True)


def install(core: Core, what: str | Path, *more: str | Path) -> Done:
    return core.ctl("plugin", "install", what, "--yes", *more)


def refused(core: Core, what: str | Path, *more: str | Path, code: int = 1) -> str:
    """What an installation that changes nothing says; `code` 2 is for a wrong argument."""
    done = install(core, what, *more)
    assert (done.code, done.out) == (code, ""), done
    return last_words(done)


def misnamed(core: Core, what: str | Path, *more: str | Path) -> str:
    return refused(core, what, *more, code=2)


def last_words(done: Done) -> str:
    """The message of a command that failed, however it is introduced."""
    said = re.sub(r"^error: ", "", done.err.strip().splitlines()[-1], flags=re.I)
    return said[:1].lower() + said[1:]


def installed(core: Core) -> dict[str, str]:
    """Distributions in the place for plugins, with their versions."""
    code = (
        "import json, sys\nfrom importlib import metadata\n"
        "found = metadata.distributions(path=[sys.argv[1]])\n"
        "print(json.dumps({d.name: d.version for d in found}))"
    )
    return dict(json.loads(core.run("-c", code, core.site).out))


def recorded(core: Core) -> list[str]:
    assert core.layer is not None
    lines = (core.layer / "requirements.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def plugins_seen(core: Core) -> list[str]:
    """What a daemon or a command of this core would find."""
    code = (
        "from aitorrentd.installing import layer; layer.activate()\n"
        "from aitorrentd.kernel.found import installed\n"
        "print(' '.join(s.name for s in installed().sources if s.tier == 'third-party'))"
    )
    return core.run("-c", code).out.split()


def test_plugin_goes_into_the_layer_and_can_be_read_by_the_daemons_user(
    core: Core, tmp_path: Path
) -> None:
    library = make_wheel(tmp_path / "w", "tinylib", files={"tinylib.py": "X = 1\n"})
    wheel = plugin_wheel(tmp_path / "w", "tiny", requires=["tinylib", "pluggy>=1.5", "aitorrentd"])
    previous = os.umask(0o077)
    try:
        done = install(core, wheel, "--find-links", library.parent)
    finally:
        os.umask(previous)
    assert done.code == 0, done.err
    assert "dependencies  tinylib 1.0.0" in done.out
    assert "after a restart: restart the daemon" in done.out
    assert installed(core) == {"aitorrent-tiny": "1.0.0", "tinylib": "1.0.0"}
    assert recorded(core) == ["aitorrent-tiny==1.0.0"]
    assert plugins_seen(core) == ["tiny"]
    assert list((core.site / "__pycache__").glob("aitorrent_tiny.*.pyc"))
    assert core.layer is not None
    for path in [core.layer.parent, *core.layer.rglob("*")]:
        if path.is_symlink():
            continue
        mode = path.stat().st_mode
        assert mode & (0o005 if stat.S_ISDIR(mode) else 0o004), path
        assert path.stat().st_uid == 0
        assert not mode & 0o022, path


def test_plugin_that_wants_another_version_of_a_core_library_is_refused(
    core: Core, tmp_path: Path
) -> None:
    old = make_wheel(tmp_path / "w", "pluggy", "0.13.1", files={"pluggy.py": ""})
    wheel = plugin_wheel(tmp_path / "w", "tiny", requires=["pluggy<1.0"])
    said = refused(core, wheel, "--find-links", old.parent)
    assert said.startswith(
        "incompatible: aitorrent-tiny 1.0.0 needs pluggy<1.0, but aitorrentd ships pluggy "
    )
    assert said.endswith("; nothing was changed")
    assert installed(core) == {}


def test_what_is_no_plugin_is_refused(core: Core, tmp_path: Path) -> None:
    room = tmp_path / "w"
    assert "justlib 1.0.0 has no entry point in aitorrentd.plugins" in misnamed(
        core, make_wheel(room, "justlib", files={"justlib.py": ""})
    )
    assert "there is no file or directory" in misnamed(core, room / "none.whl").lower()
    assert "is not a Python project" in misnamed(core, f"{tmp_path}/")
    assert "download it first" in misnamed(core, "https://example.invalid/x.whl")
    assert "is neither a distribution's name" in misnamed(core, "x; rm -rf")
    assert "no compatible version of nosuch was found; check the name" in refused(core, "nosuch")
    bad_name = make_wheel(room, "badname", plugins={"Bad Name": "m:C"})
    assert "is called 'Bad Name', which is not allowed" in misnamed(core, bad_name)
    other = make_wheel(room, "alien", plugins={"alien": "m:C"}, tag="cp27-cp27m-win32")
    assert "built for another Python or platform" in misnamed(core, other)
    assert installed(core) == {}


def test_damaged_wheels_are_told_by_name(core: Core, tmp_path: Path) -> None:
    wheel = plugin_wheel(tmp_path / "w", "tiny")
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    assert f"damaged, or not a wheel: {wheel.name}" in misnamed(core, wheel)
    at = whole.index(b"does nothing".title()) if b"Does Nothing" in whole else whole.index(b"Does")
    wheel.write_bytes(whole[:at] + b"X" + whole[at + 1 :])
    assert "damaged: aitorrent_tiny.py in" in misnamed(core, wheel)
    wheel.write_bytes(b"")
    assert f"damaged, or not a wheel: {wheel.name}" in misnamed(core, wheel)


def test_names_that_are_taken_are_refused(core: Core, tmp_path: Path) -> None:
    room = tmp_path / "w"
    own = make_wheel(room, "mine", plugins={"transport": "m:C"})
    assert "is called transport, which is the name of a built-in plugin" in refused(core, own)
    reserved = make_wheel(room, "mine2", plugins={"node": "m:C"})
    assert "is called 'node', which is not allowed" in misnamed(core, reserved)
    assert install(core, plugin_wheel(room, "tiny")).code == 0
    twin = make_wheel(room, "twin", plugins={"tiny": "m:C"})
    assert "like that of aitorrent-tiny; remove that one first" in refused(core, twin)
    fake = make_wheel(room, "pluggy", "99.0", plugins={"x": "m:C"})
    assert "the library pluggy is part of aitorrentd" in refused(core, fake).lower()


def test_aitorrentd_itself_is_never_installed_but_its_extras_are(
    core: Core, tmp_path: Path
) -> None:
    assert "is already installed" in misnamed(core, "aitorrentd")
    assert "is already installed" in misnamed(core, "aitorrentd==9.9")
    assert (
        "aitorrentd has no extra nosuch; available extras: all, postgres, redis, seeding, torch"
        in misnamed(core, "AItorrentd[nosuch]")
    )
    fake = make_wheel(tmp_path / "w", "aitorrentd", "0.0.9", plugins={"x": "m:C"})
    assert "is part of aitorrentd" in refused(core, fake)
    done = install(core, "aitorrentd[torch]")
    assert (done.code, done.out) == (0, "aitorrentd[torch] is already installed\n")
    assert installed(core) == {}


def test_extra_of_aitorrentd_brings_its_requirements_only(tmp_path: Path) -> None:
    core = make_core(tmp_path, packaged=True, lean=True)
    room = tmp_path / "w"
    brought = {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.0"}
    for name, version in {**brought, "safetensors": "0.8.0", "networkx": "3.5"}.items():
        requires = ["networkx", "typing-extensions>=4"] if name == "torch" else []
        make_wheel(room, name, version, files={f"{name}.py": ""}, requires=requires)
    make_wheel(room, "aitorrentd", "9.9", files={"aitorrentd.py": ""})  # one that must stay away
    said = refused(core, "aitorrentd[torch]")
    assert "(from aitorrentd[torch]) was found" in said
    assert "check the name, the network" in said
    done = install(core, "aitorrentd[torch]", "--find-links", room)
    assert done.code == 0, done.err
    assert "installed aitorrentd[torch]" in done.out
    expected = {**brought, "safetensors": "0.8.0", "networkx": "3.5"}
    assert installed(core) == expected
    assert recorded(core) == ["aitorrentd[torch]"]
    seen = core.run("-c", "from aitorrentd.installing import layer; layer.activate(); import torch")
    assert seen.code == 0, seen.err
    assert install(core, plugin_wheel(room, "tiny")).code == 0
    assert recorded(core) == ["aitorrent-tiny==1.0.0", "aitorrentd[torch]"]
    assert core.ctl("plugin", "rebuild", "--yes", "--find-links", room).code == 0
    assert installed(core) == {**expected, "aitorrent-tiny": "1.0.0"}
    assert core.ctl("plugin", "remove", "aitorrentd[torch]", "--yes").code == 0
    assert core.ctl("plugin", "rebuild", "--yes").code == 0
    assert installed(core) == {"aitorrent-tiny": "1.0.0"}


def test_upgrade_is_asked_for_and_a_local_file_always_replaces(core: Core, tmp_path: Path) -> None:
    room = tmp_path / "w"
    first = plugin_wheel(room, "tiny", "1.0.0")
    assert install(core, first).code == 0
    again = install(core, "aitorrent-tiny", "--find-links", room)
    assert again.out == "aitorrent-tiny==1.0.0 is already installed\n"
    plugin_wheel(room, "tiny", "1.1.0")
    said = refused(core, "aitorrent-tiny", "--find-links", room)
    assert said == "version 1.0.0 of aitorrent-tiny is installed; --upgrade replaces it with 1.1.0"
    assert install(core, "aitorrent-tiny", "-U", "--find-links", room).code == 0
    assert installed(core) == {"aitorrent-tiny": "1.1.0"}
    assert install(core, first).code == 0
    assert installed(core) == {"aitorrent-tiny": "1.0.0"}
    assert recorded(core) == ["aitorrent-tiny==1.0.0"]
    assert core.layer is not None
    assert [w.name for w in (core.layer / "wheels").iterdir()] == [first.name]


def test_remove_leaves_what_came_along_and_rebuild_drops_it(core: Core, tmp_path: Path) -> None:
    room = tmp_path / "w"
    make_wheel(room, "tinylib", files={"tinylib.py": ""})
    assert install(core, plugin_wheel(room, "one"), "--find-links", room).code == 0
    two = plugin_wheel(room, "two", requires=["tinylib"])
    assert install(core, two, "--find-links", room).code == 0
    done = core.ctl("plugin", "remove", "two", "--yes")
    assert done.code == 0
    assert "removed aitorrent-two; its dependencies stay" in done.out
    assert installed(core) == {"aitorrent-one": "1.0.0", "tinylib": "1.0.0"}
    assert "no plugin two is installed; installed plugins: one" in (
        core.ctl("plugin", "remove", "two", "--yes").err.lower()
    )
    assert "plugin disable transport" in core.ctl("plugin", "remove", "transport", "--yes").err
    assert core.ctl("plugin", "rebuild", "--yes").code == 0
    assert installed(core) == {"aitorrent-one": "1.0.0"}
    assert plugins_seen(core) == ["one"]


def test_rebuild_that_fails_leaves_the_layer_as_it_was(core: Core, tmp_path: Path) -> None:
    room = tmp_path / "w"
    make_wheel(room, "tinylib", files={"tinylib.py": ""})
    tiny = plugin_wheel(room, "tiny", requires=["tinylib"])
    assert install(core, tiny, "--find-links", room).code == 0
    done = core.ctl("plugin", "rebuild", "--yes")  # tinylib is nowhere to be found now
    assert done.code == 1
    assert "no compatible version of tinylib" in done.err
    assert installed(core) == {"aitorrent-tiny": "1.0.0", "tinylib": "1.0.0"}
    assert core.layer is not None
    core.layer.rename(core.layer.with_name("layer.old"))  # as if it had been killed on the way
    core.layer.mkdir()
    assert core.ctl("plugin", "rebuild", "--yes", "--find-links", room).code == 0
    assert plugins_seen(core) == ["tiny"]


def test_plugins_must_get_along_with_each_other(core: Core, tmp_path: Path) -> None:
    room = tmp_path / "w"
    make_wheel(room, "tinylib", "1.0.0", files={"tinylib.py": ""})
    make_wheel(room, "tinylib", "2.0.0", files={"tinylib.py": ""})
    one = plugin_wheel(room, "one", requires=["tinylib<2"])
    two = plugin_wheel(room, "two", requires=["tinylib>=2"])
    assert install(core, one, "--find-links", room).code == 0
    said = refused(core, two, "--find-links", room)
    assert "aitorrent-two 1.0.0 needs tinylib>=2" in said
    assert "aitorrent-one 1.0.0 needs tinylib<2" in said
    assert installed(core) == {"aitorrent-one": "1.0.0", "tinylib": "1.0.0"}


def test_layer_that_others_can_write_is_neither_changed_nor_used(
    core: Core, tmp_path: Path
) -> None:
    wheel = plugin_wheel(tmp_path / "w", "tiny")
    assert install(core, wheel).code == 0
    core.site.chmod(0o777)
    said = refused(core, wheel)
    assert "is writable by users other than root; run: chown -R root:root" in said
    assert plugins_seen(core) == []
    core.site.chmod(0o755)
    os.chown(core.site, NOBODY, NOBODY)
    assert "is writable by users other than root" in refused(core, wheel)
    os.chown(core.site, 0, 0)
    assert plugins_seen(core) == ["tiny"]


@pytest.fixture
def open_room() -> Iterator[Path]:
    """A directory that every user can read, with all that is made in it, whatever the umask.

    Those of pytest are root's alone, again whenever a pytest starts on the machine.
    """
    previous = os.umask(0o022)
    room = short_dir()
    room.chmod(0o755)
    yield room
    os.umask(previous)
    shutil.rmtree(room)


def test_only_root_installs_and_somebody_must_agree(open_room: Path) -> None:
    core = make_core(open_room, packaged=True)
    wheel = plugin_wheel(open_room / "w", "tiny")
    done = core.ctl("plugin", "install", wheel)
    assert (done.code, last_words(done)) == (2, "not a terminal; pass --yes to confirm")
    assert installed(core) == {}
    # Nobody is asked about what cannot be done.
    done = core.ctl("plugin", "remove", "tyny")
    assert (done.code, last_words(done)) == (
        1,
        "no plugin tyny is installed; installed plugins: none",
    )
    # All is imported by root first: another user may not be able to read this interpreter's files.
    code = (
        "import os, sys\nfrom aitorrentd.cli.main import main\n"
        "first = main(['plugin', 'install', '/nonexistent.whl', '--yes'])\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(main(sys.argv[1:]) if first == 2 else first)"
    )
    done = core.run("-c", code, "plugin", "install", wheel, "--yes")
    assert done.code == 77, done
    said = last_words(done)
    assert said.startswith(
        "installing plugins requires root; run: sudo aitorrentctl plugin install /"
    )
    assert installed(core) == {}


def test_json_tells_programs_what_happened(core: Core, tmp_path: Path) -> None:
    done = core.ctl("--json", "plugin", "install", plugin_wheel(tmp_path, "tiny"), "--yes")
    assert done.err == ""
    reply = json.loads(done.out)
    assert (reply["name"], reply["version"], reply["plugins"], reply["changed"]) == (
        "aitorrent-tiny",
        "1.0.0",
        ["tiny"],
        True,
    )


def test_second_installation_at_the_same_time_is_told_to_wait(core: Core, tmp_path: Path) -> None:
    import fcntl

    assert core.layer is not None
    core.layer.parent.mkdir()
    fd = os.open(core.layer.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        done = install(core, plugin_wheel(tmp_path / "w", "tiny"))
    finally:
        os.close(fd)
    assert done.code == 75
    assert "another plugin installation is in progress" in done.err.lower()


def test_beside_a_developers_core_plugins_are_installed_and_removed(tmp_path: Path) -> None:
    core = make_core(tmp_path, packaged=False)
    wheel = plugin_wheel(tmp_path / "w", "tiny")
    assert install(core, wheel).code == 0
    assert plugins_seen(core) == ["tiny"]
    old = plugin_wheel(tmp_path / "w", "old", requires=["pluggy<1.0"])
    assert "needs pluggy<1.0" in refused(core, old)
    assert core.ctl("plugin", "remove", "aitorrent-tiny", "--yes").code == 0
    assert plugins_seen(core) == []
    done = core.ctl("plugin", "rebuild", "--yes")
    assert "has no plugin layer" in done.err


@pytest.mark.allow_error_log
async def test_daemon_runs_what_was_installed_and_shows_what_is_broken(
    daemon_factory: DaemonFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = short_dir()
    core = make_core(room, packaged=True)
    broken = make_wheel(
        room / "w",
        "aitorrent-broken",
        files={"aitorrent_broken.py": "import nothing_of_that_name\n"},
        plugins={"broken": "aitorrent_broken:Plugin"},
    )
    assert install(core, REPOSITORY / "examples" / "aitorrent-hello").code == 0
    assert install(core, broken).code == 0
    monkeypatch.setattr(sys, "executable", str(core.python))
    daemon = await daemon_factory()
    rows = {row["name"]: row for row in (await daemon.call("plugin.list"))["plugins"]}
    assert (rows["hello"]["state"], rows["hello"]["tier"]) == ("running", "third-party")
    assert rows["broken"]["state"] == "broken"
    assert "nothing_of_that_name" in rows["broken"]["detail"]
    assert rows["transport"]["state"] == "running"
    assert await daemon.call("hello.greet", {"name": "Ada"}) == {"text": "Hello, Ada!"}
    done = core.ctl("--socket", daemon.socket, "hello", "Ada")
    assert (done.code, done.out) == (0, "Hello, Ada!\n")
