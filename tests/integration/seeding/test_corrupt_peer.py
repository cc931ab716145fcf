"""A node that sends corrupt pieces: its address is refused, so it does not spoil piece by piece."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.nat.daemons import PORT, daemon_at
from tests.support.nat.lab import Host, lab
from tests.support.nat.namespaces import CAN_MAKE, REASON
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, torrents

SIZE = 32 * MIB
PIECE = 4 * MIB
MEET_S = 30.0

pytestmark = [pytest.mark.root, pytest.mark.skipif(not CAN_MAKE, reason=REASON)]


async def sharer(factory: DaemonFactory, host: Host, rate: str) -> Daemon:
    seeding = {"profile": "lan", "listen": "0.0.0.0", "upload_limit": rate}
    return await daemon_at(
        factory, host, {"plugins": {"dht": {"enabled": False}, "seeding": seeding}}
    )


@pytest.mark.slow
async def test_address_of_a_corrupt_peer_is_refused(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """Every piece of it is wrong; it sends four times as fast as the one that is right."""
    digest = make_file(tmp_path / "f", SIZE)
    make_file(tmp_path / "g", SIZE)
    with lab() as net:
        hosts = [net.public() for _ in range(3)]
        bad = await sharer(daemon_factory, hosts[0], "4MiB/s")
        good = await sharer(daemon_factory, hosts[1], "1MiB/s")
        for daemon, name in ((bad, "f"), (good, "g")):
            await daemon.call("seeding.share", {"path": str(tmp_path / name)})
        with (tmp_path / "f").open("r+b") as file:
            for piece in range(SIZE // PIECE):
                file.seek(piece * PIECE)
                file.write(b"corrupt")
        bootstrap = [f"{host.address}:{PORT}" for host in hosts[:2]]
        node = await daemon_at(
            daemon_factory,
            hosts[2],
            {
                "plugins": {
                    "dht": {"enabled": False},
                    "transport": {"bootstrap": bootstrap},
                    "seeding": {"profile": "lan", "listen": "0.0.0.0"},
                }
            },
        )

        async def met() -> bool:
            return len((await node.call("transport.peers"))["peers"]) == 2

        await wait_for(met, MEET_S)
        await download(node, digest)
        (row,) = await torrents(bad)
        assert row["uploaded"] < 4 * PIECE, "more than 40 MiB, if it may come back"
        assert f"corrupt pieces came from {hosts[0].address}; refusing" in node.log()
        assert f"came from {hosts[1].address}" not in node.log()
