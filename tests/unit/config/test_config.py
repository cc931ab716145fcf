"""Configuration: what is read, what wins, and what is said when something is wrong."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from aitorrentd.api import PluginConfig, PluginInfo, hookimpl
from aitorrentd.config import Config, write_setting
from aitorrentd.config.document import parse
from aitorrentd.config.plugin_tables import all_problems
from aitorrentd.errors import ConfigError, Denied, NotFound
from aitorrentd.kernel.found import PluginSource
from aitorrentd.setting_path import key_text, leaves, parse_key

REPOSITORY = Path(__file__).parents[3]


def load(text: str, tmp_path: Path, **environ: str) -> Config:
    file = tmp_path / "aitorrent.yaml"
    file.write_text(text, encoding="utf-8")
    return Config.load(file, environ={"HOME": str(tmp_path), **environ})


def problem(text: str | bytes, tmp_path: Path) -> str:
    file = tmp_path / "aitorrent.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError, match=".") as caught:
        Config.load(file, environ={"HOME": str(tmp_path)})
    assert "\n" not in caught.value.message
    return caught.value.message.replace(str(file), "FILE")


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "plugins:\n", "node:\nlog:\nrequired:\n", "{}"]
)
def test_empty_file_means_the_defaults(text: str, tmp_path: Path) -> None:
    config = load(text, tmp_path)
    assert config.settings.node.network == "main"
    assert config.settings.control.mode_bits == 0o660
    assert config.settings.plugins == {}


def test_shipped_example_is_valid_and_says_only_defaults(tmp_path: Path) -> None:
    example = Config.load(REPOSITORY / "etc" / "aitorrent.yaml", environ={"HOME": str(tmp_path)})
    default = Config.of({}, environ={"HOME": str(tmp_path)})
    assert example.settings.model_copy(update={"plugins": {}}) == default.settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nod: {}", "nod: unknown key; did you mean node?"),
        ("log: {levle: info}", "log.levle: unknown key; did you mean level? (in FILE:1)"),
        ("log: {level: loud}", "log.level: should be 'debug', 'info', 'warning' or 'error'"),
        ("shards: {}", "shards: unknown key; did you mean plugins.shards?"),
        ("version: 2", "version: the file is version 2; this program reads version 1 (in FILE:1)"),
        ("node: {network: Main Net}", "node.network: must be 1 to 63 of a-z, 0-9"),
        ("node: {state_dir: ' '}", "node.state_dir: is empty; leave the key out"),
        ('node: {name: "a\\u0007"}', "node.name: contains unprintable characters"),
        ("control: {mode: 432}", "control.mode: must be an octal mode such as 0660 (in FILE:1)"),
        ("control: {max_connections: 0}", "control.max_connections: should be greater than"),
        ("plugins: {transport: 8468}", "plugins.transport: should be a table of settings"),
        ("plugins: {'No Name': {}}", 'plugins."No Name": is not the name of a plugin'),
        ("required: transport", "required: should be a list"),
        ("a: 1\na: 2", "FILE:2:1: the key 'a' is a duplicate"),
        (
            "log:\n  level: info\n  level: info",
            "FILE:3:3: log: the key 'level' is a duplicate, first given on line 2",
        ),
        ("log:\n\tlevel: info", "FILE:2:1: a tab is used for indentation; indent with spaces"),
        ("log: {level: [}", "FILE:1:15: not YAML: did not find expected node content"),
        ("log: 'open", "FILE:1:11: not YAML: found unexpected end of stream"),
        ("a: *nothing", "FILE:1:4: not YAML: found undefined alias"),
        (
            "a: !!python/name:os.system x",
            "FILE:1:4: a: the tag !!python/name:os.system is not supported",
        ),
        ("a: 1\n---\nb: 2", "FILE:2:1: a second document begins here"),
        ("- a\n- b", "FILE: must contain lines such as `key: value`, not a list"),
        ("just text", "FILE: must contain lines such as `key: value`, not text"),
        ("1: 2", "FILE:1:1: the key 1 at the top is not text; write it in quotes"),
        ("plugins: {true: {}}", "FILE:1:11: the key true in plugins is not text"),
        ("a: 99999999999999999999999", "FILE:1:4: a: the number has more than 64 bits"),
        ("a: !!set {x}", "FILE:1:4: a: the tag !!set is not supported"),
        ("a: &x [*x]", "nested deeper than 32"),
        ("a: " + "[" * 100_000, "FILE:1: nested deeper than 32"),
        ("a: " + "{x: " * 50_000, "FILE:1: nested deeper than 32"),
        ("a: \x01", "FILE:1:4: the character U+0001 is not allowed in YAML"),
        (b"log:\n  level: \xff\xfe", "FILE:2:10: not UTF-8 text; save the file as UTF-8"),
        (b"#" * 300_000, "FILE is longer than 262144 bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_wrong_is_said_in_one_line_with_its_place(
    text: str | bytes, said: str, tmp_path: Path
) -> None:
    assert said in problem(text, tmp_path)


def test_aliases_that_multiply_are_refused_quickly(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "more than 100000 values" in problem("\n".join(lines), tmp_path)


def test_every_problem_is_listed(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("log: {level: loud, colour: red}\nversion: 3\n")
    with pytest.raises(ConfigError, match="log.level") as caught:
        Config.load(file)
    assert len(caught.value.problems) == 3


def test_user_without_a_home_gets_paths_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.delenv("HOME")
    found = Config.load(environ={})
    assert found.directories.state == Path("/nonexistent/.local/state/aitorrent")
    assert found.files == ()
    assert Config.load(environ={"AITORRENT_STATE_DIR": str(tmp_path)}).socket == (
        tmp_path / "run" / "control.sock"
    )
    with pytest.raises(
        ConfigError, match="~/s: this user has no home directory; write an absolute"
    ):
        Config.load(environ={"AITORRENT_STATE_DIR": "~/s"})


@pytest.mark.parametrize(
    "text", ["node: {state_dir: ~nobody-at-all/s}", "control: {socket: ~nobody-at-all/s}"]
)
def test_home_of_nobody_is_a_clear_error(text: str, tmp_path: Path) -> None:
    assert "~nobody-at-all/s: nobody-at-all has no home directory" in problem(text, tmp_path)


class OddConfig(PluginConfig):
    seconds: int = 1
    key: str = Field("k", min_length=1)
    names: tuple[str, ...] = ()


class OddPlugin:
    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("odd", "Odd.", config=OddConfig)


def everything_wrong(text: str, tmp_path: Path) -> list[str]:
    """What is told at once about a file, without the file's name."""
    config: Config | ConfigError
    try:
        config = load(text, tmp_path)
    except ConfigError as e:
        config = e
    found = asyncio.run(all_problems(config, [PluginSource.of(OddPlugin)]))
    place = re.compile(rf" \(in {tmp_path / 'aitorrent.yaml'}:\d+\)$")
    return [place.sub(" @", line) for line in found]


