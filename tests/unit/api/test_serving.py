"""A web server in a plugin: it keeps its limits, drains, and never ends the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from aitorrentd.api import Unavailable
from aitorrentd.api.faces.serving import Aborted, WebLimits, WebServer, listen, serving
from tests.support.nodes import Leaks, free_port, wait_for

LOG = logging.getLogger("aitorrentd.test")
GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSING = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
BIG = 8 * 2**20


async def app(scope: Any, receive: Any, send: Any) -> None:
    what = scope["path"].lstrip("/")
    if what == "raise":
        raise RuntimeError("a bug in the application")
    if what == "exit":
        raise SystemExit(3)
    if what == "slow":
        await asyncio.sleep(0.3)
    if what == "hang":
        await asyncio.sleep(600)
    if what == "length":
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        answer = str(len(body)).encode()
    else:
        answer = b"x" * BIG if what in ("big", "cut") else what.encode()
    size = str(len(answer)).encode()
    headers = [(b"content-length", size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if what == "head":
        await asyncio.sleep(600)
    if what == "cut":
        await send({"type": "http.response.body", "body": answer[:-1], "more_body": True})
        raise Aborted
    await send({"type": "http.response.body", "body": answer})


@dataclass
class Running:
    server: WebServer
    port: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def ask(self, sent: bytes) -> bytes:
        """Everything that comes back until the server closes the connection."""
        reader, writer = await self.opened()
        got = b""
        with contextlib.suppress(ConnectionResetError):
            writer.write(sent)
            async with asyncio.timeout(10):
                while part := await reader.read(2**16):
                    got += part
        return got

    async def close(self) -> None:
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


_ended: list[Running] = []
_leaks: list[Leaks] = []


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    yield
    while _ended:
        await _ended.pop().close()
    while _leaks:
        await _leaks.pop().check()


@asynccontextmanager
async def running(**limits: Any) -> AsyncIterator[Running]:
    leaks = Leaks()
    sockets = listen(["127.0.0.1"], 0, setting="plugins.x.port")
    port = sockets[0].getsockname()[1]
    given = replace(WebLimits(idle_s=1), **limits)
    async with serving(app, sockets, log=LOG, limits=given) as server:
        at = Running(server, port)
        yield at
    # Clients read what the server left after its end.
    _ended.append(at)
    _leaks.append(leaks)


async def test_answers_two_requests_on_one_connection_and_closes_it_when_idle() -> None:
    async with running() as at:
        answers = await at.ask(GET % b"one" + GET % b"two")
    assert answers.count(b"200 OK") == 2
    assert answers.endswith(b"two")
    assert answers.lower().count(b"\r\ndate: ") == 2
    assert b"server:" not in answers.lower()


async def test_an_application_that_raises_answers_500_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as at:
        assert b" 500 " in await at.ask(CLOSING % b"raise")
        assert b" 500 " in await at.ask(CLOSING % b"exit")
        assert (await at.ask(CLOSING % b"fine")).endswith(b"fine")
    assert "a bug in the application" in caplog.text
    assert {r.name for r in caplog.records if r.levelno >= logging.ERROR} == {
        "aitorrentd.test.http"
    }


async def test_an_aborted_answer_ends_before_its_last_byte(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as at:
        answer = await at.ask(CLOSING % b"cut")
    assert len(answer.partition(b"\r\n\r\n")[2]) < BIG
    assert caplog.text == ""


async def test_the_head_of_an_answer_does_not_wait_for_its_body() -> None:
    async with running(drain_s=0) as at, asyncio.timeout(10):
        reader, writer = await at.opened()
        writer.write(GET % b"head")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_signal_handlers_stay_as_they_are() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with running():
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 3000 + b"\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        GET % b"one" + b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 30000,
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000,
    ],
    ids=["one header", "many headers", "path", "second request", "a header that never ends"],
)
async def test_headers_are_bounded(sent: bytes) -> None:
    async with running(header_bytes=8192) as at:
        answer = await at.ask(sent)
        # The second of two requests is refused while the first is answered.
        assert answer.startswith(b"HTTP/1.1 431 ") or sent.count(b"GET") == 2
        assert at.server.counts["too_large"] == 1


async def test_bodies_are_bounded() -> None:
    head = b"POST /length HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    async with running(body_bytes=1000) as at:
        assert (await at.ask(head % 1000 + b"a" * 1000)).endswith(b"1000")
        assert b" 200 " not in await at.ask(head % 1001 + b"a" * 1001)
        assert at.server.counts["too_large"] == 1


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_client_that_never_finishes_its_headers_is_cut_off(sent: bytes) -> None:
    async with running(header_s=0.2) as at:
        assert (await at.ask(sent)).startswith(b"HTTP/1.1 408 ")
        assert at.server.counts["timeouts"] == 1


async def test_bytes_that_trickle_in_do_not_extend_the_deadline() -> None:
    async with running(header_s=0.3) as at:
        reader, writer = await at.opened()

        async def trickle() -> None:
            for byte in b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 1000:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.01)

        dripping = asyncio.ensure_future(trickle())
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()


async def test_a_body_that_stops_coming_is_cut_off() -> None:
    async with running(body_s=0.2) as at:
        head = b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
        assert b" 200 " not in await at.ask(head)
        assert at.server.counts["timeouts"] == 1


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    async with running(stalled_s=0.5) as at:
        reader, writer = await at.opened()
        writer.write(GET % b"big")
        await wait_for(lambda: at.server.counts["stalled"] == 1)
        await wait_for(lambda: len(at.server) == 0)
        writer.close()
        del reader


@pytest.mark.slow
async def test_a_slow_client_that_takes_something_is_not_cut_off() -> None:
    async with running(stalled_s=0.5) as at:
        reader, writer = await at.opened()
        writer.write(CLOSING % b"big")
        got = 0
        while part := await reader.read(2**20):
            got += len(part)
            await asyncio.sleep(0.1)
    assert got > BIG


async def test_connections_over_the_limit_are_closed_at_once() -> None:
    async with running(connections=2) as at:
        held = [await at.opened() for _ in range(2)]
        await wait_for(lambda: len(at.server) == 2)
        assert await at.ask(CLOSING % b"one") == b""
        for _, writer in held:
            writer.close()
        await wait_for(lambda: len(at.server) == 0)
        assert b" 200 " in await at.ask(CLOSING % b"one")


async def test_stopping_lets_a_running_answer_finish_and_closes_idle_connections() -> None:
    async with running() as at:
        idle, _ = await at.opened()
        busy, busy_writer = await at.opened()
        busy_writer.write(GET % b"slow")
        await wait_for(lambda: at.server.counts["requests"] == 1)
    assert (await busy.read()).endswith(b"slow")
    assert await idle.read() == b""
    busy_writer.close()


async def test_stopping_cuts_off_an_answer_that_takes_too_long(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = asyncio.get_running_loop()
    async with running(drain_s=0.2) as at:
        reader, writer = await at.opened()
        writer.write(GET % b"hang")
        await wait_for(lambda: at.server.counts["requests"] == 1)
        began = loop.time()
    assert loop.time() - began < 3
    assert await reader.read() == b""
    assert caplog.text == ""


async def test_stopping_that_is_itself_cut_off_leaves_no_answer_running() -> None:
    begun: asyncio.Future[Running] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with running(drain_s=600) as at:
            begun.set_result(at)
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    at = await begun
    reader, writer = await at.opened()
    writer.write(GET % b"hang")
    await wait_for(lambda: at.server.counts["requests"] == 1)
    idle, idle_writer = await at.opened()
    idle_writer.write(GET % b"one")
    await idle.readuntil(b"one")
    task.cancel()
    assert await idle.read() == b""  # it waits for the other
    task.cancel()
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    with pytest.raises(asyncio.CancelledError):
        await task
    await at.close()


async def test_a_connection_of_another_protocol_is_adopted() -> None:
    async with running() as at:

        class Sniffing(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport: Any = transport

            def data_received(self, data: bytes) -> None:
                at.server.adopt(self.transport, data)

        other = await asyncio.get_running_loop().create_server(Sniffing, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        at.port = port
        answers = await at.ask(GET % b"one" + GET % b"two")
        assert answers.endswith(b"two")
        other.close()
        await other.wait_closed()


def test_a_taken_port_names_the_setting() -> None:
    held = listen(["127.0.0.1"], 0, setting="x")[0]
    port = held.getsockname()[1]
    with pytest.raises(Unavailable, match=rf"127.0.0.1:{port}/tcp: address already in use; .*x\.y"):
        listen(["127.0.0.1"], port, setting="x.y")
    held.close()


async def test_the_server_can_be_restarted_on_its_port() -> None:
    port = free_port()
    for _ in range(2):
        async with serving(app, listen(["127.0.0.1"], port, setting="x"), log=LOG) as server:
            at = Running(server, port)
            assert b" 200 " in await at.ask(CLOSING % b"one")
            await at.close()
