"""`config set`: what it writes is what is read, and what it reports is what holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrentd.config import Config, plan_setting, write_setting
from aitorrentd.errors import ConfigError, Denied
from tests.support.effort import examples


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return fresh(tmp_path)


def fresh(tmp_path: Path, text: str = "", **environ: str) -> Config:
    file = tmp_path / "aitorrent.yaml"
    file.write_text(text)
    return Config.load(file, environ={"HOME": "/nonexistent", **environ})


def set_file(config: Config) -> Path:
    assert config.set_file is not None
    return config.set_file


def test_link_stays_a_link_and_what_it_points_to_is_written(config: Config, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles" / "set.yaml"
    target.parent.mkdir()
    target.write_text("log: {format: json}\n")
    target.chmod(0o640)
    set_file(config).parent.mkdir()
    set_file(config).symlink_to(target)
    changed = write_setting(config, "log.level", "warning")
    assert set_file(config).readlink() == target
    assert "level: warning" in target.read_text()
    assert target.stat().st_mode & 0o777 == 0o640
    assert changed.reloaded().settings.log.format == "json"
    assert os.listdir(target.parent) == ["set.yaml"]
    assert os.listdir(set_file(config).parent) == ["90-set.yaml"]


def test_directory_of_drop_ins_may_be_a_link(config: Config, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    set_file(config).parent.symlink_to(tmp_path / "elsewhere")
    write_setting(config, "log.level", "warning")
    assert set_file(config).parent.is_symlink()
    assert os.listdir(tmp_path / "elsewhere") == ["90-set.yaml"]


@pytest.mark.parametrize("target", ["/nonexistent/set.yaml", "90-set.yaml"])
def test_link_that_leads_nowhere_is_refused(target: str, config: Config) -> None:
    set_file(config).parent.mkdir()
    set_file(config).symlink_to(target)
    with pytest.raises(ConfigError, match=r"90-set\.yaml"):
        write_setting(config, "log.level", "warning")
    assert set_file(config).is_symlink()


def test_link_into_a_place_that_cannot_be_written_says_so(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").write_text("")
    set_file(config).parent.mkdir()
    set_file(config).symlink_to(tmp_path / "store")

    def rename(*args: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(Denied, match="Read-only file system; as root put the setting into"):
        write_setting(config, "log.level", "warning")
    assert set_file(config).is_symlink()


@pytest.mark.parametrize(
    "value",
    [
        "no", "yes", "on", "null", "~", "", " ", "1e3", "08468", "020450", "0x1F", "0o17", "1_000",
        "12:30", "2026-01-01", "<<", "=", "- a", "a: b", "#", "'", '"', "{a: 1}", "[a]", "!x", "&a",
        "*a", "@a", "%a", "|", ">", "tab\there", "line\nbreak", "\r\n", "\x85", "\u2028", "\ufeff",
        "\x07", "🔑", ".inf", ".5", "1.0", "true", "False",
        1, -1, 2**64 - 1, 1.5, 1e300, 1e-7, True, False, [], [[]], ["no", 1, None],
        {"a": {"b": []}},
    ],
)  # fmt: skip
def test_value_that_is_set_is_the_value_that_is_read(value: Any, config: Config) -> None:
    changed = write_setting(config, "plugins.x.deep.value", value)
    assert changed.settings.plugins["x"]["deep"]["value"] == value
    again = Config.load(config.source.path, environ={})
    assert again.settings.plugins["x"]["deep"]["value"] == value
    assert type(again.settings.plugins["x"]["deep"]["value"]) is type(value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a\0b", "NUL"),
        (2**64, "more than 64 bits"),
        (float("inf"), "YAML cannot represent this value"),
        (float("nan"), "YAML cannot represent this value"),
        ({1: 2}, "the key 1"),
        ({"": 1}, "an empty key"),
        (b"bytes", "the tag !!binary is not supported"),
        ("x" * 300_000, "would be longer than 262144 bytes"),
        ({"a": {"b": {"c": "${HOME}"}}}, "write {env: HOME}"),
    ],
)
def test_value_that_would_not_be_read_is_refused_and_nothing_is_written(
    value: Any, said: str, config: Config
) -> None:
    with pytest.raises(ConfigError, match=r".") as caught:
        write_setting(config, "plugins.x.value", value)
    assert said in caught.value.message
    assert not set_file(config).exists()


def test_key_that_is_nested_too_deep_is_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match="nested deeper than 32"):
        write_setting(config, "plugins." + ".".join("abcdefghij" * 4), 1)


def test_setting_that_a_later_drop_in_wins_over_is_refused_with_its_place(tmp_path: Path) -> None:
    config = fresh(tmp_path, "log: {level: info}\n")
    set_file(config).parent.mkdir()
    later = set_file(config).parent / "95-local.yaml"
    later.write_text("# mine\nlog: {level: error}\n")
    with pytest.raises(
        ConfigError, match=rf"log.level would .*{later}:2 overrides it; change it there"
    ):
        write_setting(config, "log.level", "debug")
    assert write_setting(config, "log.format", "json").settings.log.format == "json"


def test_setting_that_the_environment_wins_over_is_refused(tmp_path: Path) -> None:
    config = fresh(tmp_path, PORT="9000")
    with pytest.raises(
        ConfigError, match="environment variable PORT overrides it; change it there"
    ):
        write_setting(config, "plugins.transport.port", 9001)
    assert not set_file(config).exists()


def test_setting_inside_a_list_says_that_it_is_set_whole(tmp_path: Path) -> None:
    config = fresh(tmp_path)
    config = write_setting(config, "plugins.x.models", [{"name": "a"}])
    with pytest.raises(
        ConfigError, match=r"plugins\.x\.models is a list, not a table; set the whole value"
    ):
        write_setting(config, "plugins.x.models.name", "b")


def test_damaged_drop_in_is_told_and_stays(config: Config) -> None:
    set_file(config).parent.mkdir()
    set_file(config).write_text("log: [")
    with pytest.raises(ConfigError, match=r"90-set\.yaml:2:1: not YAML"):
        plan_setting(config, "log.level", "debug")
    assert set_file(config).read_text() == "log: ["


@settings(max_examples=examples(60))
@given(text=st.text(max_size=30).filter(lambda text: "\0" not in text))
def test_any_text_that_is_set_is_read_or_refused(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = fresh(tmp_path_factory.mktemp("set"))
    try:
        changed = write_setting(config, "plugins.x.value", text)
    except ConfigError:
        assert not set_file(config).exists()
    else:
        assert changed.reloaded().settings.plugins["x"]["value"] == text
