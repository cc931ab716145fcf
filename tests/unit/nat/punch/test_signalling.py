"""The messages of a session, its course at both ends, and what hostile peers send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_nat.punch.candidates import MAX_CANDIDATES, Candidate, Kind
from aitorrent_nat.punch.messages import (
    MAX_MESSAGE_BYTES,
    Answer,
    Go,
    Message,
    Offer,
    Refuse,
    Result,
    Sync,
    decode,
    encode,
)
from aitorrent_nat.punch.plan import Nat
from aitorrent_nat.punch.sighting import Sighting
from aitorrent_nat.punch.signalling import Answered, Asked, Refused, Send, Signalling, Start, Told
from aitorrentd.api import AitorrentError, Frame, ProtocolError, decode_frame, peer_id
from tests.support.nat.terms import terms

SESSION = b"s" * 16
WITNESS = peer_id(bytes(32))
FULL = terms(
    sightings=tuple(Sighting(WITNESS, "11.1.0.2", 1_800_000_000, b"x" * 64) for _ in range(3)),
    candidates=tuple(
        Candidate(Kind.TCP_HOST, f"192.168.100.{n}", 40_000 + n) for n in range(MAX_CANDIDATES)
    ),
)
MESSAGES: list[Message] = [
    Offer(SESSION, terms()),
    Answer(terms("11.2.0.2", "symmetric")),
    Refuse("busy"),
    Sync(),
    Sync((Candidate(Kind.UDP_HOST, "10.0.0.1", 4000),)),
    Go(),
    Result(True, "tcp-punch"),
    Result(False, "nothing"),
]


def frame(message: Message) -> Frame:
    return decode_frame(encode(message)[4:])


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_survives_its_encoding(message: Message) -> None:
    assert decode(frame(message)) == message


def test_the_largest_message_fits() -> None:
    raw = encode(Offer(SESSION, FULL))
    assert len(raw) <= MAX_MESSAGE_BYTES
    assert decode(decode_frame(raw[4:])) == Offer(SESSION, FULL)


def fields(**changes: Any) -> Frame:
    header = dict(frame(Offer(SESSION, terms())).header)
    header.update(changes)
    return Frame(header)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"t": "steal"}, "t is not a kind"),
        ({"t": 7}, "t must be a string"),
        ({"session": b"short"}, "session must be 16 bytes"),
        ({"key": b""}, "key must be 32 bytes"),
        ({"user": "a b:c"}, "ICE characters"),
        ({"password": "short"}, "ICE characters"),
        ({"nat": ["independent"]}, "nat must be"),
        ({"at": [["tcp", "11.1.0.2", 4000]] * (MAX_CANDIDATES + 1)}, "at most 32"),
        ({"at": [["tcp", "11.1.0.2"]]}, "a kind, a host and a port"),
        ({"at": [["tcp", "example.org", 4000]]}, "unicast IP address"),
        ({"at": [["tcp", "224.0.0.1", 4000]]}, "unicast IP address"),
        ({"at": [["tcp", "1" * 100, 4000]]}, "must be an IP address"),
        ({"at": [["tcp", "11.1.0.2", 0]]}, "integer from 1 to 65535"),
        ({"at": [["tcp", "11.1.0.2", True]]}, "integer from 1 to 65535"),
        ({"at": None}, "at must be a list"),
        ({"seen": [{}] * 4}, "seen must be a list of at most 3"),
        ({"seen": ["me"]}, "must be a map"),
        ({"seen": [{"witness": "me"}]}, "peer id and an IP address"),
    ],
)
def test_malformed_messages_name_what_is_wrong(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        decode(fields(**changes))


def test_bytes_after_a_message_are_refused() -> None:
    with pytest.raises(ProtocolError, match="bytes after"):
        decode(Frame({"t": "go"}, b"more"))


def test_words_of_newer_versions_are_ignored() -> None:
    offer = decode(
        fields(
            nat=["independent", "quantum"],
            at=[["teleport", "11.1.0.2", 4000], ["tcp", "11.1.0.2", 4001]],
        )
    )
    assert isinstance(offer, Offer)
    assert offer.terms.nat == Nat()
    assert offer.terms.candidates == (Candidate(Kind.TCP, "11.1.0.2", 4001),)


@given(
    st.dictionaries(
        st.sampled_from(["t", "session", "nat", "at", "user", "password", "key", "seen", "said"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.text(max_size=20)
            | st.binary(max_size=40),
            lambda inner: st.lists(inner, max_size=4),
            max_leaves=8,
        ),
    )
)
def test_no_fields_do_worse_than_a_protocol_error(header: dict[str, Any]) -> None:
    try:
        decode(Frame(header))
    except AitorrentError as e:
        assert isinstance(e, ProtocolError)


def sent(outputs: list[Any]) -> list[Message]:
    return [each.message for each in outputs if isinstance(each, Send)]


def test_a_session_runs_from_offer_to_result() -> None:
    one, other = Signalling(initiator=True), Signalling(initiator=False)
    mine, theirs = terms("11.1.0.2"), terms("11.2.0.2")
    more = (Candidate(Kind.TCP_HOST, "10.0.0.5", 40_001),)

    [offer] = sent(one.offer(SESSION, mine))
    assert other.receive(offer, 0.0) == [Asked(mine)]
    [answer] = sent(other.accept(theirs))
    assert one.receive(answer, 10.0) == [Answered(theirs)]
    [sync] = sent(one.sync(more, 10.0))
    [echo] = sent(other.receive(sync, 0.0))
    outputs = one.receive(echo, 10.3)
    start = outputs[-1]
    assert isinstance(start, Start)
    assert start.delay_s == pytest.approx(0.15)
    assert start.rtt_s == pytest.approx(0.3)
    assert other.receive(sent(outputs)[0], 0.0) == [Start(0.0, None)]

    assert one.key == other.key
    assert other.peer is not None
    assert other.peer.candidates == mine.candidates + more
    assert other.receive(Result(True, "tcp-punch"), 0.0) == [Told(Result(True, "tcp-punch"))]
    assert other.result == Result(True, "tcp-punch")


def test_a_refusal_ends_the_session() -> None:
    one, other = Signalling(initiator=True), Signalling(initiator=False)
    other.receive(sent(one.offer(SESSION, terms()))[0], 0.0)
    assert one.receive(sent(other.refuse("later"))[0], 0.0) == [Refused("later")]


def test_every_session_has_a_key_of_its_own() -> None:
    def key(session: bytes, one: str, other: str) -> bytes:
        end = Signalling(initiator=True)
        end.offer(session, terms(one))
        end.receive(Answer(terms(other)), 0.0)
        return end.key

    keys = {
        key(SESSION, "11.1.0.2", "11.2.0.2"),
        key(b"t" * 16, "11.1.0.2", "11.2.0.2"),
        key(SESSION, "11.3.0.2", "11.2.0.2"),
        key(SESSION, "11.2.0.2", "11.1.0.2"),
    }
    assert len(keys) == 4
    with pytest.raises(ProtocolError, match="no key yet"):
        assert Signalling(initiator=True).key


@pytest.mark.parametrize("initiator", [True, False])
@given(st.lists(st.sampled_from(MESSAGES), max_size=8))
def test_a_start_needs_every_message_in_its_turn(initiator: bool, order: list[Message]) -> None:
    end = Signalling(initiator=initiator)
    if initiator:
        end.offer(SESSION, terms())
    seen: list[str] = []
    try:
        for message in order:
            seen.append(type(message).__name__)
            for output in end.receive(message, 0.0):
                if isinstance(output, Asked):
                    end.accept(terms())
                elif isinstance(output, Answered):
                    end.sync((), 0.0)
                elif isinstance(output, Start):
                    wanted = ["Answer", "Sync"] if initiator else ["Offer", "Sync", "Go"]
                    assert seen == wanted
    except ProtocolError as e:
        assert "out of turn" in e.message


def test_a_channel_that_is_too_slow_cannot_coordinate() -> None:
    one = Signalling(initiator=True)
    one.offer(SESSION, terms())
    one.receive(Answer(terms()), 0.0)
    one.sync((), 0.0)
    with pytest.raises(ProtocolError, match=r"takes 4\.0 s"):
        one.receive(Sync(), 4.0)
