"""Opening channels: dialling an address, or racing all addresses of a peer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from aitorrent_transport.links.dial import dial
from aitorrent_transport.links.link import Link
from aitorrent_transport.peers.known_peers import PeerStore
from aitorrent_transport.peers.peer import Peer
from aitorrent_transport.peers.table import PeerTable
from aitorrent_transport.routes.attempts import AttemptLog
from aitorrent_transport.secure.certificate import Credentials
from aitorrentd.api import (
    AitorrentError,
    Attempt,
    Conflict,
    Dialer,
    InvalidParams,
    PeerId,
    PluginContext,
    Registry,
    TimedOut,
    Unavailable,
    short,
)
from aitorrentd.api.network.addresses import Address, parse_address
from aitorrentd.api.tasks import Tasks

DIAL_S: Final = 10.0
STAGGER_S: Final = 0.25  # RFC 8305, section 5: connection attempt delay
MAX_CANDIDATES: Final = 12
MAX_RELAYED: Final = 3
"Candidates that lead through relays."
FIRST_DIRECT: Final = 4
"Candidates tried before those through relays, which so wait a second at most."


class Dialler:
    """Dials peers, one dial per place at a time."""

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        table: PeerTable,
        store: PeerStore,
        credentials: Credentials,
        dialers: Registry[Dialer],
        attempts: AttemptLog,
        *,
        is_own: Callable[[Address], bool],
        masking: bool,
    ) -> None:
        """`dialers` are tried in order of registration; `is_own` says where this node listens."""
        self._ctx = ctx
        self._tasks = tasks
        self._table = table
        self._store = store
        self._credentials = credentials
        self._dialers = dialers
        self._attempts = attempts
        self._is_own = is_own
        self._masking = masking
        self._dials: dict[str, asyncio.Task[Peer | AitorrentError]] = {}
        self._linking: set[asyncio.Task[Peer | AitorrentError]] = set()
        self._begun_anew: set[asyncio.Task[Peer | AitorrentError]] = set()

    # Dialling

    async def dial(self, address: Address, timeout_s: float = DIAL_S) -> Peer:
        """The peer at `address`, dialled unless connected.

        Raises:
            Unavailable, ProtocolError: nothing answers there, or the wrong peer does. TimedOut.
            Busy, Denied: this node's limits. InvalidParams: it is this node's own address.
        """
        if address.peer == self._credentials.signer.peer_id:
            raise InvalidParams(f"{address} is this node itself")
        if address.relay is not None and address.peer is None:
            raise InvalidParams(f"{address} ends at a relay; append /p2p/ID of the peer behind it")
        now = self._ctx.clock.monotonic
        until = now() + timeout_s
        while True:
            task = self._dials.get(str(address)) or self._begin(address)
            # Not awaited directly: if it is cancelled, that does not concern the caller.
            done, _ = await asyncio.wait({task}, timeout=max(0.0, until - now()))
            if not done:
                raise TimedOut(f"{address.location} did not answer within {timeout_s:g} s")
            if not task.cancelled():
                break
            if task not in self._begun_anew:
                raise Unavailable("the transport is stopping")
        result = task.result()
        if isinstance(result, AitorrentError):
            try:
                raise result
            finally:
                del result, task, done  # otherwise error and frame form a reference cycle
        return result

    def _begin(self, address: Address) -> asyncio.Task[Peer | AitorrentError]:
        task = self._tasks.spawn(self._dial(address), f"dial {address}")
        self._dials[str(address)] = task

        def end(ended: asyncio.Task[Peer | AitorrentError]) -> None:
            self._linking.discard(ended)
            if self._dials.get(str(address)) is ended:
                del self._dials[str(address)]

        task.add_done_callback(end)
        return task

    def network_changed(self) -> None:
        """Begin anew whatever is connecting: it may wait from an address that is gone."""
        self._begun_anew = set(self._linking)
        for task in self._begun_anew:
            task.cancel()

    async def _dial(self, address: Address) -> Peer | AitorrentError:
        try:
            connected = (
                self._table.get(address.peer)
                if address.peer
                else self._table.dialled_at(address.location)
            )
            if connected is not None and (address.relay or not connected.is_relayed):
                return connected
            link = await self._linked(address)
            connected = self._table.get(link.peer)
            if connected is not None and connected.has_as_good(link):
                link.close("this node is already connected")
                peer = connected
            else:
                peer = await self._table.adopt(link)
            await self._remember(peer.id, address)
        except AitorrentError as e:
            if address.peer is not None:
                await self._store.failed(address.peer, address.location)
            if isinstance(e, Conflict):
                self._table.rivals.note_own_key(address.location)
            return e
        return peer

    def _note(
        self, peer: PeerId | None, dialer: Dialer, address: Address, began: float, outcome: str
    ) -> None:
        """Record an attempt; `outcome` is empty if it succeeded."""
        if peer is None:
            return
        clock = self._ctx.clock
        took_s = clock.monotonic() - began
        self._attempts.note(
            peer,
            Attempt(
                at=clock.time() - took_s,
                way=dialer.name,
                where=address.location,
                ok=not outcome,
                outcome=outcome or "connected",
                took_s=took_s,
            ),
        )

    async def _linked(self, address: Address) -> Link:
        """As `_link`; begun anew when the network changes."""
        task = self._dials.get(str(address))
        if task is not None:
            self._linking.add(task)
        try:
            return await self._link(address)
        finally:
            self._linking -= {task}
            del task  # otherwise its error and this frame form a reference cycle

    async def _link(self, address: Address) -> Link:
        """A link to `address` from the first dialer that succeeds; dialers share the time limit.

        Raises:
            Unavailable, TimedOut: none succeeded. ProtocolError: what answered is not a valid peer.
        """
        dialers = [dialer for dialer in self._dialers if dialer.can_try(address)]
        now = self._ctx.clock.monotonic
        until = now() + DIAL_S
        failures: list[AitorrentError] = []
        for left, dialer in zip(range(len(dialers), 0, -1), dialers, strict=True):
            began = now()
            try:
                link = await self._link_by(dialer, address, (until - now()) / left)
                if link.must_shrink():
                    self._table.on_stalled(*link.remote)
                    link.close("dialling again with smaller segments")
                    link = await self._link_by(dialer, address, (until - now()) / left)
                self._note(link.peer, dialer, address, began, "")
                return link
            except (Unavailable, TimedOut) as e:
                failures.append(e)
                self._note(address.peer, dialer, address, began, e.message)
                self._ctx.log.debug("%s by %s: %s", address, dialer.name, e.message)
        if len(failures) == 1:
            try:
                raise failures[0]
            finally:
                failures.clear()  # otherwise error and frame form a reference cycle
        told = "; ".join(e.message for e in failures) or "no dialer supports this address"
        raise Unavailable(f"{address.location}: {told}")

    async def _link_by(self, dialer: Dialer, address: Address, timeout_s: float) -> Link:
        return await dial(
            address.host,
            address.port,
            self._credentials,
            expected=address.peer,
            masked=self._masking or address.masked,
            timeout_s=timeout_s,
            connect=partial(dialer.connect, address),
            route=dialer.route(address),
        )

    async def _remember(self, peer: PeerId, address: Address) -> None:
        await self._store.dialled(peer, address.location, wanted=False, now=self._ctx.clock.time())

    async def connect(self, peer: PeerId, extra: Iterable[str], timeout_s: float = DIAL_S) -> Peer:
        """A channel to `peer` through any known or given address.

        Raises:
            Unavailable: none answers; the message lists the error of each. TimedOut.
        """
        connected = self._table.get(peer)
        if connected is not None:
            return connected
        candidates = await self._candidates(peer, extra)
        if not candidates:
            raise Unavailable(f"{short(peer)} is not connected and has no known address")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._race(peer, candidates, timeout_s)
        except TimeoutError:
            raise TimedOut(f"{short(peer)} could not be reached within {timeout_s:g} s") from None

    async def _candidates(self, peer: PeerId, extra: Iterable[str]) -> list[Address]:
        found: dict[str, Address] = {}
        texts = [*extra, *await self._store.addresses(peer)]
        for text in texts:
            try:
                address = parse_address(text)
            except InvalidParams as e:
                self._ctx.log.debug("an address of %s: %s", short(peer), e.message)
                continue
            if address.peer in (None, peer):
                found.setdefault(address.location, address.of(peer))
        for address in self._table.told(peer):
            found.setdefault(address.location, address)
        # Machines share addresses such as that of a container bridge, where each would meet itself.
        others = [each for each in found.values() if not self._is_own(each)]
        direct = [each for each in others if each.relay is None]
        relayed = [each for each in others if each.relay is not None][:MAX_RELAYED]
        direct = direct[: MAX_CANDIDATES - len(relayed)]
        return [*direct[:FIRST_DIRECT], *relayed, *direct[FIRST_DIRECT:]]

    async def _race(self, peer: PeerId, candidates: Sequence[Address], timeout_s: float) -> Peer:
        """Dial the addresses in staggered succession; the first to connect wins."""
        running: dict[asyncio.Task[Peer | AitorrentError], Address] = {}
        errors: list[str] = []

        async def attempt(address: Address) -> Peer | AitorrentError:
            try:
                return await self.dial(address, timeout_s)
            except AitorrentError as e:
                return e

        try:
            waiting = list(candidates)
            while waiting or running:
                if waiting:
                    address = waiting.pop(0)
                    running[self._tasks.spawn(attempt(address), f"try {address}")] = address
                done, _ = await asyncio.wait(
                    running,
                    timeout=STAGGER_S if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    address = running.pop(task)
                    if task.cancelled():
                        raise Unavailable("the transport is stopping")
                    result = task.result()
                    if isinstance(result, Peer):
                        return result
                    errors.append(f"{address.location}: {result.message}")
        finally:
            for task in running:
                task.cancel()
        raise Unavailable(f"{short(peer)} cannot be reached; " + "; ".join(errors))
