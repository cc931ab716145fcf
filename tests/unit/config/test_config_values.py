"""Values as people write them in YAML: each is what was meant, or an error that says what to write.

The kinds are those of public bug reports about programs that are configured by YAML.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from aitorrentd.api import OptionalPath, PluginConfig, PluginInfo, SettingsTable, hookimpl
from aitorrentd.config import Config
from aitorrentd.config.document import dump, parse
from aitorrentd.config.plugin_tables import all_problems
from aitorrentd.errors import ConfigError
from aitorrentd.kernel.found import PluginSource

CASES = Path(__file__).parents[2] / "cases" / "daemon" / "config"


class Inner(SettingsTable):
    count: int = 0


class KindsConfig(PluginConfig):
    port: int = Field(8468, ge=0, le=65_535)
    wait_s: float = Field(1.0, gt=0)
    mask: bool = False
    label: str = ""
    names: tuple[str, ...] = ()
    allowed: bool | tuple[str, ...] = True
    limit: int | None = None
    either: int | str = 0
    psk: str = ""
    home: OptionalPath = None
    inner: Inner = Inner()


class KindsPlugin:
    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("kinds", "One setting of each kind.", config=KindsConfig)


SOURCES = [PluginSource.of(KindsPlugin)]


def told(text: str | bytes, tmp_path: Path, **environ: str) -> tuple[Config | None, list[str]]:
    """The configuration in a file, and what is wrong with it and the tables of its plugins."""
    file = tmp_path / "aitorrent.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    try:
        config = Config.load(file, environ={"HOME": str(tmp_path), **environ})
    except ConfigError as e:
        found = asyncio.run(all_problems(e, SOURCES))
        return None, [line.replace(str(file), "FILE") for line in found]
    found = asyncio.run(all_problems(config, SOURCES))
    return config, [line.replace(str(file), "FILE") for line in found]


def meant(key: str, text: str, tmp_path: Path) -> Any:
    """What the plugin gets for `key: text`."""
    config, wrong = told(f"plugins:\n  kinds:\n    {key}: {text}\n", tmp_path)
    assert wrong == []
    assert config is not None
    return getattr(KindsConfig.model_validate(config.settings.plugins["kinds"]), key)


def refused(key: str, text: str, tmp_path: Path) -> str:
    """The one line about `key: text`."""
    _, wrong = told(f"plugins:\n  kinds:\n    {key}: {text}\n", tmp_path)
    assert len(wrong) == 1
    assert "FILE:3" in wrong[0]
    assert key in wrong[0] or "not YAML" in wrong[0]
    return wrong[0]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        # numbers: a zero in front is no octal, and quotes change nothing
        ("port", "020450", 20450),
        ("port", "08468", 8468),
        ("port", "0o", None),
        ("port", '"8468"', 8468),
        ("port", "'020450'", 20450),
        ("port", "00", 0),
        ("port", "+8468", 8468),
        ("port", "8_468", 8468),
        ("port", "8468.0", 8468),
        ("port", "1e3", 1000),
        ("port", "0x2114", 8468),
        ("port", "!!int '8468'", 8468),
        ("port", "8468 # for peers", 8468),
        ("port", "8468\r", 8468),
        ("wait_s", "1e1", 10.0),
        ("wait_s", "5", 5.0),
        ("wait_s", "007.5", 7.5),
        ("wait_s", "'2.5'", 2.5),
        ("limit", "~", None),
        ("limit", "null", None),
        ("limit", "", None),
        # true and false in all their spellings, where a setting is one
        ("mask", "yes", True),
        ("mask", "On", True),
        ("mask", "off", False),
        ("mask", "NO", False),
        ("mask", "'false'", False),
        ("mask", "1", True),
        ("allowed", "no", False),
        ("allowed", "[no, se, on]", ("no", "se", "on")),
        # text that YAML 1.1 takes for something else
        ("label", "no", "no"),
        ("label", "on", "on"),
        ("label", "y", "y"),
        ("label", "12:30:45", "12:30:45"),
        ("label", "2026-01-01", "2026-01-01"),
        ("label", "0123", "0123"),
        ("label", "1_000", "1_000"),
        ("label", "0b101", "0b101"),
        ("label", "0o17", "0o17"),
        ("label", ".inf", ".inf"),
        ("label", "1.2.3", "1.2.3"),
        ("label", "=", "="),
        ("label", "<<", "<<"),
        ("label", "NULL and void", "NULL and void"),
        ("label", "C:\\dir", "C:\\dir"),
        ("label", '"\\U0001F511"', "\U0001f511"),
        ("label", "!!str 12", "12"),
        ("names", "[fe80::1, 1:2:3:4:5:6:7:8]", ("fe80::1", "1:2:3:4:5:6:7:8")),
        ("names", "\n    - ::1\n    - '*'", ("::1", "*")),
        ("names", "[127.0.0.1, 10.0.0.1:8468]", ("127.0.0.1", "10.0.0.1:8468")),
        ("names", "[/ip4/127.0.0.1/tcp/8468]", ("/ip4/127.0.0.1/tcp/8468",)),
        ("names", "[12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp]", None),
        ("psk", "0123456789012345", "0123456789012345"),
        ("psk", "$ecret-of-the-deep-sea", "$ecret-of-the-deep-sea"),
        ("home", "/srv/ait", Path("/srv/ait")),
        ("home", "~/ait", Path.home() / "ait"),
    ],
)
def test_value_is_what_was_meant(key: str, text: str, value: Any, tmp_path: Path) -> None:
    if key == "names" and value is None:
        value = (text.strip("[]"),)
    if text == "0o":
        assert "should be a whole number" in refused(key, text, tmp_path)
        return
    assert meant(key, text, tmp_path) == value


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("port", "true", "kinds.port: should be a number, not true"),
        ("port", "yes", "kinds.port: should be a whole number, not text"),
        ("port", "", "kinds.port: should be a whole number, not nothing"),
        ("port", "~", "kinds.port: should be a whole number, not nothing"),
        ("port", "84.68", "not the number 84.68"),
        ("port", "-1", "should be greater than or equal to 0, not the number -1"),
        ("port", "70000", "should be less than or equal to 65535, not the number 70000"),
        ("port", "1:30", "should be a whole number, not text"),
        ("port", "8468:8468", "should be a whole number, not text"),
        ("port", "8,468", "should be a whole number, not text"),
        ("port", "8468/tcp", "should be a whole number, not text"),
        ("port", "0b10", "should be a whole number, not text"),
        ("port", "0o20450", "should be a whole number, not text"),
        ("port", "[8468]", "should be a whole number, not a list"),
        ("port", "{tcp: 8468}", "should be a whole number, not a table"),
        ("port", "99999999999999999999", "the number has more than 64 bits"),
        ("port", "${PORT}", "$PORT is not expanded here; write {env: PORT}"),
        ("port", "$PORT", "$PORT is not expanded here; write {env: PORT}"),
        ("port", "${PORT:-8468}", "$PORT is not expanded here; write {env: PORT}"),
        ("wait_s", "15s", "should be a number, not text; write seconds without a unit"),
        ("wait_s", "5 min", "should be a number, not text; write seconds without a unit"),
        ("wait_s", "'1,5'", "should be a number, not text"),
        ("wait_s", "true", "should be a number, not true"),
        ("wait_s", "inf", "should be a finite number"),
        ("wait_s", "nan", "kinds.wait_s: should be"),
        ("wait_s", ".inf", "should be a number, not text"),
        ("wait_s", "1e999", "the number is too large"),
        ("wait_s", "0", "should be greater than 0, not the number 0"),
        ("mask", "2", "should be true or false, not the number 2"),
        ("mask", "enabled", "should be true or false, not text"),
        ("mask", "[]", "should be true or false, not a list"),
        ("label", "1234", "should be text, not the number 1234; write it in quotes"),
        ("label", "1.10", "should be text, not the number 1.1; write it in quotes"),
        ("label", "true", "should be text, not true; write it in quotes"),
        ("label", "1e5", "should be text, not the number 100000.0; write it in quotes"),
        ("label", "0xdeadbeef", "should be text, not the number"),
        ("label", "", "should be text, not nothing"),
        ("label", '"a\\0b"', "a value must not contain a NUL character"),
        ("label", "@home", "write text that begins with this character in quotes"),
        ("label", "`date`", "write text that begins with this character in quotes"),
        ("label", "a: b", "write text with `: ` in it in quotes"),
        ("label", "!secret psk", "the tag !secret is not supported; write the value itself"),
        ("label", "!vault |\n      abc", "the tag !vault is not supported"),
        ("label", "!!binary aGk=", "the tag !!binary is not supported"),
        ("label", "!!timestamp 2026-01-01", "the tag !!timestamp is not supported"),
        ("label", "{{ name }}", "is not text; text in braces needs quotes"),
        ("names", "::1", "should be a list, not text"),
        ("names", "[1, a]", "kinds.names[0]: should be text, not the number 1"),
        ("names", "[*]", "write text that begins with * or & in quotes"),
        ("names", "[::1]", "write text such as ::1 in quotes"),
        ("either", "[]", "should be a whole number, or should be text, not a list"),
        ("enabled", "2", "should be true or false, not the number 2"),
        ("enabled", "maybe", "should be true or false, not text"),
        ("inner", "{count: true}", "kinds.inner.count: should be a number, not true"),
        ("inner", "{cuont: 1}", "kinds.inner.cuont: unknown key; did you mean count?"),
        ("prot", "1", "kinds.prot: unknown key; did you mean port?"),
        ("psk", "${AITORRENT_PSK}", "write {env: AITORRENT_PSK}"),
        ("psk", "'{{ vault_psk }}'", "is a placeholder that was never replaced"),
        ("psk", "<your secret here>", "is a placeholder that was never replaced"),
        ("psk", "1234567890123456", "should be text, not a number; write it in quotes"),
        ("home", "ait", "ait is relative, and would depend on where the daemon is started"),
        ("home", "./ait", "./ait is relative"),
        ("home", "$HOME/ait", "environment variables are not expanded; write an absolute path"),
        ("home", "/srv/${USER}", "environment variables are not expanded; write an absolute path"),
        ("home", "''", "is empty; leave the key out for the default"),
        ("home", '"/srv/ait "', "'/srv/ait ' begins or ends with white space; remove it"),
        ("home", '"/srv/a\\u200Bit"', "has an unprintable character; retype it"),
        ("home", "\N{LEFT DOUBLE QUOTATION MARK}/srv/ait", "begins with a quotation mark"),
        ("home", "~nobody-here/x", "nobody-here has no home directory"),
    ],
)
def test_value_that_is_not_clear_is_refused(key: str, text: str, said: str, tmp_path: Path) -> None:
    assert said in refused(key, text, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfep\x00l\x00u\x00g\x00", "FILE:1:1: not UTF-8 text"),
        (b"log:\n  level: caf\xe9\n", "FILE:2:13: not UTF-8 text"),
        (b"\x00" * 4096, "FILE:1:1: the character U+0000 is not allowed"),
        (b"log: {level: info}\n\x00\x00", "FILE:2:1: the character U+0000"),
        ("\u00a0log: {level: info}", "FILE:1:1: the key '\\xa0log' at the top has the character"),
        ("log\u200b: {level: info}", "has the character U+200B; retype it"),
        ("log: {'': info}", "FILE:1:7: an empty key in log; give it a name"),
        ("log:\n\tlevel: info", "FILE:2:1: a tab is used for indentation"),
        ("log: {level: info}\n---\nlog: {level: debug}", "FILE:2:1: a second document begins"),
        ("log:\n  level: info\nlog:\n  format: json", "FILE:3:1: the key 'log' is a duplicate"),
        ("'log': {}\nlog: {}", "FILE:2:1: the key 'log' is a duplicate, first given on line 1"),
        (
            "a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> x\n",
            "line 2 is a version control conflict marker",
        ),
        ("? [a]\n: 1", "FILE:1:3: a key at the top is not text"),
        ("null: 1", "FILE:1:1: the key null at the top is not text"),
        ("~: 1", "the key ~ at the top is not text"),
        ("yes: 1", "yes: unknown key"),
        ("log: info", "log: should be a table of settings, not text (in FILE:1)"),
        ("log: [level, info]", "log: should be a table of settings, not a list (in FILE:1)"),
        ("log:\nlevel: info", "level: unknown key"),
        ("Log: {}", "Log: unknown key; did you mean log? (in FILE:1)"),
        ("plugin: {}", "plugin: unknown key; did you mean plugins?"),
        ("port: 8468", "port: unknown key (in FILE:1)"),
        ("version: '2'", "version: the file is version 2; this program reads version 1"),
        ("version: true", "version: should be a number, not true"),
        ("node: {state_dir: state}", "node.state_dir: state is relative"),
        ("node: {identity: key}", "node.identity: key is relative"),
        ("control: {socket: control.sock}", "control.socket: control.sock is relative"),
        ("control: {mode: 660}", "control.mode: must be an octal mode such as 0660"),
        ("control: {mode: rw-rw----}", "control.mode: must be an octal mode such as 0660"),
        ("x: &a {<<: *a}", "nested deeper than 32"),
        ("x: {<<: 1}", "FILE:1:5: x: `<<` takes a table or a list of tables"),
        ("a: &a {}\nb: &b {}\nc: {<<: *a, <<: *b}", "duplicate `<<`"),
        ("a: &a 1\nb: *c", "found undefined alias"),
        ("%YAML 3.0\n---\nlog: {}", "FILE:1"),
        ("log: {level: info", "FILE:2:1: not YAML"),
        ("log: 'unclosed", "FILE:1"),
        ("{{ config }}", "text in braces needs quotes"),
        ("include: other.yaml", "include: unknown key"),
        ("#!jinja\n{% if x %}\nlog: {}\n{% endif %}", "FILE:2:2: not YAML"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_file_that_is_not_clear_is_refused(text: str | bytes, said: str, tmp_path: Path) -> None:
    config, wrong = told(text, tmp_path)
    assert config is None
    assert len(wrong) >= 1
    assert said in wrong[0]


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbflog: {level: debug}\n",
        b"log:\r\n  level: debug\r\n",
        b"---\nlog: {level: debug}\n...\n",
        b"%YAML 1.2\n---\nlog: {level: debug}\n",
        b"log: &l {level: debug}\n",
        b'{"log": {"level": "debug"}}',
        b"log:\n    level:    debug   \n\n# end without a newline",
        b"log: {level: !!str debug}\n",
        b"log: {level: >-\n  debug}\n" if False else b"log:\n  level: >-\n    debug\n",
    ],
)
def test_file_that_is_good_yaml_is_read(text: bytes, tmp_path: Path) -> None:
    config, wrong = told(text, tmp_path)
    assert wrong == []
    assert config is not None
    assert config.settings.log.level == "debug"


def test_mode_is_octal_with_and_without_quotes(tmp_path: Path) -> None:
    for text in ("0600", '"0600"', "'600'"):
        config, wrong = told(f"control: {{mode: {text}}}", tmp_path)
        assert wrong == []
        assert config is not None
        assert config.settings.control.mode_bits == 0o600


@pytest.mark.parametrize("text", ["no", "off", "'no'", "False", "0"])
def test_plugin_is_off_however_that_is_written(text: str, tmp_path: Path) -> None:
    config, wrong = told(f"plugins: {{kinds: {{enabled: {text}, port: wrong}}}}", tmp_path)
    assert wrong == []
    assert config is not None
    assert config.settings.plugins["kinds"]["enabled"] is False


def test_merge_keys_and_anchors_share_tables_and_own_keys_win(tmp_path: Path) -> None:
    text = (
        "plugins:\n  one: &base {a: 1, b: 1}\n  two: &two {<<: *base, b: 2}\n"
        "  three: {<<: [{c: 3, a: 3}, *two], a: 4}\n"
    )
    config, _ = told(text, tmp_path)
    assert config is not None
    assert config.settings.plugins["two"] == {"a": 1, "b": 2}
    assert config.settings.plugins["three"] == {"a": 4, "b": 2, "c": 3}


@pytest.mark.parametrize("reference", ["*a{}", "{{<<: *a{}}}"])
def test_aliases_and_merges_that_multiply_are_refused_quickly(
    reference: str, tmp_path: Path
) -> None:
    lines = ["a0: &a0 {k: 1}"]
    for i in range(1, 25):
        items = ", ".join([reference.format(i - 1)] * 10)
        merged = "<<: " if "<<" in reference else "k: "
        lines.append(f"a{i}: &a{i} {{{merged}[{items}]}}")
    started = time.process_time()
    _, wrong = told("\n".join(lines), tmp_path)
    assert time.process_time() - started < 5
    assert "more than 100000 values" in wrong[0] or "nested deeper than 32" in wrong[0]


def test_thousands_of_tables_are_checked_in_the_time_that_they_take_to_read(
    tmp_path: Path,
) -> None:
    tables = "".join(f"  p{i}: {{a: 1}}\n" for i in range(5000))
    started = time.process_time()
    _, wrong = told(f"plugins:\n{tables}", tmp_path)
    # Before, each problem searched all values for its place: two minutes.
    assert time.process_time() - started < 3
    assert len(wrong) == 5000
    assert wrong[-1].startswith("plugins.p4999: no such plugin is installed")
    assert wrong[-1].endswith("(in FILE:5001)")


def test_every_line_of_a_nested_setting_is_its_own(tmp_path: Path) -> None:
    text = "plugins:\n  kinds:\n    names:\n      - a\n      - 1\n    inner:\n      count: x\n"
    _, wrong = told(text, tmp_path)
    assert wrong == [
        "plugins.kinds.names[1]: should be text, not the number 1; write it in quotes (in FILE:5)",
        "plugins.kinds.inner.count: should be a whole number, not text (in FILE:7)",
    ]


def test_text_of_a_setting_is_never_told(tmp_path: Path) -> None:
    text = "plugins: {kinds: {port: hunter2, mask: {env: WORD}, wait_s: [hunter2]}}"
    _, wrong = told(text, tmp_path, WORD="hunter3")
    assert len(wrong) == 3
    assert "hunter" not in " ".join(wrong)


def test_octal_port_is_the_number_that_was_written() -> None:
    config = Config.load(CASES / "octal-port.yaml", environ={"HOME": "/nonexistent"})
    assert config.settings.plugins["transport"] == {"port": "020450"}
    assert asyncio.run(all_problems(config)) == []
    from aitorrent_transport.config import TransportConfig

    assert TransportConfig.model_validate(config.settings.plugins["transport"]).port == 20450


def test_relative_state_is_refused_in_a_file() -> None:
    with pytest.raises(
        ConfigError, match=r"node.state_dir: state is relative.*relative-state.yaml:2"
    ):
        Config.load(CASES / "relative-state.yaml", environ={"HOME": "/nonexistent"})


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("path: models/demo", "models[0].path: models/demo is relative"),
        ("path: $HOME/models", "environment variables are not expanded; write an absolute path"),
        ("kv_budget: true", "models[0].kv_budget: should be a number, not true"),
        ("kv_budget: 1.5GiB", "is not a size; write 512MiB, 1GiB"),
        ("kv_budget: 1 G", "is not a size; write 512MiB, 1GiB"),
        ("kv_budget: -1", "should be greater than or equal to 1048576, not the number -1"),
        ("layers: 4", "is not a range of layers"),
        ("layers: 4:8", "is not a range of layers"),
        ("digest: 0x12ab", "models[0].digest: should be text"),
    ],
)
def test_settings_of_a_model_that_are_not_clear_are_refused(
    setting: str, said: str, tmp_path: Path
) -> None:
    key = setting.partition(":")[0]
    path = "" if key == "path" else "      path: /srv/model\n"
    text = f"plugins:\n  shards:\n    models:\n    - name: m\n      {setting}\n{path}"
    file = tmp_path / "aitorrent.yaml"
    file.write_text(text)
    wrong = asyncio.run(all_problems(Config.load(file, environ={"HOME": "/nonexistent"})))
    assert len(wrong) == 1
    assert said in wrong[0]
    assert wrong[0].endswith(f"(in {file}:5)")


trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    | st.sampled_from(["no", "1e3", "0o7", "08", "1:30", "~", "<<", "=", "", " ", ".5", "0x1F"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(categories=["L", "N", "P"]), min_size=1), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from("abc"), trees))
def test_tree_that_is_written_is_read_again(tree: dict[str, Any]) -> None:
    assert parse(dump(tree), "FILE").tree == tree
