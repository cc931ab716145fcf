"""Bans between nodes over real sockets: they take effect at once and outlive the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitorrent_transport.protection.guard import BAN_AT, POINTS
from aitorrentd.api import Busy, Denied, NotFound, Offence, PeerDisconnected, Unavailable
from tests.support.nodes import wait_for
from tests.support.transport.transport_nodes import node


async def test_operator_ban_disconnects_refuses_and_outlives_a_restart(tmp_path: Path) -> None:
    async with node(tmp_path, "b") as b:
        async with node(tmp_path, "a") as a:
            await b.transport.connect(a.address)
            await a.transport.banning.ban(b.id, 3600.0, "sends spam")
            await wait_for(lambda: b.count(PeerDisconnected))
            with pytest.raises(Unavailable, match="banned for another [0-9]+ s: sends spam"):
                await b.transport.connect(a.address)
        async with node(tmp_path, "a") as a:
            with pytest.raises(Unavailable, match="banned for another 3[0-9]+ s: sends spam"):
                await b.transport.connect(a.address)
            with pytest.raises(Denied, match="sends spam"):
                await a.transport.connect(b.address)
            await a.transport.banning.unban(b.id)
            with pytest.raises(NotFound, match="is not banned"):
                await a.transport.banning.unban(b.id)
            await b.transport.connect(a.address)
        async with node(tmp_path, "a") as a:
            await b.transport.connect(a.address)


async def test_banned_address_is_told_before_its_handshake(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.banning.ban("127.0.0.0/8", 60.0, "loopback")
        with pytest.raises(Busy, match="it has temporarily banned this address"):
            await b.transport.connect(a.address)
        assert a.transport.listener.failed == 0
        await a.transport.banning.unban("127.0.0.0/8")
        await b.transport.connect(a.address)


async def test_peer_whose_offences_add_up_is_disconnected_and_saved(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await b.transport.connect(a.address)
        await wait_for(lambda: a.transport.peers())
        for _ in range(int(BAN_AT / POINTS[Offence.INVALID_MESSAGE]) + 1):
            a.transport.guard.report(b.id, Offence.INVALID_MESSAGE, "not JSON")
        await wait_for(lambda: a.count(PeerDisconnected))

        async def saved() -> list[tuple[str, str, int]]:
            return [(s.subject, s.reason, s.times) for s in await a.transport.store.bans()]

        found: list[tuple[str, str, int]] = await wait_for(saved)
        assert found == [(b.id, "invalid message: not JSON", 1)]
