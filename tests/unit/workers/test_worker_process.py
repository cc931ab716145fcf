"""A worker process answers in order, and its end is an error, never a hang."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aitorrentd.errors import (
    AitorrentError,
    Busy,
    InvalidParams,
    PluginError,
    ProtocolError,
    TimedOut,
    TooLarge,
    Unavailable,
)
from aitorrentd.wire import Frame, encode_frame
from aitorrentd.workers.process import WorkerProcess, spawn_worker
from aitorrentd.workers.worker import FrameReader
from tests.support.nodes import REPOSITORY, wait_for

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def worker() -> AsyncIterator[WorkerProcess]:
    process = await spawn_worker("tests.support.workers:echo", name="echo")
    yield process
    await process.close()


async def test_answers_carry_header_and_tail(worker: WorkerProcess) -> None:
    frame = await worker.request({"op": "echo", "say": "hi"}, b"\x00\x01tail")
    assert frame.header["said"] == "hi"
    assert bytes(frame.tail) == b"\x00\x01tail"


@pytest.mark.parametrize("size", [0, 1, 65_000, 65_530, 65_536, 70_000, 5_000_000])
async def test_frames_of_every_size_arrive_whole(worker: WorkerProcess, size: int) -> None:
    tail = os.urandom(size)
    frame = await worker.request({"op": "echo"}, tail)
    assert bytes(frame.tail) == tail


def test_impossible_length_is_refused_before_its_bytes_arrive() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(ProtocolError, match="frame of 4294967295 bytes; allowed are"):
            FrameReader(theirs).read()


async def test_many_requests_at_once_are_answered_in_order(worker: WorkerProcess) -> None:
    done: list[int] = []

    async def one(i: int) -> None:
        frame = await worker.request({"op": "echo", "say": i}, bytes(i * 700))
        assert frame.header["said"] == i
        done.append(i)

    await asyncio.gather(*(one(i) for i in range(100)))
    assert done == list(range(100))


async def test_answer_is_handed_over_where_it_arrives(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a pass of the loop in between: the next request leaves from within."""
    answers: list[Frame | AitorrentError] = []
    taken: list[int] = []
    arrived = worker.frame_received

    def arriving(frame: Frame) -> None:
        arrived(frame)
        taken.append(len(answers))

    await worker.request({"op": "echo"})
    monkeypatch.setattr(worker, "frame_received", arriving)

    def again(answer: Frame | AitorrentError) -> None:
        answers.append(answer)
        if len(answers) < 3:
            worker.submit({"op": "echo", "say": len(answers)}, b"", again)
            assert worker.unanswered == 1

    worker.submit({"op": "busy"}, b"", again)
    await wait_for(lambda: len(answers) == 3)
    assert isinstance(answers[0], Busy)
    assert taken == [1, 2, 3]
    assert [a.header["said"] for a in answers[1:] if isinstance(a, Frame)] == [1, 2]
    assert worker.unanswered == 0


async def test_callback_that_fails_costs_neither_the_worker_nor_the_next_answer(
    worker: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(answer: Frame | AitorrentError) -> None:
        raise ZeroDivisionError

    worker.submit({"op": "echo"}, b"", bug)
    assert (await worker.request({"op": "echo", "say": 1})).header["said"] == 1
    assert "the answer of worker echo was discarded" in caplog.text


async def test_request_that_cannot_be_sent_leaves_nothing_behind(worker: WorkerProcess) -> None:
    answers: list[Frame | AitorrentError] = []
    await worker.request({"op": "echo"})
    with pytest.raises(TooLarge, match="frame header of"):
        worker.submit({"op": "echo", "say": "x" * 70_000}, b"", answers.append)
    assert worker.unanswered == 0
    assert (await worker.request({"op": "echo", "say": 1})).header["said"] == 1
    assert not answers


async def test_callbacks_are_told_of_death_and_none_is_taken_after_it(
    worker: WorkerProcess,
) -> None:
    answers: list[Frame | AitorrentError] = []
    for op in ("die", "echo"):
        worker.submit({"op": op}, b"", answers.append)
    await asyncio.wait_for(worker.closed, 10)
    assert [type(a) for a in answers] == [Unavailable, Unavailable]
    with pytest.raises(Unavailable, match="is gone"):
        worker.submit({"op": "echo"}, b"", answers.append)
    assert len(answers) == 2


async def test_error_of_the_handler_keeps_its_class_and_data(worker: WorkerProcess) -> None:
    with pytest.raises(Busy, match="no room") as caught:
        await worker.request({"op": "busy"})
    assert caught.value.data == {"free": 3}


async def test_bug_in_the_handler_leaves_the_worker_up_and_tells_no_detail(
    worker: WorkerProcess,
) -> None:
    with pytest.raises(PluginError, match="ZeroDivisionError") as caught:
        await worker.request({"op": "bug"})
    assert "secret" not in caught.value.message
    assert (await worker.request({"op": "echo", "say": 1})).header["said"] == 1


async def test_hung_worker_is_ended_at_its_deadline(worker: WorkerProcess) -> None:
    with pytest.raises(TimedOut, match="did not answer within 0.3 s"):
        await worker.request({"op": "hang"}, timeout_s=0.3)
    assert "did not answer" in await asyncio.wait_for(worker.closed, 5)
    with pytest.raises(Unavailable, match="is gone"):
        await worker.request({"op": "echo"})


async def test_deadline_that_was_met_does_not_end_a_later_request(worker: WorkerProcess) -> None:
    await worker.request({"op": "echo"}, timeout_s=0.2)
    frame = await worker.request({"op": "sleep", "s": 0.6}, timeout_s=30)
    assert "error" not in frame.header
    with pytest.raises(TimedOut, match="did not answer within 0.3 s"):
        await worker.request({"op": "hang"}, timeout_s=0.3)


async def test_request_behind_a_slow_one_is_not_late(worker: WorkerProcess) -> None:
    slow = asyncio.gather(*(worker.request({"op": "make", "n": 20_000_000}) for _ in range(5)))
    await worker.request({"op": "echo"}, timeout_s=30)
    assert len(await slow) == 5


async def test_death_fails_the_requests_that_wait(worker: WorkerProcess) -> None:
    waiting = [
        asyncio.ensure_future(worker.request({"op": op})) for op in ("echo", "die", "echo", "echo")
    ]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(r).__name__ for r in results[1:]] == ["Unavailable"] * 3
    await asyncio.wait_for(worker.closed, 5)


