"""Beside peers that are as fast alone, the web is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.nodes import DaemonFactory
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon
from tests.support.seeding.web import file_server

SIZE = 256 * MIB


@pytest.mark.timeout(180)
async def test_web_is_left_out_while_a_peer_alone_is_as_fast(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """The peer sends 16 MiB/s, and the web 1: a piece in four seconds, if it is asked all along."""
    digest = make_file(tmp_path / "f", SIZE)
    a = await seeding_daemon(daemon_factory, upload_limit="16MiB/s")
    await a.call("seeding.share", {"path": str(tmp_path / "f")})
    b = await seeding_daemon(daemon_factory, a, web_connections=1)
    async with file_server((tmp_path / "f").read_bytes()) as web:
        web.rate_bps = MIB
        items = await download(b, digest, urls=[web.url])
        asked = len(web.requests)
    assert 1 <= asked <= 3
    assert items[-1]["from_peers"] >= SIZE - 12 * MIB
