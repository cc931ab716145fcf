"""The tracker without sockets: UDP, access, limits, and clients behind proxies."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_tracker.answering.access import Access
from aitorrent_tracker.answering.sources import Proxies, Rates, packed, subnet_of
from aitorrent_tracker.answering.tracker import Intervals, Tracker
from aitorrent_tracker.swarms.memory import Limits, MemoryStorage
from aitorrent_tracker.wire.http_requests import Request
from aitorrent_tracker.wire.udp import PROTOCOL_ID, WINDOW_S, ConnectionIds

HASH, OTHER = b"h" * 20, b"o" * 20
KEY = "k" * 16
V4, V6 = packed("203.0.113.7"), packed("2001:db8::7")


def tracker(
    torrents: Iterable[bytes] | None = None,
    *,
    keys: Iterable[str] = (),
    rate: float = 1000.0,
    proxies: Iterable[str] = (),
) -> Tracker:
    return Tracker(
        MemoryStorage(Limits(), ttl_s=1800, now=0, draw=lambda: 0.5),
        Access(torrents, keys),
        Rates(rate),
        Proxies([ipaddress.ip_network(text) for text in proxies]),
        ConnectionIds(b"secret"),
        Intervals(),
        lambda: 0.0,
    )


def udp_announce(
    connection: int,
    *,
    info_hash: bytes = HASH,
    port: int = 6881,
    event: int = 2,
    left: int = 1,
    wanted: int = -1,
    options: bytes = b"",
) -> bytes:
    return struct.pack(
        ">QII20s20sQQQIIIiH", connection, 1, 77, info_hash, b"p" * 20, 0, left, 0, event,
        0x08080808, 0, wanted, port,
    ) + options  # fmt: skip


def connect(one: Tracker, host: bytes, now: float = 0.0) -> int:
    reply = one.udp(struct.pack(">8sII", PROTOCOL_ID, 0, 5), host, now)
    assert reply is not None and reply[:8] == struct.pack(">II", 0, 5) and len(reply) == 16
    return int.from_bytes(reply[8:], "big")


def http(
    one: Tracker,
    *,
    path: bytes = b"/announce",
    host: bytes = V4,
    port: int = 6881,
    info_hash: bytes = HASH,
    forwarded: tuple[bytes, ...] = (),
    more: bytes = b"",
) -> bytes:
    query = b"info_hash=%b&peer_id=%b&port=%d&left=1%b" % (info_hash, b"p" * 20, port, more)
    return one.http(Request(path, query, False, True, forwarded), host, 0.0)[1]


# UDP


def test_udp_peers_of_each_family_find_each_other() -> None:
    one = tracker()
    for host, other, width in ((V4, packed("203.0.113.8"), 6), (V6, packed("2001:db8::8"), 18)):
        assert one.udp(udp_announce(connect(one, host)), host, 0)
        reply = one.udp(udp_announce(connect(one, other)), other, 0)
        assert reply is not None
        assert struct.unpack_from(">IIIII", reply)[:3] == (1, 77, 900)
        assert reply[20:] == host + b"\x1a\xe1" and len(reply) == 20 + width


def test_udp_and_http_share_swarms() -> None:
    one = tracker()
    http(one, host=packed("203.0.113.9"), port=1)
    reply = one.udp(udp_announce(connect(one, V4)), V4, 0)
    assert reply is not None and reply[20:] == packed("203.0.113.9") + b"\0\x01"
    assert V4 + b"\x1a\xe1" in http(one, host=packed("203.0.113.10"))


def test_address_in_a_request_is_ignored() -> None:
    one = tracker()
    one.udp(udp_announce(connect(one, V4)), V4, 0)
    http(one, host=packed("203.0.113.9"), more=b"&ip=8.8.8.8&ipv4=8.8.8.8&ipv6=2001:4860::8888")
    reply = http(one, host=packed("203.0.113.10"))
    assert b"\x08\x08\x08\x08" not in reply and b"5:peers12:" in reply and b"6:peers60:" in reply


def test_connection_id_belongs_to_an_address_and_lives_two_to_four_minutes() -> None:
    one = tracker()
    mine = connect(one, V4, WINDOW_S * 1.99)
    for now, is_served in ((2.0, True), (2.99, True), (3.01, False), (0.5, False)):
        reply = one.udp(udp_announce(mine), V4, now * WINDOW_S)
        assert reply is not None and (reply[:4] == b"\0\0\0\x01") is is_served
    stolen = one.udp(udp_announce(mine), packed("203.0.113.8"), WINDOW_S * 2)
    assert stolen == struct.pack(">II", 3, 77) + b"expired"
    assert connect(tracker(), V4) != connect(one, V6)


@given(st.binary(max_size=200), st.sampled_from([V4, V6]))
def test_no_unproven_sender_gets_more_bytes_than_it_sent(raw: bytes, host: bytes) -> None:
    one = tracker()
    for start in (
        b"",
        struct.pack(">8sI", PROTOCOL_ID, 0),
        bytes(11) + b"\x01",
        bytes(11) + b"\x02",
    ):
        assert len(one.udp(start + raw, host, 0) or b"") <= len(start + raw)
    assert one.storage.statistics().swarms == 0


@given(st.binary(max_size=1600), st.sampled_from([1, 2, 3, 9]))
def test_proven_sender_may_send_anything(raw: bytes, action: int) -> None:
    one = tracker()
    reply = one.udp(struct.pack(">QII", connect(one, V4), action, 1) + raw, V4, 0)
    assert reply is None or len(reply) <= 1232


@pytest.mark.parametrize("size", range(16))
def test_short_datagrams_are_not_answered(size: int) -> None:
    assert tracker().udp(struct.pack(">8sII", PROTOCOL_ID, 0, 5)[:size], V4, 0) is None


def test_udp_announce_of_port_0_or_cut_short_is_an_error() -> None:
    one = tracker()
    mine = connect(one, V4)
    for raw in (udp_announce(mine, port=0), udp_announce(mine)[:97]):
        reply = one.udp(raw, V4, 0)
        assert reply is not None and reply[:8] == struct.pack(">II", 3, 77)
    assert one.udp(udp_announce(mine, port=0, event=3), V4, 0) is not None
    assert one.storage.statistics().leechers == 0


def test_udp_replies_fit_into_a_datagram_of_any_path() -> None:
    one = tracker()
    for n in range(200):
        for host in (bytes((10, 0, 0, n)), b"\xfd" + bytes(14) + bytes([n])):
            http(one, host=host)
    for host, most in ((packed("10.1.1.1"), 74), (packed("fd00::1:1"), 64)):
        reply = one.udp(udp_announce(connect(one, host), wanted=2**31 - 1), host, 0)
        assert reply is not None and len(reply) == 20 + most * (len(host) + 2) <= 1232


def test_udp_scrape_answers_in_order_also_for_what_is_unknown_or_repeated() -> None:
    one = tracker()
    mine = connect(one, V4)
    one.udp(udp_announce(mine, left=0, event=1), V4, 0)
    head = struct.pack(">QII", mine, 2, 9)
    reply = one.udp(head + OTHER + HASH + HASH + b"rest", V4, 0)
    assert reply == struct.pack(">II9I", 2, 9, 0, 0, 0, 1, 1, 0, 1, 1, 0)
    assert (
        one.udp(head + b"short", V4, 0) == struct.pack(">II", 3, 9) + b"scrape names no info-hash"
    )


def test_path_of_a_udp_tracker_url_carries_the_key() -> None:
    one = tracker(keys=[KEY])
    mine = connect(one, V4)
    path = f"/{KEY}/announce?x".encode()
    split = (
        b"\x01\x02\x05" + path[:5] + b"\x09\x02zz\x02" + bytes([len(path) - 5]) + path[5:] + b"\0"
    )
    good = one.udp(udp_announce(mine, options=split), V4, 0)
    assert good is not None and good[:4] == b"\0\0\0\x01"
    for options in (b"", b"\x02", b"\x02\xff/x", b"\x02\x09/announce", b"\x09" * 50):
        bad = one.udp(udp_announce(mine, options=options), V4, 0)
        assert bad is not None and bad[:4] == b"\0\0\0\x03"


# Access and limits


def test_only_listed_torrents_are_served() -> None:
    one = tracker([HASH])
    assert b"5:peers" in http(one)
    assert http(one, info_hash=OTHER) == b"d14:failure reason20:unregistered torrente"
    scrape = one.http(
        Request(b"/scrape", b"info_hash=" + HASH + b"&info_hash=" + OTHER, False, True, ()), V4, 0
    )[1]
    assert HASH in scrape and OTHER not in scrape
    assert one.storage.statistics().swarms == 1


def test_private_tracker_wants_a_key_and_never_repeats_one() -> None:
    one = tracker(keys=[KEY, "other-key-0123456"])
    assert b"5:peers" in http(one, path=f"/{KEY}/announce".encode())
    for path in (b"/announce", b"/wrong-key-abcdefg/announce", b"//announce", f"/{KEY}".encode()):
        reply = http(one, path=path)
        assert reply.startswith(b"d14:failure reason") and b"wrong" not in reply


def test_other_paths_are_not_found() -> None:
    for path in (b"/", b"/announce/", b"/Announce", b"/a/announce", b"announce", b"/announce.php"):
        status, _ = tracker().http(Request(path, b"", False, True, ()), V4, 0)
        assert status == b"404 Not Found", path


def test_networks_share_a_rate_and_loopback_has_none() -> None:
    one = tracker(rate=1)
    host = packed("203.0.113.200")
    assert [b"5:peers" in http(one, host=host) for _ in range(12)] == [True] * 10 + [False] * 2
    assert b"8:retry ini1e" in http(one, host=packed("203.0.113.1"))
    assert b"5:peers" in http(one, host=packed("203.0.114.1"))
    assert all(b"5:peers" in http(one, host=packed("127.0.0.1")) for _ in range(30))
    assert one.udp(udp_announce(connect(one, host)), host, 0) is None


def test_client_behind_trusted_proxies_is_the_last_untrusted_hop() -> None:
    proxies = Proxies([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")])
    inner = packed("10.0.0.1")
    for values, client in (
        ((b"6.6.6.6, 203.0.113.7, 10.0.0.2",), V4),
        ((b"6.6.6.6", b" 203.0.113.7:4711"), V4),
        ((b"[2001:db8::7]:4711, fd00::1",), V6),
        ((b"::ffff:203.0.113.7",), V4),
    ):
        assert proxies.client(inner, values) == client
    assert proxies.client(V4, (b"6.6.6.6",)) == V4


@pytest.mark.parametrize(
    "values", [(), (b"",), (b"unknown",), (b"10.0.0.2",), (b"6.6.6.6, \xff",), (b"6.6.6.6,",)]
)
def test_proxy_that_hides_its_client_is_refused(values: tuple[bytes, ...]) -> None:
    reply = http(tracker(proxies=["10.0.0.0/8"]), host=packed("10.0.0.1"), forwarded=values)
    assert b"no usable X-Forwarded-For" in reply


def test_addresses_are_packed_by_family_and_grouped_by_network() -> None:
    assert packed("::ffff:1.2.3.4") == bytes((1, 2, 3, 4))
    assert len(packed("fe80::1%eth0")) == 16
    for text in ("", "1.2.3", "01.2.3.4.5", "x", "1.2.3.4\0"):
        with pytest.raises(ValueError, match="is not an IP address|null"):
            packed(text)
    assert subnet_of(packed("1.2.3.4")) == subnet_of(packed("1.2.3.99")) != ""
    assert subnet_of(packed("2001:db8:0:ff::1")) == subnet_of(packed("2001:db8:0:aa::2"))
    assert subnet_of(packed("127.0.0.9")) == subnet_of(packed("::1")) == ""


def test_full_list_names_each_peer_with_its_id() -> None:
    one = tracker()
    http(one, host=packed("203.0.113.9"), port=9)
    reply = http(one, more=b"&compact=0")
    assert b"5:peersld2:ip11:203.0.113.97:peer id20:" + b"p" * 20 + b"4:porti9eee" in reply
    assert b"peer id" not in http(one, more=b"&compact=0&no_peer_id=1")
