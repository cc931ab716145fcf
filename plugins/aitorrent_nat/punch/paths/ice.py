"""Interactive Connectivity Establishment (RFC 8445) by aioice, made fast and bounded.

- The first check of one side is lost at the other's NAT unless both were sent at the same moment;
  aioice repeats it after half a second. Here it is repeated after 50, 150 and 300 ms as well.
- A check from an address that the session does not allow is not answered: with the password, a
  peer could otherwise direct checks at a third party by forging its address (RFC 8445, 19.5.1).
- Datagrams go straight to whoever listens; aioice would queue them without a limit.
- Only IPv4: what a NAT is in the way of.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final

import aioice
from aioice.ice import CandidatePair, StunProtocol, server_reflexive_candidate
from aioice.stun import Message, TransactionError

from aitorrent_nat.punch.candidates import Candidate, Kind
from aitorrent_nat.punch.paths.datagrams import HostPort, keep_whole
from aitorrent_nat.punch.surroundings import TurnAccess
from aitorrentd.api import Unavailable
from aitorrentd.api.tasks import Tasks, uninterrupted

REPEATS_S: Final = (0.05, 0.1, 0.15)
"Pauses between the first copies of a check."
GATHER_S: Final = 1.0
CONNECT_S: Final = 4.0
MAX_INTERFACES: Final = 4
MAX_SERVERS: Final = 2
_TYPES: Final = {Kind.UDP_HOST: "host", Kind.UDP: "srflx", Kind.TURN: "relay"}
_KINDS: Final = {name: kind for kind, name in _TYPES.items()}
_PREFERENCES: Final = {Kind.UDP_HOST: 126, Kind.UDP: 100, Kind.TURN: 0}
"Of RFC 8445, section 5.1.2.2."


class Agent:
    """This end of one ICE session; close it after use."""

    def __init__(self, tasks: Tasks, *, controlling: bool, turn: TurnAccess | None = None) -> None:
        self._tasks = tasks
        self._connection = _Connection(controlling, turn, tasks)
        self._is_handed_over = False

    @property
    def user(self) -> str:
        """The user name fragment to tell the peer."""
        return self._connection.local_username

    @property
    def password(self) -> str:
        """The password to tell the peer."""
        return self._connection.local_password

    async def gather(self, servers: Sequence[HostPort]) -> list[Candidate]:
        """This end's addresses: of its interfaces, as STUN `servers` see them, and relayed."""
        self._connection.servers = servers[:MAX_SERVERS]
        await self._connection.gather_candidates()
        found = [
            Candidate(_KINDS[each.type], each.host, each.port)
            for each in self._connection.local_candidates
            if each.type in _KINDS
        ]
        return list(dict.fromkeys(found))

    async def connect(
        self, user: str, password: str, remotes: Sequence[Candidate], allowed: Collection[str]
    ) -> IcePath:
        """The path to the peer that knows `user` and `password`, at one of `remotes`.

        `allowed` are the hosts from which its checks may come.

        Raises:
            Unavailable: there is none, or not within CONNECT_S.
        """
        connection = self._connection
        connection.allowed = allowed
        connection.remote_username, connection.remote_password = user, password
        for remote in remotes:
            if remote.kind in _TYPES:
                await connection.add_remote_candidate(_for_aioice(remote))
        # The peer's NAT may show another address than it knows, so the list has no end.
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection.connect()
        except TimeoutError:
            raise Unavailable(f"no check came through within {CONNECT_S:g} s") from None
        except ConnectionError as e:
            raise Unavailable(f"no check came through ({e})") from None
        self._is_handed_over = True
        return IcePath(connection, self._tasks)

    async def close(self) -> None:
        """Release the sockets and the allocation of a TURN server; a path keeps its own."""
        if not self._is_handed_over:
            await self._connection.close()


