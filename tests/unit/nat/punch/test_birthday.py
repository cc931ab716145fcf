"""Guessing one of many ports, with proofs, at a pace, and one at a time."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from aitorrent_nat.punch import birthday as module
from aitorrent_nat.punch.birthday import (
    BYTES,
    GUESSES,
    INTERVAL_S,
    PACE_S,
    SOCKETS,
    Turns,
    guess,
    message,
    open_many,
)
from aitorrentd.api import Busy, Unavailable
from tests.support.clocks import FakeClock
from tests.support.nat.paths import LOCAL, local_socket
from tests.support.nodes import wait_for

pytestmark = pytest.mark.slow

KEY = b"k" * 32


@pytest.fixture
def easy() -> Iterator[socket.socket]:
    sock = local_socket()
    yield sock
    sock.close()


class Known(random.Random):
    """Draws ports that a test chose, then others."""

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__(1)
        self._ports = list(ports)

    def sample(self, population: Any, k: int, **_: Any) -> list[Any]:
        return (self._ports + [9] * k)[:k]


def maker(ports: list[int]) -> Any:
    def make() -> socket.socket:
        sock = local_socket()
        ports.append(sock.getsockname()[1])
        return sock

    return make


async def test_a_hit_gives_both_ends_the_same_path(easy: socket.socket) -> None:
    ports: list[int] = []
    opening = asyncio.create_task(open_many(easy.getsockname(), KEY, 8, maker(ports)))
    await wait_for(lambda: len(ports) == 8, every_s=0)
    hit = await guess(easy, LOCAL, KEY, Known([9, 9, ports[5], ports[2]]))
    sock, remote = await opening
    assert hit == sock.getsockname() == (LOCAL, ports[5])
    assert remote == easy.getsockname()
    sock.close()


async def test_real_guesses_hit_within_the_expected_number(
    easy: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PACE_S", 0.0005)
    monkeypatch.setattr(module, "GUESSES", 4000)  # 1,750 miss once in a thousand times
    opening = asyncio.create_task(open_many(easy.getsockname(), KEY, make_socket=local_socket))
    await asyncio.sleep(0.2)
    hit = await guess(easy, LOCAL, KEY, random.Random(3))
    sock, _ = await opening
    assert sock.getsockname() == hit
    sock.close()


async def test_guesses_without_the_key_are_not_answered(
    easy: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GUESSES", 20)
    monkeypatch.setattr(module, "DEADLINE_S", 0.5)
    ports: list[int] = []
    opening = asyncio.create_task(open_many(easy.getsockname(), KEY, 4, maker(ports)))
    await wait_for(lambda: len(ports) == 4, every_s=0)
    with pytest.raises(Unavailable, match="none of 20 guesses"):
        await guess(easy, LOCAL, b"x" * 32, Known(ports))
    with pytest.raises(Unavailable, match="no guess hit one of 4 open ports"):
        await opening


async def test_a_hit_from_another_host_or_without_the_key_is_ignored(
    easy: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GUESSES", 30)
    stranger = local_socket()
    stranger.sendto(message(b"x" * 32, b"h"), easy.getsockname())
    with pytest.raises(Unavailable, match="none of"):
        await guess(easy, LOCAL, KEY, Known([]))
    stranger.sendto(message(KEY, b"h"), easy.getsockname())
    with pytest.raises(Unavailable, match="none of"):
        await guess(easy, "11.1.0.2", KEY, Known([]))
    stranger.close()


def test_every_datagram_has_the_same_length_and_its_own_proof() -> None:
    kinds = (b"o", b"g", b"h", b"t")
    datagrams = {message(KEY, kind) for kind in kinds}
    assert {len(each) for each in datagrams} == {BYTES}
    assert len({each[-16:] for each in datagrams}) == 4


def test_the_chance_to_hit_is_what_the_module_says() -> None:
    miss = (1 - SOCKETS / 64_512) ** GUESSES
    assert miss < 0.001
    assert GUESSES * PACE_S < 10.5


def test_one_punch_at_a_time_and_not_too_often() -> None:
    clock = FakeClock()
    turns = Turns(clock.monotonic)
    with turns.taken():
        assert not turns.is_free
        with pytest.raises(Busy, match="is running"), turns.taken():
            pass
    with pytest.raises(Busy, match="next may start in 20 s"), turns.taken():
        pass
    clock.now += INTERVAL_S
    assert turns.is_free
    with turns.taken():
        pass
