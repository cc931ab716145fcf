"""Logs: rendering, the ring, followers, secrets; and the lag of the event loop."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import threading
from collections.abc import Iterator

import pytest

from aitorrentd.runtime.logs import RING_RECORDS, LogLine, Redactor, capture, output, set_level
from aitorrentd.runtime.loop_lag import LoopLag
from tests.support.nodes import wait_for

LOG = logging.getLogger("aitorrentd.test_logs")


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    before = logging.getLogger("aitorrentd").level
    set_level("debug")
    yield
    logging.getLogger("aitorrentd").setLevel(before)


def test_text_lines_have_time_level_source_and_message() -> None:
    stream = io.StringIO()
    with output(Redactor(), level="info", style="text", stream=stream):
        LOG.info("started %d things", 3)
        LOG.debug("not shown")
    line = stream.getvalue()
    assert line.endswith(" info    test_logs: started 3 things\n")
    assert line.count("\n") == 1


def test_json_lines_are_one_object_each_even_with_a_traceback() -> None:
    stream = io.StringIO()
    with output(Redactor(), level="info", style="json", stream=stream):
        try:
            raise ValueError("two\nlines")
        except ValueError:
            LOG.exception("failed")
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert (found["level"], found["logger"]) == ("error", "aitorrentd.test_logs")
    assert "ValueError: two\nlines" in found["text"]


def test_output_ends_with_its_block_and_a_closed_stream_hurts_nobody() -> None:
    stream = io.StringIO()
    with output(Redactor(), level="info", style="text", stream=stream):
        stream.close()
        LOG.warning("nobody hears this")
    LOG.warning("nor this")


def test_secrets_are_blotted_out_in_messages_arguments_and_tracebacks() -> None:
    redactor = Redactor({"swordfish", "swordfish-long", "abc"})
    with capture(redactor, LOG) as ring:
        LOG.info("key %s", "swordfish-long")
        try:
            raise ValueError("bad key swordfish")
        except ValueError:
            LOG.exception("failed abc")
        redactor.add(["later-secret"])
        LOG.info("later-secret")
    texts = [line.text for line in ring.lines()]
    assert texts[0] == "key •••"
    assert "swordfish" not in texts[1]
    assert "failed abc" in texts[1], "three letters are too common to blot out"
    assert texts[2] == "•••"


def test_ring_keeps_the_last_records_and_cuts_long_ones() -> None:
    with capture(Redactor(), LOG) as ring:
        for i in range(RING_RECORDS + 10):
            LOG.debug("%d", i)
        LOG.debug("x" * 100_000)
    lines = ring.lines()
    assert len(lines) == RING_RECORDS
    assert lines[0].text == "11"
    assert len(lines[-1].text) < 17_000


def test_log_call_with_wrong_arguments_is_kept_without_them() -> None:
    with capture(Redactor(), LOG) as ring:
        wrong = {"name": "aitorrentd.x", "msg": "%d peers", "args": ("swordfish",)}
        ring.handle(logging.makeLogRecord(wrong))
    (line,) = ring.lines()
    assert line.text == "%d peers [log call with wrong arguments]"


async def test_follower_gets_records_of_every_thread_in_order() -> None:
    with capture(Redactor(), LOG) as ring, ring.followed() as new:

        def work() -> None:
            for i in range(50):
                LOG.info("%d", i)

        thread = threading.Thread(target=work)
        thread.start()
        got = []
        async with asyncio.timeout(10):
            async for line in new:
                got.append(line.text)
                if len(got) == 50:
                    break
        thread.join()
    assert got == [str(i) for i in range(50)]


async def test_slow_follower_costs_bounded_memory_and_is_told_what_it_lost() -> None:
    with capture(Redactor(), LOG) as ring, ring.followed() as new:
        for i in range(3000):
            LOG.info("%d", i)
        first: LogLine = await asyncio.wait_for(anext(new), 5)
        assert first.text == "1976 log records were lost because this reader is too slow"
        assert (await anext(new)).text == "1976"


def test_lag_is_remembered_for_a_minute_and_warned_of_at_most_every_half(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 1000.0
    lag = LoopLag(LOG, monotonic=lambda: now)
    assert lag.worst_s() == 0.0
    lag.record(2.0)
    now += 1
    lag.record(1.5)
    assert lag.worst_s() == 2.0
    assert lag.worst_s(0.5) == 1.5
    now += 40
    lag.record(3.0)
    now += 59
    assert lag.worst_s() == 3.0
    now += 2
    assert lag.worst_s() == 0.0
    warned = [r.getMessage() for r in caplog.records]
    assert warned == [
        "the event loop was blocked for 2.0 s",
        "the event loop was blocked for 3.0 s",
    ]


async def test_lag_of_a_loop_that_is_held_up_is_measured() -> None:
    lag = LoopLag(LOG)
    task = asyncio.create_task(lag.run())
    await asyncio.sleep(0)  # it waits for its first look
    held = threading.Event()
    held.wait(0.6)
    await wait_for(lag.worst_s)
    task.cancel()
    assert 0.3 <= lag.worst_s() < 5.0


def test_record_that_nobody_takes_is_counted_and_stays_in_the_ring() -> None:
    reader, end = os.pipe()
    resumed = threading.Event()

    class Ears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "were dropped" in record.getMessage():
                resumed.set()

    def read_until_resumed() -> None:
        while not resumed.is_set():
            os.read(reader, 1 << 20)

    root, ears = logging.getLogger("aitorrentd"), Ears()
    root.addHandler(ears)
    with (
        open(end, "w") as stream,
        capture(Redactor(), root) as ring,
        output(Redactor(), level="info", style="text", stream=stream),
    ):
        for _ in range(400):
            LOG.info("x" * 16_000)
        LOG.info("after the queue was full")
        texts = [line.text for line in ring.lines()]
        assert texts[-1] == "after the queue was full"
        assert texts.count("the log output is not being read; dropping records from it") == 1
        reading = threading.Thread(target=read_until_resumed)
        reading.start()
        reading.join(20)
        counted = ring.lines()[-1].text
        assert counted.endswith("log records were dropped because the log output was not read")
        assert int(counted.split()[0]) > 100
    root.removeHandler(ears)
    os.close(reader)
