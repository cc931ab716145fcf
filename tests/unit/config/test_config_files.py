"""The files of a configuration: none that people meant is left out, none can stop or mislead us."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrentd import main
from aitorrentd.config import Config
from aitorrentd.config.drop_ins import UnreadableConfig
from aitorrentd.errors import ConfigError
from aitorrentd.exit_codes import DaemonExit
from tests.support.effort import examples

CASES = Path(__file__).parents[2] / "cases" / "daemon" / "config"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration with a directory for drop-ins."""
    path = tmp_path / "aitorrent.yaml"
    path.write_text("log: {level: info}\n")
    drop_in_dir(path).mkdir()
    return path


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests is not root, whose files are the system's."""
    monkeypatch.setattr(os, "geteuid", lambda: 4242)


Broken = Callable[[Callable[[Path], bool], int], None]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    """Makes opening the files for which a condition holds fail with an error number."""
    really_open = os.open

    def breaks(is_broken: Callable[[Path], bool], number: int) -> None:
        def open_(path: Any, flags: int, *args: int) -> int:
            if is_broken(Path(path)):
                raise OSError(number, os.strerror(number), path)
            return really_open(path, flags, *args)

        monkeypatch.setattr(os, "open", open_)

    return breaks


def drop_in_dir(file: Path) -> Path:
    return file.with_name(file.name + ".d")


def load(file: Path, **environ: str) -> Config:
    return Config.load(file, environ={"HOME": "/nonexistent", **environ})


def problem(file: Path) -> str:
    with pytest.raises(ConfigError, match=".") as caught:
        load(file)
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    "name",
    [
        "20-psk.yml",
        "20-psk.YAML",
        "20-psk.Yaml",
        "20-psk.YML",
        "20-psk.yaml.txt",
        "20-psk.yaml.j2",
        "20-psk.yaml ",
        "20-psk.json",
        "20-psk.conf",
        "20-psk.toml",
        "20-psk.ini",
    ],
)
def test_drop_in_that_would_not_be_read_is_an_error(name: str, file: Path) -> None:
    (drop_in_dir(file) / name).write_text("plugins: {transport: {psk: sixteen-characters}}")
    said = problem(file)
    assert f"{drop_in_dir(file) / name} would be ignored" in said
    assert "rename it to 20-psk.yaml" in said


@pytest.mark.parametrize(
    "name",
    [
        "README",
        "README.md",
        "psk.key",
        ".20-psk.yaml.swp",
        ".hidden.yml",
        "20-psk.yaml~",
        "#20-psk.yaml#",
        "20-psk.yaml.bak",
        "20-psk.yml.old",
        "20-psk.yaml.disabled",
        "20-psk.yaml.dpkg-dist",
        "20-psk.yaml.dpkg-old",
        "20-psk.yaml.ucf-dist",
        "20-psk.yaml.rpmsave",
        "20-psk.yaml.save",
        "20-psk.yaml.example",
    ],
)
def test_leftovers_of_editors_and_packages_are_no_drop_ins(name: str, file: Path) -> None:
    (drop_in_dir(file) / name).write_text("not: [yaml")
    assert load(file).files == (file,)


def test_drop_in_with_the_wrong_ending_of_a_private_network_is_an_error(tmp_path: Path) -> None:
    case = tmp_path / "case"
    shutil.copytree(CASES / "lost-dropin", case)
    said = problem(case / "aitorrent.yaml")
    assert f"{case}/aitorrent.yaml.d/20-psk.yml would be ignored" in said


def test_drop_in_that_is_a_link_to_nothing_is_an_error_and_others_are_told_too(
    tmp_path: Path,
) -> None:
    case = tmp_path / "case"
    shutil.copytree(CASES / "lost-dropin", case)
    (case / "aitorrent.yaml.d" / "10-psk.yaml").symlink_to("/nonexistent/psk.yaml")
    with pytest.raises(ConfigError, match=".") as caught:
        load(case / "aitorrent.yaml")
    assert len(caught.value.problems) == 2
    assert (
        f"{case}/aitorrent.yaml.d/10-psk.yaml is a link to /nonexistent/psk.yaml, which does not "
        "exist; create that file, or remove the link"
    ) in caught.value.problems


