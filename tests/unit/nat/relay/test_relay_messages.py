"""The messages between relays and their users, also hostile ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_nat.relay.messages import (
    MAX_MESSAGE_BYTES,
    MAX_REASON_CHARS,
    TOKEN_BYTES,
    Closing,
    Connect,
    Decline,
    Ended,
    FromClient,
    FromRelay,
    Incoming,
    Joined,
    Opened,
    Refused,
    Release,
    Request,
    Reserve,
    Reserved,
    encode,
    read_from_client,
    read_from_relay,
    read_request,
)
from aitorrentd.api import Busy, Frame, ProtocolError, decode_frame
from tests.support.transport.transport_nodes import Identity

PEER = Identity("peer").peer_id
TOKEN = bytes(range(TOKEN_BYTES))
READERS = (read_request, read_from_client, read_from_relay)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=10,
)
FIELDS = ("op", "held", "target", "circuit", "reason", "token", "peer", "code", "addresses")
OPS = ("reserve", "connect", "decline", "reserved", "incoming", "opened", "ended", "closing")


def framed(message: Request | FromClient | FromRelay) -> Frame:
    """What the other side reads."""
    encoded = encode(message)
    assert len(encoded) <= MAX_MESSAGE_BYTES
    return decode_frame(encoded, 4)


@pytest.mark.parametrize(
    "message", [Reserve(b""), Reserve(b"x" * 200), Connect(PEER), Connect(PEER, True)]
)
def test_requests_read_back(message: Request) -> None:
    assert read_request(framed(message)) == message


@pytest.mark.parametrize("message", [Reserve(b"held"), Decline(7, "no"), Release()])
def test_messages_of_a_client_read_back(message: FromClient) -> None:
    assert read_from_client(framed(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Reserved(b"signed", ("/ip4/203.0.113.1/tcp/8468",)),
        Incoming(1, TOKEN, PEER),
        Incoming(1, TOKEN, PEER, True),
        Opened(2, TOKEN, 3600.0),
        Joined(3),
        Ended(4, ""),
        Ended(5, "the relay is stopping"),
        Closing(2.5),
    ],
)
def test_messages_of_a_relay_read_back(message: FromRelay) -> None:
    assert read_from_relay(framed(message)) == message


def test_a_refusal_keeps_its_class_and_text() -> None:
    refused = read_from_relay(framed(Refused(Busy("too many reservations"))))
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, Busy)
    assert refused.error.message == "too many reservations"


def test_reasons_are_cut_and_made_printable() -> None:
    ended = read_from_relay(framed(Ended(1, "a\nb\x1b[2J" + "x" * 1000)))
    assert isinstance(ended, Ended)
    assert len(ended.reason) == MAX_REASON_CHARS
    assert ended.reason.startswith("a?b?[2J")


@given(
    head=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), JUNK, max_size=6),
    op=st.sampled_from(OPS) | JUNK,
)
def test_anything_else_is_a_protocol_error_and_nothing_worse(head: dict[str, Any], op: Any) -> None:
    for read in READERS:
        try:
            message = read(Frame({**head, "op": op}))
        except ProtocolError:
            continue
        assert encode(message)  # what is accepted can be passed on


def test_a_message_has_no_tail() -> None:
    for read in READERS:
        with pytest.raises(ProtocolError, match="no tail"):
            read(Frame({"op": "release"}, b"x"))


def test_tokens_have_their_exact_length() -> None:
    frame = framed(Opened(1, TOKEN, 1.0))
    frame.header["token"] = TOKEN[1:]
    with pytest.raises(ProtocolError, match="token must be 32 bytes"):
        read_from_relay(frame)
