from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from aitorrentd.api.plugin import CallContext, End, Method, Role
from aitorrentd.control import calls, framing
from aitorrentd.control.aclient import AsyncClient
from aitorrentd.control.server import ControlServer
from aitorrentd.errors import (
    AitorrentError,
    Busy,
    ConfigError,
    Conflict,
    InvalidParams,
    MethodNotFound,
    NotFound,
    PluginError,
    ProtocolError,
    TimedOut,
    TooLarge,
)
from tests.support.control_server import Methods, RawPeer, eventually


class Number(BaseModel):
    model_config = ConfigDict(extra="forbid")

    n: int = Field(1, ge=0)


class Doubled(BaseModel):
    double: int


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


def method(name: str, handler: Any, **options: Any) -> Method:
    return Method(name, handler, "Test.", **({"params": Anything} | options))


@asynccontextmanager
async def serving(path: Path, *methods: Method) -> AsyncIterator[ControlServer]:
    server = ControlServer(Methods(*methods), agent="aitorrentd/0.1.0")
    await server.listen(path)
    try:
        yield server
    finally:
        await server.close(grace_s=0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


async def test_plain_functions_coroutines_and_models_are_answered(path: Path) -> None:
    def plain(call: CallContext, params: Number) -> dict[str, Any]:
        return {"double": 2 * params.n}

    async def later(call: CallContext, params: Number) -> Doubled:
        await asyncio.sleep(0)
        return Doubled(double=2 * params.n)

    def nothing(call: CallContext, params: Number) -> None:
        return None

    methods = [method("a.plain", plain), method("a.later", later), method("a.nothing", nothing)]
    methods = [Method(m.name, m.handler, "Test.", params=Number) for m in methods]
    async with serving(path, *methods), await AsyncClient.connect(path) as client:
        assert await client.call("a.plain", {"n": 4}) == {"double": 8}
        assert await client.call("a.later", {"n": 5}) == {"double": 10}
        assert await client.call("a.nothing") == {}


async def test_calls_of_one_connection_overlap(path: Path) -> None:
    gate = asyncio.Event()

    async def wait(call: CallContext, params: Any) -> dict[str, Any]:
        await gate.wait()
        return {"waited": True}

    def open_(call: CallContext, params: Any) -> dict[str, Any]:
        gate.set()
        return {}

    methods = method("a.wait", wait), method("a.open", open_)
    async with serving(path, *methods), await AsyncClient.connect(path) as client:
        first = asyncio.create_task(client.call("a.wait"))
        await asyncio.sleep(0)
        await client.call("a.open")
        assert await first == {"waited": True}


async def test_params_that_do_not_fit_are_named(path: Path) -> None:
    def plain(call: CallContext, params: Number) -> dict[str, Any]:
        return {}

    number = Method("a.plain", plain, "Test.", params=Number)
    async with serving(path, number), await AsyncClient.connect(path) as client:
        with pytest.raises(InvalidParams, match=r"a\.plain: n: should be a whole number") as e:
            await client.call("a.plain", {"n": "x"})
        assert len(e.value.data["problems"]) == 1
        with pytest.raises(InvalidParams, match=r"nn: unknown key; did you mean n\?"):
            await client.call("a.plain", {"nn": 1})
        with pytest.raises(MethodNotFound, match=r"a\.absent"):
            await client.call("a.absent")


async def test_errors_of_handlers_keep_their_class_and_data(path: Path) -> None:
    def lost(call: CallContext, params: Any) -> None:
        raise NotFound("no such thing", name="x")

    async def clash(call: CallContext, params: Any) -> None:
        raise Conflict("it is there")

    def wrong(call: CallContext, params: Any) -> None:
        raise ConfigError("two mistakes", problems=("a", "b"))

    def odd(call: CallContext, params: Any) -> None:
        raise NotFound("odd data", thing=object())

    methods = (
        method("a.lost", lost),
        method("a.clash", clash),
        method("a.wrong", wrong),
        method("a.odd", odd),
    )
    async with serving(path, *methods), await AsyncClient.connect(path) as client:
        with pytest.raises(NotFound, match="no such thing") as e:
            await client.call("a.lost")
        assert e.value.data == {"name": "x"}
        with pytest.raises(Conflict, match="it is there"):
            await client.call("a.clash")
        with pytest.raises(InvalidParams, match="two mistakes") as wrong_config:
            await client.call("a.wrong")
        assert wrong_config.value.data == {"kind": "config", "problems": ["a", "b"]}
        with pytest.raises(NotFound, match="odd data"):
            await client.call("a.odd")


@pytest.mark.allow_error_log
@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), SystemExit(3), TimeoutError()])
@pytest.mark.parametrize("kind", ["plain", "coroutine", "stream"])
async def test_a_bug_in_a_handler_gives_an_id_and_the_log_the_traceback(
    path: Path, caplog: pytest.LogCaptureFixture, error: BaseException, kind: str
) -> None:
    def plain(call: CallContext, params: Any) -> dict[str, Any]:
        raise error

    async def coroutine(call: CallContext, params: Any) -> dict[str, Any]:
        raise error

    async def stream(call: CallContext, params: Any) -> AsyncIterator[dict[str, Any]]:
        yield {"n": 1}
        raise error

    handlers = {"plain": plain, "coroutine": coroutine, "stream": stream}
    bad = method("a.bad", handlers[kind], stream=kind == "stream")
    async with serving(path, bad), await AsyncClient.connect(path) as client:
        with pytest.raises(PluginError, match="a bug in a; the log has the details") as e:
            if kind == "stream":
                async for _ in client.stream("a.bad"):
                    pass
            else:
                await client.call("a.bad")
        assert "secret" not in str(e.value.as_map())
        assert e.value.data["error_id"] in caplog.text
        assert type(error).__name__ in caplog.text


