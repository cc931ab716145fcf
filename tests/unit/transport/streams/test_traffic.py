"""Bytes by protocol: right at any moment, never less than before, and no strangers' names."""

from __future__ import annotations

from collections import Counter

from aitorrent_transport.streams.mux import Mux
from aitorrent_transport.streams.stream_state import StreamState
from aitorrent_transport.streams.traffic import Traffic
from aitorrent_transport.streams.windows import WindowBudget
from aitorrentd.api import Priority


class Ends:
    """Two multiplexers, what they opened, and their traffic."""

    def __init__(self) -> None:
        self.traffic = Traffic(), Traffic()
        self.mux = tuple(
            Mux(dialer=i == 0, budget=WindowBudget(1 << 30), traffic=self.traffic[i])
            for i in range(2)
        )
        self.opened: list[StreamState] = []
        self.mux[1].on_open = self.opened.append
        for mux in self.mux:
            mux.hello({"v": 1})
        self.carry()

    def carry(self) -> None:
        """Move all that can be moved, both ways."""
        moved = True
        while moved:
            moved = False
            for source, target in (self.mux, self.mux[::-1]):
                while (parts := source.next_record()) is not None:
                    target.receive(memoryview(b"".join(parts)), 0.0)
                    moved = True

    def totals(self, side: int) -> tuple[Counter[str], Counter[str]]:
        return self.traffic[side].totals(self.mux[side].states())


def test_bytes_are_counted_while_a_stream_runs_and_after_it_ended() -> None:
    ends = Ends()
    near = ends.mux[0].open("/a/1", Priority.BULK, 0.0)
    total = 0
    for size in (1, 70_000, 500_000):
        near.sending.push(bytes(size))
        total += size
        ends.mux[0].touch(near, 0.0)
        for _ in range(20):  # read, so that more credit comes
            ends.carry()
            far = ends.opened[0]
            far.receiving.take(1 << 20)
            ends.mux[1].touch(far, 0.0)
        assert ends.totals(0) == ({}, {"/a/1": total})
        assert ends.totals(1) == ({"/a/1": total}, {})
    ends.mux[0].reset(near, "done")
    ends.carry()
    assert not ends.mux[0].states()
    assert not ends.mux[1].states()
    assert ends.totals(0) == ({}, {"/a/1": total})
    assert ends.totals(1) == ({"/a/1": total}, {})


def test_streams_of_one_protocol_add_up_and_a_lost_channel_keeps_them() -> None:
    ends = Ends()
    for _ in range(3):
        near = ends.mux[0].open("/a/1", Priority.BULK, 0.0)
        near.sending.push(bytes(100))
        ends.mux[0].touch(near, 0.0)
    ends.carry()
    before = ends.totals(1)
    for mux in ends.mux:
        mux.fail("the link broke")
    assert ends.totals(1) == before == ({"/a/1": 300}, {})


def test_protocols_that_strangers_make_up_are_not_counted() -> None:
    """Each would be a label for as long as the node runs."""
    ends = Ends()
    ends.mux[1].on_open = lambda state: ends.mux[1].reset(state, "no such protocol")
    for i in range(300):
        near = ends.mux[0].open(f"/strange/{i}", Priority.BULK, 0.0)
        near.sending.push(bytes(10))
        ends.mux[0].touch(near, 0.0)
        ends.carry()
    assert ends.totals(1) == ({}, {})
