"""Daemons on one machine that find each other by the address file."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

from tests.support.nodes import Daemon, DaemonFactory, wait_for

OTHERS_OFF = {
    name: {"enabled": False} for name in ("ollama", "openai", "shards", "inference", "dht")
}


async def until_connected(daemon: Daemon, peer: str) -> None:
    async def connected() -> Any:
        peers = (await daemon.call("transport.peers"))["peers"]
        return any(p["id"] == peer for p in peers)

    await wait_for(connected, 20, every_s=0.1)


async def test_file_is_there_while_the_daemon_runs(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory({"plugins": OTHERS_OFF})
    file = daemon.state_dir / "run" / "daemon.addr"
    addresses = (await daemon.call("node.id"))["addresses"]
    assert addresses
    assert file.read_text().splitlines() == addresses
    await daemon.call("plugin.disable", {"name": "transport"})
    await wait_for(lambda: not file.exists())
    await daemon.call("plugin.enable", {"name": "transport"})
    await wait_for(file.exists)
    daemon.signal(signal.SIGTERM)
    assert await daemon.ended() == 0
    assert not file.exists()


async def test_daemon_is_found_by_its_file_also_at_another_port(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    directory = tmp_path / "one"
    directory.mkdir()
    file = directory / "state" / "run" / "daemon.addr"
    plugins: dict[str, Any] = OTHERS_OFF | {"transport": {"bootstrap": str(file)}}
    two = await daemon_factory({"plugins": plugins})  # before there is a file

    one = await daemon_factory({"plugins": OTHERS_OFF}, directory=directory)
    before = file.read_text()
    peer = (await one.call("node.id"))["id"]
    await until_connected(two, peer)

    await one.kill()
    assert file.read_text() == before  # nobody took it away
    # Somebody else has the port now, which port 0 would keep to.
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(before.split("/")[4])))
        other.listen()
        again = await daemon_factory(directory=directory)
        assert file.read_text() != before
        assert (await again.call("node.id"))["id"] == peer
        await until_connected(two, peer)


async def test_own_file_and_a_bad_one_do_no_harm(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    own = tmp_path / "state" / "run" / "daemon.addr"
    bad = tmp_path / "bad.addr"
    bad.write_bytes(b"\xff\xfe nonsense")
    plugins: dict[str, Any] = OTHERS_OFF | {"transport": {"bootstrap": [str(own), str(bad)]}}
    daemon = await daemon_factory({"plugins": plugins}, directory=tmp_path)
    status = await daemon.call("node.status")
    assert status["peers"] == 0
    assert "no_peers" in [w["code"] for w in status["warnings"]]