def test_link_is_read_and_one_to_dev_null_masks_a_drop_in(file: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("log: {format: json}")
    (drop_in_dir(file) / "10.yaml").symlink_to(tmp_path / "elsewhere")
    (drop_in_dir(file) / "20.yaml").symlink_to("/dev/null")
    assert load(file).settings.log.format == "json"
    assert load(Path("/dev/null")).settings.log.level == "info"


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "not a regular file"),
        (make_socket, "No such device or address"),
        (os.mkdir, "is a directory, not a configuration file"),
        (make_loop, "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to("/dev/tty"), ""),
        (lambda path: path.symlink_to("/nonexistent"), "is a link to /nonexistent"),
        (lambda path: path.write_bytes(b"#" * 300_000), "is longer than 262144 bytes; split it"),
    ],
)
@pytest.mark.parametrize("is_drop_in", [True, False])
def test_what_is_no_file_is_an_error_and_is_not_waited_for(
    make: Any, said: str, is_drop_in: bool, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    path = drop_in_dir(file) / "50-x.yaml" if is_drop_in else file
    if not is_drop_in:
        file.unlink()
    make(path)
    told = problem(file)
    assert str(path) in told
    assert said in told


def test_sparse_file_is_not_read_to_its_end(file: Path) -> None:
    os.truncate(file, 2**40)
    assert "is longer than 262144 bytes" in problem(file)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.symlink_to("/nonexistent/d"), "is a link to /nonexistent/d, which does"),
        (lambda path: path.write_text("log: {}"), "is not a directory; drop-ins are the *.yaml"),
        (make_loop, "Too many levels of symbolic links"),
    ],
)
def test_directory_of_drop_ins_that_is_none_is_an_error(make: Any, said: str, file: Path) -> None:
    drop_in_dir(file).rmdir()
    make(drop_in_dir(file))
    assert f"{drop_in_dir(file)}" in problem(file)
    assert said in problem(file)


@pytest.mark.parametrize(
    "name", ["aitorrent.yml", "aitorrent.YAML", "aitorrent.json", "aitorrent.d", "aitorrent.yml.d"]
)
@pytest.mark.usefixtures("as_user")
def test_default_file_under_a_name_that_is_not_read_is_an_error(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "aitorrent"
    folder.mkdir()
    environ = {"AITORRENT_STATE_DIR": "/s", "XDG_CONFIG_HOME": str(tmp_path)}
    assert Config.load(environ=environ).files == ()
    (folder / name).mkdir() if name.endswith(".d") else (folder / name).write_text("log: {}")
    with pytest.raises(ConfigError, match=rf"{name} would be ignored: rename it to aitorrent.yaml"):
        Config.load(environ=environ)


@pytest.mark.usefixtures("as_user")
def test_default_file_that_is_a_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "aitorrent").mkdir()
    (tmp_path / "aitorrent" / "aitorrent.yaml").symlink_to("/nonexistent/dotfiles")
    with pytest.raises(ConfigError, match="is a link to /nonexistent/dotfiles"):
        Config.load(environ={"AITORRENT_STATE_DIR": "/s", "XDG_CONFIG_HOME": str(tmp_path)})


@pytest.mark.usefixtures("as_user")
def test_drop_ins_count_without_the_default_file(tmp_path: Path) -> None:
    directory = tmp_path / "aitorrent" / "aitorrent.yaml.d"
    directory.mkdir(parents=True)
    (directory / "10.yaml").write_text("log: {level: debug}")
    config = Config.load(environ={"AITORRENT_STATE_DIR": "/s", "XDG_CONFIG_HOME": str(tmp_path)})
    assert config.settings.log.level == "debug"


