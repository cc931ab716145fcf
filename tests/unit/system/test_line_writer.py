"""Output that waits for nobody: order, bounds, counts, and ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from aitorrentd.system.line_writer import QUEUE_BYTES, LineWriter, QueuedStream, write_within


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_lines_arrive_in_order_and_closing_waits_for_them(pipe: tuple[int, int]) -> None:
    reader, end = pipe
    writer = LineWriter(end)
    lines = [b"%d\n" % n for n in range(5000)]
    assert all(writer.put(line) for line in lines)
    assert writer.close(10)
    os.close(end)
    assert read_all(reader) == b"".join(lines)
    assert not writer.put(b"late\n")


def test_pipe_that_nobody_reads_blocks_nobody_and_drops_are_counted(
    pipe: tuple[int, int],
) -> None:
    reader, end = pipe
    resumed: list[int] = []
    told = threading.Event()

    def resume(dropped: int) -> None:
        resumed.append(dropped)
        told.set()

    writer = LineWriter(end, resumed=resume)
    line = b"x" * 65_535 + b"\n"
    taken = sum(writer.put(line) for _ in range(200))
    assert QUEUE_BYTES // len(line) <= taken < 100
    assert not writer.flush(0.01)
    received = 0
    while received < taken * len(line):
        received += len(os.read(reader, 1 << 16))
    assert told.wait(10)
    assert resumed == [200 - taken]
    assert writer.put(b"again\n")
    assert writer.close(10)
    os.close(end)
    assert read_all(reader) == b"again\n"


def test_full_disk_counts_as_dropped_and_is_told_after_it_has_room(tmp_path: Path) -> None:
    resumed: list[int] = []
    told = threading.Event()

    def resume(dropped: int) -> None:
        resumed.append(dropped)
        told.set()

    with open("/dev/full", "wb", buffering=0) as full, open(tmp_path / "log", "wb") as log:
        writer = LineWriter(full.fileno(), resumed=resume)
        for n in range(1, 4):
            writer.put(b"lost\n")
            assert writer.flush(10)
            assert (writer.dropped, writer.failure) == (n, "No space left on device")
        assert resumed == []
        os.dup2(log.fileno(), full.fileno())
        writer.put(b"kept\n")
        assert told.wait(10)
        assert (resumed, writer.dropped, writer.failure) == ([3], 0, "")
        assert writer.close(10)
    assert (tmp_path / "log").read_bytes() == b"kept\n"


def test_last_words_are_written_when_no_thread_can_be_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with open(tmp_path / "log", "w") as log:
        assert write_within(log, "cannot start\n", timeout_s=1)
    assert (tmp_path / "log").read_text() == "cannot start\n"


def test_closing_gives_up_after_its_time(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    writer.put(b"x" * 1_000_000)
    assert not writer.close(0.05)
    os.set_blocking(pipe[0], False)
    while writer._thread.is_alive():  # so that the thread does not outlive the test
        with suppress(BlockingIOError):
            os.read(pipe[0], 1 << 16)


def test_reader_that_is_gone_takes_everything(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    writer = LineWriter(pipe[1])
    assert writer.put(b"x\n")
    assert writer.close(10)


def test_descriptor_that_somebody_made_non_blocking_is_waited_for(pipe: tuple[int, int]) -> None:
    reader, end = pipe
    os.set_blocking(end, False)
    writer = LineWriter(end)
    content = b"y" * 1_000_000
    writer.put(content)
    received = b""
    while len(received) < len(content):
        received += os.read(reader, 1 << 16)
    assert received == content
    assert writer.close(10)


def test_printing_goes_through_the_queue(pipe: tuple[int, int]) -> None:
    reader, end = pipe
    writer = LineWriter(end)
    with open(end, "w", closefd=False) as behind:
        print("café", 1, file=QueuedStream(writer, behind), flush=True)
        assert QueuedStream(writer, behind).fileno() == end
        assert write_within(behind, "last\n", timeout_s=10)
    assert writer.close(10)
    os.close(end)
    assert sorted(read_all(reader).splitlines()) == ["café 1".encode(), b"last"]