ODD_SECONDS = "plugins.odd.seconds: should be a whole number, not text @"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plugins: {odd: {seconds: x}}", [ODD_SECONDS]),
        (
            "log: {level: 1}\nplugins: {odd: {seconds: x}, odds: {}}",
            [
                "log.level: should be 'debug', 'info', 'warning' or 'error', not the number 1 @",
                ODD_SECONDS,
                "plugins.odds: no such plugin is installed; did you mean odd?",
            ],
        ),
        # what one setting lacks is told once, not again by who reads it
        (
            "plugins: {odd: {seconds: x, key: {env: NOT_SET}, names: [{env: NONE}, 1]}, o o: {}}",
            [
                "plugins.odd.key: the environment variable NOT_SET is not set, or empty @",
                "plugins.odd.names[0]: the environment variable NONE is not set, or empty @",
                'plugins."o o": is not the name of a plugin (a-z, 0-9, dash and underscore) @',
                ODD_SECONDS,
                "plugins.odd.names[1]: should be text, not the number 1; write it in quotes @",
            ],
        ),
        (
            "plugins: {odd: 7}\nversion: 2",
            ["version: the file is version", "plugins.odd: should be a t"],
        ),
        ("plugins: 7\nversion: 2", ["version: the file is version", "plugins: should be a table"]),
        (f"control: {{socket: /{'x' * 200}}}\nplugins: {{odd: {{seconds: x}}}}", ["", ODD_SECONDS]),
        ("log: {level: 1}\nplugins: {odd: {seconds: [}", ["FILE"]),
    ],
)
def test_mistakes_of_the_core_and_of_plugins_are_told_at_once(
    text: str, told: list[str], tmp_path: Path
) -> None:
    found = everything_wrong(text, tmp_path)
    assert len(found) == len(told)
    for line, expected in zip(found, told, strict=True):
        assert line.replace(str(tmp_path / "aitorrent.yaml"), "FILE").startswith(expected)


