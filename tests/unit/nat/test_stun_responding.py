"""What strangers get from the STUN server, and what they cannot make it do."""

from __future__ import annotations

from aitorrent_nat.stun.codec import (
    Request,
    Response,
    encode_request,
    encode_response,
    new_transaction,
    read,
)
from aitorrent_nat.stun.responding import SUBNET_BURST, Reply, Responder

CLIENT = ("198.51.100.7", 40_000)
ONE, TWO = "203.0.113.1", "203.0.113.2"


def responder() -> Responder:
    made = Responder(0.0)
    made.ports = (8469, 9000)
    return made


def asked(
    server: Responder,
    request: Request | None = None,
    *,
    hosts: tuple[str, ...] = (ONE, TWO),
    to_alternate: bool = False,
    now: float = 0.0,
    source: tuple[str, int] = CLIENT,
) -> tuple[Reply, Response]:
    raw = encode_request(request or Request(new_transaction()), version=4)
    reply = server.answer(raw, source, ONE, now, to_alternate=to_alternate, hosts=hosts)
    assert reply is not None
    response = read(reply.raw)
    assert isinstance(response, Response)
    return reply, response


def test_reply_tells_where_the_request_came_from_and_where_else_to_ask() -> None:
    reply, response = asked(responder())
    assert (reply.to, reply.host, reply.from_alternate) == (CLIENT, ONE, False)
    assert response.mapped == CLIENT
    assert response.origin == (ONE, 8469)
    assert response.other == (TWO, 9000)


def test_change_request_is_answered_from_the_other_address_and_port() -> None:
    reply, response = asked(responder(), Request(new_transaction(), True, True))
    assert (reply.to, reply.host, reply.from_alternate) == (CLIENT, TWO, True)
    assert response.origin == (TWO, 9000)
    reply, response = asked(responder(), Request(new_transaction(), False, True))
    assert (reply.host, reply.from_alternate, response.origin) == (ONE, True, (ONE, 9000))
    reply, response = asked(responder(), Request(new_transaction(), True, False), to_alternate=True)
    assert (reply.host, reply.from_alternate, response.origin) == (TWO, True, (TWO, 9000))


def test_machine_with_one_address_changes_its_port_only() -> None:
    server = responder()
    assert asked(server, hosts=(ONE,))[1].other is None
    reply, response = asked(server, Request(new_transaction(), False, True), hosts=(ONE,))
    assert (reply.from_alternate, response.origin) == (True, (ONE, 9000))
    reply, response = asked(server, Request(new_transaction(), True, False), hosts=(ONE,))
    assert (response.error, reply.from_alternate) == (420, False)


def test_inner_address_is_no_other_address_for_clients_outside() -> None:
    assert asked(responder(), hosts=(ONE, "192.168.1.5", "127.0.0.1"))[1].other is None


def test_reply_goes_to_another_port_of_the_same_host_on_request() -> None:
    reply, _ = asked(responder(), Request(new_transaction(), response_port=4711))
    assert reply.to == (CLIENT[0], 4711)


def test_attribute_that_must_be_understood_is_refused() -> None:
    padding = bytes.fromhex("00260000")
    raw = encode_request(Request(new_transaction()), version=4)
    raw = raw[:2] + (len(raw) - 16).to_bytes(2) + raw[4:] + padding
    reply = responder().answer(raw, CLIENT, ONE, 0.0)
    assert reply is not None
    response = read(reply.raw)
    assert isinstance(response, Response)
    assert response.error == 420
    assert len(reply.raw) < len(raw)


def test_flood_from_one_subnet_is_cut_and_does_not_silence_others() -> None:
    server = responder()
    raw = encode_request(Request(new_transaction()), version=4)
    answered = [
        server.answer(raw, (f"198.51.100.{n % 250 + 1}", 40_000), ONE, 1.0) for n in range(500)
    ]
    assert sum(each is not None for each in answered) == SUBNET_BURST
    assert server.dropped["flood"] == 500 - SUBNET_BURST
    assert asked(server, now=1.0, source=("192.0.2.1", 40_000))[1].mapped == ("192.0.2.1", 40_000)


def test_noise_does_not_use_up_what_a_subnet_may_ask() -> None:
    server = responder()
    for _ in range(500):
        assert server.answer(b"\x16\xfe\xfd" * 20, CLIENT, ONE, 0.0) is None
    assert asked(server)[1].mapped == CLIENT


def test_replies_and_noise_get_no_reply() -> None:
    server = responder()
    loop = encode_response(Response(new_transaction(), CLIENT))
    for datagram in (b"", b"\0" * 20, loop, b"\x16\xfe\xfd" * 20):
        assert server.answer(datagram, CLIENT, ONE, 0.0) is None
    raw = encode_request(Request(new_transaction()), version=4)
    assert server.answer(raw, ("0.0.0.0", 5), ONE, 0.0) is None
    assert server.answer(raw, ("224.0.0.1", 5), ONE, 0.0) is None
    assert server.answer(raw, (CLIENT[0], 0), ONE, 0.0) is None
    assert server.served == 0
