"""Keeping channels to the peers that this node wants: redialling after a loss."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aitorrent_transport.peers.address_file import read_address_file, version
from aitorrent_transport.peers.dialler import Dialler
from aitorrent_transport.peers.known_peers import PeerStore
from aitorrent_transport.peers.table import PeerTable
from aitorrentd.api import AitorrentError, PeerId, PluginContext, Unavailable, short
from aitorrentd.api.backoff import full_jitter_s
from aitorrentd.api.network.addresses import Address
from aitorrentd.api.tasks import Tasks

GIVE_UP_S: Final = 3600.0
MAX_WAIT_S: Final = 60.0
UNRESOLVED_WAIT_S: Final = 8.0
"While a name does not resolve: nobody is dialled, and name servers answer thousands."
LOOK_S: Final = 1.0
"Between two looks at an address file that is awaited."
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
    "Address file, re-read at each attempt, and as soon as it was written anew."
    version: tuple[int, int, int] | None = None
    "Of the file at the last attempt."
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    "Set when the network changed: what failed before may succeed now."
    problem: str = ""
    "Why the last attempt failed; empty while connected."
    is_unresolved: bool = False
    "Whether the last attempt failed because a name did not resolve."
    is_this_node: bool = False
    "Whether this node itself answered the last attempt."

    @property
    def place(self) -> str:
        """The place as configured."""
        return str(self.file or self.addresses[0])


class Keeper:
    """Maintains a channel to each bootstrap address and each peer that the operator connected."""

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        table: PeerTable,
        store: PeerStore,
        dialler: Dialler,
    ) -> None:
        self._ctx = ctx
        self._tasks = tasks
        self._table = table
        self._store = store
        self._dialler = dialler
        self._me = ctx.identity.peer_id
        self._kept: list[Kept] = []

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

    def network_changed(self) -> None:
        """Redial whoever is missing soon, however often dialling failed."""
        for kept in self._kept:
            kept.changed.set()

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
            attempt = await self._pause(kept, attempt)
        self._kept.remove(kept)
        if kept.peer is not None:
            self._ctx.log.info("gave up on %s after an hour", short(kept.peer))
            await self._store.unwant(kept.peer)

    async def _pause(self, kept: Kept, attempt: int) -> int:
        """Wait after a failure or a loss; returns the number of the next attempt."""
        cap_s = UNRESOLVED_WAIT_S if kept.is_unresolved else MAX_WAIT_S
        wait_s = full_jitter_s(attempt, cap_s=cap_s, draw=self._ctx.random.random())
        try:
            async with asyncio.timeout(wait_s):
                await _change(kept)
        except TimeoutError:
            return attempt + 1
        kept.changed.clear()
        # A network serves more than one node, so they do not all dial in the same moment.
        await asyncio.sleep(full_jitter_s(0, draw=self._ctx.random.random()))
        return 0

    async def _try(self, kept: Kept) -> bool:
        try:
            if kept.file is not None:
                kept.version = await asyncio.to_thread(version, kept.file)
                kept.peer = await self._dial_file(kept.file)
            elif kept.is_pinned and kept.peer is not None:
                await self._dialler.connect(kept.peer, [str(address) for address in kept.addresses])
            else:
                await self._dial_place(kept)
        except AitorrentError as e:
            # One list of bootstrap addresses may serve all nodes, also those that it names.
            kept.is_this_node = isinstance(e, Unavailable) and e.data == {"peer": self._me}
            kept.is_unresolved = "unresolved" in e.data
            kept.problem = "" if kept.is_this_node else e.message
            self._ctx.log.debug("redialling: %s", e.message)
            return False
        kept.problem = ""
        kept.is_this_node = kept.is_unresolved = False
        return True

    async def _dial_place(self, kept: Kept) -> None:
        """Dial a bootstrap address without a peer id; if that fails, its last peer elsewhere.

        Raises:
            AitorrentError: nothing answers there, nor the last peer at its other addresses.
        """
        before = kept.peer
        try:
            kept.peer = (await self._dialler.dial(kept.addresses[0])).id
        except AitorrentError as e:
            if before is None:
                raise
            try:
                await self._dialler.connect(before, ())
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
            if peer == self._me:
                continue
            try:
                if peer is not None:
                    return (await self._dialler.connect(peer, map(str, addresses))).id
                return (await self._dialler.dial(addresses[0])).id
            except AitorrentError as e:
                problem = e
        raise problem


async def _change(kept: Kept) -> None:
    """Wait until the network changes, or the address file has another version."""
    while not kept.file or await asyncio.to_thread(version, kept.file) in (None, kept.version):
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S if kept.file else None):
                await kept.changed.wait()
                return