def test_every_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "aitorrent.yaml.d").mkdir()
    (tmp_path / "aitorrent.yaml.d" / "10.yaml").write_text("log: [")
    (tmp_path / "aitorrent.yaml.d" / "20.yaml").write_text("log: {level: loud}")
    first, second = everything_wrong("- a list", tmp_path)
    assert "aitorrent.yaml: must contain lines" in first
    assert "10.yaml:2:1: not YAML" in second


def test_file_that_is_named_must_exist_and_the_default_one_need_not(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"there is no configuration file .*/none\.yaml; create"):
        Config.load(tmp_path / "none.yaml", environ=environ)
    with pytest.raises(ConfigError, match="there is no configuration file"):
        Config.load(environ={**environ, "AITORRENT_CONFIG": str(tmp_path / "none.yaml")})


def test_directory_and_forbidden_file_are_clear_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="is a directory, not a configuration file"):
        Config.load(tmp_path)

    def forbidden(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "a.yaml"
    file.touch()
    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(ConfigError, match="permission denied; the user that runs the daemon"):
        Config.load(file)


def test_drop_ins_win_in_the_order_of_their_names_and_lists_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "aitorrent.yaml.d").mkdir()
    (tmp_path / "aitorrent.yaml.d" / "20-b.yaml").write_text("plugins: {x: {a: 20, l: [3]}}")
    (tmp_path / "aitorrent.yaml.d" / "10-a.yaml").write_text("plugins: {x: {a: 10, b: 10}}")
    (tmp_path / "aitorrent.yaml.d" / ".hidden.yaml").write_text("not: read")
    (tmp_path / "aitorrent.yaml.d" / "README").write_text("not: [read")
    config = load("plugins: {x: {a: 1, c: 1, l: [1, 2]}}\n", tmp_path)
    assert config.settings.plugins["x"] == {"a": 20, "b": 10, "c": 1, "l": [3]}
    assert config.get("plugins.x.a") == (20, f"{config.files[2]}:1")
    assert config.get("plugins.x.c") == (1, f"{config.files[0]}:1")
    assert [f.name for f in config.files] == ["aitorrent.yaml", "10-a.yaml", "20-b.yaml"]


def test_null_table_in_a_later_file_keeps_what_was_said(tmp_path: Path) -> None:
    (tmp_path / "aitorrent.yaml.d").mkdir()
    (tmp_path / "aitorrent.yaml.d" / "10.yaml").write_text("plugins:\nlog:\n")
    config = load("plugins: {x: {a: 1}}\nlog: {level: debug}\n", tmp_path)
    assert config.settings.plugins == {"x": {"a": 1}}
    assert config.settings.log.level == "debug"


