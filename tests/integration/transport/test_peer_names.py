"""What people see of peers' names, by `aitorrentctl` against real daemons."""

from __future__ import annotations

import json
from typing import Any

from tests.support.cli_runs import run, terminal_output
from tests.support.nodes import Daemon, DaemonFactory


async def named(factory: DaemonFactory, name: str, to: Daemon | None = None) -> Daemon:
    config: dict[str, Any] = {"node": {"name": name}} if name else {}
    daemon = await factory(config)
    if to is not None:
        address = (await to.call("transport.addresses"))["addresses"][0]
        await daemon.call("transport.connect", {"address": address})
    return daemon


async def test_names_are_shown_beside_ids_and_never_taken_for_one(
    daemon_factory: DaemonFactory,
) -> None:
    a = await named(daemon_factory, "ant")
    b = await named(daemon_factory, "bee", a)
    c = await named(daemon_factory, "", a)
    ids = {d: (await d.call("node.id"))["id"] for d in (a, b, c)}

    _, out, _ = await run(a, "peers", "--json")
    assert {p["id"]: p["name"] for p in json.loads(out)["peers"]} == {ids[b]: "bee", ids[c]: ""}
    _, out, _ = await run(b, "peers")
    assert out.splitlines()[0].split()[:3] == ["PEER", "NAME", "ADDRESS"]
    assert out.splitlines()[1].split()[:2] == ["…" + ids[a][-8:], "ant"]
    _, out, _ = await run(a, "peers")
    assert {tuple(line.split()[:2]) for line in out.splitlines()[1:]} == {
        ("…" + ids[b][-8:], "bee"),
        ("…" + ids[c][-8:], "-"),  # the host's name is not told
    }

    code, _, err = await run(b, "ping", "ant")
    assert code == 2
    assert f"run: aitorrentctl ping {ids[a][-8:]}" in " ".join(err.split())
    assert "any node can call itself" in " ".join(err.split())
    assert "…" + ids[a][-8:] in err
    for command in ("disconnect", "trust", "peers ban", "peers unban"):
        code, _, err = await run(a, *command.split(), "bee")
        assert code == 2
        assert f"run: aitorrentctl {command} {ids[b][-8:]}" in " ".join(err.split())
    assert len((await a.call("transport.peers"))["peers"]) == 2
    assert "Only the id proves identity" in " ".join((await run(a, "peers", "--help"))[1].split())


async def test_peers_fit_the_terminal(daemon_factory: DaemonFactory) -> None:
    a = await named(daemon_factory, "ant")
    await named(daemon_factory, "a-long-name-of-a-node", a)
    for columns in (80, 120):
        lines = (await terminal_output(a, columns, "peers")).splitlines()
        assert len(lines) == 2
        assert max(map(len, lines)) <= columns
        assert {"PEER", "NAME", "ADDRESS", "RTT"} <= set(lines[0].split())
    assert "IN" in lines[0].split()  # 120 columns have room for it


async def test_a_banned_peer_is_named_as_banned(daemon_factory: DaemonFactory) -> None:
    a = await named(daemon_factory, "ant")
    b = await named(daemon_factory, "two", a)
    end = (await b.call("node.id"))["id"][-8:]
    assert (await run(a, "peers", "ban", end))[0] == 0
    _, _, err = await run(a, "ping", end)
    assert f"…{end} is banned; lift the ban: aitorrentctl peers unban {end}" in err
    code, _, err = await run(a, "ping", "two")
    assert code == 2
    assert "for ids, see aitorrentctl peers, or peers --banned" in err
    code, out, _ = await run(a, "trust", end)
    assert code == 0
    assert "by the operator" in out
