from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from pathlib import Path

import pytest

from aitorrent_transport.links.dial import dial
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.streams.frames import HEADER, Kind, frame
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Denied,
    InvalidParams,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    PeerGone,
    PeerId,
    Priority,
    Unavailable,
    pack,
)
from tests.support.nodes import wait_for
from tests.support.transport.transport_nodes import (
    BROKEN,
    ECHO,
    SINK,
    STUCK,
    Identity,
    TestNode,
    node,
)


def has_ipv6() -> bool:
    """Whether ::1 can be listened on here."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


async def test_two_nodes_connect_ping_stream_and_part(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        view = await a.transport.connect(f"127.0.0.1:{b.port}")
        assert view.id == b.id
        assert view.outbound
        await wait_for(lambda: b.transport.peer(a.id))
        assert 0 < await a.transport.ping(b.id) < 1
        assert await b.transport.ping(a.id) > 0
        stream = await a.transport.open_stream(b.id, ECHO)
        await stream.write(b"hello\nworld")
        await stream.close_write()
        assert await stream.read_line() == b"hello\n"
        assert await stream.read_exactly(5) == b"world"
        assert await stream.read() == b""
        await stream.close()
        await a.transport.disconnect(b.id)
        await wait_for(lambda: b.count(PeerDisconnected))
        assert a.count(PeerConnected) == b.count(PeerConnected) == 1
        assert not a.transport.peers()


async def test_names_reach_peers_harmless_and_follow_a_new_greeting(tmp_path: Path) -> None:
    hostile = 'e\x1b[31mvil", \u202e…fake (this node)' + "x" * 5000
    async with node(tmp_path, "a", name="ant") as a, node(tmp_path, "c") as nameless:
        async with node(tmp_path, "b", name=hostile) as b:
            view = await a.transport.connect(b.address)
            assert len(view.name) == 64
            assert view.name.startswith("e��31mvil�� ��fake �this node�xxx")
            await wait_for(lambda: b.transport.peer(a.id))
            assert [peer.name for peer in b.transport.peers()] == ["ant"]
            assert (await nameless.transport.connect(a.address)).name == "ant"
            assert a.transport.peer(nameless.id).name == ""  # type: ignore[union-attr]
        await wait_for(lambda: a.transport.peer(b.id) is None)
        async with node(tmp_path, "b", name="renamed", port=0) as b:
            await b.transport.connect(a.address)
            await wait_for(lambda: a.transport.peer(b.id))
            assert a.transport.peer(b.id).name == "renamed"  # type: ignore[union-attr]


async def test_streams_to_oneself_reach_the_same_handlers(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a:
        stream = await a.transport.open_stream(a.id, ECHO)
        assert stream.peer == a.id
        await stream.write(b"x" * 1_000_000)
        assert await stream.read_exactly(1_000_000) == b"x" * 1_000_000
        await stream.close()
        missing = await a.transport.open_stream(a.id, "/test/missing")
        with pytest.raises(PeerGone, match="no such protocol /test/missing"):
            await missing.read()
        assert await a.transport.ping(a.id) == 0.0


async def test_refused_streams_say_why_and_the_channel_goes_on(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.connect(b.address)
        missing = await a.transport.open_stream(b.id, "/test/missing")
        with pytest.raises(PeerGone, match="no such protocol /test/missing"):
            await missing.read()
        failing = await a.transport.open_stream(b.id, BROKEN)
        with pytest.raises(PeerGone, match="the handler failed"):
            await failing.read()
        held = [await a.transport.open_stream(b.id, STUCK) for _ in range(3)]
        fourth = await a.transport.open_stream(b.id, STUCK)
        with pytest.raises(PeerGone, match="more than 3 streams of /test/stuck"):
            await fourth.read()
        held[0].reset("done")
        with pytest.raises(InvalidParams, match="visible ASCII"):
            await a.transport.open_stream(b.id, "not an id")
        stream = await a.transport.open_stream(b.id, ECHO)
        await stream.write(b"alive")
        assert await stream.read_exactly(5) == b"alive"
        stream.reset()


async def test_handlers_end_with_their_plugin(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.connect(b.address)
        stream = await a.transport.open_stream(b.id, STUCK)
        await wait_for(lambda: b.transport._server._running)
        await b.kernel.disable("protocols")
        with pytest.raises(PeerGone, match="the handler was stopped"):
            await asyncio.wait_for(stream.read(), 5)
        again = await a.transport.open_stream(b.id, ECHO)
        with pytest.raises(PeerGone, match="no such protocol"):
            await again.read()


async def test_simultaneous_dials_leave_one_channel_and_no_farewell(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        for round_ in range(1, 6):
            await asyncio.gather(
                a.transport.connect(f"127.0.0.1:{b.port}"),
                b.transport.connect(f"127.0.0.1:{a.port}"),
            )
            await wait_for(lambda: _channels(a, b.id) == _channels(b, a.id) == 1)
            left, right = a.transport.table.get(b.id), b.transport.table.get(a.id)
            assert left is not None
            assert right is not None
            assert left.best.link.handshake_hash == right.best.link.handshake_hash
            assert await a.transport.ping(b.id) < 5
            assert a.count(PeerConnected) == b.count(PeerConnected) == round_
            assert a.count(PeerDisconnected) == round_ - 1
            await asyncio.gather(a.transport.disconnect(b.id), b.transport.disconnect(a.id))
            await wait_for(lambda: not a.transport.peers() and not b.transport.peers())


def _channels(here: TestNode, peer: PeerId) -> int:
    entry = here.transport.table.get(peer)
    return len(entry.channels) if entry else 0


async def test_second_channel_takes_no_stream_down(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.connect(b.address)
        stream = await a.transport.open_stream(b.id, ECHO)
        link = await dial("127.0.0.1", a.port, b.transport._credentials)
        await b.transport.table.adopt(link)
        await wait_for(lambda: _channels(a, b.id) == 2)
        other = await b.transport.open_stream(a.id, ECHO)
        for each in (stream, other):
            await each.write(b"still here")
            assert await each.read_exactly(10) == b"still here"
            await each.close()
        await wait_for(lambda: _channels(a, b.id) == _channels(b, a.id) == 1)
        assert a.count(PeerDisconnected) == b.count(PeerDisconnected) == 0


async def test_reconnected_peer_replaces_a_channel_that_died_unnoticed(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.connect(b.address)
        await wait_for(lambda: b.transport.peer(a.id))
        entry = b.transport.table.get(a.id)
        assert entry is not None
        dead = entry.best
        dead.link.on_record = lambda record: None  # nothing arrives there any more
        link = await dial("127.0.0.1", a.port, b.transport._credentials)
        await b.transport.table.adopt(link)
        assert entry.best is not dead
        await wait_for(lambda: dead.closed)
        assert "no answer" in str(dead.closed)
        assert b.count(PeerDisconnected) == 0


async def test_pinned_peer_must_be_the_one_that_answers(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b, node(tmp_path, "c") as c:
        with pytest.raises(AitorrentError, match=f"{b.id[-8:]}"):
            await a.transport.connect(f"/ip4/127.0.0.1/tcp/{b.port}/p2p/{c.id}")
        with pytest.raises(InvalidParams, match="this node itself"):
            await a.transport.connect(a.address)
        with pytest.raises(AitorrentError, match="itself|own|self"):
            await a.transport.connect(f"127.0.0.1:{a.port}")
        assert not a.transport.peers()


async def test_networks_and_pre_shared_keys_keep_nodes_apart(tmp_path: Path) -> None:
    key = "correct horse battery"
    async with (
        node(tmp_path, "a", psk=key) as a,
        node(tmp_path, "b", psk=key) as b,
        node(tmp_path, "c", psk="another secret of a net") as c,
        node(tmp_path, "d", psk=key, network="other") as d,
        node(tmp_path, "e") as e,
    ):
        await a.transport.connect(b.address)
        for stranger in (c, e):
            with pytest.raises(AitorrentError, match="pre-shared key"):
                await a.transport.connect(stranger.address)
            with pytest.raises(AitorrentError, match="pre-shared key"):
                await stranger.transport.connect(a.address)
        with pytest.raises(AitorrentError, match="network"):
            await a.transport.connect(d.address)
        with pytest.raises(AitorrentError, match="network"):
            await d.transport.connect(a.address)
        assert [view.id for view in a.transport.peers()] == [b.id]
        for stranger in (c, d, e):
            assert stranger.count(PeerConnected) == 0


async def test_masked_channel_carries_everything(tmp_path: Path) -> None:
    async with node(tmp_path, "a", masking=True) as a, node(tmp_path, "b") as b:
        await a.transport.connect(b.address)
        stream = await a.transport.open_stream(b.id, SINK)
        await stream.write(bytes(3_000_000))
        await stream.close_write()
        assert await stream.read() == b"3000000"
        await stream.close()
        await b.transport.disconnect(a.id)
        await a.transport.disconnect(b.id)
        await wait_for(lambda: not a.transport.peers())
        await b.transport.connect(f"/ip4/127.0.0.1/tcp/{a.port}/ws/p2p/{a.id}")
        assert await b.transport.ping(a.id) > 0


async def test_masking_is_what_goes_over_the_wire(tmp_path: Path) -> None:
    first: asyncio.Queue[bytes] = asyncio.Queue()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first.put_nowait(await reader.read(4))
        writer.close()

    async with await asyncio.start_server(watch, "127.0.0.1", 0) as server:
        where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for masking, expected in ((True, b"GET "), (False, b"AIT1")):
            async with node(tmp_path, f"a{masking}", masking=masking) as a:
                with pytest.raises(AitorrentError, match=where):
                    await a.transport.connect(where)
            assert await first.get() == expected


async def test_full_node_and_policy_refuse_with_a_reason(tmp_path: Path) -> None:
    async with (
        node(tmp_path, "a", max_peers=1) as a,
        node(tmp_path, "b") as b,
        node(tmp_path, "c") as c,
    ):
        await b.transport.connect(a.address)
        with pytest.raises(Unavailable, match=r"has reached max_peers \(1\)"):
            await c.transport.connect(a.address)
        with pytest.raises(Busy, match=r"has reached max_peers \(1\)"):
            await a.transport.connect(c.address)
        c.policy.refused.add(b.id)
        with pytest.raises(Unavailable, match="not on the list"):
            await b.transport.connect(c.address)
        with pytest.raises(Denied, match="not on the list"):
            await c.transport.connect(b.address)
        assert c.count(PeerConnected) == 0


async def test_peer_that_breaks_the_protocol_is_banned_for_a_time(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.connect(b.address)
        entry = a.transport.table.get(b.id)
        assert entry is not None
        entry.best.link.send(frame(Kind.DATA, 77, b"x"))
        await wait_for(lambda: a.count(PeerDisconnected))
        assert "never opened" in str(entry.best.closed if entry.channels else a.events[-1])
        await a.transport.disconnect(b.id)
        with pytest.raises(
            Unavailable, match="banned for another [0-9]+ s: protocol error.*never opened"
        ):
            await a.transport.connect(b.address)
        assert b.transport.guard.bans.count == 1


async def test_random_records_of_an_authenticated_peer_leave_the_node_alive(
    tmp_path: Path,
) -> None:
    rng = random.Random(7)
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        sent = 0
        for i in range(200):
            signer = Identity(f"attacker {i}")
            link = await dial("127.0.0.1", a.port, Credentials(signer, "test", "attacker"))
            link.start()
            link.send(frame(Kind.HELLO, 0, pack({"v": 1})))
            for _ in range(50):
                kind = rng.randrange(12)
                body = rng.randbytes(rng.randrange(30))
                record = HEADER.pack(kind, rng.choice([0, 1, 3, 5, 2**31]), len(body)) + body
                link.send(rng.choice([record, rng.randbytes(40), record + record]))
                sent += 1
            await asyncio.sleep(0)
            link.close()
        assert sent == 10_000
        await wait_for(lambda: not a.transport.peers())
        assert a.transport.guard.bans.count > 150
        await b.transport.connect(a.address)
        stream = await b.transport.open_stream(a.id, ECHO)
        await stream.write(b"alive")
        assert await stream.read_exactly(5) == b"alive"
        stream.reset()


async def test_random_bytes_on_the_port_leave_the_node_alive(tmp_path: Path) -> None:
    rng = random.Random(8)
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        for i in range(100):
            _, writer = await asyncio.open_connection("127.0.0.1", a.port)
            for _ in range(100):
                writer.write((b"AIT1" if i % 3 == 0 else b"") + rng.randbytes(rng.randrange(60)))
            with contextlib.suppress(OSError):
                await writer.drain()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await b.transport.connect(a.address)
        assert [view.id for view in a.transport.peers()] == [b.id]


async def test_broadcast_reaches_every_peer_within_its_rate(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b, node(tmp_path, "c") as c:
        assert await a.transport.broadcast("nobody hears") == 0
        await a.transport.connect(b.address)
        await c.transport.connect(a.address)
        assert await a.transport.broadcast("hello ☃") == 2
        await wait_for(lambda: b.count(MessageReceived) and c.count(MessageReceived))
        assert MessageReceived(a.id, "hello ☃") in b.events
        with pytest.raises(InvalidParams, match="1 to 4096"):
            await a.transport.broadcast("x" * 4097)
        await c.transport.disconnect(a.id)
        await a.transport.disconnect(c.id)
        await wait_for(lambda: len(a.transport.peers()) == 1)
        taken = sum([await a.transport.broadcast(str(i)) for i in range(110)])
        assert 98 <= taken <= 101
        assert b.count(MessageReceived) == taken + 1


async def test_stream_that_is_not_read_leaves_the_others_fast(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.connect(b.address)
        stalled = await a.transport.open_stream(b.id, STUCK)
        filling = asyncio.create_task(stalled.write(bytes(50_000_000)))
        stream = await a.transport.open_stream(b.id, SINK)
        await asyncio.wait_for(stream.write(bytes(20_000_000)), 20)
        await stream.close_write()
        assert await asyncio.wait_for(stream.read(), 5) == b"20000000"
        entry = b.transport.table.get(a.id)
        assert entry is not None
        assert sum(s.receiving.buffered for s in entry.best.mux.states()) <= 256 * 1024
        assert not filling.done()
        stalled.reset()
        with pytest.raises(PeerGone, match="reset"):
            await filling


async def test_streams_opened_too_fast_are_refused_and_later_ones_are_not(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.connect(b.address)
        peer = a.transport.table.get(b.id)
        assert peer is not None
        channel = peer.best
        refused = 0
        async with asyncio.timeout(30):
            while refused <= 50:
                stream = channel.open("/test/missing", Priority.CONTROL)
                try:
                    await stream.read()
                except PeerGone as e:
                    refused += "streams per second" in e.message

        async def is_served_again() -> bool:
            later = await a.transport.open_stream(b.id, ECHO)
            try:
                await later.write(b"again")
                return await later.read_exactly(5) == b"again"
            except PeerGone:
                return False
            finally:
                later.reset()

        await wait_for(is_served_again)


async def test_many_streams_at_once_are_paced_and_none_is_refused(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.connect(b.address)
        for _ in range(500):
            stream = await a.transport.open_stream(b.id, ECHO)
            await stream.write(b"once")
            assert await stream.read_exactly(4) == b"once"
            await stream.close()
        with pytest.raises(Busy, match="too many streams"):
            for _ in range(400):
                (await a.transport.open_stream(b.id, ECHO, timeout_s=0)).reset()


async def test_message_that_never_ends_costs_its_sender_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aitorrent_transport.protocols.broadcast._TIMEOUT_S", 0.2)
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.connect(b.address)
        stream = await a.transport.open_stream(b.id, "/ai-torrent/1/message")
        await stream.write(b"hal")
        with pytest.raises(PeerGone, match="no complete message"):
            await asyncio.wait_for(stream.read(), 5)
        long = await a.transport.open_stream(b.id, "/ai-torrent/1/message")
        with pytest.raises(PeerGone, match="more than 16384 bytes"):
            await long.write(b"x" * 20_000)
            await long.read()
        assert b.count(MessageReceived) == 0


async def test_authenticated_peers_that_never_greet_do_not_keep_others_out(
    tmp_path: Path,
) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        silent = []
        for i in range(100):
            credentials = Credentials(Identity(f"silent {i}"), "test", "silent")
            silent.append(await dial("127.0.0.1", a.port, credentials))
        await wait_for(lambda: len(a.transport.table._pending) == 64)
        await asyncio.wait_for(b.transport.connect(a.address), 3)
        assert [view.id for view in a.transport.peers()] == [b.id]
        for link in silent:
            link.abort()
        await wait_for(lambda: not a.transport.table._pending)


async def test_one_port_serves_every_listened_address(tmp_path: Path) -> None:
    async with (
        node(tmp_path, "a", listen=["127.0.0.1", "127.0.0.2"]) as a,
        node(tmp_path, "b") as b,
    ):
        assert {port for _, port in a.transport.bound} == {a.port}
        view = await b.transport.connect(f"127.0.0.2:{a.port}")
        assert view.id == a.id
        assert list(a.transport.addresses()) == [
            f"/ip4/127.0.0.{i}/tcp/{a.port}/p2p/{a.id}" for i in (1, 2)
        ]


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
async def test_nodes_meet_over_ipv6(tmp_path: Path) -> None:
    async with node(tmp_path, "a", listen="::1") as a, node(tmp_path, "b", listen="::1") as b:
        address = f"/ip6/::1/tcp/{a.port}/p2p/{a.id}"
        assert list(a.transport.addresses()) == [address]
        view = await b.transport.connect(address)
        assert (view.id, view.address) == (a.id, f"/ip6/::1/tcp/{a.port}")
        assert 0 < await b.transport.ping(a.id) < 5
        stream = await b.transport.open_stream(a.id, ECHO)
        await stream.write(b"x" * 1_000_000)
        assert await stream.read_exactly(1_000_000) == b"x" * 1_000_000
        await stream.close()
        # By the address that it told: nobody gave b's to a.
        await b.transport.disconnect(a.id)
        await wait_for(lambda: not a.transport.peers())
        back = await a.transport.open_stream(b.id, ECHO)
        await back.write(b"back")
        assert await back.read_exactly(4) == b"back"
        back.reset()
        assert (await b.transport.dial_once(f"[::1]:{a.port}")).id == a.id
        check = next(c for owner, c in a.kernel.checks() if owner == "transport")
        assert (await check.run()).status == "ok"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
async def test_wildcards_of_both_families_share_a_port(tmp_path: Path) -> None:
    async with node(tmp_path, "a", listen=["0.0.0.0", "::"]) as a, node(tmp_path, "b") as b:
        assert [host for host, _ in a.transport.bound] == ["0.0.0.0", "::"]
        assert (await b.transport.dial_once(f"[::1]:{a.port}")).id == a.id
        await b.transport.disconnect(a.id)
        await wait_for(lambda: not b.transport.peers())
        assert (await b.transport.dial_once(f"127.0.0.1:{a.port}")).id == a.id


async def test_announced_addresses_are_told_instead_of_the_real_ones(tmp_path: Path) -> None:
    async with node(tmp_path, "a", announce=["example.org:8468"]) as a:
        assert list(a.transport.addresses()) == [f"/dns/example.org/tcp/8468/p2p/{a.id}"]