def test_environment_of_the_first_version_wins_over_files_and_the_command_line_over_both(
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("plugins: {transport: {port: 1, bootstrap: [x]}}")
    environ = {
        "PORT": "55781",
        "AI_TORRENT_ADDR": "/ip4/203.0.113.1/tcp/55781",
        "BOOTSTRAP_ADDR": "a:1, b:2,",
        "AITORRENT_STATE_DIR": str(tmp_path / "s"),
    }
    config = Config.load(file, environ=environ)
    assert config.settings.plugins["transport"] == {
        "port": 55781,
        "announce": ["/ip4/203.0.113.1/tcp/55781"],
        "bootstrap": ["a:1", "b:2"],
    }
    assert config.get("plugins.transport.port") == (55781, "environment variable PORT")
    assert config.directories.state == tmp_path / "s"
    over = {"plugins": {"transport": {"port": 0}}}
    config = Config.load(file, environ=environ, overrides=over)
    assert config.get("plugins.transport.port") == (0, "command line")
    with pytest.raises(
        ConfigError, match=r"port: 'http' is not a port .* \(in environment variable PORT\)"
    ):
        Config.load(file, environ={"PORT": "http"})


def test_configuration_made_in_code_ignores_files_and_environment(tmp_path: Path) -> None:
    config = Config.of({"node": {"state_dir": str(tmp_path)}}, environ={"PORT": "1", "HOME": "/h"})
    assert config.settings.plugins == {}
    assert config.files == ()
    with pytest.raises(ConfigError, match="configured in code"):
        config.reloaded()
    with pytest.raises(ConfigError, match="configured in code"):
        write_setting(config, "log.level", "debug")


def test_secrets_are_resolved_for_plugins_and_concealed_for_people(tmp_path: Path) -> None:
    (tmp_path / "psk").write_text("swordfish-swordfish\n")
    (tmp_path / "api").write_text("credential-value")
    text = f"""
plugins:
  transport: {{psk: {{file: {tmp_path}/psk}}}}
  openai: {{api_key: {{credential: api}}, url: {{env: OPENAI_URL}}, headers: [{{env: OPENAI_URL}}]}}
  other: {{token: in-the-open, max_tokens: 5, tokenizer: path, tokens: [t1, t2]}}
"""
    config = load(text, tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path), OPENAI_URL="http://host")
    assert config.settings.plugins["transport"]["psk"] == "swordfish-swordfish"
    assert config.settings.plugins["openai"]["api_key"] == "credential-value"
    assert config.secrets >= {"swordfish-swordfish", "credential-value", "in-the-open", "t1"}
    shown = config.shown()["plugins"]
    assert shown["transport"]["psk"] == f"••• (file {tmp_path}/psk)"
    assert shown["openai"] == {
        "api_key": "••• (credential api)",
        "url": "••• (env OPENAI_URL)",
        "headers": ["••• (env OPENAI_URL)"],
    }
    assert shown["other"] == {
        "token": "•••",
        "max_tokens": 5,
        "tokenizer": "path",
        "tokens": ["•••", "•••"],
    }
    everything = f"{config} {config!r} {config.shown()} {config.get('plugins')}"
    hidden = ("swordfish", "credential-value", "in-the-open", "http://host", "t1")
    assert not any(secret in everything for secret in hidden)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("{file: /nowhere/psk}", "plugins.x.psk: cannot read the secret in /nowhere/psk: No such"),
        ("{file: psk}", "plugins.x.psk: the secret's path psk must be absolute"),
        ("{env: NOT_SET}", "plugins.x.psk: the environment variable NOT_SET is not set"),
        ("{credential: psk}", "the systemd unit needs LoadCredential=psk:/path/to/it"),
        ("{file: /dev/null}", "plugins.x.psk: cannot read the secret in /dev/null: not a regular"),
    ],
)
def test_secret_that_is_not_there_is_a_clear_error(
    reference: str, said: str, tmp_path: Path
) -> None:
    assert said in problem(f"plugins: {{x: {{psk: {reference}}}}}", tmp_path)


def test_secrets_that_only_the_service_gets_are_left_out_from_outside(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        f"node: {{state_dir: {tmp_path}}}\n"
        "plugins: {x: {psk: {credential: psk}, keys: [{env: KEY}, {env: OTHER}], file: kept}}\n"
    )
    config = Config.load(file, environ={"HOME": "/", "OTHER": "here"}, outside=True)
    assert config.settings.plugins["x"] == {"keys": ["here"], "file": "kept"}
    assert config.shown()["plugins"]["x"]["psk"] == "••• (credential psk)"
    with pytest.raises(ConfigError, match="LoadCredential=psk"):
        Config.load(file, environ={"HOME": "/", "OTHER": "here"})