@pytest.mark.allow_error_log
async def test_an_answer_that_is_no_map_is_a_bug_of_the_plugin(path: Path) -> None:
    def listed(call: CallContext, params: Any) -> Any:
        return [1, 2]

    def odd(call: CallContext, params: Any) -> Any:
        return {"x": object()}

    async def one(call: CallContext, params: Any) -> Any:
        return {}

    methods = (
        method("a.listed", listed),
        method("a.odd", odd),
        method("a.false_stream", listed, stream=True),
        method("a.coroutine_stream", one, stream=True),
    )
    async with serving(path, *methods), await AsyncClient.connect(path) as client:
        for name in ("a.listed", "a.odd", "a.false_stream", "a.coroutine_stream"):
            with pytest.raises(PluginError, match="a bug in a"):
                await client.call(name)


async def test_an_answer_that_is_too_large_is_an_error_and_the_connection_stays(path: Path) -> None:
    def large(call: CallContext, params: Any) -> dict[str, Any]:
        return {"x": b"x" * framing.MAX_FRAME_BYTES}

    async with (
        serving(path, method("a.large", large)),
        await AsyncClient.connect(path) as client,
    ):
        with pytest.raises(TooLarge, match="the answer has 16777"):
            await client.call("a.large")
        with pytest.raises(TooLarge, match="the answer has 16777"):
            await client.call("a.large")


async def test_a_stream_ends_with_its_summary(path: Path) -> None:
    async def count(call: CallContext, params: Number) -> AsyncIterator[Any]:
        for n in range(params.n):
            yield {"n": n}
        yield End({"count": params.n})

    counting = Method("a.count", count, "Test.", params=Number, stream=True)
    async with serving(path, counting), await AsyncClient.connect(path) as client:
        summary: dict[str, Any] = {}
        found = [i["n"] async for i in client.stream("a.count", {"n": 500}, summary=summary)]
        assert found == list(range(500))
        assert summary == {"count": 500}


