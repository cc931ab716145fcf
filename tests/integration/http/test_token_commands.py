"""`aitorrentctl token` and `doctor` with a real daemon that serves HTTP."""

from __future__ import annotations

import json

from tests.support import cli_runs
from tests.support.clients.raw_http import exchange, request
from tests.support.nodes import DaemonFactory


async def test_tokens_from_the_command_line(daemon_factory: DaemonFactory) -> None:
    on = {"enabled": True, "port": 0, "anonymous": []}
    daemon = await daemon_factory({"plugins": {"http": on}})
    code, out, err = await cli_runs.run(daemon, "token", "new", "laptop", "--days", "90")
    assert (code, err, out.startswith("ait_")) == (0, "", True)
    token = out.strip()
    code, out, _ = await cli_runs.run(daemon, "token", "list", "--json")
    (listed,) = json.loads(out)["tokens"]
    assert (code, listed["name"], listed["role"]) == (0, "laptop", "generate")
    assert listed["expires"] - listed["created"] == 90 * 86_400
    code, out, _ = await cli_runs.run(daemon, "token", "list")
    assert (code, "laptop" in out, token in out) == (0, True, False)
    address = (await daemon.call("http.status"))["listening"][0]
    raw = request("GET", "/v1/models", {"Authorization": f"Bearer {token}"})
    assert (await exchange(address, raw)).status == 200
    code, _, err = await cli_runs.run(daemon, "token", "new", "a b")
    rule = "name: use up to 64 letters, digits, dots, - or _; begin with a letter or digit"
    assert (code, rule in err) == (2, True), err
    code, out, _ = await cli_runs.run(daemon, "token", "revoke", "laptop")
    assert (code, out) == (0, "revoked laptop\n")
    assert (await exchange(address, raw)).status == 401
    assert token not in daemon.log()
    code, out, _ = await cli_runs.run(daemon, "token", "list")
    assert (code, out) == (0, "no tokens\n")
    code, out, _ = await cli_runs.run(daemon, "doctor")
    assert f"listening on {address}" in out