def test_relative_paths_of_environment_and_command_line_are_resolved_once(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = {"node": {"identity": "keys/one"}, "control": {"socket": "s.sock"}}
    config = Config.load(
        "aitorrent.yaml", environ={"HOME": "/", "AITORRENT_STATE_DIR": "s"}, overrides=overrides
    )
    monkeypatch.chdir("/")
    assert config.directories.state == tmp_path / "s"
    assert config.identity_file == tmp_path / "keys" / "one"
    assert config.socket == tmp_path / "s.sock"
    assert config.files == (file,)
    in_code = Config.of({"node": {"state_dir": "s"}}, environ={})
    assert in_code.directories.state.is_absolute()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EACCES, DaemonExit.NOPERM),
        (errno.EIO, DaemonExit.UNAVAILABLE),
        (errno.EMFILE, DaemonExit.UNAVAILABLE),
        (errno.ENFILE, DaemonExit.UNAVAILABLE),
        (errno.ENOMEM, DaemonExit.UNAVAILABLE),
        (errno.ESTALE, DaemonExit.UNAVAILABLE),
        (errno.ELOOP, DaemonExit.CONFIG),
        (errno.ENAMETOOLONG, DaemonExit.CONFIG),
    ],
)
def test_exit_code_tells_a_wrong_file_from_one_that_cannot_be_read_now(
    number: int,
    code: int,
    file: Path,
    broken: Broken,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken(lambda path: path.suffix == ".yaml", number)
    assert main.main(["--check", "--config", str(file)]) == code
    assert str(file) in capsys.readouterr().err


def test_exit_code_of_a_wrong_file_wins_over_one_that_cannot_be_read(
    file: Path, broken: Broken
) -> None:
    (drop_in_dir(file) / "10.yaml").write_text("log: {level: [}")
    broken(lambda path: path == file, errno.EACCES)
    with pytest.raises(ConfigError, match=r"permission denied.*10\.yaml:1:15") as caught:
        load(file)
    assert not isinstance(caught.value, UnreadableConfig)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, DaemonExit.CONFIG),
        (errno.EACCES, DaemonExit.NOPERM),
        (errno.EIO, DaemonExit.UNAVAILABLE),
        (errno.ESTALE, DaemonExit.UNAVAILABLE),
        (errno.EMFILE, DaemonExit.UNAVAILABLE),
    ],
)
def test_exit_code_tells_a_missing_secret_from_one_that_cannot_be_read_now(
    number: int,
    code: int,
    file: Path,
    broken: Broken,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file.write_text("plugins: {transport: {psk: {file: /run/psk-of-the-test}}}")
    broken(lambda path: path == Path("/run/psk-of-the-test"), number)
    assert main.main(["--check", "--config", str(file)]) == code
    said = "plugins.transport.psk: cannot read the secret in /run/psk-of-the-test: "
    assert f"{said}{os.strerror(number)}" in capsys.readouterr().err
    # A setting that is wrong in itself is what has to be mended first.
    (drop_in_dir(file) / "10.yaml").write_text("log: {level: loud}")
    assert main.main(["--check", "--config", str(file)]) == DaemonExit.CONFIG


@pytest.mark.parametrize(
    "text", ['"/srv/ait"', "'/srv/ait'", "/srv/ait ", "/srv/ait\r", " /srv/ait"]
)
def test_path_from_the_environment_that_a_shell_did_not_strip_is_refused(text: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"node.state_dir: .*(white space|quotation).*variable AITORRENT_STATE_DIR",
    ):
        Config.load(environ={"AITORRENT_STATE_DIR": text})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty, or longer"),
        (b"\r\n", "is empty, or longer"),
        (b"   \n", "is empty, or longer"),
        (b"x" * 70_000, "is empty, or longer"),
        (b"caf\xe9-caf\xe9-caf\xe9-caf\xe9", "is not UTF-8 text"),
        (b"se\0cret", "has a NUL character"),
    ],
)
def test_secret_that_is_no_text_is_refused(
    content: bytes, said: str, file: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "psk"
    secret.write_bytes(content)
    file.write_text(f"plugins: {{transport: {{psk: {{file: {secret}}}}}}}")
    assert said in problem(file)
    assert "plugins.transport.psk: the secret in" in problem(file)


def test_secret_behind_a_pipe_or_a_dead_link_is_refused_and_not_waited_for(
    file: Path, tmp_path: Path
) -> None:
    file.write_text(f"plugins: {{transport: {{psk: {{file: {tmp_path}/psk}}}}}}")
    os.mkfifo(tmp_path / "psk")
    assert "cannot read the secret" in problem(file)
    (tmp_path / "psk").unlink()
    (tmp_path / "psk").symlink_to("/nonexistent")
    assert "No such file or directory" in problem(file)


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbfthe-secret\r\n", b"the-secret\n\n", b"the-secret"]
)
def test_secret_is_the_same_whatever_editor_wrote_it(
    content: bytes, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "psk").write_bytes(content)
    file.write_text(f"plugins: {{x: {{psk: {{file: {tmp_path}/psk}}}}}}")
    assert load(file).settings.plugins["x"]["psk"] == "the-secret"


@settings(max_examples=examples(200))
@given(
    content=st.binary(max_size=200) | st.text(alphabet="[]{}:,&*!-#'\"\n\t ab1<").map(str.encode)
)
def test_any_file_is_a_configuration_or_a_config_error_that_names_it(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    try:
        load(file)
    except ConfigError as e:
        assert e.problems
        assert all(str(file) in line for line in e.problems)
        assert not any("\n" in line for line in e.problems)
