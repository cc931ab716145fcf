"""`events`, `logs` and `config show` against a real node: ends, mistakes, defaults."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aitorrentd.control.client import Client
from tests.support.cli_nodes import Ctl, NodeThread


@pytest.mark.parametrize(("name", "hint"), [("coumt", "count"), ("cou", "count"), ("nope", "")])
def test_logs_of_a_plugin_that_is_not_there_are_an_error(ctl: Ctl, name: str, hint: str) -> None:
    code, out, err = ctl("logs", "--plugin", name)
    assert (code, out) == (1, "")
    said = f"did you mean {hint}?" if hint else "`aitorrentctl plugin list` shows all"
    assert err == f"Error: no plugin '{name}' is installed; {said}\n"


@pytest.mark.parametrize("command", [["events", "no.such.topic"], ["logs", "-f", "-n", "0"]])
def test_following_ends_after_the_timeout_with_75_when_nothing_came(
    ctl: Ctl, command: list[str]
) -> None:
    code, out, err = ctl(*command, "--timeout", "0.2")
    assert (code, out, err) == (75, "", "Error: no event within 0.2 s\n")


def test_following_ends_after_the_timeout_with_0_when_something_came(
    ctl: Ctl, node: NodeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Client.stream

    def stream(self: Client, *args: Any, **options: Any) -> Any:
        found = original(self, *args, **options)
        self.call("rpc.ping")  # the subscription exists once this is answered
        with Client(node.socket) as other:
            other.call("plugin.restart", {"name": "count"})
        return found

    monkeypatch.setattr(Client, "stream", stream)
    code, out, err = ctl("events", "plugin.changed", "--json", "--timeout", "1")
    assert (code, err) == (0, "")
    assert {json.loads(line)["topic"] for line in out.splitlines()} == {"plugin.changed"}


def test_configuration_is_shown_with_the_settings_that_nobody_set(
    ctl: Ctl, node: NodeThread
) -> None:
    lines = ctl("config", "show")[1].splitlines()
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:]}
    assert shown["plugins.count.enabled"] == "true  (default)"
    assert shown["log.level"] == '"info"  (default)'
    assert shown["node.name"] == '"tester"'
    with Client(node.socket) as client:
        reply = client.call("config.show", {"origin": True})
    assert reply["config"]["plugins"]["count"]["enabled"] is True
    assert "plugins.count.enabled" in reply["unset"]
    assert "node.name" not in reply["unset"]
    assert reply["origins"]["plugins.count.enabled"] == "default"
    assert set(reply["unset"]) == {k for k, v in reply["origins"].items() if v == "default"}
    assert "(default)" not in ctl("config", "show", "--origin")[1]
