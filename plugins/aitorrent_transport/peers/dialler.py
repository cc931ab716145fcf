"""Opening and keeping channels: dialling, racing addresses, redialling after a loss."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from aitorrent_transport.links.dial import dial
from aitorrent_transport.links.link import Link
from aitorrent_transport.peers.address_file import read_address_file
from aitorrent_transport.peers.known_peers import PeerStore
from aitorrent_transport.peers.peer import Peer
from aitorrent_transport.peers.table import PeerTable
from aitorrent_transport.secure.certificate import Credentials
from aitorrentd.api import (
    AitorrentError,
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
from aitorrentd.api.backoff import full_jitter_s
from aitorrentd.api.network.addresses import Address, parse_address
from aitorrentd.api.tasks import Tasks

DIAL_S: Final = 10.0
STAGGER_S: Final = 0.25  # RFC 8305, section 5: connection attempt delay
MAX_CANDIDATES: Final = 12
GIVE_UP_S: Final = 3600.0
MAX_WAIT_S: Final = 60.0
STEADY_S: Final = 30.0  # a channel that lived this long counts as working
MAX_KEPT: Final = 256


@dataclass(slots=True)
class Kept:
    """A peer to which the node maintains a channel."""

    addresses: tuple[Address, ...]
    peer: PeerId | None
    "The last peer to answer; None until a bootstrap address without a peer id answers."
    forever: bool
    is_pinned: bool = True
    "Whether only `peer` is accepted; an address without a peer id accepts any peer."
    file: Path | None = None
    "Address file, re-read at each attempt."
    task: asyncio.Task[None] | None = None
    problem: str = ""
    "Why the last attempt failed; empty while connected."
    is_this_node: bool = False
    "Whether this node itself answered the last attempt."

    @property
    def place(self) -> str:
        """The place as configured."""
        return str(self.file or self.addresses[0])


class Dialler:
    """Dials peers, one dial per place at a time, and maintains the wanted channels."""

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        table: PeerTable,
        store: PeerStore,
        credentials: Credentials,
        dialers: Registry[Dialer],
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
        self._is_own = is_own
        self._masking = masking
        self._dials: dict[str, asyncio.Task[Peer | AitorrentError]] = {}
        self._kept: list[Kept] = []

    # Dialling

    async def dial(self, address: Address, timeout_s: float = DIAL_S) -> Peer:
        """The peer at `address`, dialled unless connected.

        Raises:
            Unavailable, ProtocolError: nothing answers there, or the wrong peer does. TimedOut.
            Busy, Denied: this node's limits. InvalidParams: it is this node's own address.
        """
        if address.peer == self._credentials.signer.peer_id:
            raise InvalidParams(f"{address} is this node itself")
        task = self._dials.get(str(address))
        if task is None:
            task = self._tasks.spawn(self._dial(address), f"dial {address}")
            self._dials[str(address)] = task
            task.add_done_callback(lambda _: self._dials.pop(str(address), None))
        # Not awaited directly: if it is cancelled, that concerns the transport, not the caller.
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            raise TimedOut(f"{address.location} did not answer within {timeout_s:g} s")
        if task.cancelled():
            raise Unavailable("the transport is stopping")
        result = task.result()
        if isinstance(result, AitorrentError):
            try:
                raise result
            finally:
                del result, task, done  # otherwise error and frame form a reference cycle
        return result

    async def _dial(self, address: Address) -> Peer | AitorrentError:
        try:
            connected = (
                self._table.get(address.peer)
                if address.peer
                else self._table.dialled_at(address.location)
            )
            if connected is not None:
                return connected
            link = await self._link(address)
            connected = self._table.get(link.peer)
            if connected is not None and connected.has_live(link.instance):
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
            try:
                link = await self._link_by(dialer, address, (until - now()) / left)
                if link.must_shrink():
                    self._table.on_stalled(*link.remote)
                    link.close("dialling again with smaller segments")
                    link = await self._link_by(dialer, address, (until - now()) / left)
                return link
            except (Unavailable, TimedOut) as e:
                failures.append(e)
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
        return [each for each in found.values() if not self._is_own(each)][:MAX_CANDIDATES]

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

    # Keeping

    def keep_forever(self, address: Address) -> None:
        """Dial a bootstrap address now and redial it whenever it is not connected."""
        pinned = address.peer is not None
        self._keep(Kept((address,), address.peer, forever=True, is_pinned=pinned))

    def keep_file(self, path: Path) -> None:
        """Like `keep_forever`, for the node whose addresses are in the file at `path`."""
        self._keep(Kept((), None, forever=True, is_pinned=False, file=path))

    def keep(self, peer: PeerId, addresses: Iterable[Address]) -> None:
        """Maintain a channel to `peer` until it has been unreachable for an hour."""
        if all(kept.peer != peer for kept in self._kept) and len(self._kept) < MAX_KEPT:
            self._keep(Kept(tuple(addresses), peer, forever=False))

    def _keep(self, kept: Kept) -> None:
        self._kept.append(kept)
        kept.task = self._tasks.spawn(
            self._keep_up(kept), f"keep {kept.peer or kept.file or kept.addresses}"
        )

    def release(self, peer: PeerId) -> None:
        """Stop maintaining a channel to `peer`."""
        for kept in [k for k in self._kept if k.peer == peer]:
            self._kept.remove(kept)
            if kept.task is not None:
                kept.task.cancel()
                kept.task = None  # it refers back

    @property
    def sought(self) -> int:
        """Number of bootstrap addresses, without those at which this node itself answers."""
        return sum(kept.forever and not kept.is_this_node for kept in self._kept)

    @property
    def missing(self) -> int:
        """Number of bootstrap addresses not connected now."""
        return sum(
            kept.forever and (kept.peer is None or self._table.get(kept.peer) is None)
            for kept in self._kept
        )

    def waiting(self) -> list[tuple[str, str]]:
        """Bootstrap addresses that are not connected, each with its last error."""
        return [
            (kept.place, kept.problem)
            for kept in self._kept
            if kept.forever and kept.problem and not (kept.peer and self._table.get(kept.peer))
        ]

    async def _keep_up(self, kept: Kept) -> None:
        clock = self._ctx.clock
        attempt = 0
        lost_at = clock.monotonic()
        while True:
            peer = self._table.get(kept.peer) if kept.peer else None
            if peer is None and await self._try(kept) and kept.peer:
                peer = self._table.get(kept.peer)  # None: it left at once; wait rather than spin
            if peer is not None:
                await asyncio.shield(peer.gone)
                lost_at = clock.monotonic()
                if lost_at - peer.since >= STEADY_S:
                    attempt = 0
            elif not kept.forever and clock.monotonic() - lost_at > GIVE_UP_S:
                break
            await asyncio.sleep(
                full_jitter_s(attempt, cap_s=MAX_WAIT_S, draw=self._ctx.random.random())
            )
            attempt += 1
        self._kept.remove(kept)
        if kept.peer is not None:
            self._ctx.log.info("gave up on %s after an hour", short(kept.peer))
            await self._store.unwant(kept.peer)

    async def _try(self, kept: Kept) -> bool:
        try:
            if kept.file is not None:
                kept.peer = await self._dial_file(kept.file)
            elif kept.is_pinned and kept.peer is not None:
                await self.connect(kept.peer, [str(address) for address in kept.addresses])
            else:
                await self._dial_place(kept)
        except AitorrentError as e:
            # One list of bootstrap addresses may serve all nodes, also those that it names.
            me = self._credentials.signer.peer_id
            kept.is_this_node = isinstance(e, Unavailable) and e.data == {"peer": me}
            kept.problem = "" if kept.is_this_node else e.message
            self._ctx.log.debug("redialling: %s", e.message)
            return False
        kept.problem = ""
        kept.is_this_node = False
        return True

    async def _dial_place(self, kept: Kept) -> None:
        """Dial a bootstrap address without a peer id; if that fails, its last peer elsewhere.

        Raises:
            AitorrentError: nothing answers there, nor the last peer at its other addresses.
        """
        before = kept.peer
        try:
            kept.peer = (await self.dial(kept.addresses[0])).id
        except AitorrentError as e:
            if before is None:
                raise
            try:
                await self.connect(before, ())
            except AitorrentError:
                raise e from None
            return
        if before not in (None, kept.peer):
            self._ctx.log.warning(
                "another node answers at %s: %s; it was %s before. To accept no other node "
                "there, add /p2p/%s to this bootstrap address",
                kept.place,
                kept.peer,
                before,
                before,
            )

    async def _dial_file(self, path: Path) -> PeerId:
        """The first peer to answer at the addresses in the file.

        Raises:
            AitorrentError: the file is missing or invalid, or nothing answers.
        """
        places: dict[PeerId | None, list[Address]] = {}
        for address in await asyncio.to_thread(read_address_file, path):
            places.setdefault(address.peer, []).append(address)
        problem: AitorrentError = Unavailable(f"{path} lists only this node's own address")
        for peer, addresses in places.items():
            if peer == self._credentials.signer.peer_id:
                continue
            try:
                if peer is not None:
                    return (await self.connect(peer, map(str, addresses))).id
                return (await self.dial(addresses[0])).id
            except AitorrentError as e:
                problem = e
        raise problem
