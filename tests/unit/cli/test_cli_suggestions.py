"""What a mistyped command suggests: near in meaning, near in spelling, or nothing."""

from __future__ import annotations

import pytest

from aitorrentd.cli.app import CORE
from aitorrentd.cli.wording.suggestions import ENDINGS, distance, service_hint, suggestion

PLUGINS = ("ask", "chat", "models", "peers", "connect", "disconnect", "ping", "broadcast")
KNOWN = [*CORE, *PLUGINS]
GROUPS = {
    "plugin": [
        "list",
        "info",
        "enable",
        "disable",
        "restart",
        "install",
        "remove",
        "rebuild",
        "new",
    ],
    "config": ["show", "check", "get", "set", "reload"],
    "rpc": ["list", "describe"],
}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("peer", "peers"),
        ("plugins", "plugin"),
        ("log", "logs"),
        ("model", "models"),
        ("statsu", "status"),
        ("stauts", "status"),
        ("Status", "status"),
        ("conncet", "connect"),
        ("doctr", "doctor"),
        ("nodes", "peers"),
        ("settings", "config"),
        ("reload", "config reload"),
        ("install", "plugin install"),
        ("uninstall", "plugin remove"),
        ("list", "plugin list"),
        ("bug_report", "bugreport"),
        ("whoami", "id"),
        ("generate", "ask"),
        ("health", "doctor"),
        ("hcat", "chat"),
        ("ban", "peers ban"),
        ("unban", "peers unban"),
        ("disable", "plugin disable"),
        ("drian", "drain"),
        ("disconect", "disconnect"),
    ],
)
def test_near_command_is_suggested(typed: str, meant: str) -> None:
    assert suggestion(typed, KNOWN) == meant


@pytest.mark.parametrize(
    "typed",
    [
        "qqq",
        "train",
        "brain",
        "rain",
        "stop-daemon",
        "stop",
        "shutdown",
        "kill",
        "delete",
        "x",
        "map",
        "task",
        "mask",
        "reconnect",
        "connected-peers-of-mine",
        "purge",
        "reset",
        "format",
    ],
)
def test_nothing_is_suggested_for_a_word_that_means_something_else(typed: str) -> None:
    assert suggestion(typed, KNOWN) == ""


def test_what_ends_something_is_suggested_for_its_own_name_only() -> None:
    ends = [*GROUPS["plugin"], *KNOWN]
    letters = "abcdefghijklmnopqrstuvwxyz"
    for name in sorted(ENDINGS):
        for other in (f"{c}{name[1:]}" for c in letters if c != name[0]):
            assert suggestion(other, ends, group="plugin") not in ENDINGS, other


@pytest.mark.parametrize(
    ("group", "typed", "meant"),
    [
        ("plugin", "lsit", "list"),
        ("plugin", "uninstall", "remove"),
        ("plugin", "delete", "remove"),
        ("plugin", "stop", "disable"),
        ("plugin", "start", "enable"),
        ("plugin", "add", "install"),
        ("plugin", "unistall", ""),
        ("plugin", "instal", "install"),
        ("config", "list", "show"),
        ("config", "edit", "set"),
        ("config", "relaod", "reload"),
        ("rpc", "ls", "list"),
        ("rpc", "zzz", ""),
    ],
)
def test_subcommands_have_meanings_of_their_own(group: str, typed: str, meant: str) -> None:
    assert suggestion(typed, GROUPS[group], group=group) == meant


def test_commands_that_are_not_installed_are_not_suggested() -> None:
    assert suggestion("peer", CORE) == ""
    assert suggestion("layers", KNOWN) == ""
    assert suggestion("layers", [*KNOWN, "spans"]) == "spans"


@pytest.mark.parametrize("typed", ["stop", "stop-daemon", "stop_node", "restart", "start daemon"])
def test_the_daemon_itself_is_the_service_managers(typed: str) -> None:
    assert "systemctl" in service_hint(typed)


def test_stopping_fits_a_daemon_that_the_user_started() -> None:
    assert "kill PID" in service_hint("stop")


@pytest.mark.parametrize("typed", ["stop-plugin", "status", "stopp", "", "daemon-stop-all"])
def test_other_words_get_no_hint_of_the_service(typed: str) -> None:
    assert service_hint(typed) == ""


def test_distance_counts_a_swap_once() -> None:
    assert [distance(*p) for p in (("abc", "acb"), ("abc", "abc"), ("", "ab"), ("ab", "c"))] == [
        1,
        0,
        2,
        2,
    ]
