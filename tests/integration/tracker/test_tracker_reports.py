"""What operators and users of other trackers reported, tried on this one, over sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import libtorrent as lt
import pytest

from tests.integration.tracker.test_tracker_sockets import (
    asked,
    config,
    connected,
    port_of,
    reply_of,
    stats,
)
from tests.support.nodes import NodeFactory

CONNECT = struct.pack(">QII", 0x41727101980, 0, 1)
HASH = "%01" * 20


async def get(port: int, target: str) -> tuple[bytes, Any]:
    """The head and the decoded body of an answer."""
    async with connected(port) as (reader, writer):
        writer.write(f"GET {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode())
        head, body = await reply_of(reader)
        assert await asyncio.wait_for(reader.read(), 10) == b""
    decoded = lt.bdecode(body)
    # libtorrent ignores what follows the first value; other clients refuse such a reply.
    assert lt.bencode(decoded) == body
    return head, decoded


def announce(peer: int, left: int | str = 1, event: str = "") -> str:
    who = f"info_hash={HASH}&peer_id={'p' * 20}&port={peer}"
    return f"/announce?{who}&left={left}&event={event}"


async def test_udp_reply_comes_from_the_address_that_was_asked(node_factory: NodeFactory) -> None:
    """arvidn/libtorrent#7679: trackers on hosts with several addresses reply from another one."""
    node = await node_factory(config(listen=["0.0.0.0", "::"]))
    port = await port_of(node)
    for host in ("127.0.0.1", "127.0.0.2", "127.3.2.1", "::1"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.bind(("::1" if ":" in host else "127.0.0.1", 0))
            sock.connect((host, port))  # from here on, other senders are not heard
            assert len(await asked(sock, CONNECT)) == 16


async def test_info_hash_in_hexadecimal_is_refused_in_words(node_factory: NodeFactory) -> None:
    """webtorrent/bittorrent-tracker#476, #324: `invalid info_hash` says nothing to its reader."""
    port = await port_of(await node_factory(config()))
    target = announce(7001).replace(HASH, "81fe8bfe87576c3ecb22426f8e57847382917acf")
    _, reply = await get(port, target)
    assert reply == {b"failure reason": b"info_hash is not 20 percent-encoded bytes"}


async def test_seed_is_no_leecher_and_no_count_is_ever_negative(node_factory: NodeFactory) -> None:
    """webtorrent/bittorrent-tracker#65, #185: clients that start with everything."""
    port = await port_of(await node_factory(config()))
    _, reply = await get(port, announce(7001, 0, "started"))
    assert (reply[b"complete"], reply[b"incomplete"]) == (1, 0)
    for _ in range(2):
        _, reply = await get(port, announce(7001, 0, "stopped"))
        assert (reply[b"complete"], reply[b"incomplete"]) == (0, 0)


async def test_completed_of_a_client_that_already_had_everything_counts_nothing(
    node_factory: NodeFactory,
) -> None:
    """webtorrent/bittorrent-tracker#190: such clients made the count of downloads useless."""
    port = await port_of(await node_factory(config()))
    for event in ("started", "completed", "", "completed"):
        _, reply = await get(port, announce(7001, 0, event))
        assert reply[b"downloaded"] == 0


async def test_stop_of_an_unknown_peer_is_no_error(node_factory: NodeFactory) -> None:
    """transmission/transmission#7086: users saw `Stopped peer doesn't exist`."""
    port = await port_of(await node_factory(config()))
    _, reply = await get(port, announce(7001, 1, "stopped"))
    assert b"failure reason" not in reply


async def test_every_reply_is_one_bencoded_value_with_keys_of_20_bytes(
    node_factory: NodeFactory,
) -> None:
    """Luminarys/synapse#117: `peers6` after the end. torrust/torrust-tracker#42: keys of 50."""
    port = await port_of(await node_factory(config()))
    await get(port, announce(7001))
    for more in ("", "&compact=0", "&compact=0&no_peer_id=1"):
        _, reply = await get(port, announce(7002) + more)
        assert reply[b"incomplete"] == 2
    _, reply = await get(port, f"/scrape?info_hash={HASH}&info_hash={'%26' * 20}")
    assert set(reply[b"files"]) == {b"\x01" * 20, b"&" * 20}


async def test_announce_without_a_path_is_told_the_right_one(node_factory: NodeFactory) -> None:
    """arvidn/libtorrent#5135: URLs of trackers without `/announce`."""
    port = await port_of(await node_factory(config()))
    head, reply = await get(port, announce(7001).replace("/announce", "/"))
    assert b" 404 " in head.splitlines()[0]
    assert b"announce to /announce" in reply[b"failure reason"]


async def test_failure_tells_nothing_about_the_program(node_factory: NodeFactory) -> None:
    """torrust/torrust-tracker#1104: the reason contained a path of its source code."""
    port = await port_of(await node_factory(config()))
    _, reply = await get(port, "/announce")
    assert reply == {b"failure reason": b"port is missing or is not a number from 1 to 65535"}


async def test_connection_id_of_another_client_is_an_error_of_which_clients_recover(
    node_factory: NodeFactory,
) -> None:
    """chihaya/chihaya#417, Tribler/tribler#9006: ids reused too late, or from another address."""
    node = await node_factory(config(listen="0.0.0.0"))
    port = await port_of(node)
    replies = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(("127.0.0.1", port))
        (connection,) = struct.unpack(">8xQ", await asked(sock, CONNECT))
    for source in ("127.0.0.1", "127.0.0.9"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.bind((source, 0))
            sock.connect(("127.0.0.1", port))
            scrape = struct.pack(">QII", connection, 2, 7) + b"\x01" * 20
            replies.append(await asked(sock, scrape))
    assert replies[0][:8] == struct.pack(">II", 2, 7)
    assert replies[1] == struct.pack(">II", 3, 7) + b"expired"


@pytest.mark.parametrize("left", ["-1", "18446744073709551615", "", "NaN"])
async def test_client_that_does_not_know_what_is_left_is_a_leecher(
    left: str, node_factory: NodeFactory
) -> None:
    """webtorrent/bittorrent-tracker#190: clients with a magnet link have no number yet."""
    port = await port_of(await node_factory(config()))
    _, reply = await get(port, announce(7001, left, "started"))
    assert (reply[b"complete"], reply[b"incomplete"]) == (0, 1)


async def test_unknown_event_is_a_plain_announce_and_own_addresses_are_ignored(
    node_factory: NodeFactory,
) -> None:
    """qbittorrent/qBittorrent#12434 and #13033."""
    node = await node_factory(config())
    port = await port_of(node)
    await get(port, announce(7001, 1, "paused") + "&ipv6=2001:db8::1&ipv4=192.0.2.1&ip=::")
    _, reply = await get(port, announce(7002))
    assert reply[b"peers"] == b"\x7f\0\0\x01" + (7001).to_bytes(2, "big")
    assert reply[b"peers6"] == b"" and (await stats(node))["leechers"] == 2


async def test_peer_id_of_any_bytes_comes_back_as_it_was(node_factory: NodeFactory) -> None:
    """webtorrent/bittorrent-tracker#460: bytes over 127 were taken for Latin-1."""
    port = await port_of(await node_factory(config()))
    ident = bytes.fromhex("f05be26faa33e5a79b1e7552136eb5ad51572198")
    escaped = "".join(f"%{byte:02X}" for byte in ident)
    await get(port, announce(7001).replace("p" * 20, escaped))
    _, reply = await get(port, announce(7002) + "&compact=0")
    assert [peer[b"peer id"] for peer in reply[b"peers"]] == [ident]


@pytest.mark.parametrize(
    "escaped",
    [
        "%BFk%EA%EF%B62%F1%87%D4%BEA%84%B4%03%CBx9%01%EC%A6",  # as uTorrent
        "%bfk%ea%ef%b62%f1%87%d4%beA%84%b4%03%cbx9%01%ec%a6",  # in lower case
        "%BF%6B%EA%EF%B6%32%F1%87%D4%BE%41%84%B4%03%CB%78%39%01%EC%A6",  # every byte
    ],
)
async def test_info_hash_is_the_same_however_it_is_escaped(
    node_factory: NodeFactory, escaped: str
) -> None:
    """webtorrent/bittorrent-tracker#32, flightcrank/JRatioBoost#12, ratio-spoof#3."""
    port = await port_of(await node_factory(config()))
    whole = "%BF%6B%EA%EF%B6%32%F1%87%D4%BE%41%84%B4%03%CB%78%39%01%EC%A6"
    await get(port, announce(7001).replace(HASH, whole))
    _, reply = await get(port, announce(7002).replace(HASH, escaped))
    assert reply[b"incomplete"] == 2


async def test_announce_address_with_a_question_mark_and_parameters_of_others(
    node_factory: NodeFactory,
) -> None:
    """webtorrent/bittorrent-tracker#64, Transmission: trackers with `?passkey=`, empty values, and
    parameters that no specification has."""
    port = await port_of(await node_factory(config()))
    more = "&passkey=secret&&key=934CB06E&supportcrypto=1&corrupt=0&redundant=0&numwant=&x&=y"
    _, reply = await get(port, announce(7001).replace("?", f"?{more}&") + "&trackerid=")
    assert reply[b"incomplete"] == 1
