"""Masked connections: a WebSocket for everybody in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Ping, Pong, Request, TextMessage

from aitorrent_transport.links.dial import dial
from aitorrent_transport.links.listener import Listener
from aitorrent_transport.secure.handshake import Handshake
from aitorrent_transport.secure.records import RecordReader, RecordWriter
from aitorrentd.api import ProtocolError, Unavailable
from tests.support.transport.link_peers import Watch, make_credentials

Relay = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[int, list[Watch]]]:
    watches: list[Watch] = []
    listener = Listener(make_credentials(), lambda link: watches.append(Watch(link, echo=True)))
    _, port = await listener.listen("127.0.0.1", 0)
    try:
        yield port, watches
    finally:
        await listener.close()
        for watch in watches:
            watch.link.abort()
            await watch.lost()


@asynccontextmanager
async def proxy(relay: Relay) -> AsyncIterator[int]:
    """A server for one connection."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await relay(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _head(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: int) -> None:
    """Copies bytes in pieces of at most `cut`."""
    while piece := await reader.read(cut):
        writer.write(piece)
        await writer.drain()
    writer.close()


async def _join(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    other: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    cut: int = 65_536,
) -> None:
    try:
        await asyncio.gather(_pump(one[0], other[1], cut), _pump(other[0], one[1], cut))
    finally:
        one[1].close()
        other[1].close()


async def _exchange(port: int, **options: object) -> None:
    """A link through whatever listens at `port` carries records both ways."""
    link = await dial("127.0.0.1", port, make_credentials(), masked=True, **options)  # type: ignore[arg-type]
    watch = Watch(link)
    payloads = [b"", b"small", bytes(65_536)] * 3
    for payload in payloads:
        link.send(payload)
    await watch.until(lambda w: len(w.records) == len(payloads))
    assert watch.records == payloads
    link.close("done")
    assert await watch.lost() == "done"


async def test_link_passes_a_forwarding_proxy_that_rewrites_the_request() -> None:
    async with echoing() as (port, _):
        seen = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await _head(reader)
            seen.append(head)
            there = await asyncio.open_connection("127.0.0.1", port)
            lines = head.split(b"\r\n")
            lines.insert(1, b"X-Forwarded-For: 203.0.113.9\r\nVia: 1.1 proxy")
            there[1].write(b"\r\n".join(lines))
            await _join((reader, writer), there)

        async with proxy(relay) as at:
            await _exchange(at)
        assert seen[0].startswith(b"GET / HTTP/1.1\r\n")
        assert b"\r\nUpgrade: WebSocket\r\n" in seen[0].replace(b"websocket", b"WebSocket")
        assert f"Host: 127.0.0.1:{at}".encode() in seen[0]
        assert b"Sec-WebSocket-Protocol" not in seen[0]


async def test_link_survives_a_path_that_cuts_frames_to_crumbs() -> None:
    async with echoing() as (port, _):

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection("127.0.0.1", port)
            await _join((reader, writer), there, cut=700)

        async with proxy(relay) as at:
            await _exchange(at)


async def test_web_server_without_a_peer_is_named() -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await reader.read()

    async with proxy(relay) as at:
        with pytest.raises((Unavailable, ProtocolError), match="web server|broken WebSocket"):
            await dial("127.0.0.1", at, make_credentials(), masked=True)


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/8\r\n\r\n", b"426 Upgrade Required"),
        (b"GET /favicon.ico HTTP/1.1\r\nHost: x\r\n\r\n", b"404 Not Found"),
        (b"GET / HTTP/1.1\r\nCookie: " + b"x" * 9000, b"431 Request Header Fields"),
        (b"GET / rubbish\r\n\r\n", b"426 Upgrade Required"),
        (b"GET \r\n\r\n", b"404 Not Found"),
    ],
)
async def test_browser_gets_a_small_page(request_head: bytes, status: bytes) -> None:
    async with echoing() as (port, watches):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_head)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 " + status)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Content-Length: %d" % len(body) in head
        assert not watches


class Browser:
    """A WebSocket client of another make, byte by byte under the test's control."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.ws = WSConnection(ConnectionType.CLIENT)
        self.received = b""
        self.pongs: list[bytes] = []

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(self.ws.send(Request(host="example.org", target="/")))
        while not any(isinstance(e, AcceptConnection) for e in await self._events()):
            pass

    async def _events(self) -> list[object]:
        chunk = await asyncio.wait_for(self.reader.read(65_536), 5)
        if not chunk:
            raise EOFError("the other side closed")
        self.ws.receive_data(chunk)
        return list(self.ws.events())

    async def receive(self) -> None:
        for event in await self._events():
            if isinstance(event, BytesMessage):
                self.received += event.data
            elif isinstance(event, Pong):
                self.pongs.append(bytes(event.payload))

    async def shake_hands(self, *, cut: int) -> tuple[RecordWriter, RecordReader]:
        """The handshake in fragmented messages, with pings between the fragments."""
        dialer = Handshake(make_credentials(), dialer=True)
        out = dialer.start()
        while dialer.result is None:
            self.send(out, cut=cut)
            while not self.received:
                await self.receive()
            out, self.received = dialer.receive(self.received), b""
        self.received = dialer.rest
        session = dialer.result
        return (
            RecordWriter(session.sending, session.suite),
            RecordReader(session.receiving, asyncio.get_running_loop().time, session.suite),
        )

    def send(self, payload: bytes, *, cut: int) -> None:
        for at in range(0, len(payload), cut):
            last = at + cut >= len(payload)
            piece = payload[at : at + cut]
            self.writer.write(self.ws.send(BytesMessage(piece, message_finished=last)))
            self.writer.write(self.ws.send(Ping(b"%d" % at)))


async def test_fragmented_messages_and_pings_are_understood() -> None:
    async with echoing() as (port, _):
        browser = Browser(port)
        await browser.open()
        writer, reader = await browser.shake_hands(cut=50)
        payload = bytes(range(256)) * 40
        writer.seal((payload,))
        browser.send(bytes(writer.take()), cut=999)
        record = None
        while record is None:
            await browser.receive()
            space = reader.space()
            space[: len(browser.received)] = browser.received
            reader.feed(len(browser.received))
            browser.received = b""
            record = reader.next()
        assert bytes(record.payload) == payload
        assert b"9990" in browser.pongs
        browser.writer.close()


async def test_text_message_ends_the_connection() -> None:
    async with echoing() as (port, watches):
        browser = Browser(port)
        await browser.open()
        await browser.shake_hands(cut=4096)
        browser.writer.write(browser.ws.send(TextMessage("hello?")))
        with pytest.raises((EOFError, ConnectionResetError), match="closed|reset"):
            while True:
                await browser.receive()
        browser.writer.close()
        assert (await watches[0].lost()).startswith("the connection was lost")


async def test_unread_pongs_do_not_pile_up() -> None:
    async with echoing() as (port, watches):
        browser = Browser(port)
        await browser.open()
        await browser.shake_hands(cut=4096)
        link = watches[0].link
        ping = browser.ws.send(Ping(b"x" * 125))
        for _ in range(200):
            browser.writer.write(ping * 200)
            await asyncio.wait_for(browser.writer.drain(), 5)
            assert link.statistics()["write_buffered"] < 256 * 1024
        browser.writer.transport.abort()
        await watches[0].lost()