class _Connection(aioice.Connection):
    """aioice's connection with the properties that the module promises."""

    def __init__(self, controlling: bool, turn: TurnAccess | None, tasks: Tasks) -> None:
        super().__init__(
            controlling,
            turn_server=turn.server if turn else None,
            turn_username=turn.user if turn else None,
            turn_password=turn.password if turn else None,
            turn_ssl=bool(turn and turn.tls),
            turn_transport=turn.transport if turn else "udp",
            use_ipv6=False,
        )
        self.servers: Sequence[HostPort] = ()
        self.allowed: Collection[str] = ()
        self.on_data: Callable[[bytes], None] = lambda data: None
        self._tasks = tasks
        self._requests: dict[CandidatePair, Message] = {}

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: int = 1
    ) -> list[aioice.Candidate]:
        """Of aioice, for the first interfaces, and with several STUN servers."""
        # Halfway, aioice does not know of all the sockets that it opened.
        gathering = super().get_component_candidates(component, addresses[:MAX_INTERFACES], timeout)
        found = await uninterrupted(gathering, lambda found: None)
        for protocol in self._protocols:
            if protocol.local_candidate.type == "host":
                protocol.transport.set_protocol(_Gate(self, protocol))
        asked = [
            asyncio.create_task(server_reflexive_candidate(protocol, server))
            for server in self.servers
            for protocol in self._protocols
            if protocol.local_candidate.type == "host"
        ]
        try:
            for answer in asyncio.as_completed(asked, timeout=GATHER_S):
                try:
                    candidate, _ = await answer
                except (OSError, TransactionError):
                    continue
                found.append(candidate)
                if len(found) >= 2 * len(self._protocols):
                    break  # each interface has one
        except TimeoutError:
            pass  # what came is enough
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return found

    def build_request(self, pair: CandidatePair, nominate: bool) -> Message:
        """Of aioice; the request is remembered for its copies."""
        request = super().build_request(pair, nominate)
        self._requests[pair] = request
        return request

    async def check_start(self, pair: CandidatePair) -> None:
        """Of aioice, with copies of the check."""
        again = self._tasks.spawn(self._repeat(pair), "repeat an ICE check")
        try:
            await super().check_start(pair)
        finally:
            again.cancel()

    async def _repeat(self, pair: CandidatePair) -> None:
        for pause_s in REPEATS_S:
            await asyncio.sleep(pause_s)
            pair.protocol.send_stun(self._requests[pair], pair.remote_addr)

    def request_received(self, message: Message, addr: HostPort, protocol: StunProtocol) -> None:
        """Of aioice, for checks from allowed hosts."""
        if addr[0] in self.allowed:
            super().request_received(message, addr, protocol)

    def data_received(self, data: bytes, component: int) -> None:
        """Of aioice, without its queue."""
        self.on_data(data)

    def close_now(self) -> None:
        """Close without waiting; a path may outlive the plugin that found it."""
        if self._query_consent_task is not None:
            self._query_consent_task.cancel()
        for protocol in self._protocols:
            protocol.transport.close()

    @property
    def pair(self) -> CandidatePair:
        """The nominated pair; valid once `connect` has returned."""
        return self._nominated[1]


class _Gate(asyncio.DatagramProtocol):
    """Stands before aioice's protocol, which parses every datagram as STUN and trusts lengths.

    QUIC packets begin with a byte of 64 or more, STUN messages with one below 4 (RFC 9443).
    """

    def __init__(self, connection: _Connection, inner: StunProtocol) -> None:
        self._connection = connection
        self._inner = inner

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if not data or data[0] >= 4:
            self._connection.on_data(data)
            return
        with suppress(ValueError, IndexError, KeyError, struct.error):  # no STUN message after all
            self._inner.datagram_received(data, addr)

    def error_received(self, exc: Exception) -> None:
        self._inner.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)


class IcePath:
    """The path on which ICE agreed; it keeps checking that the peer consents (RFC 7675)."""

    def __init__(self, connection: _Connection, tasks: Tasks) -> None:
        self._connection = connection
        self._pair = connection.pair
        self._on_lost: Callable[[str], None] = lambda reason: None
        self._closed = False
        sock = self._pair.protocol.transport.get_extra_info("socket")
        self.is_sized = sock is not None and keep_whole(sock)
        self.is_turn = "relay" in (
            self._pair.local_candidate.type,
            self._pair.remote_candidate.type,
        )
        self._watching = tasks.spawn(self._watch(), "watch an ICE path")

    @property
    def local(self) -> HostPort:
        """See Path."""
        return self._pair.local_addr

    @property
    def remote(self) -> HostPort:
        """See Path."""
        return self._pair.remote_addr

    def listen(self, on_datagram: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        """See Path."""
        self._connection.on_data, self._on_lost = on_datagram, on_lost

    def send(self, datagram: bytes) -> None:
        """See Path."""
        if not self._closed:
            self._pair.protocol.transport.sendto(datagram, self._pair.remote_addr)

    def close(self) -> None:
        """See Path."""
        if not self._closed:
            self._closed = True
            self.listen(lambda datagram: None, lambda reason: None)
            self._watching.cancel()
            self._connection.close_now()

    async def _watch(self) -> None:
        await self._connection.get_event()
        if not self._closed:
            self._closed = True
            self._on_lost("the peer does not answer checks of the path any more")


def _for_aioice(candidate: Candidate) -> aioice.Candidate:
    kind = _TYPES[candidate.kind]
    return aioice.Candidate(
        foundation=f"{kind}{candidate.host}",
        component=1,
        transport="udp",
        priority=(1 << 24) * _PREFERENCES[candidate.kind] + (1 << 8) * 65_535 + 255,
        host=candidate.host,
        port=candidate.port,
        type=kind,
    )
