"""The largest datagram of a path, as probes find it."""

from __future__ import annotations

import asyncio

import pytest

from aitorrent_nat.punch.paths import probing
from aitorrent_nat.punch.paths.probing import LEAST_BYTES, ProbedPath
from tests.support.nat.paths import Weather, connected, paths
from tests.support.nodes import wait_for

KEY = b"k" * 32


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, answers to larger probes count."""
    monkeypatch.setattr(probing, "GRACE_S", 0.5)
    monkeypatch.setattr(probing, "AGAIN_S", 1.0)
    monkeypatch.setattr(probing, "PATIENCE_S", 2.0)


@pytest.mark.usefixtures("patient")
async def test_each_end_finds_what_its_direction_carries() -> None:
    for largest, expected in ((65_535, 8972), (1472, 1472), (1460, 1452), (1300, LEAST_BYTES)):
        async with paths(Weather(largest=largest, delay_s=0.005)) as ends:
            one, other = (ProbedPath(end, KEY, is_client=not n) for n, end in enumerate(ends))
            found = await asyncio.gather(one.measure(), other.measure())
            assert [size for size, _ in found] == [expected, expected]
            for _, rtt_s in found:
                assert rtt_s is None or 0.009 < rtt_s < 2
            assert (found[0][1] is None) == (expected == LEAST_BYTES)


async def test_quic_runs_with_the_size_found() -> None:
    weather = Weather(largest=1472)
    async with paths(weather) as ends:
        probed = tuple(ProbedPath(end, KEY, is_client=not n) for n, end in enumerate(ends))
        (size, _), _ = await asyncio.gather(*(each.measure() for each in probed))
        one, other = await connected((probed[0], probed[1]), datagram_bytes=size)
        before = weather.passed
        await one.send(bytes(200_000))
        await wait_for(lambda: len(other.received) == 200_000)
        assert weather.passed - before < 1.7 * 200_000 / 1472


async def test_an_end_that_is_late_loses_nothing() -> None:
    async with paths() as ends:
        one = ProbedPath(ends[0], KEY, is_client=True)
        other = ProbedPath(ends[1], KEY, is_client=False)
        one.send(b"\x40early")
        await asyncio.sleep(0.05)
        heard: list[bytes] = []
        other.listen(heard.append, lambda reason: None)
        assert heard == [b"\x40early"]


async def test_probes_without_the_key_get_no_answer() -> None:
    async with paths() as ends:
        stranger = ProbedPath(ends[0], b"x" * 32, is_client=True)
        ProbedPath(ends[1], KEY, is_client=False)
        assert await stranger.measure() == (LEAST_BYTES, None)


@pytest.mark.usefixtures("patient")
async def test_an_answer_is_smaller_than_its_probe() -> None:
    weather = Weather()
    async with paths(weather) as ends:
        one = ProbedPath(ends[0], KEY, is_client=True)
        ProbedPath(ends[1], KEY, is_client=False)
        assert await one.measure((1372,)) != (LEAST_BYTES, None)
        assert weather.passed == 2
        assert weather.passed_bytes - 1372 < 32


async def test_the_path_may_be_lost_before_anybody_listens() -> None:
    async with paths() as ends:
        probed = ProbedPath(ends[0], KEY, is_client=True)
        ends[0]._on_lost("gone")
        lost: list[str] = []
        probed.listen(lambda datagram: None, lost.append)
        assert lost == ["gone"]
