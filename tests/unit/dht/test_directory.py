"""The DHT as a source of the directory: offers out, strangers' records in."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from aitorrent_dht.core.contact import contact_of
from aitorrent_dht.core.finding import Found
from aitorrent_dht.core.record import MAX_VALUE_BYTES, provider_key
from aitorrent_dht.directory import FRESH_S, SETTLE_S, DhtDirectory, place_of, read_offer
from aitorrentd.api import ProtocolError, pack, peer_id, unpack
from tests.support.dht.wired import Wired

ME, OTHER = Wired(1), Wired(2)
MY_ID, OTHER_ID = peer_id(ME.key), peer_id(OTHER.key)
OTHER_CONTACT = contact_of(OTHER.key, "127.0.0.1", 8002)


class Source:
    """A directory whose searches the test answers."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.node = Wired(1).node
        self.found: list[Any] = []
        self.searches = 0
        self.addresses = [f"/ip4/192.0.2.1/tcp/8468/p2p/{MY_ID}"]
        self.directory = DhtDirectory(
            self.node,
            MY_ID,
            now=lambda: self.now,
            addresses=lambda: self.addresses,
            search=self._search,
            flush=lambda: None,
            log=logging.getLogger("test.dht"),
        )

    async def _search(self, key: bytes) -> Found:
        self.searches += 1
        return Found(records=self.found)

    def published(self) -> dict[bytes, Any]:
        return {r.key: unpack(r.value) for r in self.node.publishing.records() if not r.is_deleted}


def test_offer_is_published_with_addresses_and_withdrawn() -> None:
    it = Source()
    it.directory.publish("ait:cap:m", {"v": 1})
    key = provider_key("ait:cap:m")
    assert it.published() == {key: {"v": {"v": 1}, "a": ["/ip4/192.0.2.1/tcp/8468"]}}
    assert [r.peer for r in it.directory.known("ait:")] == [MY_ID]
    it.directory.withdraw("ait:cap:m")
    assert it.published() == {}
    assert it.directory.known("") == []


def test_record_that_keeps_changing_is_published_now_and_then() -> None:
    it = Source()
    for value in range(20):
        it.directory.publish("ait:shard:d", {"free": value})
    key = provider_key("ait:shard:d")
    assert it.published()[key]["v"] == {"free": 0}
    it.now += SETTLE_S
    it.directory.refresh()
    assert it.published()[key]["v"] == {"free": 19}


def test_changed_address_is_published() -> None:
    it = Source()
    it.directory.publish("ait:cap:m", {})
    it.addresses = [f"/ip4/192.0.2.9/tcp/8468/p2p/{MY_ID}"]
    it.now += SETTLE_S
    it.directory.refresh()
    assert it.published()[provider_key("ait:cap:m")]["a"] == ["/ip4/192.0.2.9/tcp/8468"]


@pytest.mark.parametrize("key", ["ait:dht:contact", "ait:loading:m"])
def test_records_for_connected_peers_stay_out_of_the_dht(key: str) -> None:
    it = Source()
    it.directory.publish(key, {"v": 1})
    it.directory.withdraw(key)
    assert it.published() == {}


def test_addresses_that_do_not_fit_are_left_out() -> None:
    it = Source()
    it.addresses = [f"/ip4/192.0.2.{i}/tcp/8468/p2p/{MY_ID}" for i in range(16)]
    it.directory.publish("ait:cap:m", {"filler": "x" * 500})
    value = it.published()[provider_key("ait:cap:m")]
    assert 0 < len(value["a"]) < 16
    assert len(pack(value)) <= MAX_VALUE_BYTES


async def test_found_records_are_known_for_a_minute_and_asked_for_once() -> None:
    it = Source()
    it.node.state.table.seen(OTHER_CONTACT, 1.0)
    value = pack({"v": {"m": 1}, "a": ["/ip4/192.0.2.2/tcp/8468"]})
    it.found = [OTHER.record("ait:cap:m", value), ME.record("ait:cap:m", value)]
    (record,) = await it.directory.find("ait:cap:m")
    assert record.peer == OTHER_ID
    assert record.addresses == (f"/ip4/192.0.2.2/tcp/8468/p2p/{OTHER_ID}",)
    assert await it.directory.find("ait:cap:m") == [record]
    assert it.directory.known("ait:cap:") == [record]
    assert it.searches == 1
    it.now += FRESH_S
    assert it.directory.known("ait:cap:") == []
    it.found = []
    assert await it.directory.find("ait:cap:m") == []
    assert it.searches == 2


async def test_nobody_is_asked_while_nobody_is_known() -> None:
    it = Source()
    assert await it.directory.find("ait:cap:m") == []
    assert it.searches == 0


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        pack([]),
        pack({"v": 1, "a": []}),
        pack({"v": {1: 2}, "a": []}),
        pack({"v": {}}),
        pack({"v": {}, "a": "text"}),
        pack({"v": {}, "a": ["x" * 200]}),
        pack({"v": {}, "a": ["/ip4/1.2.3.4/tcp/1"] * 17}),
    ],
)
def test_malformed_offer_of_a_stranger_is_a_protocol_error(value: bytes) -> None:
    with pytest.raises(ProtocolError, match="must|expected|invalid"):
        read_offer("ait:cap:m", OTHER_ID, value)


def test_addresses_of_other_nodes_and_nonsense_are_left_out() -> None:
    listed = ["", "nonsense", "/ip4/192.0.2.2/udp/1", f"/ip4/192.0.2.2/tcp/1/p2p/{MY_ID}",
              "/ip4/224.0.0.1/tcp/1", "/ip4/192.0.2.3/tcp/2"]  # fmt: skip
    record = read_offer("k", OTHER_ID, pack({"v": {}, "a": listed}))
    assert record.addresses == (f"/ip4/192.0.2.3/tcp/2/p2p/{OTHER_ID}",)


def test_place_of_an_address() -> None:
    assert place_of("/ip4/192.0.2.1/tcp/8468") == ("192.0.2.1", 8468)
    assert place_of("/dns4/example.org/tcp/8468") is None
    assert place_of("nonsense") is None