def test_credential_name_cannot_leave_its_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the name of a credential"):
        load(
            "plugins: {x: {psk: {credential: ../../etc/shadow}}}",
            tmp_path,
            CREDENTIALS_DIRECTORY=str(tmp_path),
        )


def test_setting_is_written_to_the_drop_in_and_survives_a_reload(tmp_path: Path) -> None:
    text = "# by hand\nlog: {level: info}\n"
    config = load(text, tmp_path)
    changed = write_setting(config, "plugins.transport.port", 9000)
    changed = write_setting(changed, "log.level", "debug")
    assert (tmp_path / "aitorrent.yaml").read_text() == text
    assert changed.settings.log.level == "debug"
    assert changed.reloaded().get("plugins.transport.port") == (9000, f"{config.set_file}:4")
    assert config.set_file is not None
    assert config.set_file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(config.set_file.parent) == ["90-set.yaml"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("log.level", "loud", "log.level: should be"),
        ("log.level.deep", 1, "log.level: should be"),
        ("nonsense", 1, "nonsense: unknown key"),
        ("a..b", 1, "is not a key such as plugins.transport.port"),
        ("", 1, "is not a key such as"),
    ],
)
def test_setting_that_does_not_fit_is_refused_and_nothing_is_written(
    key: str, value: Any, said: str, tmp_path: Path
) -> None:
    config = load("", tmp_path)
    with pytest.raises(ConfigError, match=".") as caught:
        write_setting(config, key, value)
    assert said in caught.value.message
    assert not (tmp_path / "aitorrent.yaml.d").exists()


def test_setting_in_a_read_only_place_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load("", tmp_path)

    really_open = os.open

    def open_(path: Any, flags: int, *args: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return really_open(path, flags, *args)

    monkeypatch.setattr(os, "open", open_)
    with pytest.raises(Denied, match="Read-only file system; as root put the setting into"):
        write_setting(config, "log.level", "debug")


def test_crash_while_writing_leaves_the_old_drop_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_setting(load("", tmp_path), "log.level", "debug")

    def rename(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(Exception, match="No space left on device"):
        write_setting(config, "log.level", "error")
    assert config.reloaded().settings.log.level == "debug"
    assert os.listdir(tmp_path / "aitorrent.yaml.d") == ["90-set.yaml"]


def test_unknown_key_says_what_there_is(tmp_path: Path) -> None:
    config = load("plugins: {transport: {port: 1}}", tmp_path)
    with pytest.raises(NotFound, match=r"not set in plugins\.transport; known keys: port"):
        config.get("plugins.transport.prot")
    with pytest.raises(
        NotFound, match="not set in the configuration; known keys: control, log, node"
    ):
        config.get("nothing")


def test_origin_of_every_shown_value_is_known(tmp_path: Path) -> None:
    config = load("log: {level: debug}", tmp_path)
    origins = {key_text(path): config.merged.origin(path) for path in leaves(config.shown())}
    assert origins["log.level"] == f"{tmp_path / 'aitorrent.yaml'}:1"
    assert origins["log.format"] == "default"
    assert set(origins.values()) == {"default", origins["log.level"]}


def test_socket_path_that_the_kernel_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than 107 bytes; set control.socket"):
        Config.of({"control": {"socket": "/" + "x" * 107}})
    assert Config.of({"control": {"socket": None}, "node": {"state_dir": "/" + "x" * 200}})


@given(st.lists(st.text(min_size=1).filter(lambda t: '"' not in t), min_size=1, max_size=5))
def test_keys_survive_being_written_and_read(parts: list[str]) -> None:
    assert parse_key(key_text(tuple(parts))) == tuple(parts)


@given(st.text(max_size=300) | st.text(alphabet="[]{}:,&*!-#'\"\n\t ab1", max_size=300))
def test_any_text_is_a_value_or_a_config_error(text: str) -> None:
    try:
        parse(text, "value")
    except ConfigError as e:
        assert e.message.startswith("value:")