async def test_caller_that_gives_up_does_not_disturb_the_next(worker: WorkerProcess) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await worker.request({"op": "make", "n": 10_000_000})
    assert (await worker.request({"op": "echo", "say": 2})).header["said"] == 2


async def test_standard_error_goes_to_the_log(
    worker: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aitorrentd.worker.echo")
    await worker.request({"op": "log"})
    await worker.close()
    assert "a line for the log" in caplog.text


async def test_close_leaves_no_process() -> None:
    process = await spawn_worker("tests.support.workers:echo", name="echo")
    await process.request({"op": "echo"})
    pid = process.pid
    assert pid is not None
    await process.close()
    assert not Path(f"/proc/{pid}").exists()


async def test_unknown_entry_is_a_worker_that_is_gone_with_the_reason() -> None:
    process = await spawn_worker("tests.support.workers:nothing", name="x")
    assert "cannot load worker 'tests.support.workers:nothing'" in await process.closed
    with pytest.raises(Unavailable, match="worker x is gone: cannot load"):
        await process.request({"op": "echo"})
    await process.close()


async def test_reason_of_a_failed_start_is_not_hidden_by_what_follows_it(tmp_path: Path) -> None:
    errors = InvalidParams("cannot load worker"), Unavailable("its process ended")
    answers = [encode_frame({"id": i, "error": e.as_map()}) for i, e in enumerate(errors, 1)]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.sock"))
        listener.listen()
        process = await spawn_worker("a:b", name="x", unit_socket=tmp_path / "s.sock")
        asked = asyncio.ensure_future(process.request({"op": "echo"}))
        await asyncio.sleep(0)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"".join(answers))
            with pytest.raises(Unavailable, match="worker x is gone: cannot load worker"):
                await asked
    await process.close()


async def test_environment_is_set_before_the_entry_is_imported() -> None:
    env = {"AITORRENT_TEST_SAYS": "early"}
    process = await spawn_worker("tests.support.workers:environment", name="x", env=env)
    frame = await process.request({"op": "x"})
    assert frame.header["says"] == "early"
    await process.close()


async def test_worker_ends_with_the_daemon_also_while_it_computes() -> None:
    """The daemon may be killed without a word: then its end of the socket closes."""
    process = await spawn_worker("tests.support.workers:echo", name="echo")
    await process.request({"op": "echo"})
    hanging = asyncio.ensure_future(process.request({"op": "hang"}))
    await asyncio.sleep(0)
    pid = process.pid
    assert process._transport is not None
    process._transport.abort()
    with pytest.raises(Unavailable, match="gone"):
        await hanging
    await process.close()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("busy", [False, True])
def test_worker_that_nobody_can_kill_ends_by_itself_when_its_daemon_is_gone(busy: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            command = [sys.executable, "-m", "aitorrentd.workers.worker"]
            process = subprocess.Popen(command, stdin=theirs.fileno(), cwd=REPOSITORY)
        try:
            ours.settimeout(20)
            ours.sendall(encode_frame({"id": 0, "entry": "tests.support.workers:echo"}))
            assert ours.recv(4)
            if busy:
                ours.sendall(encode_frame({"id": 1, "op": "hang"}))
            ours.close()
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait(10)


async def test_connection_to_a_service_manager_is_a_worker_like_any_other(tmp_path: Path) -> None:
    """A socket unit with Accept=yes starts a process for each connection, on its standard input."""
    path = tmp_path / "worker.sock"
    children: list[subprocess.Popen[bytes]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                command = [sys.executable, "-m", "aitorrentd.workers.worker"]
                children.append(subprocess.Popen(command, stdin=connection.fileno()))

        waiting = asyncio.get_running_loop().run_in_executor(None, accept)
        process = await spawn_worker("tests.support.workers:echo", name="u", unit_socket=path)
        assert (await process.request({"op": "echo", "say": 5})).header["said"] == 5
        await waiting
        assert process.pid == children[0].pid
        await process.close()
    assert await asyncio.to_thread(children[0].wait, 10) == 0


async def test_service_manager_that_does_not_answer_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="systemctl status aitorrent-worker.socket"):
        await spawn_worker("x:y", name="u", unit_socket=tmp_path / "none.sock")
