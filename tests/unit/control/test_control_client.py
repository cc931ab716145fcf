from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from aitorrentd.api.plugin import CallContext, End, Method, NoParams
from aitorrentd.control import framing
from aitorrentd.control.aclient import AsyncClient
from aitorrentd.control.client import Client, LostDaemon, NoDaemon
from aitorrentd.errors import (
    Busy,
    InvalidParams,
    NotFound,
    ProtocolError,
    ShuttingDown,
    TimedOut,
    VersionMismatch,
)
from tests.support.control_server import ServerThread


class Number(BaseModel):
    model_config = ConfigDict(extra="forbid")

    n: int = 3


def double(call: CallContext, params: Number) -> dict[str, Any]:
    return {"double": params.n * 2}


def absent(call: CallContext, params: NoParams) -> dict[str, Any]:
    raise NotFound("nothing here", name="x")


async def forever(call: CallContext, params: NoParams) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def count(call: CallContext, params: Number) -> AsyncIterator[Any]:
    for n in range(params.n):
        yield {"n": n}
        call.progress("counting", done=n + 1, total=params.n)
    yield End({"count": params.n})


async def endless(call: CallContext, params: NoParams) -> AsyncIterator[Any]:
    n = 0
    while True:
        yield {"n": n}
        n += 1


async def breaks(call: CallContext, params: NoParams) -> AsyncIterator[Any]:
    yield {"n": 0}
    raise NotFound("gone in the middle")


async def once_then_quiet(call: CallContext, params: NoParams) -> AsyncIterator[Any]:
    yield {"n": 0}
    await asyncio.Event().wait()


METHODS = (
    Method("a.once_then_quiet", once_then_quiet, "Once.", stream=True),
    Method("a.double", double, "Double.", params=Number),
    Method("a.absent", absent, "Fail."),
    Method("a.forever", forever, "Wait."),
    Method("a.count", count, "Count.", params=Number, stream=True),
    Method("a.endless", endless, "Count on.", stream=True),
    Method("a.breaks", breaks, "Break.", stream=True),
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerThread]:
    with ServerThread(tmp_path / "control.sock", *METHODS) as server:
        yield server


@pytest.fixture
def client(server: ServerThread) -> Iterator[Client]:
    with Client(server.path, 5.0) as client:
        yield client


def wait_for_calls(server: ServerThread, n: int) -> None:
    """Until `n` calls are open."""
    pause = threading.Event()
    for _ in range(500):
        if server.statistics()["calls_open"] == n:
            return
        pause.wait(0.01)
    raise AssertionError(f"{server.statistics()}, not {n} open calls")


def test_results_and_errors_arrive_as_they_are(client: Client) -> None:
    assert client.hello["server"] == "aitorrentd/0.1.0"
    assert client.call("a.double", {"n": 21}) == {"double": 42}
    with pytest.raises(NotFound, match="nothing here") as e:
        client.call("a.absent")
    assert e.value.data == {"name": "x"}


def test_a_stream_yields_its_items_progress_and_summary(client: Client) -> None:
    seen: list[Any] = []
    stream = client.stream("a.count", {"n": 300}, progress=seen.append)
    assert [item["n"] for item in stream] == list(range(300))
    assert stream.summary == {"count": 300}
    assert seen[-1] == {"text": "counting", "done": 300, "total": 300, "unit": ""}


def test_streams_and_calls_share_a_connection(client: Client) -> None:
    with client.stream("a.endless", credit=4) as first, client.stream("a.endless") as second:
        for n in range(50):
            assert next(first)["n"] == n
            assert client.call("a.double", {"n": n}) == {"double": 2 * n}
            assert next(second)["n"] == n
    assert client.call("a.double") == {"double": 6}


def test_a_stream_left_early_is_cancelled(server: ServerThread, client: Client) -> None:
    with client.stream("a.endless") as stream:
        next(stream)
        wait_for_calls(server, 1)
    wait_for_calls(server, 0)
    assert list(stream) == []
    assert client.call("a.double") == {"double": 6}


