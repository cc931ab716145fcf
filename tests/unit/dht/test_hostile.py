"""What strangers send to a DHT, each kind by name; datagrams are real and signed.

The first groups are attacks. The last is what public bug reports of other DHTs tell of, each named.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from aitorrent_dht.config import DhtConfig
from aitorrent_dht.core.contact import Contact, contact_of
from aitorrent_dht.core.finding import Found
from aitorrent_dht.core.record import MAX_VALUE_BYTES, DhtRecord, Kind, provider_key
from aitorrent_dht.core.state import id_bytes
from aitorrent_dht.core.tokens import ROTATE_S
from aitorrent_dht.wire import codec as codec_module
from aitorrent_dht.wire.gate import SUBNET_CHECKS_PER_S
from aitorrent_dht.wire.messages import (
    MAX_DATAGRAM_BYTES,
    Query,
    Refusal,
    Reply,
    Request,
)
from aitorrentd.api import pack
from tests.support.dht.wired import EPOCH_S, Datagram, Wired, deliver, meet

VICTIM = ("8.8.8.8", 53)
TXID = b"t" * 16


def ask(of: Wired, by: Wired, query: Query = Query.PING, **fields: Any) -> Request:
    """A request of `by` to `of`."""
    key = {Query.FIND: bytes(20), Query.GET: bytes(32)}.get(query, b"")
    return Request(query, TXID, by.key, to=id_bytes(of.node.id), **{"key": key, **fields})


def answer(of: Wired, sent: list[Datagram]) -> Reply:
    """The answer of `of` in what it sent."""
    replies = [m for m in (of.codec.decode(d.raw) for d in sent) if isinstance(m, Reply)]
    assert len(replies) == 1
    return replies[0]


def token(of: Wired, by: Wired) -> bytes:
    """A token that `of` gave to `by`."""
    raw = by.datagram(ask(of, by), 400)
    return answer(of, of.receive(raw, by.place)).token


def full_table(node: Wired, n: int = 200, host: str = "9.{}.{}.1") -> None:
    for i in range(n):
        where = host.format(i % 250, i // 250 + i)
        node.node.state.table.seen(contact_of(i.to_bytes(32, "big"), where, 8468), 1.0)


# Floods and amplification


def test_ping_flood_of_one_subnet_costs_a_bounded_number_of_signature_checks() -> None:
    node, flooder, honest = Wired(1), Wired(2), Wired(3)
    raw = flooder.datagram(ask(node, flooder), 400)
    answered = sum(len(node.receive(raw, (f"8.8.8.{i % 250}", 1000 + i))) > 0 for i in range(2000))
    assert answered == SUBNET_CHECKS_PER_S
    assert node.gate.dropped["flood"] == 2000 - answered
    assert node.receive(honest.datagram(ask(node, honest), 400), ("9.9.9.9", 9))


def test_flood_does_not_keep_answers_out() -> None:
    node, peer, flooder = Wired(1), Wired(2, "8.8.8.7"), Wired(3)
    raw = flooder.datagram(ask(node, flooder), 400)
    for i in range(500):
        node.receive(raw, (f"8.8.8.{i % 250}", 1000 + i))
    node.node.add_places([peer.place], 1.0)
    deliver(node.sent(), node, peer)
    assert peer.place in [(c.host, c.port) for c in node.node.contacts()]


@pytest.mark.parametrize("query", Query)
@pytest.mark.parametrize("pad", [0, 320, 700, MAX_DATAGRAM_BYTES])
def test_forged_source_gets_no_more_bytes_than_the_request_has(query: Query, pad: int) -> None:
    node, attacker = Wired(1), Wired(2)
    full_table(node)
    key = provider_key("thing")
    for publisher in range(10, 18):
        record = Wired(publisher).record(value=b"x" * 300)
        node.node.state.store.put(record, "127.0.0.1", until=2e9, epoch_s=EPOCH_S)
    fields: dict[str, Any] = {}
    if query is Query.GET:
        fields["key"] = key
    elif query is Query.STORE:
        fields["record"] = attacker.record()
    raw = attacker.datagram(ask(node, attacker, query, **fields), pad)
    sent = node.receive(raw, VICTIM)
    assert sum(len(each.raw) for each in sent) <= len(raw)
    assert {each.to for each in sent} <= {VICTIM}


def test_unsigned_and_malformed_datagrams_get_no_answer_at_all() -> None:
    node, peer = Wired(1), Wired(2)
    good = peer.datagram(ask(node, peer), 400)
    assert node.receive(good, VICTIM)
    for bad in (good[:-300], good[:60] + b"\0" * 64 + good[124:], b"\0" * 1200, good * 4, b""):
        assert node.receive(bad, VICTIM) == []


def test_answer_proves_its_sender_in_the_way_of_the_request() -> None:
    node, peer, other = Wired(1), Wired(2), Wired(3)
    request = ask(node, peer)
    for recipient, magic in ((b"", codec_module.MAGIC), (node.key, codec_module.PAIR_MAGIC)):
        raw = peer.codec.encode(request, 400, recipient=recipient)
        (sent,) = node.receive(raw, peer.place)
        assert sent.raw[:4] == magic
        assert peer.codec.is_proven(sent.raw)
        assert other.codec.is_proven(sent.raw) is not bool(recipient)
    # The peer's name with the proof of somebody else gets no answer.
    forged = other.codec.encode(replace(request, sender=other.key), 400, recipient=node.key)
    assert node.receive(forged.replace(other.key, peer.key, 1), peer.place) == []
    assert node.gate.dropped["unsigned"] == 1


def test_token_of_one_address_buys_no_large_answer_for_another() -> None:
    node, attacker = Wired(1), Wired(2)
    full_table(node)
    mine = token(node, attacker)
    raw = attacker.datagram(ask(node, attacker, Query.FIND, token=mine))
    (large,) = node.receive(raw, attacker.place)
    assert len(large.raw) > len(raw)
    assert sum(len(each.raw) for each in node.receive(raw, VICTIM)) <= len(raw)


def test_stranger_is_not_pinged_so_that_nobody_is_made_to_ping_a_victim() -> None:
    node, attacker = Wired(1), Wired(2)
    sent = node.receive(attacker.datagram(ask(node, attacker, Query.FIND), 1200), VICTIM)
    assert [type(node.codec.decode(each.raw)) for each in sent] == [Reply]
    assert len(node.node.state.table) == 0


def test_request_for_another_node_is_not_answered() -> None:
    node, other, peer = Wired(1), Wired(2), Wired(3)
    assert node.receive(peer.datagram(ask(other, peer), 400), peer.place) == []


def test_own_request_sent_back_is_not_answered() -> None:
    node = Wired(1)
    node.node.add_places([VICTIM], 1.0)
    (ping,) = node.sent()
    assert node.receive(ping.raw, VICTIM) == []
    assert len(node.node.state.table) == 0


# Storing


def store(node: Wired, by: Wired, record: DhtRecord, with_token: bytes) -> Reply:
    raw = by.datagram(ask(node, by, Query.STORE, record=record, token=with_token), 400)
    return answer(node, node.receive(raw, by.place))


def test_store_without_a_token_keeps_nothing_and_offers_one() -> None:
    node, peer = Wired(1), Wired(2)
    reply = store(node, peer, peer.record(), b"")
    assert reply.refusal is Refusal.TOKEN
    assert len(node.node.state.store) == 0
    assert store(node, peer, peer.record(), reply.token).refusal is Refusal.NONE
    assert len(node.node.state.store) == 1


def test_store_with_a_made_up_token_keeps_nothing() -> None:
    node, peer = Wired(1), Wired(2)
    assert store(node, peer, peer.record(), b"x" * 8).refusal is Refusal.TOKEN
    other = token(node, Wired(3))
    assert store(node, peer, peer.record(), other).refusal is Refusal.TOKEN
    assert len(node.node.state.store) == 0


def test_store_of_a_huge_value_is_malformed() -> None:
    node, peer = Wired(1), Wired(2)
    record = peer.record(value=b"x" * (MAX_VALUE_BYTES + 1))
    raw = peer.datagram(ask(node, peer, Query.STORE, record=record, token=token(node, peer)))
    assert node.receive(raw, peer.place) == []
    assert node.gate.dropped["malformed"] + node.gate.dropped["foreign"] == 1


def test_stale_number_is_refused_and_the_record_that_is_kept_is_shown() -> None:
    node, peer = Wired(1), Wired(2)
    mine = token(node, peer)
    newer = peer.record(value=b"new", seq=9)
    assert store(node, peer, newer, mine).refusal is Refusal.NONE
    reply = store(node, peer, peer.record(value=b"old", seq=8), mine)
    assert reply.refusal is Refusal.STALE
    assert reply.records == (newer,)
    assert node.node.state.store.get(newer.key, EPOCH_S) == [newer]


def test_forged_publisher_is_refused() -> None:
    node, attacker, victim = Wired(1), Wired(2), Wired(3)
    mine = token(node, attacker)
    true = victim.record()
    for forged in (
        replace(true, publisher=attacker.key),
        replace(attacker.record(), publisher=victim.key),
        replace(true, value=b"other"),
        replace(true, seq=2),
        replace(true, key=provider_key("other")),
        replace(true, is_deleted=True, value=b""),
        replace(true, signature=bytes(64)),
    ):
        assert store(node, attacker, forged, mine).refusal is Refusal.INVALID
    assert len(node.node.state.store) == 0
    # Anybody may store what its publisher signed: records are kept alive by others, too.
    assert store(node, attacker, true, mine).refusal is Refusal.NONE


def test_record_of_another_network_is_refused() -> None:
    node, peer = Wired(1), Wired(2)
    foreign = Wired(2, network=b"\x02" * 32).record()
    assert store(node, peer, foreign, token(node, peer)).refusal is Refusal.INVALID


def test_number_that_a_keeper_only_claims_does_not_make_a_publisher_count_up() -> None:
    publisher, liar = Wired(1), Wired(2)
    meet(liar, publisher)
    fake = replace(publisher.record(seq=2**53 - 1), signature=bytes(64))
    publisher.node.publishing.put(Kind.PROVIDER, fake.key, b"v", 1.0)
    before = publisher.node.publishing.records()[0]
    sent = publisher.sent()
    while sent:
        each = sent.pop(0)
        message = publisher.codec.decode(each.raw)
        if isinstance(message, Request) and message.query is Query.STORE:
            reply = Reply(message.txid, liar.key, id_bytes(publisher.node.id), b"t" * 8)
            reply.refusal, reply.records = Refusal.STALE, (fake,)
            sent += publisher.receive(liar.datagram(reply), liar.place)
        elif each.to == liar.place:
            sent += liar.receive(each.raw, publisher.place)
        else:
            sent += publisher.receive(each.raw, liar.place)
    assert publisher.node.publishing.records()[0].seq == before.seq


# Answers that lie


def named(node: Wired, peer: Wired, nodes: tuple[Contact, ...]) -> list[tuple[str, int]]:
    """Whom `node` sends to after `peer` named `nodes`."""
    meet(peer, node)
    node.node.finding.find_nodes(5, 1.0, lambda walk, now: None)
    request = next(
        m
        for m in (node.codec.decode(d.raw) for d in node.sent())
        if isinstance(m, Request) and m.query is Query.FIND
    )
    reply = Reply(request.txid, peer.key, id_bytes(node.node.id), nodes=nodes)
    return [d.to for d in node.receive(peer.datagram(reply), peer.place) if d.to != peer.place]


def test_answer_with_a_thousand_nodes_is_ignored() -> None:
    node, peer = Wired(1), Wired(2)
    body = codec_module._reply_map(Reply(TXID, peer.key, id_bytes(node.node.id)))
    body["4"] = bytes(38 * 1000)
    packed = pack(body)
    head = codec_module._HEAD.pack(
        codec_module.MAGIC,
        peer.codec.tag,
        peer.key,
        peer.sign(codec_module.MESSAGE_DOMAIN, peer.network + packed),
        len(packed),
    )
    assert node.receive(head + packed, peer.place) == []
    assert node.gate.dropped["foreign"] == 1  # longer than a datagram may be
    many = tuple(contact_of(bytes([i]) * 32, f"9.9.{i}.9", 8468) for i in range(30))
    reply = Reply(TXID, peer.key, id_bytes(node.node.id), nodes=many)
    assert node.receive(peer.datagram(reply), peer.place) == []


@pytest.mark.parametrize(
    "host",
    ["192.168.0.1", "10.0.0.1", "127.0.0.1", "224.0.0.251", "255.255.255.255", "0.0.0.0", "0.1.2.3",
     "169.254.1.1", "240.0.0.1"],
)  # fmt: skip
def test_private_loopback_and_multicast_addresses_of_a_stranger_are_not_sent_to(host: str) -> None:
    node, peer = Wired(1, "9.9.9.9"), Wired(2, "8.8.8.8")
    good = contact_of(b"g" * 32, "7.7.7.7", 8468)
    assert named(node, peer, (contact_of(b"b" * 32, host, 8468), good)) == [("7.7.7.7", 8468)]


def test_own_id_and_own_key_in_an_answer_are_not_asked() -> None:
    node, peer = Wired(1), Wired(2)
    own = contact_of(node.key, "127.0.0.1", 4242)
    assert named(node, peer, (own,)) == []


def test_named_node_enters_the_table_only_after_it_answered_itself() -> None:
    node, peer = Wired(1), Wired(2)
    assert named(node, peer, (contact_of(b"x" * 32, "127.0.0.1", 4242),)) == [("127.0.0.1", 4242)]
    assert [c.key for c in node.node.contacts()] == [peer.key]


def test_answer_signed_by_another_key_than_was_asked_does_not_count() -> None:
    node, peer, liar = Wired(1), Wired(2), Wired(3)
    named(node, peer, (contact_of(b"x" * 32, *liar.place),))
    waiting = node.node.rpc._pending.values()
    (txid,) = [p.outgoing.message.txid for p in waiting if (p.host, p.port) == liar.place]
    reply = Reply(txid, liar.key, id_bytes(node.node.id))
    node.receive(liar.datagram(reply), liar.place)
    assert node.gate.dropped["unexpected"] == 1
    assert liar.key not in [c.key for c in node.node.contacts()]


def test_answer_from_another_address_than_was_asked_does_not_count() -> None:
    node, peer = Wired(1), Wired(2)
    node.node.add_places([peer.place], 1.0)
    (ping,) = node.sent()
    (pong,) = peer.receive(ping.raw, node.place)
    assert node.receive(pong.raw, ("127.0.0.1", 4242)) == []
    assert len(node.node.state.table) == 0
    node.receive(pong.raw, peer.place)
    assert len(node.node.state.table) == 1


def test_repeated_answer_counts_once() -> None:
    node, peer = Wired(1), Wired(2)
    node.node.add_places([peer.place], 1.0)
    (ping,) = node.sent()
    (pong,) = peer.receive(ping.raw, node.place)
    node.receive(pong.raw, peer.place)
    assert node.receive(pong.raw, peer.place) == []
    assert node.gate.dropped["unexpected"] == 1


def test_forged_records_in_an_answer_are_left_out() -> None:
    node, peer, victim = Wired(1), Wired(2), Wired(3)
    meet(peer, node)
    found: list[Any] = []
    key = provider_key("thing")
    node.node.finding.get(key, int.from_bytes(key[:20], "big"), 1.0, found.append)
    request = next(
        m for m in (node.codec.decode(d.raw) for d in node.sent()) if isinstance(m, Request)
    )
    true = victim.record()
    lies = (
        replace(true, value=b"forged"),
        victim.record("another key"),
        replace(true, publisher=peer.key),
    )
    reply = Reply(request.txid, peer.key, id_bytes(node.node.id), records=lies[:2])
    node.receive(peer.datagram(reply), peer.place)
    node.node.run(30.0)
    assert [f.records for f in found] == [[]]


# As reported by users of other DHTs


def test_libtorrent_792_id_cannot_follow_the_target_of_a_lookup() -> None:
    """Ids are computed from the key that signed, so nobody can claim one near each target."""
    assert contact_of(b"k" * 32, "9.9.9.9", 1).id == contact_of(b"k" * 32, "7.7.7.7", 2).id
    assert "id" not in codec_module._reply_map(Reply(TXID, b"k" * 32, bytes(20)))


def test_libtorrent_6992_addresses_of_the_block_0_are_not_handed_on() -> None:
    node, asker = Wired(1), Wired(2)
    node.node.state.table.seen(contact_of(b"z" * 32, "0.1.2.3", 8468), 1.0)
    raw = asker.datagram(ask(node, asker, Query.FIND), 1200)
    assert answer(node, node.receive(raw, asker.place)).nodes == ()


def test_qbittorrent_21298_nothing_is_sent_to_port_0() -> None:
    node, peer = Wired(1), Wired(2)
    assert named(node, peer, (contact_of(b"x" * 32, "127.0.0.1", 0),)) == []
    node.node.add_places([("127.0.0.1", 0)], 1.0)
    assert node.sent() == []


def test_bittorrent_dht_90_datagram_from_port_0_is_ignored() -> None:
    node, peer = Wired(1), Wired(2)
    assert node.receive(peer.datagram(ask(node, peer), 400), ("127.0.0.1", 0)) == []


@pytest.mark.parametrize("field", ["q", "i", "to", "o", "c", "w", "k"])
def test_bittorrent_dht_66_request_without_a_field_ends_in_silence(field: str) -> None:
    assert _sent_with(lambda fields: fields.pop(field)) == []


@pytest.mark.parametrize("value", [2**31, -1, 1.5, None, True, [], {}, "text", b"", "x" * 900])
@pytest.mark.parametrize("field", ["i", "to", "k", "q"])
def test_bittorrent_dht_72_number_for_an_id_allocates_nothing(field: str, value: Any) -> None:
    assert _sent_with(lambda fields: fields.update({field: value})) == []


def test_peertube_3542_unknown_query_ends_in_silence() -> None:
    assert _sent_with(lambda fields: fields.update(q=17)) == []


def _sent_with(change: Any) -> list[Datagram]:
    node, peer = Wired(1), Wired(2)
    fields = codec_module._request_map(ask(node, peer, Query.FIND))
    assert "k" in fields
    change(fields)
    body = pack(fields)
    signature = peer.sign(codec_module.MESSAGE_DOMAIN, peer.network + body)
    head = codec_module._HEAD.pack(
        codec_module.MAGIC, peer.codec.tag, peer.key, signature, len(body)
    )
    return node.receive(head + body, peer.place)


def test_lbry_1446_old_token_is_answered_with_a_new_one_and_the_record_is_stored_then() -> None:
    node, publisher = Wired(1), Wired(2)
    meet(node, publisher)
    entry = publisher.node.state.table.get(node.node.id)
    assert entry is not None and entry.token
    late = 3 * ROTATE_S
    done: list[Any] = []
    key = provider_key("thing")
    publisher.node.publishing.put(Kind.PROVIDER, key, b"v", late, on_stored=done.append)
    deliver(publisher.sent(), node, publisher, now=late)
    assert [stored.count for stored in done] == [1]


def test_lbry_1180_unasked_answer_does_not_enter_the_table() -> None:
    node, peer = Wired(1), Wired(2)
    reply = Reply(TXID, peer.key, id_bytes(node.node.id), token=b"t" * 8, invites=True)
    assert node.receive(peer.datagram(reply), peer.place) == []
    assert len(node.node.state.table) == 0
    assert node.gate.dropped["unexpected"] == 1


def test_nethermind_1778_forged_ping_and_pong_prove_no_address() -> None:
    node, attacker = Wired(1), Wired(2)
    full_table(node)
    node.receive(attacker.datagram(ask(node, attacker), 400), VICTIM)
    pong = Reply(TXID, attacker.key, id_bytes(node.node.id), token=b"t" * 8)
    node.receive(attacker.datagram(pong), VICTIM)
    raw = attacker.datagram(ask(node, attacker, Query.FIND, token=b"t" * 8))
    assert sum(len(each.raw) for each in node.receive(raw, VICTIM)) <= len(raw)
    assert attacker.key not in [c.key for c in node.node.contacts()]


def test_py_ipv8_721_message_before_the_start_is_answered() -> None:
    node, peer = Wired(1), Wired(2)  # neither was started
    raw = peer.datagram(ask(node, peer, Query.FIND), 1200)
    assert len(answer(node, node.receive(raw, peer.place, now=0.0)).token) == 8


def test_rust_libp2p_921_answer_of_a_full_table_fits_a_datagram() -> None:
    node, peer = Wired(1), Wired(2)
    for i in range(400):
        key = i.to_bytes(32, "big")
        node.node.state.table.seen(contact_of(key, f"2a00:{i:x}::1", 8468), 1.0)
    for query in (Query.FIND, Query.GET):
        fields = {"token": token(node, peer), "want": 3}
        (sent,) = node.receive(peer.datagram(ask(node, peer, query, **fields)), peer.place)
        assert 600 < len(sent.raw) <= MAX_DATAGRAM_BYTES


def test_scalanet_78_node_told_to_start_from_itself_does_not_meet_itself() -> None:
    node = Wired(1)
    node.node.add_places([node.place], 1.0)
    deliver(node.sent(), node)
    assert len(node.node.state.table) == 0
    assert not node.node.upkeep.is_joined


def test_tailscale_7706_records_are_found_where_large_packets_are_dropped_in_silence() -> None:
    node, other = Wired(1), Wired(2)
    record = Wired(3).record(value=b"v")
    other.node.state.store.put(record, "127.0.0.1", until=2e9, epoch_s=EPOCH_S)
    # It has no token of this node, so that it pads its request.
    node.node.state.table.seen(contact_of(other.key, *other.place), 1.0)
    found: list[Found] = []
    node.node.finding.get(record.key, record.target, 1.0, found.append)
    now, sizes = 1.0, []
    while not found and now < 5.0:
        passing = []
        for each in node.sent():
            sizes.append(len(each.raw))
            passing += [each] if len(each.raw) <= 1124 - 28 else []
        deliver(passing, node, other, now=now)
        now += 0.1
        node.node.run(now)
    assert max(sizes) == MAX_DATAGRAM_BYTES
    assert [r.value for r in found[0].records] == [b"v"]
    assert now < 2.0


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[2607:f7a0::5106]:33540", ("2607:f7a0::5106", 33540)),
        ("2607:f7a0::5106:33540", "write IPv6 in brackets"),
        ("[fe80::1%eth0]:33540", "zone"),
    ],
)
def test_opendht_382_ip6_address_to_start_from_is_used_or_refused_by_name(
    text: str, place: Any
) -> None:
    if isinstance(place, str):
        with pytest.raises(ValidationError, match=place):
            DhtConfig(bootstrap=[text])
    else:
        assert DhtConfig(bootstrap=[text]).places() == [place]


def test_lighthouse_3006_private_addresses_in_an_answer_from_afar_are_not_scanned() -> None:
    node, afar = Wired(1, "9.9.9.1"), Wired(2, "9.9.9.2")
    node.node.add_places([afar.place], 1.0)
    hosts = ("10.7.5.39", "100.124.61.10", "192.168.0.7", "169.254.1.1", "172.17.0.1", "fe80::1")
    named = tuple(contact_of(bytes([n]) * 32, host, 12_000) for n, host in enumerate(hosts))
    sent, asked = node.sent(), set()
    while sent:
        each = sent.pop()
        asked.add(each.to[0])
        for reply in afar.receive(each.raw, node.place):
            message = afar.codec.decode(reply.raw)
            if isinstance(message, Reply):
                message.nodes = named
                sent += node.receive(afar.datagram(message), afar.place)
    assert asked == {afar.place[0]}


def test_go_libp2p_966_first_two_nodes_of_a_network_keep_each_other() -> None:
    first, second = Wired(1), Wired(2)
    meet(first, second)
    assert [c.key for c in first.node.contacts()] == [second.key]
    assert [c.key for c in second.node.contacts()] == [first.key]
    assert second.node.upkeep.is_joined


def test_calimero_3326_bootstrap_that_is_late_is_found_without_a_restart() -> None:
    late, node = Wired(1), Wired(2)
    node.node.start(0.0)
    node.node.add_places([late.place], 0.0)
    node.sent()  # lost: nobody is there
    now = 0.0
    while now < 600.0 and not node.node.upkeep.is_joined:
        due = node.node.due()
        now = max(now, 0.0 if due is None else due)
        node.node.run(now)
        if now > 120.0:
            deliver(node.sent(), node, late, now=now)
        else:
            node.sent()
    assert node.node.upkeep.is_joined
    assert now < 120.0 + 70.0  # waits grow to a minute at most


def test_eiskaltdcpp_543_bootstrap_address_is_not_taken_for_a_verified_node() -> None:
    node, asker = Wired(1), Wired(2)
    node.node.add_places([("127.0.0.1", 4242)], 1.0)
    node.sent()
    raw = asker.datagram(ask(node, asker, Query.FIND), 1200)
    assert answer(node, node.receive(raw, asker.place)).nodes == ()


def test_aria2_1563_answer_without_a_token_is_still_of_use() -> None:
    node, peer = Wired(1), Wired(2)
    node.node.add_places([peer.place], 1.0)
    (ping,) = node.sent()
    request = node.codec.decode(ping.raw)
    reply = Reply(request.txid, peer.key, id_bytes(node.node.id))
    node.receive(peer.datagram(reply), peer.place)
    assert len(node.node.state.table) == 1


def test_libp2p_client_stays_out_of_tables_but_is_answered() -> None:
    server, client = Wired(1), Wired(2, mode="client")
    meet(server, client)
    assert [c.key for c in client.node.contacts()] == [server.key]
    assert server.node.contacts() == []


def test_rust_libp2p_1771_node_that_was_silent_is_not_named_to_others() -> None:
    node, other = Wired(1), Wired(2)
    full_table(node, 4)
    table = node.node.state.table
    silent = node.node.contacts()[0]
    table.failed(silent)
    assert silent in node.node.contacts()  # one lost datagram does not drop it
    find = ask(node, other, Query.FIND, token=token(node, other))
    named = answer(node, node.receive(other.datagram(find, 240), other.place)).nodes
    assert len(named) == 3 and silent not in named
    table.seen(silent, 2.0)
    named = answer(node, node.receive(other.datagram(find, 240), other.place)).nodes
    assert silent in named
