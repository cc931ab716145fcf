"""Programs other than a node behind an address, and sockets that are their own other end."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_transport.links.dial import dial
from aitorrent_transport.links.listener import CannotListen, Listener
from aitorrent_transport.secure.handshake import Handshake
from aitorrent_transport.secure.strangers import what_answers
from aitorrentd.api import AitorrentError, ProtocolError
from tests.support.effort import examples
from tests.support.transport.link_peers import make_credentials
from tests.support.transport.namespaces import CAN_MAKE, REASON, ip, machines, run_in

ANSWERS = {
    b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n": "an SSH server answers there",
    b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n": "a web server answers there.*with /ws",
    b"\x15\x03\x01\x00\x02\x02\x46": "a TLS server answers there",
    b"\x00\x00\x12\x04\x00\x00\x00\x00\x00": "an HTTP/2 server answers there",
    b"220 mail.example.org ESMTP\r\n": "a mail or FTP server answers there",
    b"-ERR unknown command 'AIT1'\r\n": "not a node .its answer begins with '-ERR unknown com'",
    b"AIT1\x00\x22echo of what was sent to it": "sends back what it gets",
    b"\x00\x00\x99\x99": "not a node",
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_dialer_names_what_answers_instead_of_a_node(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ProtocolError, match=ANSWERS[answer]):
            await dial("127.0.0.1", server.sockets[0].getsockname()[1], make_credentials())


@settings(max_examples=examples(100))
@given(st.binary(max_size=64))
def test_sentence_about_any_answer_is_short_and_printable(first: bytes) -> None:
    text = what_answers(first)
    assert text.isprintable()
    assert len(text) < 200


@settings(max_examples=examples(100))
@given(st.binary(max_size=64), st.integers(1, 8))
def test_dialer_takes_any_answer_in_pieces(answer: bytes, size: int) -> None:
    dialer = Handshake(make_credentials(), dialer=True)
    dialer.start()
    try:
        for at in range(0, len(answer), size):
            dialer.receive(answer[at : at + size])
    except AitorrentError:
        pass
    assert dialer.result is None


def test_kernel_without_ipv6_is_an_error_that_may_be_waived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Without(socket.socket):
        def __init__(self, family: int = -1, *more: Any, **named: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "not supported")
            super().__init__(family, *more, **named)

    async def listen() -> None:
        listener = Listener(make_credentials(), lambda link: None)
        with pytest.raises(CannotListen, match="EAFNOSUPPORT") as caught:
            await listener.listen("::", 0)
        assert caught.value.lacks_address
        await listener.close()

    # asyncio skips a family as uvloop does, and its sockets can be replaced.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        monkeypatch.setattr(socket, "socket", Without)
        runner.run(listen())


SELF = """
import asyncio
from aitorrent_transport.links.racing import connect_tcp
from aitorrentd.api.network.resolver import Resolver
from tests.support.effort import examples

async def main():
    try:
        await connect_tcp(asyncio.Protocol, "127.0.0.1", 40001, Resolver())
    except OSError as e:
        print(type(e).__name__)

asyncio.run(main())
"""


@pytest.mark.root
@pytest.mark.skipif(not CAN_MAKE, reason=REASON)
async def test_kernel_that_has_but_one_free_port_does_not_connect_a_node_to_itself() -> None:
    with machines(1) as (one,):
        ip("-n", one, "link", "set", "lo", "up")
        ports = Path("/proc/sys/net/ipv4/ip_local_port_range")
        code = f"open({str(ports)!r}, 'w').write('40001 40001');" + SELF
        process = await run_in(one, "-c", code)
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        assert output == b"ConnectionRefusedError\n"