def test_a_stream_that_fails_in_the_middle_says_so(client: Client) -> None:
    stream = client.stream("a.breaks")
    assert next(stream) == {"n": 0}
    with pytest.raises(NotFound, match="gone in the middle"):
        next(stream)
    assert list(stream) == []


def test_a_method_that_answers_once_shows_as_the_streams_result(client: Client) -> None:
    stream = client.stream("a.double", {"n": 2})
    assert list(stream) == []
    assert stream.result == {"double": 4}


def test_a_call_of_a_stream_is_refused_and_cancelled(server: ServerThread, client: Client) -> None:
    with pytest.raises(InvalidParams, match=r"a\.endless answers with a stream"):
        client.call("a.endless")
    wait_for_calls(server, 0)
    assert client.call("a.double") == {"double": 6}


def test_a_call_ends_at_its_deadline(server: ServerThread, client: Client) -> None:
    with pytest.raises(TimedOut, match=r"a\.forever did not finish within 0\.05 s"):
        client.call("a.forever", timeout=0.05)
    assert client.call("a.double") == {"double": 6}


def test_silence_of_a_stream_has_a_limit(server: ServerThread, tmp_path: Path) -> None:
    async def quiet(call: CallContext, params: NoParams) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield {}

    server.source.add(Method("a.quiet", quiet, "Nothing.", stream=True))
    with (
        Client(server.path, 5.0) as client,
        client.stream("a.quiet", timeout=0.05) as stream,
        pytest.raises(TimedOut, match="the daemon did not answer in time"),
    ):
        next(stream)
    wait_for_calls(server, 0)


@contextmanager
def interrupt(client: Client, server: ServerThread) -> Iterator[None]:
    """Ctrl-C comes while the client waits for its next answer."""
    before = client._connection.sleeps
    is_interrupted, pause = threading.Event(), threading.Event()

    # The client sleeps once more before SIGINT is sent: Python handles it inside that wait. A
    # signal that arrives just before the wait begins does not end it, so it is sent again.
    def press() -> None:
        wait_for_calls(server, 1)
        while client._connection.sleeps == before:
            pause.wait(0.005)
        while not is_interrupted.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            is_interrupted.wait(0.5)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    pressing = threading.Thread(target=press)
    pressing.start()
    try:
        yield
    finally:
        is_interrupted.set()
        pressing.join()
        signal.signal(signal.SIGINT, handler)


def test_ctrl_c_cancels_a_call(server: ServerThread, client: Client) -> None:
    with pytest.raises(KeyboardInterrupt), interrupt(client, server):  # it has no message to match
        client.call("a.forever")
    wait_for_calls(server, 0)
    assert client.call("a.double") == {"double": 6}


def test_ctrl_c_cancels_a_stream(server: ServerThread, client: Client) -> None:
    stream = client.stream("a.once_then_quiet")
    assert next(stream) == {"n": 0}
    with pytest.raises(KeyboardInterrupt), interrupt(client, server):
        next(stream)
    wait_for_calls(server, 0)
    assert list(stream) == []
    assert client.call("a.double") == {"double": 6}


def test_no_daemon_is_said_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="no daemon at .*; start one"):
        Client(tmp_path / "absent.sock")
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stale))
    with pytest.raises(NoDaemon, match="no daemon at .*; start one"):
        Client(stale)


async def test_both_clients_say_the_same_of_a_daemon_that_cannot_be_reached(
    tmp_path: Path,
) -> None:
    path = tmp_path / "absent.sock"
    with pytest.raises(NoDaemon, match="start one") as blocking:
        Client(path)
    with pytest.raises(NoDaemon, match="start one") as overlapping:
        await AsyncClient.connect(path)
    assert overlapping.value.message == blocking.value.message


