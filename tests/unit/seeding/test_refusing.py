"""Which addresses are refused after corrupt pieces came from there, and for how long."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from aitorrent_seeding.session import refusing
from aitorrent_seeding.session.links import Links
from aitorrent_seeding.session.refusing import STRIKES, Refusing
from tests.support.nodes import wait_for

LOG = logging.getLogger("test.refusing")
HERE, BESIDE = ("192.0.2.1", 7000), ("192.0.2.1", 7001)


class Applied:
    """Keeps the filter that libtorrent would have."""

    def __init__(self) -> None:
        self.rules: Any = None

    def __call__(self, rules: Any) -> None:
        self.rules = rules

    def blocks(self, address: str) -> bool:
        return self.rules is not None and bool(self.rules.access(address))


def connected(*places: tuple[str, int]) -> Links:
    links = Links()
    for place in places:
        links.connected(place, (), 0.0)
    return links


async def test_address_is_refused_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusing, "FIRST_S", 0.05)
    made = Refusing(applied := Applied(), LOG)
    made.corrupt(HERE, [connected(HERE, ("192.0.2.2", 7000))])
    made.corrupt(("2001:db8::1", 7000), [])
    addresses = ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2")
    assert [applied.blocks(one) for one in addresses] == [True, False, True, False]
    await wait_for(lambda: not any(applied.blocks(one) for one in addresses))


@pytest.mark.jump_clock
async def test_address_that_does_it_again_is_refused_for_longer() -> None:
    made = Refusing(applied := Applied(), LOG)

    async def refused_s() -> float:
        made.corrupt(HERE, [connected(HERE)])
        made.corrupt(HERE, [])  # of another connection, which ends with it
        begun = time()
        assert applied.blocks(HERE[0])
        await wait_for(lambda: not applied.blocks(HERE[0]), 4000, every_s=1.0)
        return round(time() - begun)

    time = asyncio.get_running_loop().time
    refused = [await refused_s() for _ in range(5)]
    assert refused == [60, 240, 960, 3600, 3600]
    await asyncio.sleep(86_401)
    assert await refused_s() == 60


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
async def test_peers_of_this_machine_are_not_refused(address: str) -> None:
    made = Refusing(applied := Applied(), LOG)
    for port in range(10):
        made.corrupt((address, port), [])
    assert applied.rules is None


async def test_address_of_other_peers_is_refused_only_after_some_strikes() -> None:
    """A connection with another torrent counts, too; one that was banned itself does not."""
    made = Refusing(applied := Applied(), LOG)
    every = [connected(HERE), connected(BESIDE)]
    for _ in range(STRIKES - 1):
        made.corrupt(HERE, every)
        assert applied.rules is None
    made.corrupt(HERE, every)
    assert applied.blocks("192.0.2.1")
    made.close()
    again = Refusing(applied := Applied(), LOG)
    both = connected(HERE, BESIDE)
    both.banned(BESIDE, bytes(20))
    again.corrupt(HERE, [both])
    assert applied.blocks("192.0.2.1")
    again.close()


async def test_number_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusing, "MOST", 3)
    made = Refusing(applied := Applied(), LOG)
    for n in range(5):
        made.corrupt((f"192.0.2.{n}", 7000), [])
    assert [n for n in range(5) if applied.blocks(f"192.0.2.{n}")] == [2, 3, 4]
    made.close()


async def test_link_local_address_with_its_zone_is_understood() -> None:
    made = Refusing(applied := Applied(), LOG)
    made.corrupt(("fe80::1%e0", 7000), [])
    assert applied.blocks("fe80::1")
    made.close()
