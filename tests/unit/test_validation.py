"""Messages about wrong settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from aitorrentd.errors import ConfigError
from aitorrentd.validation import nearest_plugin, suggestion, validated
from tests.support.effort import examples


class Listen(BaseModel):
    model_config = ConfigDict(extra="forbid")

    port: int = 1
    host: str = "::"


class Dht(BaseModel):
    model_config = ConfigDict(extra="forbid")

    port: Annotated[int, Field(ge=0, le=65535)] = 0
    mode: Literal["client", "server"] = "server"
    listen: Listen | None = None
    also: list[Listen] = []
    named: dict[str, Listen] = {}
    limit: int | str | None = None
    one_of: Listen | int = 1
    timeout: int = Field(1, alias="time-out")
    token: str = ""

    @field_validator("token")
    @classmethod
    def _no_blank(cls, value: str) -> str:
        if value.isspace():
            raise ValueError("must not be blank")
        return value


def lines(table: Any, prefix: str = "plugins.dht") -> tuple[str, ...]:
    with pytest.raises(ConfigError, match=r".") as caught:
        validated(tuple(prefix.split(".")) if prefix else (), Dht, table)
    return caught.value.problems


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"prot": 1}, "plugins.dht.prot: unknown key; did you mean port?"),
        ({"zzz": 1}, "plugins.dht.zzz: unknown key"),
        (
            {"port": 70000},
            "plugins.dht.port: should be less than or equal to 65535, not the number 70000",
        ),
        ({"port": "a"}, "plugins.dht.port: should be a whole number, not text"),
        ({"mode": "x"}, "plugins.dht.mode: should be 'client' or 'server'"),
        (
            {"mode": "sever"},
            "plugins.dht.mode: should be 'client' or 'server'; did you mean server?",
        ),
        ({"mode": 7}, "plugins.dht.mode: should be 'client' or 'server', not the number 7"),
        ({"listen": {"prot": 1}}, "plugins.dht.listen.prot: unknown key; did you mean port?"),
        ({"listen": 7}, "plugins.dht.listen: should be a table of settings"),
        ({"also": [{}, {"hst": 1}]}, "plugins.dht.also[1].hst: unknown key; did you mean host?"),
        ({"named": {"a": {"prt": 1}}}, "plugins.dht.named.a.prt: unknown key; did you mean port?"),
        ({"limit": []}, "plugins.dht.limit: should be a whole number, or should be text"),
        ({"time-out": []}, "plugins.dht.time-out: should be a whole number"),
        ({"timeout": 1}, "plugins.dht.timeout: unknown key; did you mean time-out?"),
        ({"token": " "}, "plugins.dht.token: must not be blank"),
        (5, "plugins.dht: should be a table of settings"),
    ],
)
def test_wrong_setting_is_named_by_its_path(table: Any, line: str) -> None:
    found = lines(table)
    assert len(found) == 1
    assert found[0].startswith(line)


def test_union_of_table_and_number_leaves_member_names_out_of_the_path() -> None:
    assert lines({"one_of": {"prot": 1}}) == (
        "plugins.dht.one_of.prot: unknown key; did you mean port?",
        "plugins.dht.one_of: should be a whole number, not a table",
    )


def test_every_wrong_setting_has_its_line() -> None:
    assert len(lines({"prot": 1, "mode": 3, "also": 5})) == 3


def test_message_never_holds_the_value() -> None:
    assert "hunter2" not in "".join(lines({"token": ["hunter2"], "port": "hunter2"}))


def test_empty_prefix_gives_bare_paths() -> None:
    assert lines({"prot": 1}, prefix="") == ("prot: unknown key; did you mean port?",)


def test_fitting_table_becomes_the_model() -> None:
    assert validated(("x",), Dht, {"port": 9, "listen": {"host": "h"}}).listen == Listen(host="h")


def test_suggestion_is_empty_when_nothing_is_close() -> None:
    assert suggestion("zzz", ["port", "host"]) == ""


keys = st.one_of(st.sampled_from(["port", "listen", "also", "named", "one_of", "x"]), st.integers())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=examples(150))
@given(values)
def test_any_table_is_a_model_or_a_list_of_problems(table: Any) -> None:
    try:
        validated(("plugins", "dht"), Dht, table)
    except ConfigError as e:
        assert e.problems
        assert all(line.startswith("plugins.dht") for line in e.problems)


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("shard", "shards"),
        ("transprot", "transport"),
        ("inferense", "inference"),
        ("olama", "ollama"),
        ("trans", "transport"),
        ("tr", ""),
        ("nonsense", ""),
        ("peers", ""),
        ("torrent", ""),
        ("hello", ""),
        ("demo", ""),
        ("", ""),
    ],
)
def test_only_a_slip_or_a_beginning_is_taken_for_a_plugin(word: str, nearest: str) -> None:
    names = ["transport", "inference", "shards", "ollama", "openai", "model"]
    assert nearest_plugin(word, names) == nearest