def test_a_daemon_that_never_says_hello_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        with pytest.raises(TimedOut, match="the daemon did not answer in time"):
            Client(path, 0.05)


def test_a_refused_connection_says_why(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with ServerThread(path, *METHODS, max_connections=1), Client(path) as first:
        for _ in range(20):
            with pytest.raises(Busy, match="1 control connections are open"):
                Client(path)
        assert first.call("a.double") == {"double": 6}


def test_a_daemon_that_dies_ends_the_call(tmp_path: Path) -> None:
    with ServerThread(tmp_path / "control.sock", *METHODS) as server:
        client = Client(server.path, 5.0)
        stream = client.stream("a.endless")
        next(stream)
    with client, pytest.raises((LostDaemon, ShuttingDown), match="the daemon"):
        for _ in stream:
            pass


def _answer_with(path: Path, *answers: bytes) -> threading.Thread:
    """A daemon that answers whatever it is told with one of these after the other."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        with listener:
            sock, _ = listener.accept()
            with sock:
                for raw in answers:
                    sock.recv(65_536)
                    sock.sendall(raw)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("raw", "error", "text"),
    [
        (framing.encode(framing.HELLO, {"proto": [7, 8]}), VersionMismatch, "another protocol"),
        (framing.encode(framing.HELLO, "x"), ProtocolError, "a hello is a map"),
        (b"\0\0\0\x01\xc1", ProtocolError, "invalid msgpack"),
        (framing.encode(framing.ERROR, 0, {"code": "busy", "message": "full"}), Busy, "full"),
        (b"\0\0", LostDaemon, "the daemon ended before it was ready; see aitorrentctl doctor"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_whatever_a_daemon_says_first_is_an_error_with_a_name(
    tmp_path: Path, raw: bytes, error: type[Exception], text: str, is_async: bool
) -> None:
    path = tmp_path / "odd.sock"
    thread = _answer_with(path, raw)
    try:
        with pytest.raises(error, match=text):
            if is_async:
                await AsyncClient.connect(path, timeout=1.0)
            else:
                Client(path, 1.0)
    finally:
        thread.join(5)


@pytest.mark.parametrize(
    "frame",
    [
        framing.encode(framing.RESULT, [], {}),
        framing.encode(framing.RESULT, 1, "no map"),
        framing.encode(framing.RESULT, 1, [1]),
        framing.encode("x", 1, {}),
        b"\0\0\0\0",
        b"\0\0\0\x01\xc1",
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_answer_that_breaks_the_rules_is_a_protocol_error(
    tmp_path: Path, frame: bytes, is_async: bool
) -> None:
    path = tmp_path / "odd.sock"
    hello = framing.encode(framing.HELLO, {"proto": [1, 1]})
    thread = _answer_with(path, hello, framing.encode(99, "future") + frame)
    try:
        with pytest.raises(ProtocolError, match="map|call id|kind|empty frame|invalid msgpack"):
            if is_async:
                async with await AsyncClient.connect(path, 5.0) as client:
                    await client.call("a.b")
            else:
                with Client(path, 5.0) as blocking:
                    blocking.call("a.b")
    finally:
        await asyncio.to_thread(thread.join, 5)


async def test_the_async_client_reports_the_same_errors(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="no daemon at"):
        await AsyncClient.connect(tmp_path / "absent.sock")
    path = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        with pytest.raises(TimedOut, match="did not answer with a hello"):
            await AsyncClient.connect(path, 0.05)


async def test_a_closed_async_client_fails_its_calls(tmp_path: Path) -> None:
    with ServerThread(tmp_path / "control.sock", *METHODS) as server:
        client = await AsyncClient.connect(server.path)
        waiting = asyncio.create_task(client.call("a.forever"))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(LostDaemon, match="this client was closed"):
            await waiting
        with pytest.raises(LostDaemon, match="this client was closed"):
            await client.call("a.double")
