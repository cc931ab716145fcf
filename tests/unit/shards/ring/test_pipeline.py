"""What a pipeline lacks, and which of its stages holds an answer up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.protocol.messages import Link
from aitorrent_shards.ring.pipeline import Pipeline
from aitorrent_shards.ring.remote_stage import StageControl
from aitorrent_shards.ring.stalls import MAX_QUEUE, StallDetector
from aitorrent_shards.serving.holder import allowed_s
from aitorrentd.api import AitorrentError, Clock, PeerId
from tests.support.clocks import FakeClock

pytestmark = pytest.mark.jump_clock

HOME = Link(PeerId("home"), (), b"home")
CONFIG = ShardsConfig()
LIMIT_S = allowed_s(CONFIG.step_timeout_s, 2 * CONFIG.prefill_chunk)


@dataclass
class FakeSpan:
    addresses: tuple[str, ...] = ()


@dataclass
class FakeStage:
    """A stage as a pipeline sees it."""

    start: int
    end: int
    linked_to: bytes | None = None
    lost: str = ""
    refusal: AitorrentError | None = None
    pong: tuple[int, int] | None = (0, 0)
    span: FakeSpan = field(default_factory=FakeSpan)

    @property
    def peer(self) -> PeerId:
        return PeerId(f"p{self.start}")

    @property
    def session(self) -> bytes:
        return b"s%d" % self.start

    async def ping(self, *, timeout_s: float) -> tuple[int, int] | None:
        return self.pong

    def lose(self, reason: str, *, avoid_s: float) -> None:
        self.lost = reason


def pipeline(*stages: FakeStage, layers: int = 6) -> Pipeline:
    made = Pipeline("toy", layers, lambda: HOME)
    made.stages = [cast(StageControl, s) for s in stages]
    return made


def lost(made: Pipeline) -> list[int]:
    """The first layers of the stages that were lost."""
    return [s.start for s in made.lost()]


@pytest.mark.parametrize(
    ("ranges", "holes"),
    [
        ([], [(0, 6)]),
        ([(0, 6)], []),
        ([(0, 2), (4, 6)], [(2, 4)]),
        ([(2, 3)], [(0, 2), (3, 6)]),
        ([(0, 2), (2, 4)], [(4, 6)]),
    ],
)
def test_holes_are_the_layers_without_a_stage(
    ranges: list[tuple[int, int]], holes: list[tuple[int, int]]
) -> None:
    assert pipeline(*(FakeStage(a, b) for a, b in ranges)).holes() == holes


def test_each_stage_takes_from_the_one_before_and_the_last_sends_home() -> None:
    made = pipeline(FakeStage(0, 2), FakeStage(2, 6))
    assert made.prevs() == ["home", "p0"]
    assert made.targets() == [Link(PeerId("p2"), (), b"s2"), HOME]


def whole() -> tuple[Pipeline, FakeStage, FakeStage]:
    first, last = FakeStage(0, 2, linked_to=b"s2"), FakeStage(2, 6, linked_to=b"home")
    made = pipeline(first, last)
    made.head_to = b"s0"
    return made, first, last


def test_whole_until_a_link_a_stage_or_a_layer_is_missing() -> None:
    made, first, last = whole()
    assert made.check()
    assert made.whole
    last.lost = "gone"
    assert not made.check()
    assert lost(made) == [2]
    last.lost, first.linked_to = "", b"another"
    assert not made.check()
    first.linked_to, made.head_to = b"s2", None
    assert not made.check()
    made.head_to = b"s0"
    assert made.check()
    made.layers = 7
    assert not made.check()
    assert not pipeline().check()


async def test_a_change_wakes_who_waits_and_asks_for_a_check() -> None:
    made, _, _ = whole()
    made.check()
    news = made.news()
    made.wake()
    assert news.done()
    assert made.whole
    news = made.news()
    made.changed()
    assert news.done()
    assert not made.whole


async def test_stage_that_computes_nothing_is_given_up_when_a_step_should_be_done() -> None:
    made, first, last = whole()
    first.pong, last.pong = (5, 0), (4, 0)
    clock = FakeClock()
    stalls = StallDetector(made, CONFIG, cast(Clock, clock))
    await stalls.look(5)
    clock.now += LIMIT_S - 1
    await stalls.look(5)
    assert lost(made) == []
    clock.now += 2
    await stalls.look(5)
    assert lost(made) == [2]
    assert last.lost == f"it computed nothing for {LIMIT_S + 1:.0f} s"


async def test_stages_that_move_are_kept_however_slow_they_are() -> None:
    made, first, last = whole()
    clock = FakeClock()
    stalls = StallDetector(made, CONFIG, cast(Clock, clock))
    for step in range(5):
        first.pong, last.pong = (step + 1, 0), (step, 0)
        await stalls.look(9)
        clock.now += 2 * LIMIT_S
    assert lost(made) == []


async def test_a_long_queue_buys_time_but_not_without_end() -> None:
    made, first, last = whole()
    first.pong, last.pong = (5, 0), (4, 1_000_000)
    clock = FakeClock()
    stalls = StallDetector(made, CONFIG, cast(Clock, clock))
    await stalls.look(5)
    clock.now += LIMIT_S * (MAX_QUEUE + 1) - 1
    await stalls.look(5)
    assert lost(made) == []
    clock.now += 2
    await stalls.look(5)
    assert lost(made) == [2]


async def test_a_token_ends_what_was_remembered_of_a_stall() -> None:
    made, first, last = whole()
    first.pong, last.pong = (5, 0), (4, 0)
    clock = FakeClock()
    stalls = StallDetector(made, CONFIG, cast(Clock, clock))
    await stalls.look(5)
    stalls.settle()
    clock.now += LIMIT_S + 1
    await stalls.look(5)
    assert lost(made) == []


async def test_when_all_have_what_was_sent_the_last_stage_is_to_blame() -> None:
    made, first, last = whole()
    first.pong = last.pong = (5, 0)
    clock = FakeClock()
    stalls = StallDetector(made, CONFIG, cast(Clock, clock))
    await stalls.look(5)
    clock.now += LIMIT_S + 1
    await stalls.look(5)
    assert lost(made) == [2]
