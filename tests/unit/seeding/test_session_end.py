"""A session of libtorrent that does not end does not keep the daemon from stopping."""

from __future__ import annotations

import logging
import threading

import pytest

from aitorrent_seeding.session.engine import ended


class Session:
    """Ends once it may."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def __del__(self) -> None:
        self.may_end.wait(30)


async def test_one_that_hangs_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    last = [Session()]
    may_end = last[0].may_end
    await ended(last, logging.getLogger("seeding"), within_s=0.05)
    assert "did not stop within 0.05 s" in caplog.text
    may_end.set()


async def test_one_that_ends_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    last = [Session()]
    last[0].may_end.set()
    await ended(last, logging.getLogger("seeding"))
    assert not last
    assert not caplog.text
