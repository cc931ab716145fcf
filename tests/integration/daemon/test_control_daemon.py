"""The control socket of a real daemon under attack and after a crash."""

from __future__ import annotations

import contextlib
import random

import pytest

from aitorrentd.errors import TimedOut
from tests.support.control_frames import random_frame
from tests.support.control_server import RawPeer
from tests.support.nodes import DaemonFactory


async def test_10000_random_frames_leave_a_daemon_that_answers(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory()
    rng = random.Random(7)
    assert await daemon.call("rpc.ping") == {"pong": True}
    before = daemon.rss_bytes()
    sent = 0
    while sent < 10_000:
        async with await RawPeer.connect(daemon.socket, greet=rng.random() < 0.9) as peer:
            for _ in range(rng.randrange(1, 20)):
                peer.send_bytes(random_frame(rng))
                sent += 1
            with contextlib.suppress(OSError):  # the daemon may have hung up
                await peer.writer.drain()
    assert await daemon.call("rpc.ping") == {"pong": True}
    assert daemon.rss_bytes() - before < 32 * 2**20


async def test_a_killed_daemon_starts_again_over_its_old_socket(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory()
    before = await daemon.call("node.id")
    await daemon.kill()
    assert daemon.socket.exists()
    daemon = await daemon_factory(directory=daemon.directory)
    assert (await daemon.call("node.id"))["id"] == before["id"]
    await daemon.stop()
    assert not daemon.socket.exists()


async def test_stopping_over_the_control_api_answers_first(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory()
    async with await daemon.client() as client:
        assert await client.call("node.stop") == {}
    assert await daemon.ended() == 0


async def test_a_stream_and_calls_of_many_clients_go_on_together(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory()
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await daemon.client()) for _ in range(20)]
        for client in clients:
            lines = [line async for line in client.stream("node.logs", {"lines": 5})]
            assert len(lines) >= 1
        with pytest.raises(TimedOut, match="transport is running, not stopped"):
            await clients[0].call(
                "node.wait", {"plugin": "transport", "state": "stopped", "timeout_s": 0.05}
            )
        assert await clients[1].call("rpc.ping") == {"pong": True}