async def test_no_more_items_are_sent_than_were_credited(path: Path) -> None:
    made = 0

    async def endless(call: CallContext, params: Any) -> AsyncIterator[dict[str, Any]]:
        nonlocal made
        while True:
            made += 1
            yield {"n": made}

    async with (
        serving(path, method("a.endless", endless, stream=True)),
        await RawPeer.connect(path) as peer,
    ):
        peer.send(framing.CALL, 1, "a.endless", {}, {"credit": 3})
        assert [(await peer.receive())[2] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(TimeoutError):
            await peer.receive(0.05)
        assert made == 4  # one item is ready for the next credit, no more are made
        peer.send(framing.CREDIT, 1, 2)
        assert [(await peer.receive())[2] for _ in range(2)] == [3, 4]
        with pytest.raises(TimeoutError):
            await peer.receive(0.05)


async def test_a_stream_can_end_without_further_credit(path: Path) -> None:
    async def two(call: CallContext, params: Any) -> AsyncIterator[Any]:
        yield {}
        yield {}
        yield End({"done": True})

    async with (
        serving(path, method("a.two", two, stream=True)),
        await RawPeer.connect(path) as peer,
    ):
        peer.send(framing.CALL, 1, "a.two", {}, {"credit": 2})
        kinds = [(await peer.receive())[0] for _ in range(3)]
        assert kinds == [framing.ITEM, framing.ITEM, framing.END]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_cancelled_call_ends_its_handler(path: Path, is_stream: bool) -> None:
    ended = asyncio.Event()
    started = asyncio.Event()

    async def forever(call: CallContext, params: Any) -> dict[str, Any]:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    async def stream(call: CallContext, params: Any) -> AsyncIterator[dict[str, Any]]:
        yield await forever(call, params)

    handler = stream if is_stream else forever
    async with (
        serving(path, method("a.forever", handler, stream=is_stream)) as server,
        await RawPeer.connect(path) as peer,
    ):
        peer.send(framing.CALL, 9, "a.forever", {}, {})
        await started.wait()
        peer.send(framing.CANCEL, 9)
        kind, ident, error = await peer.receive()
        assert (kind, ident, error["code"]) == (framing.ERROR, 9, "cancelled")
        assert ended.is_set()
        assert server.statistics()["calls_open"] == 0
        peer.send(framing.CANCEL, 9)
        peer.send(framing.CALL, 9, "a.forever", {}, {})
        await eventually(lambda: server.statistics()["calls_open"] == 1)


async def test_a_call_that_is_cancelled_before_it_ran_is_answered(path: Path) -> None:
    async def forever(call: CallContext, params: Any) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async with (
        serving(path, method("a.forever", forever)),
        await RawPeer.connect(path) as peer,
    ):
        call = framing.encode(framing.CALL, 1, "a.forever", {}, {})
        peer.send_bytes(call + framing.encode(framing.CANCEL, 1))
        assert (await peer.receive())[2]["code"] == "cancelled"


async def test_a_cancelled_client_task_cancels_in_the_daemon(path: Path) -> None:
    ended = asyncio.Event()
    started = asyncio.Event()

    async def forever(call: CallContext, params: Any) -> dict[str, Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    async with (
        serving(path, method("a.forever", forever)),
        await AsyncClient.connect(path) as client,
    ):
        task = asyncio.create_task(client.call("a.forever"))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_vanished_client_cancels_its_calls(path: Path) -> None:
    seen: list[str] = []
    started = asyncio.Semaphore(0)

    async def forever(call: CallContext, params: Any) -> dict[str, Any]:
        started.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(call.trace)
            raise
        return {}

    async with serving(path, method("a.forever", forever)) as server:
        peer = await RawPeer.connect(path)
        for ident in (1, 2, 3):
            peer.send(framing.CALL, ident, "a.forever", {}, {})
            await started.acquire()
        peer.writer.transport.abort()
        await peer.close()
        await eventually(lambda: len(seen) == 3)
        assert sorted(seen) == [f"ctl:a.forever#{n}" for n in (1, 2, 3)]
        await eventually(lambda: server.statistics()["connections_open"] == 0)
        await eventually(lambda: server.statistics()["calls_open"] == 0)


async def test_a_deadline_ends_a_call(path: Path) -> None:
    async def forever(call: CallContext, params: Any) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async with (
        serving(path, method("a.forever", forever)),
        await AsyncClient.connect(path) as client,
    ):
        with pytest.raises(TimedOut, match=r"a\.forever did not finish within 0\.05 s"):
            await client.call("a.forever", timeout=0.05)


@pytest.mark.parametrize(
    "meta",
    [
        {"deadline_s": 0},
        {"deadline_s": -1},
        {"deadline_s": "1"},
        {"deadline_s": float("nan")},
        {"deadline_s": float("inf")},
        {"credit": 0},
        {"credit": True},
        {"credit": 10**9},
        {"trace": 5},
        {"trace": "x\x1b[2J"},
        {"trace": "x" * 201},
    ],
)
async def test_meta_that_makes_no_sense_is_refused(path: Path, meta: dict[str, Any]) -> None:
    def plain(call: CallContext, params: Any) -> None:
        return None

    async with serving(path, method("a.plain", plain)), await RawPeer.connect(path) as peer:
        peer.send(framing.CALL, 1, "a.plain", {}, meta)
        kind, ident, error = await peer.receive()
        assert (kind, ident, error["code"]) == (framing.ERROR, 1, "invalid_params")
        peer.send(framing.CALL, 2, "a.plain", {}, {"unknown": 1}, "more")
        assert await peer.receive() == [framing.RESULT, 2, {}]


async def test_the_trace_of_the_caller_is_continued(path: Path) -> None:
    def plain(call: CallContext, params: Any) -> dict[str, Any]:
        return {"trace": call.trace}

    async with serving(path, method("a.plain", plain)), await RawPeer.connect(path) as peer:
        peer.send(framing.CALL, 7, "a.plain", {}, {"trace": "ui:pull#1"})
        assert (await peer.receive())[2] == {"trace": "ui:pull#1/ctl:a.plain#7"}


@pytest.mark.parametrize(
    "fields",
    [
        (framing.CALL, 1),
        (framing.CALL, 1, 5, {}),
        (framing.CALL, 1, "a.plain", []),
        (framing.CALL, 1, "a.plain", {}, []),
    ],
)
async def test_a_misshapen_call_with_an_id_is_answered(path: Path, fields: Any) -> None:
    async with serving(path), await RawPeer.connect(path) as peer:
        peer.send(*fields)
        kind, ident, error = await peer.receive()
        assert (kind, ident, error["code"]) == (framing.ERROR, 1, "invalid_params")


@pytest.mark.parametrize(
    "fields",
    [
        (framing.CALL,),
        (framing.CALL, 0, "a.plain", {}),
        (framing.CALL, "1", "a.plain", {}),
        (framing.CREDIT, 1, 0),
        (framing.CREDIT, 1, "x"),
    ],
)
async def test_a_frame_that_cannot_be_answered_ends_the_connection(path: Path, fields: Any) -> None:
    async with serving(path) as server, await RawPeer.connect(path) as peer:
        peer.send(*fields)
        (last,) = await peer.until_closed()
        assert last[:2] == [framing.ERROR, 0]
        assert last[2]["code"] == "protocol"
        assert server.statistics()["frames_malformed"] == 1


async def test_an_open_id_cannot_be_used_again(path: Path) -> None:
    async def forever(call: CallContext, params: Any) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async with (
        serving(path, method("a.forever", forever)),
        await RawPeer.connect(path) as peer,
    ):
        peer.send(framing.CALL, 1, "a.forever", {}, {})
        peer.send(framing.CALL, 1, "a.forever", {}, {})
        found = await peer.until_closed()
        assert next(m[1] for m in found if m[0] == framing.ERROR) == 0


async def test_unknown_kinds_are_ignored(path: Path) -> None:
    def plain(call: CallContext, params: Any) -> None:
        return None

    async with serving(path, method("a.plain", plain)), await RawPeer.connect(path) as peer:
        peer.send(99, "future", {})
        peer.send(-3)
        peer.send(framing.CALL, 1, "a.plain", {}, {})
        assert await peer.receive() == [framing.RESULT, 1, {}]


async def test_the_129th_open_call_is_told_to_wait(path: Path) -> None:
    gate = asyncio.Event()

    async def wait(call: CallContext, params: Any) -> dict[str, Any]:
        await gate.wait()
        return {}

    async with serving(path, method("a.wait", wait)), await AsyncClient.connect(path) as client:
        open_calls = [
            asyncio.create_task(client.call("a.wait")) for _ in range(calls.MAX_OPEN_CALLS)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="128 calls are open"):
            await client.call("a.wait")
        gate.set()
        assert await asyncio.gather(*open_calls) == [{}] * calls.MAX_OPEN_CALLS
        assert await client.call("a.wait") == {}


async def test_progress_reaches_the_caller_before_the_result(path: Path) -> None:
    kept: list[CallContext] = []

    async def work(call: CallContext, params: Any) -> dict[str, Any]:
        kept.append(call)
        for n in (1, 2):
            call.progress("working", done=n, total=2, unit="B")
            await asyncio.sleep(0)
        return {"done": True}

    async with serving(path, method("a.work", work)), await RawPeer.connect(path) as peer:
        peer.send(framing.CALL, 1, "a.work", {}, {})
        assert await peer.receive() == [
            framing.PROGRESS,
            1,
            {"text": "working", "done": 1, "total": 2, "unit": "B"},
        ]
        assert (await peer.receive())[2]["done"] == 2
        assert (await peer.receive())[0] == framing.RESULT
        kept[0].progress("too late")
        peer.send(framing.CALL, 2, "a.absent", {}, {})
        assert (await peer.receive())[1] == 2


async def test_calls_that_change_things_leave_an_audit_line(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="aitorrentd.control.audit")

    def plain(call: CallContext, params: Any) -> None:
        return None

    async def refuse(call: CallContext, params: Any) -> None:
        raise Conflict("no")

    methods = (
        method("a.read", plain),
        method("a.act", plain, role=Role.OPERATE),
        method("a.rule", refuse, role=Role.ADMIN),
    )
    async with serving(path, *methods), await AsyncClient.connect(path) as client:
        await client.call("a.read", {"secret": "s3cret"})
        await client.call("a.act", {"secret": "s3cret"})
        with pytest.raises(AitorrentError, match="no"):
            await client.call("a.rule")
    lines = [r.getMessage() for r in caplog.records if r.name.endswith(".audit")]
    assert len(lines) == 2
    assert "method=a.act trace=ctl:a.act#2 outcome=ok" in lines[0]
    assert "method=a.rule trace=ctl:a.rule#3 outcome=conflict" in lines[1]
    assert "s3cret" not in caplog.text


async def test_client_and_server_agree_that_a_call_is_no_stream(path: Path) -> None:
    async def count(call: CallContext, params: Any) -> AsyncIterator[dict[str, Any]]:
        while True:
            yield {}

    def plain(call: CallContext, params: Any) -> None:
        return None

    methods = method("a.count", count, stream=True), method("a.plain", plain)
    async with serving(path, *methods) as server, await AsyncClient.connect(path) as client:
        with pytest.raises(InvalidParams, match=r"a\.count answers with a stream"):
            await client.call("a.count")
        await eventually(lambda: server.statistics()["calls_open"] == 0)
        with pytest.raises(InvalidParams, match=r"a\.plain answers once"):
            async for _ in client.stream("a.plain"):
                pass
        assert await client.call("a.plain") == {}


async def test_a_daemon_that_talks_nonsense_is_a_protocol_error(path: Path) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\x03abc")
        writer.close()

    server = await asyncio.start_unix_server(nonsense, str(path))
    async with server:
        with pytest.raises(ProtocolError, match="invalid msgpack|starts with its kind"):
            await AsyncClient.connect(path)
