"""Relays as processes of their own: what they see of the bytes, and what happens when they die."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from aitorrent_nat.relay.claims import MAGIC
from aitorrent_nat.relay.messages import TOKEN_BYTES
from aitorrentd.api import AitorrentError, PeerGone, PeerId, Stream
from tests.support.nat.relayed import RelayNode, relay_node, start_relay
from tests.support.nodes import wait_for
from tests.support.transport.transport_nodes import ECHO, SINK, NodeProcess

MIB = 2**20
NOISE = b"AIT1"
LIMITS = {"rate": "1 GiB/s", "total_rate": "1 GiB/s", "bytes_per_hour": "10 GiB"}


class Tap:
    """Forwards connections to a relay, and keeps a copy of all bytes."""

    def __init__(self, port: int, relay: PeerId) -> None:
        self.id = relay
        self.port = 0
        self.sent: list[bytearray] = []
        "What was sent to the relay, by connection."
        self.received: list[bytearray] = []
        self._to = port

    @property
    def address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{self.id}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Tap]:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, away = await asyncio.open_connection("127.0.0.1", self._to)
        sent, received = bytearray(), bytearray()
        self.sent.append(sent)
        self.received.append(received)
        await asyncio.gather(_copy(reader, away, sent), _copy(there, writer, received))


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray
) -> None:
    try:
        while part := await reader.read(MIB):
            kept += part
            writer.write(part)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def memory_of(pid: int) -> bytes:
    """All private writable memory of a process."""
    found = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if match is not None:
                start, end = (int(part, 16) for part in match.groups())
                memory.seek(start)
                found.append(memory.read(end - start))
    return b"".join(found)


async def reply_of(stream: Stream, content: bytes) -> bytes:
    await stream.write(content)
    await stream.close_write()
    return await stream.read_exactly(len(content))


async def test_a_relay_never_sees_plaintext(tmp_path: Path) -> None:
    secret = os.urandom(64)
    process = await start_relay(tmp_path, "relay", relay_limits=LIMITS)
    try:
        async with (
            Tap(process.port, process.id).open() as tap,
            relay_node(tmp_path, "target") as target,
            relay_node(tmp_path, "dialer") as dialer,
        ):
            await target.reserves_at(tap)
            await dialer.transport.connect(target.behind(tap))
            stream = await dialer.transport.open_stream(target.id, ECHO)
            content = secret * 4096
            assert await reply_of(stream, content) == content

            legs = [n for n, sent in enumerate(tap.sent) if sent.startswith(MAGIC)]
            assert len(legs) == 2
            into = [bytes(tap.sent[n][len(MAGIC) + TOKEN_BYTES :]) for n in legs]
            out = [bytes(tap.received[n]) for n in legs]
            # What passes is the handshake and the records of the two ends, and nothing else.
            assert sorted(each.startswith(NOISE) for each in into) == [False, True]
            assert len(into[0]) > len(content) < len(into[1])
            await wait_for(lambda: bytes(tap.received[legs[0]]) == into[1])
            await wait_for(lambda: bytes(tap.received[legs[1]]) == into[0])
            for passed in map(bytes, (*into, *out, *tap.sent, *tap.received)):
                assert secret[:16] not in passed
            # Not even the bytes that pass enter the relay's memory, whose own keys do.
            memory = memory_of(process.process.pid)
            assert process.id.encode() in memory
            assert secret[:16] not in memory
            assert into[0][-64:] not in memory
    finally:
        await process.kill()


def given_in(file: Path) -> int:
    """Reservations in the database of a relay that runs."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM given").fetchone()[0])


async def killed_in_transfer(
    one: RelayNode, other: RelayNode, victim: NodeProcess
) -> tuple[float, AitorrentError]:
    """SIGKILL `victim` in the middle of a transfer; when, and what the transfer says."""
    stream = await one.transport.open_stream(other.id, SINK)
    with pytest.raises(PeerGone) as caught:
        for n in range(100_000):
            await stream.write(bytes(256 * 1024))
            if n == 20:
                await victim.kill()
                at = time.monotonic()
    return at, caught.value


async def test_a_relay_killed_in_mid_transfer_is_replaced_by_another(tmp_path: Path) -> None:
    first = await start_relay(tmp_path, "first", relay_limits=LIMITS)
    second = await start_relay(tmp_path, "second", relay_limits=LIMITS)
    third = await start_relay(tmp_path, "third", relay_limits=LIMITS)
    try:
        async with (
            relay_node(tmp_path, "target") as target,
            relay_node(tmp_path, "dialer") as dialer,
        ):
            await target.reserves_at(first, second)
            target.plugin.relays.add(third.id)
            await target.transport.connect(third.address)
            view = await dialer.transport.connect(target.behind(first))
            assert view.route == "relay"
            at, error = await killed_in_transfer(dialer, target, first)
            assert "the channel ended" in error.message
            assert time.monotonic() - at < 5
            # Loopback addresses are not believed through a relay, so the test names the other one.
            elsewhere = [target.behind(second)]
            stream = await dialer.transport.open_stream(target.id, ECHO, addresses=elsewhere)
            assert await reply_of(stream, b"again") == b"again"
            assert time.monotonic() - at < 10
            again = dialer.transport.peer(target.id)
            assert again is not None
            assert again.address in target.behind(second)
            # The third takes the place of the first.
            await wait_for(lambda: set(target.live()) == {second.id, third.id})
            assert time.monotonic() - at < 10
    finally:
        for process in (first, second, third):
            await process.kill()


async def test_a_killed_relay_still_knows_its_reservations(tmp_path: Path) -> None:
    limits = {**LIMITS, "reservations": 1}
    relay = await start_relay(tmp_path, "relay", relay_limits=limits)
    try:
        async with relay_node(tmp_path, "holder") as holder:
            await holder.reserves_at(relay)
            file = next((tmp_path / "relay").rglob("nat.sqlite"))
            await wait_for(lambda: given_in(file) == 1)
            await relay.kill()
        relay = await start_relay(tmp_path, "relay", relay.port, relay_limits=limits)
        async with relay_node(tmp_path, "late", reservations=1) as late:
            late.plugin.relays.add(relay.id)
            await late.transport.connect(relay.address)
            late.part.reserver.wake.set()
            await wait_for(lambda: "1 reservations, its limit" in str(late.part.reserver.problems))
        async with relay_node(tmp_path, "holder") as holder:
            await wait_for(lambda: holder.live() == [relay.id])
    finally:
        await relay.kill()


async def test_a_killed_relay_that_comes_back_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aitorrent_nat.relay.choosing.FIRST_WAIT_S", 0.5)
    relay = await start_relay(tmp_path, "relay", relay_limits=LIMITS)
    try:
        async with relay_node(tmp_path, "target") as target:
            await target.reserves_at(relay)
            target.plugin.relays.clear()  # nothing but its own memory leads it there
            await relay.kill()
            await wait_for(lambda: not target.live())
            relay = await start_relay(tmp_path, "relay", relay.port, relay_limits=LIMITS)
            await wait_for(lambda: target.live() == [relay.id], 30)
            assert target.behind(relay) in target.transport.addresses()
    finally:
        await relay.kill()
