"""What a node knows of the ways to its peers."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from aitorrent_transport.methods_why import WhyMethods, WhyParams, WhyResult
from aitorrentd.api import PEER_PORT, CallContext, NotFound, Unavailable
from tests.support.transport.brought import PUNCHED, relay_route, secured
from tests.support.transport.transport_nodes import TestNode, node


def why(here: TestNode, peer: str) -> WhyResult:
    return WhyMethods(here.transport).why(cast(CallContext, None), WhyParams(peer=peer))


async def test_why_tells_of_peers_that_are_not_connected(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        with pytest.raises(NotFound, match="no connected peer"):
            why(a, b.id[-8:])
        with pytest.raises(Unavailable):
            await a.transport.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{b.id}")
        told = why(a, b.id[-8:])
        assert (told.id, told.route, told.address, told.relayed) == (b.id, "", "", False)
        assert told.summary.startswith(
            "not connected; 1 attempt failed (direct), the last by direct"
        )
        assert [(row.way, row.ok, row.in_use) for row in told.attempts] == [
            ("direct", False, False)
        ]


async def test_why_tells_which_way_holds(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        ports = a.kernel.service(PEER_PORT), b.kernel.service(PEER_PORT)
        await secured(*ports, a.id, b.id, relay_route())
        told = why(a, b.id)
        assert (told.route, told.relayed) == ("relay", True)
        assert told.summary.endswith("no other way was tried yet")
        await secured(*ports, a.id, b.id)
        told = why(a, b.id)
        assert (told.route, told.relayed, told.address) == ("brought", False, PUNCHED.location)
        assert told.summary == f"connected (brought) at {PUNCHED.location}"
        assert [(row.way, row.in_use) for row in told.attempts] == [("move", True)]
